"""Edits as the published code computes them: GANSpace's and InterFaceGAN's formulas, and the published files."""

import hashlib
import os
from pathlib import Path

import pytest
import torch
from recorded import GOLDEN, Case
from torch import Tensor

from hyperinverter.directions import Direction, Pca, edit, load_direction
from hyperinverter.directions.direction import in_w
from hyperinverter.directions.ganspace import CHURCH, FACES, Edit
from hyperinverter.inverters import Inversion
from hyperinverter.published.vectors import Space

# ganspace_pca/*.pt and interfacegan_directions/*.pt of the published repository's folder `editings`
FILES = Path(os.environ.get("HYPERINVERTER_EDITINGS") or GOLDEN / "editings")


def edited(ws: Tensor, direction: Direction, strength: float, unit: str) -> Tensor:
    return edit(Inversion(ws), direction, in_w([strength], unit, direction)[0]).ws


def along(ws: Tensor, vector: Tensor, factor: float) -> Tensor:
    """ws + factor·vector through a Direction, whose own vector has length 1."""
    rows = vector.flatten(0, -2)
    length = rows.square().sum(dim=1).mean().sqrt()
    return edited(ws, Direction("d", vector), factor * float(length), "w")


def test_formulas():
    case = Case("edit_formulas")
    config = case.info["config"]
    pca = Pca(case.input("pca.mean"), case.input("pca.comp"), case.input("pca.std"))
    edits = [Edit(*map(int, numbers[:3]), float(numbers[3])) for numbers in config["edit_directions"]]
    latents = case.input("edit.latents")  # [2, 18, 512]
    direction, wplus = case.input("edit.direction"), case.input("edit.direction_wplus")
    factor = config["interfacegan_factor"]

    def ganspace(ws: Tensor, one: Edit) -> Tensor:
        return edited(ws, pca.direction(one), one.strength, "std")

    # One style of the second image, moved alone: the recorded shift of a style.
    deltas = [ganspace(latents[1:], one) - latents[1:] for one in edits]
    low, high = config["factor_range"]
    tensors = {
        "ganspace_edit": torch.cat([ganspace(latents[i : i + 1], one) for i in range(2) for one in edits]),
        "ganspace_edit_latent": torch.cat([ganspace(latents[:1], one) for one in edits]),
        "ganspace_delta": torch.stack([delta[0, one.start] for delta, one in zip(deltas, edits, strict=True)]),
        "interfacegan_factor": along(latents, direction, factor),
        "interfacegan_range": torch.cat([along(latents, direction, f) for f in range(low, high)]),
        "interfacegan_wplus": along(latents, wplus, factor),
    }
    assert set(tensors) == set(case.info["tensors"])
    for name, value in tensors.items():
        case.compare(name, value)


def test_tables_are_the_published_ones():
    published = Case("edit_files").info["config"]["ganspace_directions"]
    for domain, table in (("ffhq", FACES), ("church", CHURCH)):
        assert {name: [e.component, e.start, e.end, e.strength] for name, e in table.items()} == published[domain]


def test_published_files():
    """The published files, read by `load_direction` and applied at their own strengths."""
    case = Case("edit_files")
    config = case.info["config"]
    for name, about in config["files"].items():
        if not (FILES / name).is_file():
            pytest.skip(f"{FILES / name} is absent; name the published folder `editings` in HYPERINVERTER_EDITINGS")
        assert hashlib.sha256((FILES / name).read_bytes()).hexdigest() == about["sha256"], name
    compared = set()

    def compare(name: str, value: Tensor) -> None:
        case.compare(name, value)
        compared.add(name)

    for domain, table in config["ganspace_directions"].items():
        latents = case.input(f"{domain}.latents")
        moved = []
        for name, (_, start, end, strength) in table.items():
            direction = load_direction(FILES / f"ganspace_pca/{domain}_pca.pt#{name}", space=Space(w_dim=512))
            ws = edited(latents, direction, strength, "std")
            compare(f"ganspace_{domain}_{name}", ws[0, start])
            moved.append((ws - latents)[0].norm(dim=1))
            shift = (ws - latents)[0, start:end]
            torch.testing.assert_close(shift, shift[:1].expand_as(shift), atol=1e-5, rtol=1e-5)
        compare(f"ganspace_{domain}_moved_l2", torch.stack(moved))
    latents = case.input("ffhq.latents")
    for name in ("age", "smile", "rotation"):
        direction = load_direction(FILES / f"interfacegan_directions/{name}.pt", space=Space(w_dim=512))
        compare(f"interfacegan_{name}_factor1.5", edited(latents, direction, 1.5, "w")[0, 0])
    assert compared == set(case.info["tensors"])
