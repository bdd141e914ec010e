"""Edit consistency: what it measures, what it trains, and that its draws belong to the whole batch."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from hyperinverter.checkpoint import weights_hash
from hyperinverter.config.faults import ConfigError
from hyperinverter.config.load import load_config
from hyperinverter.config.schema import OptimizerConfig, Phase2Config, WeightsConfig
from hyperinverter.directions.direction import Direction
from hyperinverter.directions.files import save_direction
from hyperinverter.directions.ganspace import AbsoluteDirection
from hyperinverter.losses import build_losses
from hyperinverter.ops.distances import SMALLEST_CHANGE, SMALLEST_OF_BAND, octaves
from hyperinverter.pretrained.load import load_model
from hyperinverter.training import edit_consistency, phase2
from hyperinverter.training.edit_consistency import Edits, load_steps
from hyperinverter.training.optim import backward_and_step, build_optimizer, split_microbatches
from hyperinverter.utils import distributed
from hyperinverter.utils.errors import UserError

from .conftest import stats

CPU = torch.device("cpu")


@pytest.fixture
def model(tiny_model):
    return load_model(tiny_model).network.train()


@pytest.fixture
def images():
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_it_is_how_much_a_change_differs_from_the_one_before_phase_2(model, images):
    edits = Edits.draw(model, 4, 0.5, images.device)
    losses = build_losses({"l2": 1.0})
    values, reconstruction = phase2.encoder_losses(model, losses, images, edits=edits, edits_weight=3.0)
    found = model(images)
    torch.testing.assert_close(reconstruction, found.reconstruction)
    w = found.w + edits.share * (edits.towards - found.w)
    assert not edits.along.any()
    ws = torch.stack([w] * model.generator.num_ws, dim=1)
    before = model.render(ws) - found.w_image
    after = model.render(ws, found.tokens) - found.reconstruction
    expected = (after - before).square().mean()
    assert expected > 0
    torch.testing.assert_close(values["edit_consistency"], expected)
    torch.testing.assert_close(values["loss"], values["l2"] + 3 * expected)


def test_relative_to_what_a_step_changes_each_image_counts_alike(model, images):
    edits = Edits.draw(model, 4, 0.5, images.device)
    losses = build_losses({"l2": 1.0})
    settings = {"edits": edits, "edits_weight": 1.0, "edits_relative": True}
    values, _ = phase2.encoder_losses(model, losses, images, **settings)
    found = model(images)
    ws = edits(found.w)[:, None].repeat(1, model.generator.num_ws, 1)
    before = model.render(ws) - found.w_image
    after = model.render(ws, found.tokens) - found.reconstruction
    shares = [
        (b - a).square().mean() / (b.square().mean() + SMALLEST_CHANGE) for a, b in zip(after, before, strict=True)
    ]
    torch.testing.assert_close(values["edit_consistency"], torch.stack(shares).mean())


def test_bands_of_detail_are_each_held_against_themselves(model, images):
    edits, losses = Edits.draw(model, 4, 0.5, CPU), build_losses({"l2": 1.0})
    settings = {"edits": edits, "edits_weight": 1.0, "edits_relative": True, "edits_bands": 3}
    values, _ = phase2.encoder_losses(model, losses, images, **settings)
    found = model(images)
    ws = edits(found.w)[:, None].repeat(1, model.generator.num_ws, 1)
    before = octaves(model.render(ws) - found.w_image, 3)
    after = octaves(model.render(ws, found.tokens) - found.reconstruction, 3)
    shares = [
        ((a - b).square().mean((1, 2, 3)) / (b.square().mean((1, 2, 3)) + SMALLEST_OF_BAND)).mean()
        for a, b in zip(after, before, strict=True)
    ]
    torch.testing.assert_close(values["edit_consistency"], torch.stack(shares).mean())


def test_octaves_go_from_fine_to_coarse_and_give_the_images_back(images):
    assert len(octaves(images, 1)) == 1 and torch.equal(octaves(images, 1)[0], images)
    *finer, coarsest = octaves(images, 3)
    assert [len(band[0, 0]) for band in (*finer, coarsest)] == [16, 8, 4]
    torch.testing.assert_close(coarsest, functional.avg_pool2d(images, 4))
    whole = coarsest
    for band in reversed(finer):
        whole = band + functional.interpolate(whole, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(whole, images)


def test_half_of_the_steps_go_along_the_directions(model):
    directions = torch.zeros(2, 16)
    directions[0, 3], directions[1, 5] = 0.5, 2.0
    edits = Edits.draw(model, 400, 0.5, torch.device("cpu"), directions)
    along = edits.along.abs()
    follows = along.any(dim=1)
    assert 150 < follows.sum() < 250
    assert torch.equal(edits.share[:, 0] == 0, follows)
    assert not along[:, [i for i in range(16) if i not in (3, 5)]].any()
    assert ((along[:, 3] > 0) & (along[:, 5] > 0)).sum() == 0  # one direction at a time
    assert 1.2 < along[:, 3].max() <= 3 * 0.5 and 5 < along[:, 5].max() <= 3 * 2.0  # up to three standard deviations
    assert edits.along[:, 3].min() < -1.2  # both ways
    w = torch.randn(400, 16)
    torch.testing.assert_close(edits(w)[follows], (w + edits.along)[follows])


@pytest.mark.parametrize(("directed", "least", "most"), [(1.0, 400, 400), (0.2, 50, 115)])
def test_as_many_go_along_the_directions_as_asked_for(model, directed, least, most):
    edits = Edits.draw(model, 400, 0.5, CPU, torch.eye(16)[:2], directed)
    assert least <= edits.along.any(dim=1).sum() <= most
    assert torch.equal(edits.share[:, 0] == 0, edits.along.any(dim=1))


def test_random_draws_are_as_they_were_without_directions(model):
    torch.manual_seed(0)
    plain = Edits.draw(model, 40, 0.5, CPU)
    torch.manual_seed(0)
    other = Edits.draw(model, 40, 0.5, CPU, torch.ones(1, 16))
    random = ~other.along.any(dim=1)
    assert torch.equal(plain.towards, other.towards) and torch.equal(plain.share[random], other.share[random])
    assert 0 < random.sum() < 40


@pytest.mark.parametrize("directions", [None, torch.eye(16)[:3]])
def test_several_processes_draw_the_rows_of_one(model, monkeypatch, directions):
    torch.manual_seed(0)
    whole, after = Edits.draw(model, 6, 0.5, CPU, directions), torch.rand(1)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(edit_consistency, "world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        torch.manual_seed(0)
        part = Edits.draw(model, 3, 0.5, CPU, directions)
        for ours, all_rows in zip(vars(part).values(), vars(whole).values(), strict=True):
            torch.testing.assert_close(ours, all_rows[rank::2])
        assert torch.equal(torch.rand(1), after)


def write_direction(folder: Path, name: str = "smile", **changes) -> None:
    found = {"vector": torch.eye(16)[2] * 7, "info": {"projection_std": 1.5}, "generator_hash": "", **changes}
    save_direction(Direction(name, **found), folder / "directions" / f"{name}.safetensors")


@pytest.fixture
def domain(tiny_domain, tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "micro")
    files = {"smile": "directions/smile.safetensors"}
    weights = WeightsConfig(folder=str(tmp_path / "micro"))
    return replace(tiny_domain, weights=weights, directions=files)


def test_steps_are_as_long_as_a_standard_deviation(domain):
    write_direction(Path(domain.weights.folder))
    steps, hashes = load_steps(domain, ["smile"], "abc", CPU)
    torch.testing.assert_close(steps, torch.eye(16)[2:3] * 1.5)
    assert hashes == {"step along smile": weights_hash({"direction": steps[0]})}
    assert load_steps(domain, [], "abc", CPU) == (None, {})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"generator_hash": "other"}, "learned for generator other, this is generator abc"),
        ({"info": {}}, "how far photos spread"),
        ({"vector": torch.ones(5)}, "a W of 5 numbers; this generator takes 16"),
        ({"vector": torch.eye(6, 16)[None]}, "or of W"),
        (AbsoluteDirection, "of GANSpace"),
        (None, "edit_consistency_directions: .*smile.safetensors: no such direction file"),
    ],
)
def test_directions_that_do_not_serve_are_refused(domain, changes, told):
    if changes is AbsoluteDirection:
        absolute = AbsoluteDirection(
            "smile", torch.ones(16), {"projection_std": 1.0}, mean=torch.zeros(16), start=0, end=4
        )
        save_direction(absolute, Path(domain.weights.folder) / domain.directions["smile"])
    elif changes is not None:
        write_direction(Path(domain.weights.folder), **changes)
    with pytest.raises(UserError, match=told):
        load_steps(domain, ["smile"], "abc", CPU)


def test_it_trains_along_directions_as_set(make_config, domain, monkeypatch):
    write_direction(Path(domain.weights.folder))
    config = make_config("phase2", schedule={"max_steps": 2, "log_every": 1})
    more = {"edit_consistency_directions": ["smile"], "edit_consistency_relative": True}
    how = {"edit_consistency_directed": 1.0, "edit_consistency_bands": 2}
    seen = []

    def record(model, found, edits, loss_resolution, **settings):
        seen.append((bool((edits.share == 0).all()), settings))
        return edit_consistency.edit_consistency(model, found, edits, loss_resolution, **settings)

    monkeypatch.setattr(phase2, "edit_consistency", record)
    phase2.train(replace(config, domain=domain, **more, **how))
    assert [line["step"] for line in stats(Path(config.output)) if "train/edit_consistency" in line] == [1]
    assert seen == [(True, {"relative": True, "bands": 2})]


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_a_run_along_directions_resumes_exactly_and_only_with_the_same_ones(make_config, domain, tmp_path, precision):
    write_direction(Path(domain.weights.folder))
    more = {"edit_consistency_directions": ["smile"], "edit_consistency_relative": True, "gradient_accumulation": 2}
    more |= {"edit_consistency_directed": 0.7, "edit_consistency_bands": 2}
    settings = {"domain": domain, "precision": precision, **more}

    def config(steps: int, name: str):
        schedule = {"max_steps": steps, "log_every": 1, "save_every": 2}
        return replace(make_config("phase2", schedule=schedule), **settings, output=str(tmp_path / name))

    phase2.train(config(4, "whole"))
    phase2.train(config(2, "stopped"))
    phase2.train(config(4, "stopped"))
    assert stats(tmp_path / "whole")[-1] == stats(tmp_path / "stopped")[-1]
    write_direction(Path(domain.weights.folder), vector=torch.eye(16)[4])
    with pytest.raises(UserError, match="step along smile: trained with weights"):
        phase2.train(config(6, "stopped"))
    write_direction(Path(domain.weights.folder), info={"projection_std": 2.0})  # the same vector, another spread
    with pytest.raises(UserError, match="step along smile: trained with weights"):
        phase2.train(config(6, "stopped"))


def test_weights_that_change_nothing_are_consistent(model, images):
    with torch.no_grad():
        for name, parameter in model.hypernetwork.named_parameters():
            if name.rpartition(".")[2] in ("w2", "b2"):
                parameter.zero_()
    edits = Edits.draw(model, 4, 0.5, images.device)
    values, _ = phase2.encoder_losses(model, build_losses({"l2": 1.0}), images, edits=edits, edits_weight=1.0)
    assert values["edit_consistency"] < 1e-10


def test_training_with_it_makes_edits_more_consistent(model, images):
    edits = Edits.draw(model, 4, 0.5, images.device)
    optimizer = build_optimizer(model.trainable_parameters(), OptimizerConfig(lr=1e-3))
    found = []
    for _ in range(15):
        values, _ = phase2.encoder_losses(model, build_losses({"l2": 1e-6}), images, edits=edits, edits_weight=1.0)
        backward_and_step(optimizer, values["loss"])
        found.append(values["edit_consistency"].item())
    assert found[-1] < 0.7 * found[0]
    assert all(p.grad is None for p in model.generator.parameters())


def test_a_batch_in_two_parts_has_the_gradients_of_the_whole_one(model, images):
    model.eval()  # BatchNorm would see a part at a time
    edits, losses = Edits.draw(model, 4, 0.5, images.device), build_losses({"l2": 1.0})

    def gradients(parts):
        model.zero_grad()
        for part, some in zip(split_microbatches(images, parts), edits.split_microbatches(parts), strict=True):
            values, _ = phase2.encoder_losses(model, losses, part, edits=some, edits_weight=2.0)
            (values["loss"] / parts).backward()
        return [p.grad.clone() for p in model.trainable_parameters() if p.grad is not None]

    for whole, halves in zip(gradients(1), gradients(2), strict=True):
        torch.testing.assert_close(halves, whole, rtol=1e-4, atol=1e-7)


def test_edits_are_dealt_out_as_the_images_are(model):
    edits = Edits.draw(model, 4, 0.5, torch.device("cpu"))
    assert edits.towards.shape == (4, 16) and (edits.share >= 0).all() and (edits.share <= 0.5).all()
    first, second = edits.split_microbatches(2)
    assert torch.equal(first.towards, edits.towards[[0, 2]]) and torch.equal(second.share, edits.share[[1, 3]])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["edit_consistency_reach=1.5"], "all the way to another w"),
        (["edit_consistency_directed=0"], "all of the images"),
        (["edit_consistency_bands=2"], "edit_consistency_relative=true"),
        (["edit_consistency_bands=9", "edit_consistency_relative=true"], "up to"),
        (["edit_consistency_every=0"], "edit_consistency_weight: 0"),
        (["edit_consistency_directions=[frown]"], "frown"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, told):
    with pytest.raises(ConfigError, match=told):
        load_config(Phase2Config, None, settings)


def test_it_is_in_the_steps_that_it_is_due_in_and_in_no_validation(make_config):
    config = make_config("phase2", schedule={"max_steps": 4, "log_every": 1, "validate_every": 1})
    phase2.train(config)  # every second step, the first one among them
    lines = stats(Path(config.output))
    logged = [line["step"] for line in lines if "train/edit_consistency" in line]
    assert logged == [1, 3]
    assert not any("validation/edit_consistency" in line for line in lines)
