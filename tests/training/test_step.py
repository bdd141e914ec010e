"""How a step is computed changes nothing that it computes: parts, one pass of D, recomputed blocks, bf16, rates."""

import math
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hyperinverter.checkpoint import load_training_state
from hyperinverter.config.faults import ConfigError
from hyperinverter.config.load import load_config
from hyperinverter.config.schema import OptimizerConfig, Phase2Config, ScheduleConfig
from hyperinverter.data.loader import Batches
from hyperinverter.losses import build_losses
from hyperinverter.losses.adversarial import r1_penalty, real_and_fake_logits
from hyperinverter.models.build import build_discriminator, build_generator
from hyperinverter.models.stylegan2 import Discriminator
from hyperinverter.models.stylegan2.discriminator import minibatch_std
from hyperinverter.pretrained.load import load_discriminator, load_model
from hyperinverter.training import discriminator, phase2, stylegan2
from hyperinverter.training.optim import build_optimizer, rate_factor, split_microbatches, step_over_parts, whole
from hyperinverter.training.progress import LossHistory
from hyperinverter.utils.errors import UserError

from .conftest import TRAIN
from .forks import assert_same_run

NO_AUTOCAST = torch.autocast("cpu", enabled=False)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --------------------------------------------------------------------------------------- a batch in parts


def test_parts_are_dealt_out_and_put_together_again():
    batch = torch.arange(12).view(6, 2)
    parts = split_microbatches(batch, 3)
    assert [part[:, 0].tolist() for part in parts] == [[0, 6], [2, 8], [4, 10]]
    assert torch.equal(whole(parts), batch) and split_microbatches(batch, 1)[0] is batch
    with pytest.raises(UserError, match="gradient_accumulation is 4, but a batch here has 6 images"):
        split_microbatches(batch, 4)


def test_parts_keep_the_groups_of_the_minibatch_standard_deviation():
    x = noise(8, 4, 3, 3)
    in_one = minibatch_std(x, group_size=2)
    assert torch.equal(whole([minibatch_std(part, group_size=2) for part in split_microbatches(x, 2)]), in_one)


@pytest.mark.parametrize("clip", [None, 0.01])
def test_a_step_over_parts_is_that_of_the_whole_batch(clip):
    batch, networks = noise(8, 5), []
    for count in (1, 2, 4):
        torch.manual_seed(1)
        network = nn.Linear(5, 3).double()
        optimizer = build_optimizer(network.parameters(), OptimizerConfig(lr=0.1))

        def compute(part, network=network):
            loss = network(part.double()).square().mean()
            return {"loss": loss, "half": loss / 2}

        values = step_over_parts(optimizer, compute, split_microbatches(batch, count), clip=clip, measure=True)
        networks.append((network.weight, values["loss"], values["half"] * 2, values["gradient_norm"]))
    for found in networks[1:]:
        for a, b in zip(networks[0], found, strict=True):
            torch.testing.assert_close(a, b)


def test_gradients_are_measured_only_when_asked():
    network = nn.Linear(5, 3)
    optimizer = build_optimizer(network.parameters(), OptimizerConfig())
    parts = split_microbatches(noise(4, 5), 2)
    compute = lambda part: {"loss": network(part).sum()}  # noqa: E731
    assert step_over_parts(optimizer, compute, parts)["gradient_norm"] is None
    assert step_over_parts(optimizer, compute, parts, measure=True)["gradient_norm"] > 0


def test_d_learns_from_parts_as_from_the_whole_batch(tiny_model):
    """Groups of two in a batch of eight: every part holds whole groups."""
    reals, fakes, found = noise(8, 3, 16, 16), noise(8, 3, 16, 16, seed=1), []
    for parts in (1, 2, 4):
        D = load_discriminator(tiny_model).requires_grad_(True).double()
        D.b4.mbstd_group_size = 2
        optimizer = build_optimizer(D.parameters(), OptimizerConfig(lr=1e-3))
        values = phase2.discriminator_step(
            D, optimizer, reals.double(), fakes.double(), r1_weight=2.0, autocast=NO_AUTOCAST, parts=parts
        )
        found.append((values, D.state_dict()))
    for values, state in found[1:]:
        for name in ("loss_D", "D_real", "r1"):
            torch.testing.assert_close(values[name], found[0][0][name], msg=name)
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, found[0][1][name], rtol=0, atol=1e-5, msg=name)


def test_the_gan_learns_in_parts_as_in_one(make_config):
    """Without noise (every part would draw its own) and path lengths (theirs too); images and mixing are the same."""
    states = []
    for count in (1, 2):
        config = make_config("stylegan2", f"in_{count}", noise_mode="none", path_length_every=0)
        config.gradient_accumulation = count
        config.domain.discriminator = replace(config.domain.discriminator, mbstd_group_size=2)
        config.optimizer = config.discriminator_optimizer = OptimizerConfig(lr=1e-4, betas=[0.0, 0.99])
        config.schedule.max_steps = 2
        TRAIN["stylegan2"](config)
        states.append(load_training_state(Path(config.output) / "checkpoints"))
    for part in ("G", "D"):
        for name, tensor in states[0][part].items():
            if name != "mapping.w_avg":  # moves once per part
                torch.testing.assert_close(states[1][part][name], tensor, rtol=0, atol=5e-5, msg=f"{part}.{name}")


@pytest.mark.parametrize("phase", ["phase1", "phase2"])
def test_both_phases_run_in_parts_and_batchnorm_sees_each_part(phase, make_config):
    config = make_config(phase, gradient_accumulation=2, schedule={"max_steps": 4})
    final = TRAIN[phase](config)
    state = load_training_state(Path(config.output) / "checkpoints")
    assert math.isfinite(final["train/loss"]) and state["position"] == (16 if phase == "phase1" else 3 * 4 + 2)
    encoder = state["w_encoder"] if phase == "phase1" else state["layerwise_encoder"]
    passes = 1 if phase == "phase1" else 2  # of E2: inputs, then Phase I images
    assert int(encoder["body.0.res_layer.0.num_batches_tracked"]) == 4 * 2 * passes


def test_parts_that_do_not_divide_a_batch_are_refused():
    keys = ["data.root=x", "gradient_accumulation=3", "adversarial.weight=0.1", "adversarial.batch_size=4"]
    with pytest.raises(ConfigError) as refusal:
        load_config(Phase2Config, "configs/phase2/tiny.yaml", keys)
    for key in ("schedule.batch_size", "adversarial.batch_size"):
        assert key in str(refusal.value) and "must be a multiple of gradient_accumulation (3)" in str(refusal.value)


# ------------------------------------------------------------------------------- one pass over reals and fakes


@pytest.mark.parametrize("group_size", [2, 4, 8, None])
@pytest.mark.parametrize("fakes_count", [4, 2])
def test_one_pass_of_d_over_two_batches_gives_the_logits_of_two(group_size, fakes_count):
    """Also where a group is larger than a batch, or the batches differ in size."""
    torch.manual_seed(0)
    D = Discriminator(resolution=16, channel_base=128, channel_max=8, mbstd_group_size=group_size).double()
    reals, fakes = noise(4, 3, 16, 16).double(), noise(fakes_count, 3, 16, 16, seed=1).double()
    real, fake = real_and_fake_logits(D, reals, fakes)
    torch.testing.assert_close(real, D(reals))
    torch.testing.assert_close(fake, D(fakes))
    together = D(torch.cat([reals, fakes])) if (4 + fakes_count) % (group_size or 1) == 0 else None
    assert together is None or not torch.allclose(together[:4], real)  # what would be wrong


# ------------------------------------------------------------------------------------------- recomputed blocks


@pytest.mark.parametrize("noise_mode", ["const", "random"])
@pytest.mark.parametrize("from_px", [4, 16])
def test_recomputed_blocks_give_the_same_bits(tiny_domain, noise_mode, from_px):
    """First derivatives through residuals, second derivatives of path length and R1."""
    torch.manual_seed(0)
    G, D = build_generator(tiny_domain), build_discriminator(tiny_domain)
    found = []
    for px in (None, from_px):
        G.synthesis.recompute_from_px = D.recompute_from_px = px
        torch.manual_seed(1)
        residual = noise(2, *G.synthesis.b16.conv1.weight.shape).requires_grad_(True)
        ws = G.mapping(noise(2, G.z_dim, seed=2))
        images = G.synthesis(ws, {"b16.conv1.weight": residual}, noise_mode=noise_mode)
        (slope,) = torch.autograd.grad((images * noise(*images.shape)).sum(), ws, create_graph=True)
        reals = noise(4, 3, 16, 16, seed=3).requires_grad_(True)
        loss = images.square().mean() + slope.square().sum().sqrt() + r1_penalty(reals, D(reals))
        wanted = [residual, *G.parameters(), *D.parameters()]
        found.append([loss.detach(), *torch.autograd.grad(loss, wanted, allow_unused=True)])
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_run_that_recomputes_is_the_run_that_does_not(make_config, whole_run):
    config = make_config("phase2", recompute_from_px=8)
    TRAIN["phase2"](config)
    states = [load_training_state(Path(f) / "checkpoints") for f in (config.output, whole_run("phase2")[0])]
    for part in ("layerwise_encoder", "hypernetwork", "discriminator"):
        assert all(torch.equal(tensor, states[1][part][name]) for name, tensor in states[0][part].items()), part


# ----------------------------------------------------------------------------------------------- frozen parts


@contextmanager
def kept(*excluded: torch.Tensor):
    """Bytes that the graph built inside keeps for its backward pass."""
    sizes = {tensor.untyped_storage().data_ptr(): 0 for tensor in excluded}

    def note(tensor):
        sizes.setdefault(tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield sizes


def test_frozen_parts_keep_nothing_for_a_backward_pass(tiny_model):
    """E1 and the first synthesis have no graph at all; D's frozen kernels keep none of its images."""
    model, D = load_model(tiny_model).network.train(), load_discriminator(tiny_model).requires_grad_(False)
    images = noise(2, 3, 16, 16)
    found = model(images)
    assert not (found.w.requires_grad or found.ws.requires_grad or found.w_image.requires_grad)
    assert found.reconstruction.requires_grad

    fakes = noise(4, 3, 16, 16).requires_grad_(True)
    with kept(*D.parameters(), fakes) as frozen:
        D(fakes).sum()
    D.requires_grad_(True)
    with kept(*D.parameters(), fakes) as trained:
        D(fakes).sum()
    assert sum(frozen.values()) < 0.7 * sum(trained.values())

    losses = build_losses({"discriminator_features": 1.0}, discriminator=D, loss_resolution=16)
    target = noise(4, 3, 16, 16, seed=1).requires_grad_(True)
    losses(fakes, target)[0].backward()
    assert target.grad is None and all(p.grad is None for p in losses.parameters())


# ------------------------------------------------------------------------------------------------------- bf16


def test_the_gan_trains_in_bf16_with_its_penalties_in_float32(make_config, monkeypatch):
    inside = {}
    for where, name in ((discriminator, "r1_penalty"), (stylegan2, "path_length_penalty")):
        function = getattr(where, name)

        def noting(*args, function=function, name=name, **kwargs):
            inside[name] = torch.is_autocast_enabled("cpu")
            return function(*args, **kwargs)

        monkeypatch.setattr(where, name, noting)
    finals = {}
    for precision in ("fp32", "bf16"):
        config = make_config("stylegan2", precision, precision=precision, schedule={"max_steps": 2})
        finals[precision] = TRAIN["stylegan2"](config)
    assert inside == {"r1_penalty": False, "path_length_penalty": False}
    assert finals["bf16"]["train/loss"] == pytest.approx(finals["fp32"]["train/loss"], rel=0.05)
    assert finals["bf16"]["train/loss"] != finals["fp32"]["train/loss"]
    state = load_training_state(Path(config.output) / "checkpoints")
    assert all(tensor.dtype == torch.float32 for part in ("G", "D", "average") for tensor in state[part].values())


# ------------------------------------------------------------------------------------------------ nothing waits


class Fetches(TorchDispatchMode):
    """Counts what a GPU would have to be waited for: a number fetched from a tensor, a size that depends on numbers."""

    count = 0
    waits = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.masked_select)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        packet = function.overloadpacket
        masked = packet in (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_) and any(
            mask is not None and mask.dtype in (torch.bool, torch.uint8) for mask in args[1]
        )
        Fetches.count += packet in self.waits or masked
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("phase", ["phase1", "phase2", "stylegan2"])
def test_a_step_that_nobody_looks_at_fetches_no_number(phase, make_config, monkeypatch):
    never = dict.fromkeys(("log_every", "images_every", "validate_every", "save_every"), 100)
    config = make_config(phase, gradient_clip=1.0, schedule={"max_steps": 6, **never})
    counts, add = [], LossHistory.add

    def counting(self, step, values):
        counts.append(Fetches.count)
        add(self, step, values)

    monkeypatch.setattr(LossHistory, "add", counting)
    with Fetches():
        TRAIN[phase](config)
    assert len(counts) == 6 and len(set(counts)) == 1  # steps 2 to 6, with D, R1 and path length


@pytest.mark.parametrize("name", ["adam", "ranger"])
def test_an_update_is_counted_where_caches_look(name):
    """Fused Adam and Ranger changed weights behind the version counter: validation went on with old products."""
    weight = nn.Parameter(torch.ones(3))
    optimizer = build_optimizer([weight], OptimizerConfig(name=name, lr=0.1))
    weight.grad, before = torch.ones(3), weight._version
    optimizer.step()
    assert weight._version > before


# --------------------------------------------------------------------------------------------- falling rates


def test_rates_fall_over_the_last_steps():
    constant = ScheduleConfig(max_steps=10)
    assert {rate_factor(step, constant) for step in range(12)} == {1.0}
    linear = replace(constant, lr_decay_steps=4, lr_decay_to=0.2, lr_decay_shape="linear")
    assert [rate_factor(step, linear) for step in range(4, 10)] == pytest.approx([1, 1, 0.8, 0.6, 0.4, 0.2])
    at_once = replace(linear, lr_decay_steps=1)
    assert [rate_factor(step, at_once) for step in (7, 8, 9)] == pytest.approx([1, 1, 0.2])
    cosine = replace(linear, lr_decay_shape="cosine")
    factors = [rate_factor(step, cosine) for step in range(12)]
    assert factors[5] == 1 and factors[7] == pytest.approx(0.6) and factors[9:] == pytest.approx([0.2] * 3)
    assert factors == sorted(factors, reverse=True)
    for steps in (10, 1000):  # a run that is shorter than its fall falls from the first step on
        assert rate_factor(0, replace(linear, lr_decay_steps=steps)) == pytest.approx(1 - 0.08)


@pytest.mark.parametrize("phase", ["phase2", "stylegan2"])
def test_falling_rates_go_on_exactly_after_a_stop(phase, make_config, monkeypatch):
    """Both optimisers; the run is killed in the middle of the fall."""
    falling = {"lr_decay_steps": 5, "lr_decay_to": 0.1, "save_every": 2}
    once, twice = (make_config(phase, name, schedule=falling) for name in ("once", "twice"))
    TRAIN[phase](once)
    get = Batches.get

    def dying(self, position, batch_size):
        if position >= 12:
            raise KeyboardInterrupt
        return get(self, position, batch_size)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Batches, "get", dying)
        TRAIN[phase](twice)
    TRAIN[phase](twice)
    assert_same_run(Path(once.output), Path(twice.output))
    state = load_training_state(Path(once.output) / "checkpoints")
    base = {"optimizer": once.optimizer.lr} if phase == "phase2" else {}
    base |= {"optimizer_D": once.adversarial.optimizer.lr} if phase == "phase2" else {}
    for name, lr in base.items():
        assert state[name]["param_groups"][0]["lr"] == pytest.approx(0.1 * lr)
