"""The project's own files with wrong metadata: one message with the file's name, or they load."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from tiny_model import make_tiny_domain, save_tiny_model

from hyperinverter.checkpoint import read_model, read_safetensors, save_model, weights_hash
from hyperinverter.directions.direction import Direction
from hyperinverter.directions.files import load_direction, save_direction
from hyperinverter.inverters import Inversion
from hyperinverter.models.wplus import WPlusConfig, build_model
from hyperinverter.pretrained.load import load_model
from hyperinverter.pretrained.methods import load_method, save_method
from hyperinverter.published.vectors import Space
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.safetensors_io import write_tensors

DEEP = '{"a":' * 500 + "1" + "}" * 500
TEXTS = (None, "", "null", "1", "[]", "{}", '"x"', "{", '{"a": 1}', '["a"]', "[" * 100_000, DEEP)
VALUES = (None, "x", "${oc.env:HOME}", -1, 0, 3, 1.5, float("nan"), float("inf"), 10**30, True, [], [0], [None], {},
          {"a": {}})  # fmt: skip


def refused_or_read(act, path: Path) -> bool:
    """Whether `act` read the file; anything but a plain refusal that names it fails the test."""
    try:
        act()
        return True
    except UserError as error:
        assert str(path) in str(error), error
        assert len(str(error)) < 1500 and "\x1b" not in str(error)
        return False


def with_metadata(path: Path, changes: dict[str, str | None]) -> None:
    metadata, tensors = read_safetensors(path, "")
    metadata |= {key: text for key, text in changes.items() if text is not None}
    write_tensors(path, tensors, {k: v for k, v in metadata.items() if changes.get(k, v) is not None})


def variants(config: object, inside: tuple = ()) -> list[tuple[tuple, object]]:
    """Every place in a nested config with every odd value."""
    found = [(inside, value) for value in VALUES]
    for key, value in config.items() if isinstance(config, dict) else ():
        found += variants(value, (*inside, key))
    return found


def changed(config: dict, place: tuple, value: object) -> object:
    if not place:
        return value
    return {**config, place[0]: changed(config[place[0]], place[1:], value)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = save_tiny_model(tmp_path_factory.mktemp("own") / "micro", make_tiny_domain())
    digest = read_model(folder / "generator.safetensors").hash
    trunk = make_tiny_domain().w_encoder
    psp = WPlusConfig("GradualStyleEncoder", 6, 16, trunk=trunk)
    save_method(folder / "psp.safetensors", build_model(psp), method="psp", domain="micro", generator_hash=digest)
    save_direction(Direction("d", torch.randn(16), generator_hash=digest), folder / "directions/d.safetensors")
    Inversion(torch.randn(1, 1, 16).repeat(1, 6, 1), {"a": torch.randn(1, 4)}, info={"x": 1}).save(
        folder / "inversion.safetensors"
    )
    return folder


PARTS = {
    "generator": lambda folder: load_model(folder, with_hyperinverter=False, with_w_encoder=False),
    "w_encoder": lambda folder: load_model(folder, with_hyperinverter=False),
    "hyperinverter": load_model,
    "psp": lambda folder: load_method(folder, "psp"),
    "directions/d": lambda folder: load_direction(folder / "directions/d.safetensors", space=Space(w_dim=16)),
    "inversion": lambda folder: Inversion.load(folder / "inversion.safetensors"),
}


@pytest.mark.parametrize("part", [pytest.param(p, marks=[pytest.mark.slow] * (p == "psp")) for p in PARTS])
def test_metadata_of_every_kind(part, whole, tmp_path):
    folder = tmp_path / "micro"
    shutil.copytree(whole, folder)
    path = folder / f"{part}.safetensors"
    keys, data = read_safetensors(path, "")[0], path.read_bytes()
    assert refused_or_read(lambda: PARTS[part](folder), path)
    refused = 0
    for key in keys:
        for text in TEXTS:
            path.write_bytes(data)
            with_metadata(path, {key: text})
            refused += not refused_or_read(lambda: PARTS[part](folder), path)
    assert refused > len(keys)


@pytest.mark.parametrize("every", [17, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("part", ["generator", "w_encoder", "hyperinverter", "psp", "directions/d"])
def test_values_of_a_config(part, every, whole, tmp_path):
    folder = tmp_path / "micro"
    shutil.copytree(whole, folder)
    path = folder / f"{part}.safetensors"
    config, data = read_model(path).config, path.read_bytes()
    refused = 0
    for place, value in variants(config)[::every]:
        path.write_bytes(data)
        with_metadata(path, {"config": json.dumps(changed(config, place, value))})
        refused += not refused_or_read(lambda: PARTS[part](folder), path)
    assert refused


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["generator", "directions/d", "inversion"])
def test_weights_that_are_not_finite(part, bad, whole, tmp_path):
    folder = tmp_path / "micro"
    shutil.copytree(whole, folder)
    path = folder / f"{part}.safetensors"
    metadata, tensors = read_safetensors(path, "")
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    tensors[name].reshape(-1)[0] = bad
    write_tensors(path, tensors, metadata | {"hash": weights_hash(tensors)})
    with pytest.raises(UserError, match=rf"{re.escape(str(path))}: .*{re.escape(name)} holds"):
        PARTS[part](folder)


def test_numbers_of_another_type(whole, tmp_path):
    folder = tmp_path / "micro"
    shutil.copytree(whole, folder)
    file = read_model(folder / "generator.safetensors")
    name = next(name for name, tensor in file.state.items() if tensor.is_floating_point())
    state = {**file.state, name: file.state[name].to(torch.complex64)}
    save_model(file.path, state, kind="generator", config=file.config)
    with pytest.raises(UserError, match="1 of another type"):
        PARTS["generator"](folder)


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"w": torch.ones(1, 16), "ws": torch.ones(1, 6, 16)}, "either w or ws"),
        ({}, "either w or ws"),
        ({"w": torch.ones(16)}, "expected 1 to 99"),
        ({"w": torch.ones(1, 16, dtype=torch.int64)}, "finite numbers"),
        ({"ws": torch.ones(0, 6, 16)}, "ws has shape"),
        ({"ws": torch.ones(1, 16)}, "ws has shape"),
        ({"w": torch.ones(1, 16), "tokens": torch.ones(1, 2, 4)}, "names of layers"),
        ({"w": torch.ones(2, 16), "tokens": torch.ones(1, 1, 4)}, "tokens"),
        ({"w": torch.ones(1, 16), "x": torch.ones(1)}, "foreign"),
        ({"w": torch.ones(1, 16), "residuals.a": torch.ones(2, 3)}, "residuals"),
    ],
)
def test_tensors_that_make_no_inversion(tensors, told, whole, tmp_path):
    metadata, _ = read_safetensors(whole / "inversion.safetensors", "")
    write_tensors(tmp_path / "x.safetensors", tensors, metadata)
    with pytest.raises(UserError, match=rf"x\.safetensors: .*{told}"):
        Inversion.load(tmp_path / "x.safetensors")
