"""What one step of each phase computes, what stays frozen, and when a run stops by itself."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from hyperinverter.checkpoint import load_training_state, read_model
from hyperinverter.config.schema import AdversarialConfig, DataConfig, OptimizerConfig
from hyperinverter.data.loader import Batches
from hyperinverter.losses import build_losses
from hyperinverter.pretrained.load import load_discriminator, load_model
from hyperinverter.training import loop, phase1, phase2
from hyperinverter.training.optim import backward_and_step, build_optimizer
from hyperinverter.training.progress import due_at
from hyperinverter.training.validation import Best, validate
from hyperinverter.utils.errors import UserError

from .conftest import TRAIN, stats

NO_AUTOCAST = torch.autocast("cpu", enabled=False)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# ----------------------------------------------------------------------------------------------- one step


def test_a_phase_2_step_is_the_published_one(tiny_model):
    """Against the formulas written out: E2 and H first, then D on the fakes made before that, then R1 on the new D."""
    model, D = load_model(tiny_model).network.train(), load_discriminator(tiny_model)
    twin, twin_D = copy.deepcopy(model), copy.deepcopy(D)
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    adam = OptimizerConfig(lr=1e-3)
    D.requires_grad_(True)
    opt, opt_D = build_optimizer(model.trainable_parameters(), adam), build_optimizer(D.parameters(), adam)
    D.requires_grad_(False)
    losses = build_losses({"l2": 2.0}, loss_resolution=8)
    values, fakes = phase2.encoder_losses(model, losses, images, D, 0.1)
    backward_and_step(opt, values["loss"])
    assert all(p.grad is None for p in [*D.parameters(), *model.generator.parameters(), *model.w_encoder.parameters()])
    values |= phase2.discriminator_step(D, opt_D, images, fakes, r1_weight=10 / 2 * 16, autocast=NO_AUTOCAST)

    box = nn.AvgPool2d(2)
    fake = twin(images).reconstruction
    l2 = (box(fake) - box(images)).square().mean()
    total = 2 * l2 + 0.1 * softplus(-twin_D(fake)).mean()
    fresh = torch.optim.Adam(twin.trainable_parameters(), lr=1e-3)
    total.backward()
    fresh.step()
    fresh_D = torch.optim.Adam(twin_D.parameters(), lr=1e-3)
    fresh_D.zero_grad()  # of the generator's pass through it
    loss_D = (softplus(-twin_D(images)).mean() + softplus(twin_D(fake.detach())).mean()) / 2
    loss_D.backward()
    fresh_D.step()
    fresh_D.zero_grad()
    real = images.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(twin_D(real).sum(), real, create_graph=True)
    r1 = gradient.square().sum([1, 2, 3]).mean()
    (r1 * 10 / 2 * 16).backward()
    fresh_D.step()

    for name, expected in {"loss": total, "l2": l2, "loss_D": loss_D, "r1": r1}.items():
        torch.testing.assert_close(values[name].detach(), expected.detach(), msg=name)
    for ours, theirs in ((model, twin), (D, twin_D)):
        for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(("kind", "factor"), [("released", 1), ("paper", 2)])
def test_a_run_weights_r1_and_halves_or_sums_the_discriminators_loss_as_its_config_says(
    kind, factor, make_config, monkeypatch
):
    """gamma 10 every 2 steps: 10 / 2 * 2."""
    steps, step = [], phase2.discriminator_step

    def noting(D, optimizer, reals, fakes, **settings):
        with torch.no_grad():
            expected = softplus(-D(reals)).mean() + softplus(D(fakes)).mean()
        values = step(D, optimizer, reals, fakes, **settings)
        steps.append((settings["r1_weight"], values["loss_D"] / expected))
        return values

    monkeypatch.setattr(phase2, "discriminator_step", noting)
    config = make_config("phase2")
    config.adversarial = replace(config.adversarial, start_step=2, discriminator_loss=kind)
    phase2.train(config)
    assert [weight for weight, _ in steps] == [10.0, 0.0, 10.0, 0.0]  # steps 2 to 5
    assert [float(share) for _, share in steps] == pytest.approx([factor / 2] * 4, rel=1e-4)


def test_phase_1_adds_w_avg_once_and_uses_one_w_for_all_layers(tiny_model):
    model = load_model(tiny_model).network
    images = torch.randn(2, 3, 16, 16)
    expected = model.invert(images).w_image
    torch.testing.assert_close(phase1.reconstruct(model.generator, model.w_encoder, images), expected)


# ------------------------------------------------------------------------------------------------- a run


def test_phase_1_trains_e1_alone_and_writes_a_model_folder(whole_run, tiny_model):
    folder, final = whole_run("phase1")
    generator, before = (
        read_model(tiny_model / "generator.safetensors"),
        read_model(tiny_model / "w_encoder.safetensors"),
    )
    for name, step in (("model", final["best/step"]), ("model_last", 6)):
        copied, trained = (read_model(folder / name / f"{part}.safetensors") for part in ("generator", "w_encoder"))
        assert copied.hash == generator.hash == trained.requires["generator"]
        assert trained.hash != before.hash
        assert trained.info["step"] == step
        assert (folder / name / "README.md").is_file()
    trained = read_model(folder / "model" / "w_encoder.safetensors").state
    assert not torch.equal(trained["body.0.res_layer.0.running_mean"], torch.zeros(8))  # BatchNorm learned the data
    assert min(line["validation/loss"] for line in stats(folder) if "validation/loss" in line) == final["best/loss"]
    assert {"train/loss", "train/l2", "train/gradient_norm", "validation/l2", "step"} <= final.keys()
    assert list((folder / "samples").glob("input_phase1_00000006.png"))
    assert list(folder.glob("events.out.tfevents*"))


def test_phase_2_trains_e2_and_hypernetworks_alone(whole_run, tiny_model):
    folder, final = whole_run("phase2")
    for part in ("generator", "w_encoder", "discriminator"):
        assert (
            read_model(folder / "model" / f"{part}.safetensors").hash
            == read_model(tiny_model / f"{part}.safetensors").hash
        )
    model = load_model(folder / "model_last").network
    state = load_training_state(folder / "checkpoints")
    assert same(model.generator, load_model(tiny_model).network.generator)
    assert all(torch.equal(v, state["hypernetwork"][k]) for k, v in model.hypernetwork.state_dict().items())
    trained = model.layerwise_encoder.state_dict()
    assert int(trained["body.0.res_layer.0.num_batches_tracked"]) == 2 * 6  # inputs, then Phase I images, every step
    assert {
        "train/adversarial",
        "train/loss_D",
        "train/r1",
        "train/gradient_norm_D",
        "validation/adversarial",
    } <= final.keys()
    assert list((folder / "samples").glob("input_phase1_phase2_00000006.png"))


def test_the_batch_changes_at_start_step_without_a_repeated_step_or_image(make_config, monkeypatch):
    taken, get = [], Batches.get

    def noting(self, position, batch_size):
        taken.append((position, batch_size))
        return get(self, position, batch_size)

    monkeypatch.setattr(Batches, "get", noting)
    config = make_config("phase2", schedule={"validate_every": 100, "save_every": 5})
    config.schedule.max_steps = 5
    phase2.train(config)
    config.schedule.max_steps = 6
    phase2.train(config)
    assert taken == [(0, 4), (4, 4), (8, 4), (12, 2), (14, 2), (16, 2)]


def test_the_best_is_tracked_anew_at_start_step_and_after_the_cold_steps(make_config, monkeypatch):
    """Scores get worse all the time: without the two new starts the first validation would stay the best."""
    scores = iter([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    monkeypatch.setattr(loop, "validate", lambda *_: {"loss": next(scores)})
    config = make_config("phase2", schedule={"validate_every": 1, "save_every": 100})
    final = phase2.train(config)
    model = Path(config.output) / "model"
    kept = read_model(model / "hyperinverter_before_adversarial.safetensors")
    assert kept.info["step"] == 1  # best of 1..3
    assert (final["best/step"], final["best/loss"]) == (6, 6.0)  # best of 6, not of the cold steps 4 and 5
    assert read_model(model / "hyperinverter.safetensors").info["step"] == 6
    log = (Path(config.output) / "log.txt").read_text()
    assert [step for step in range(7) if f"step {step}: tracking of the best model starts anew" in log] == [3, 5]


def test_without_validation_images_the_newest_is_kept(make_config, photos):
    config = make_config(
        "phase1", schedule={"max_steps": 2}, data=DataConfig(root=str(photos), validation_fraction=0.0)
    )
    final = phase1.train(config)
    assert "validation/loss" not in final
    assert "best/step" not in final
    assert read_model(Path(config.output) / "model" / "w_encoder.safetensors").info["step"] == 2


def test_phase_1_learns_and_phase_2_goes_on_from_its_folder_in_bf16(make_config):
    """Samples of the generator itself as data, frozen discriminator features as a loss: what the demo does."""
    generated = DataConfig(kind="generated", num_generated=16, validation_fraction=0.25, flip=False)
    weights = {"l2": 1.0, "discriminator_features": 0.1}
    config = make_config("phase1", "e1", data=generated, loss_weights=weights, gradient_clip=1.0)
    config.optimizer = OptimizerConfig(lr=3e-3)
    config.schedule = replace(config.schedule, max_steps=30, log_every=10, validate_every=30, save_every=30)
    phase1.train(config)
    losses = [line["train/loss"] for line in stats(Path(config.output)) if "train/loss" in line]
    assert losses[-1] < 0.9 * losses[0]

    config = make_config("phase2", data=generated, loss_weights=weights, precision="bf16", schedule={"max_steps": 2})
    config.domain.weights.folder = str(Path(config.output).with_name("e1") / "model")
    config.adversarial = AdversarialConfig(weight=0.1, start_step=0, batch_size=2, r1_every=2)
    final = phase2.train(config)
    assert final["train/discriminator_features"] > 0
    assert all(p.dtype == torch.float32 for p in load_model(Path(config.output) / "model").network.parameters())


def test_weights_named_by_file_are_trained_on(make_config, tiny_model):
    config = make_config("phase2", schedule={"max_steps": 1}, adversarial=AdversarialConfig())
    config.domain.weights.hyperinverter = str(tiny_model / "hyperinverter.safetensors")
    config.optimizer.lr = 1e-12
    phase2.train(config)
    start, end = (
        read_model(f / "hyperinverter.safetensors").state for f in (tiny_model, Path(config.output) / "model")
    )
    key = next(key for key in start if key.endswith(".w2"))
    torch.testing.assert_close(start[key], end[key])
    assert "go on from the weights of" in (Path(config.output) / "log.txt").read_text()


@pytest.mark.parametrize(("phase", "part"), [("phase1", "w_encoder"), ("phase2", "hyperinverter")])
def test_a_phase_goes_on_from_weights_that_were_trained_with_another_generator(
    phase, part, make_config, tiny_model, other_tiny_model
):
    other = other_tiny_model
    assert read_model(other / f"{part}.safetensors").requires != read_model(tiny_model / f"{part}.safetensors").requires
    config = make_config(phase, schedule={"max_steps": 1}, init_from=str(other))
    config.optimizer.lr = 1e-12
    TRAIN[phase](config)
    start, end = (read_model(f / f"{part}.safetensors") for f in (other, Path(config.output) / "model"))
    name = next(key for key in start.state if key.endswith((".w2", "linear.weight")))
    torch.testing.assert_close(start.state[name], end.state[name])
    assert end.requires["generator"] == read_model(tiny_model / "generator.safetensors").hash
    load_model(Path(config.output) / "model", with_hyperinverter=phase == "phase2")  # they belong together


# ------------------------------------------------------------------------------------- no longer a number


@pytest.mark.parametrize("phase", ["phase1", "phase2"])
def test_nan_stops_the_run_and_names_the_step_and_the_part(phase, make_config, monkeypatch):
    """The bad batch is the third; nothing looks until step 5, where a checkpoint and a best model would be written."""
    get = Batches.get

    def spoiled(self, position, batch_size):
        images, names = get(self, position, batch_size)
        return (images * float("nan") if position == 8 else images), names

    monkeypatch.setattr(Batches, "get", spoiled)
    config = make_config(phase, schedule={"log_every": 5, "validate_every": 5, "save_every": 5})
    config.schedule.max_steps = 2
    {"phase1": phase1, "phase2": phase2}[phase].train(config)
    config.schedule.max_steps = 6
    output = Path(config.output)
    before = {path: path.stat().st_mtime_ns for path in output.glob("model*/*.safetensors")}
    with pytest.raises(
        UserError, match=r"step 3: l2 is nan.*step_00000002\.pt.*lower optimizer\.lr.*gradient_clip=1\.0"
    ):
        {"phase1": phase1, "phase2": phase2}[phase].train(config)
    assert load_training_state(output / "checkpoints")["step"] == 2
    assert {path: path.stat().st_mtime_ns for path in output.glob("model*/*.safetensors")} == before


def test_a_gradient_that_is_no_number_is_found_before_the_save(make_config, monkeypatch):
    """The loss is fine, its gradient is not: the root of zero."""

    class Broken(nn.Module):
        losses = nn.ModuleDict()

        def forward(self, output, target):
            loss = output.square().mean() + (output * 0).sum().sqrt()
            return loss, {"l2": loss.detach()}

    monkeypatch.setattr(phase1, "build_losses", lambda *_, **__: Broken())
    config = make_config("phase1", schedule={"save_every": 1})
    with pytest.raises(UserError, match=r"step 1: gradient_norm is nan.*no checkpoint was written yet"):
        phase1.train(config)
    assert load_training_state(Path(config.output) / "checkpoints") is None


# ------------------------------------------------------------------------------------------- small parts


def test_validation_is_a_mean_over_images_not_over_batches(make_config):
    class Five:
        def own_in_order(self, batch_size, max_images=None):
            images = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 2, 2)
            for number, batch in enumerate(images[:max_images].split(batch_size)):
                yield number, batch, ["name"] * len(batch)

    schedule = make_config("phase1").schedule
    found = validate(lambda images, names: {"loss": images.mean()}, Five(), schedule, torch.device("cpu"))
    assert found == {"loss": pytest.approx(2.0)}  # batches of 4 and 1 have means 1.5 and 4
    schedule.validation_images = 2
    assert validate(lambda images, names: {"loss": images.mean()}, Five(), schedule, torch.device("cpu")) == {
        "loss": 0.5
    }


def test_best_ignores_what_is_no_number():
    best = Best()
    assert not best.improves(float("nan"), 1)
    assert best.improves(2.0, 2)
    assert not best.improves(2.0, 3)
    assert not best.improves(float("nan"), 4)
    assert (best.loss, best.step) == (2.0, 2)
    best.forget()
    assert best.improves(9.0, 5)


def test_the_last_step_does_everything(make_config):
    schedule = make_config("phase1").schedule
    assert not due_at(1, schedule).look
    assert (due_at(3, schedule).log, due_at(3, schedule).save) == (True, False)
    last = due_at(6, schedule)
    assert last.log
    assert last.images
    assert last.validation
    assert last.save
