"""A domain of the MobileStyleGAN architecture through its trainers."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from hyperinverter import load
from hyperinverter.checkpoint import read_model, save_model
from hyperinverter.config.checks import problems
from hyperinverter.config.domain_schema import FeatureResidualConfig
from hyperinverter.config.faults import ConfigError
from hyperinverter.config.load import load_config
from hyperinverter.config.schema import (
    DataConfig,
    DomainConfig,
    EarlyHeadConfig,
    OptimizerConfig,
    Phase1Config,
    ScheduleConfig,
    StyleGAN2Config,
    WeightsConfig,
)
from hyperinverter.losses import TotalLoss
from hyperinverter.models.build import build_generator
from hyperinverter.models.encoders import LayerwiseEncoder
from hyperinverter.pretrained.load import load_generator, load_model
from hyperinverter.training import early_head, encoder, phase1, phase2, phase3
from hyperinverter.utils.errors import UserError

from .conftest import stats, tiny_config


@pytest.fixture(scope="module")
def domain(mobile_domain: DomainConfig) -> DomainConfig:
    return mobile_domain


def head_config(domain: DomainConfig, output: Path, **changes) -> EarlyHeadConfig:
    schedule = {"max_steps": 4, "batch_size": 2, "log_every": 2, "validate_every": 2, "save_every": 2}
    schedule |= changes.pop("schedule", {})
    data = {"kind": "generated", "num_generated": 8, "validation_fraction": 0.5, "truncation_psi_from": 0.5}
    return EarlyHeadConfig(
        domain=domain,
        output=str(output),
        data=DataConfig(**data, store=str(output.parent / "store")),
        schedule=ScheduleConfig(**schedule),
        optimizer=OptimizerConfig(lr=2e-3),
        channels=8,
        loss_weights={"l2": 1.0},
        device="cpu",
        threads=1,
    )


@pytest.fixture(scope="module")
def with_head(domain: DomainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of the domain's generator and a trained early head."""
    output = tmp_path_factory.mktemp("head") / "run"
    early_head.train(head_config(domain, output))
    return output / "model"


def test_an_early_head_learns_and_lies_beside_its_generator(domain, with_head, tmp_path):
    summary = early_head.train(head_config(domain, tmp_path / "run", schedule={"max_steps": 30}))
    losses = [line["validation/l2"] for line in stats(tmp_path / "run") if "validation/l2" in line]
    assert losses[-1] < losses[0] and summary["best/loss"] == min(losses)
    generator = load_generator(with_head)
    assert generator.synthesis.resolutions == (16, 64)
    assert generator.weights_hash == load_generator(Path(domain.weights.folder)).weights_hash
    file = read_model(with_head / "early_head.safetensors", "early_head")
    assert file.requires == {"generator": generator.weights_hash} and file.config["channels"] == 8


def test_an_interrupted_head_ends_as_an_uninterrupted_one(domain, with_head, tmp_path):
    early_head.train(head_config(domain, tmp_path / "run", schedule={"max_steps": 2}))
    early_head.train(head_config(domain, tmp_path / "run"))
    files = [read_model(folder / "early_head.safetensors") for folder in (with_head, tmp_path / "run" / "model")]
    assert files[0].hash == files[1].hash


def test_a_head_learns_without_validation_images(domain, with_head, tmp_path):
    """Its pictures are of training images then; it ended in a StopIteration."""
    config = head_config(domain, tmp_path / "run", schedule={"max_steps": 2, "images_every": 1})
    early_head.train(replace(config, data=replace(config.data, store=None, validation_fraction=0.0)))
    assert (tmp_path / "run" / "model" / "early_head.safetensors").is_file()
    assert not any("validation/l2" in line for line in stats(tmp_path / "run"))


@pytest.fixture(scope="module")
def both_phases(domain, with_head, photos, tmp_path_factory) -> Path:
    """A model folder with both phases of a few steps."""
    output = tmp_path_factory.mktemp("both")
    domain = replace(domain, weights=WeightsConfig(folder=str(with_head)))
    phase1.train(tiny_config("phase1", with_head, photos, output / "one", domain, schedule={"max_steps": 1}))
    config = tiny_config("phase2", output / "one" / "model_last", photos, output / "two", domain)
    config.adversarial.weight, config.schedule.max_steps = 0.0, 2
    phase2.train(config)
    return output / "two" / "model_last"


def test_a_head_learns_to_draw_inverted_photos_and_resumes(domain, with_head, both_phases, photos, tmp_path):
    """From the head that samples made; against whole images with the weights of both phases."""
    domain = replace(domain, weights=WeightsConfig(folder=str(both_phases)))

    data, folder = DataConfig(root=str(photos), validation_fraction=0.25), str(both_phases)
    config = replace(head_config(domain, tmp_path / "run"), data=data, model=folder, init_from=folder)

    def run(output: Path, steps: int) -> list[float]:
        schedule = replace(config.schedule, max_steps=steps)
        early_head.train(replace(config, output=str(output), schedule=schedule))
        return [line["validation/l2"] for line in stats(output) if "validation/l2" in line]

    losses = run(tmp_path / "whole", 20)
    assert losses[-1] < losses[0]
    run(tmp_path / "part", 10)
    assert run(tmp_path / "part", 20) == losses
    files = [read_model(tmp_path / name / "model" / "early_head.safetensors") for name in ("whole", "part")]
    assert files[0].hash == files[1].hash != read_model(with_head / "early_head.safetensors").hash
    for change in ({"init_from": str(photos)}, {"model": str(photos)}):
        with pytest.raises((UserError, FileNotFoundError)):
            early_head.train(
                replace(head_config(domain, tmp_path / "bad"), data=DataConfig(root=str(photos)), **change)
            )
    with pytest.raises(UserError, match=r"init_from: .* has other sizes than one of channels=4"):
        early_head.train(replace(config, channels=4, output=str(tmp_path / "narrow")))
    with pytest.raises(UserError, match="channels: 8 -> 4"):
        early_head.train(replace(config, channels=4, init_from=None, output=str(tmp_path / "part")))
    with pytest.raises(ConfigError, match="model=FOLDER"):
        load_config(EarlyHeadConfig, "configs/early_head/ffhq_mobile.yaml", [f"model={both_phases}"])


def test_a_head_of_another_generator_is_refused(domain, with_head, tmp_path):
    generator = build_generator(domain)
    file = read_model(with_head / "generator.safetensors")
    save_model(tmp_path / "generator.safetensors", generator, kind="generator", config=file.config)
    (tmp_path / "early_head.safetensors").write_bytes((with_head / "early_head.safetensors").read_bytes())
    with pytest.raises(UserError, match="was trained for generator"):
        load_generator(tmp_path)


def test_a_head_beside_a_generator_that_can_have_none_is_named(tiny_model, with_head, tmp_path):
    generator = read_model(tiny_model / "generator.safetensors")
    head = read_model(with_head / "early_head.safetensors")
    (tmp_path / "generator.safetensors").write_bytes((tiny_model / "generator.safetensors").read_bytes())
    requires = {"generator": generator.hash}
    for state, told in ((head.state, "not known: synthesis.early"), ({"conv1.bias": torch.zeros(8)}, "early_head")):
        save_model(tmp_path / "early_head.safetensors", state, kind="early_head", config={}, requires=requires)
        with pytest.raises(UserError, match=told):
            load_generator(tmp_path)


@pytest.mark.parametrize("passes", [1, 2])
def test_both_phases_train_through_the_head_and_render_full_images(
    domain, with_head, photos, tmp_path, monkeypatch, passes
):
    """Losses at 16 px never draw 64 px; what was learned renders at 64 px, edits and all."""
    sizes = []
    forward = torch.nn.Module.__call__
    domain = replace(domain, weights=WeightsConfig(folder=str(with_head)))

    def watch(module, *args, **kwargs):
        out = forward(module, *args, **kwargs)
        if type(module).__name__ == "MobileSynthesis":
            sizes.append(out.shape[-1])
        return out

    monkeypatch.setattr(torch.nn.Module, "__call__", watch)
    schedule = {"max_steps": 3, "validate_every": 3}
    config = tiny_config("phase1", with_head, photos, tmp_path / "one", domain, schedule=schedule)
    phase1.train(config)
    folder = tmp_path / "one" / "model"
    domain = replace(domain, hypernetwork=replace(domain.hypernetwork, passes=passes))
    config = tiny_config("phase2", folder, photos, tmp_path / "two", domain, schedule=schedule)
    config.adversarial.weight = 0.0
    phase2.train(config)
    assert set(sizes) == {16}
    sizes.clear()
    model = load(tmp_path / "two" / "model")
    inversion = model.invert(photos / "00.png")
    assert model.render(inversion).shape == (1, 3, 64, 64)
    assert sizes == [16] * passes + [64]  # the images that E2 looks at, and the picture
    network = load_model(tmp_path / "two" / "model").network
    assert not any(name.startswith(("layers.2", "to_img")) for name in network.hypernetwork.targets)


def test_hyperstyle_multiplies_its_effective_kernels_and_e4e_knows_its_styles(domain, with_head, photos, tmp_path):
    """pointwise * (1 + delta) is the kernel of both, times HyperStyle's factor of a pair of channels."""
    schedule = {"max_steps": 2, "validate_every": 2}
    domain = replace(domain, weights=WeightsConfig(folder=str(with_head)))
    phase1.train(tiny_config("phase1", with_head, photos, tmp_path / "one", domain, schedule=schedule))
    folder = tmp_path / "one" / "model"
    for method in ("hyperstyle", "e4e"):
        config = tiny_config(method, folder, photos, tmp_path / method, domain, schedule=schedule)
        encoder.train(config)
    model = load(tmp_path / "hyperstyle" / "model_last", "hyperstyle")
    with torch.no_grad():
        image = torch.rand(1, 3, 64, 64) * 2 - 1
        deltas = model.network(image).deltas
    pointwise = [f"layers.{i}.{conv}.pointwise" for i in (0, 1) for conv in ("conv1", "conv2")]
    assert list(deltas) == ["conv1.weight", *pointwise]  # neither depthwise nor what the domain leaves out
    weights = dict(model.generator.synthesis.named_parameters())
    residuals = model.invert(image).residuals
    for name in pointwise:
        pairs = deltas[name][0]  # [O, I, 1, 1]
        depthwise = weights[name.replace("pointwise", "depthwise")][:, 0]  # [I, 3, 3]
        kernel = weights[name] * depthwise
        torch.testing.assert_close((weights[name] + residuals[name][0]) * depthwise, kernel * (1 + pairs))
    other = load(tmp_path / "e4e" / "model_last", "e4e")
    assert other.render(other.invert(photos / "00.png")).shape == (1, 3, 64, 64)
    assert other.invert(photos / "00.png").ws.shape[1] == model.generator.num_ws == 11


def test_losses_below_the_photos_size_train_through_a_smaller_head(domain, with_head, photos, tmp_path, monkeypatch):
    """A head of 8 px beside that of 16 px: losses are at 8 px, encoders still see 16 px."""
    domain = replace(domain, weights=WeightsConfig(folder=str(with_head)))
    early_head.train(replace(head_config(domain, tmp_path / "head"), px=8))
    folder = tmp_path / "head" / "model"
    domain = replace(domain, weights=WeightsConfig(folder=str(folder)), loss_resolution=8)
    assert load_generator(folder).synthesis.resolutions == (8, 16, 64)
    seen, compared = [], []
    monkeypatch.setattr(LayerwiseEncoder, "pair", watched(LayerwiseEncoder.pair, seen))
    monkeypatch.setattr(TotalLoss, "forward", watched(TotalLoss.forward, compared))
    settings = {"schedule": {"max_steps": 2, "validate_every": 2, "images_every": 2}}
    phase1.train(tiny_config("phase1", folder, photos, tmp_path / "one", domain, **settings))
    config = tiny_config("phase2", tmp_path / "one" / "model", photos, tmp_path / "two", domain, **settings)
    config.adversarial.weight, config.edit_consistency_weight = 0.0, 0.1
    phase2.train(config)
    assert set(seen) == {(16, 16)} and set(compared) == {(8, 16)}
    with Image.open(next((tmp_path / "two" / "samples").glob("input_phase1_phase2_*"))) as sheet:
        assert sheet.height % 8 == 0
    for layer, told in (("layers.0", None), ("layers.1", "layers.1 has 16 px, .* an early head draws at 8 px")):
        three = replace(domain, feature_residual=FeatureResidualConfig(layer=layer, channels=1, width=4))
        config = tiny_config("phase3", tmp_path / "two" / "model", photos, tmp_path / layer, three, **settings)
        with pytest.raises(ValueError, match=told) if told else nullcontext():
            phase3.train(config)


def watched(method: Callable, sizes: list[tuple[int, ...]]) -> Callable:
    """The method, with the sides of the images that it is given noted."""

    def call(self: torch.nn.Module, *images: torch.Tensor) -> Any:
        sizes.append(tuple(each.shape[-1] for each in images))
        return method(self, *images)

    return call


def test_codes_are_learned_from_samples_without_drawing(domain, photos, tmp_path):
    """Phase I with the distance of codes alone: the loss is that distance, and it falls."""
    data = DataConfig(kind="generated", num_generated=16, validation_fraction=0.5, flip=False)
    schedule = {"max_steps": 40, "validate_every": 20}
    settings = {"data": data, "loss_weights": {}, "w_loss_weight": 2.0, "schedule": schedule}
    config = tiny_config("phase1", Path(domain.weights.folder), photos, tmp_path / "w", domain, **settings)
    phase1.train(config)
    rows = [line for line in stats(tmp_path / "w") if "validation/w" in line]
    assert rows[-1]["validation/w"] < rows[0]["validation/w"]
    assert rows[0]["validation/loss"] == pytest.approx(2 * rows[0]["validation/w"], rel=1e-5)


def test_settings_that_cannot_be_are_refused(domain):
    """A generator that is distilled is not trained here; codes are known of unchanged samples alone."""
    found = [problem.message for problem in problems(StyleGAN2Config(domain=domain))]
    assert any("distilled, not trained here" in message for message in found)
    data = DataConfig(kind="generated")  # mirrors images
    found = [problem.message for problem in problems(Phase1Config(domain=domain, data=data, w_loss_weight=1.0))]
    assert any("a changed image has another w" in message for message in found)
    found = [problem.message for problem in problems(Phase1Config(domain=domain, w_loss_weight=1.0))]
    assert any("needs images whose w is known" in message for message in found)
    found = [problem.message for problem in problems(EarlyHeadConfig(domain=domain))]
    assert any("must be generated" in message for message in found)
    found = [problem.message for problem in problems(EarlyHeadConfig(domain=domain, px=32))]
    assert any("one of 8, 16; got 32" in message for message in found)
    odd = replace(domain, generator=replace(domain.generator, use_noise=False))
    assert any("is a key of StyleGAN2" in problem.message for problem in problems(EarlyHeadConfig(domain=odd)))
