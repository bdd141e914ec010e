"""Two processes of four images compute what one process of eight does: both phases, the GAN's, and the evaluation.

Sums are taken in another order, so that numbers differ in their last digits, and training carries that on. Adam
divides by the size of a gradient, which turns the rounding noise of a vanishing one into whole steps; with the eps of
these tests it does not. Stated tolerance over 12 steps: every logged number to 1e-4 of its value (or of 0.1), every
network to 1e-3 of what the second half changed. What is only dealt out (images, evaluation) is equal.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from processes import run_processes
from torch import Tensor, nn

from hyperinverter import metrics
from hyperinverter.checkpoint import load_training_state
from hyperinverter.config.encoder_schema import LatentDiscriminatorConfig
from hyperinverter.config.schema import (
    AdversarialConfig,
    DataConfig,
    DiscriminatorConfig,
    EvaluateConfig,
    OptimizerConfig,
    StyleGAN2Config,
)
from hyperinverter.data.loader import Batches
from hyperinverter.evaluation.reconstruction import evaluate
from hyperinverter.metrics.distribution import SetMetric
from hyperinverter.models.stylegan2.discriminator import DiscriminatorEpilogue
from hyperinverter.ops.batch_norm import synchronised
from hyperinverter.training import encoder, optim, phase1, phase2, phase3, stylegan2
from hyperinverter.training.optim import SMALL, averaged_gradients
from hyperinverter.utils import distributed
from hyperinverter.utils.distributed import average, in_all_processes, own_rows, rank
from hyperinverter.utils.errors import UserError

from .conftest import stats, tiny_config

ROOT = Path(__file__).parents[2]
TRAIN = {"phase1": phase1.train, "phase2": phase2.train, "stylegan2": stylegan2.train}
TRAINED = {
    "phase1": ["w_encoder"],
    "phase2": ["layerwise_encoder", "hypernetwork", "discriminator"],
    "phase3": ["feature_residual"],
    "stylegan2": ["G", "D", "average"],
    "restyle_e4e": ["encoder", "latent_discriminator"],
}
ADAM = OptimizerConfig(lr=1e-3, eps=1e-4)


@pytest.fixture
def config_of(tiny_domain, tiny_model, photos, tmp_path):
    """12 steps of 8 images; Phase II turns adversarial at step 5, with 4 images, one group of D's across processes."""

    def make(trainer: str, name: str, **changes):
        schedule = {"max_steps": 12, "batch_size": 8, "log_every": 1, "validate_every": 12, "save_every": 6}
        schedule |= changes.pop("schedule", {})
        like = tiny_config("phase1", tiny_model, photos, tmp_path / name, tiny_domain, schedule=schedule)
        common = {key: getattr(like, key) for key in ("domain", "data", "schedule", "output", "device", "threads")}
        if trainer == "stylegan2":
            regular = {"r1_every": 2, "path_length_every": 3, "optimizer": ADAM, "discriminator_optimizer": ADAM}
            return StyleGAN2Config(**{**common, **regular, "ema_kimg": 0.05, **changes})
        if trainer == "phase2":
            gan = AdversarialConfig(weight=0.1, start_step=5, batch_size=4, cold_steps=4, r1_every=2, optimizer=ADAM)
            changes = {"adversarial": gan, "optimizer": ADAM, "gradient_clip": 1.0, **changes}
        return tiny_config(trainer, tiny_model, photos, tmp_path / name, tiny_domain, schedule=schedule, **changes)

    return make


def assert_alike(trainer: str, one: Path, two: Path) -> None:
    """Logged numbers and trained networks of two runs."""
    for ours, theirs in zip(stats(two), stats(one), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5), f"step {theirs['step']}"
    a, b = (load_training_state(folder / "checkpoints") for folder in (one, two))
    start = load_training_state(min((one / "checkpoints").iterdir()))
    for part in TRAINED[trainer]:
        change, difference = (
            sum(float((x[part][name].double() - a[part][name].double()).square().sum()) for name in a[part]) ** 0.5
            for x in (start, b)
        )
        assert 0 < difference < 1e-3 * change, part


def log_of(folder: Path) -> str:
    return "\n".join(path.read_text()[-2500:] for path in sorted((folder / "log").iterdir()))


# ------------------------------------------------------------------------------------- what the processes do


class MeanDistance(SetMetric):
    """Stands for FID, whose network is not at hand: it needs the features of all images, in order."""

    name, unit = "fid", ""

    @classmethod
    def build(cls, parts):
        return cls(lambda images: images.flatten(1)[:, ::97])

    def distance(self, fake: Tensor, real: Tensor) -> float:
        weight = torch.arange(len(real))[:, None]
        return float(((fake - real) * weight).sum())


def work(*todo: tuple) -> None:
    """Each (function, config) one after the other; gradients of the tiny networks count as large ones, and as small."""
    optim.SMALL = 64
    metrics.METRICS["fid"] = MeanDistance
    for function, config in todo:
        function(config)


@in_all_processes
def pieces(config) -> None:
    """BatchNorm, the minibatch standard deviation and R1 through it: outputs and gradients are the whole batch's."""
    torch.manual_seed(0)  # the same in every process
    whole = torch.randn(6, 8, 4, 4) * 3 + 5
    settings = DiscriminatorConfig(mbstd_group_size=3, mbstd_num_channels=2)
    epilogue = DiscriminatorEpilogue(8, cmap_dim=0, config=settings)
    network = nn.Sequential(nn.BatchNorm2d(8), epilogue)
    before = {name: value.clone() for name, value in network.state_dict().items()}

    def step(images: Tensor, mean) -> list[Tensor]:
        images = images.requires_grad_(True)
        logits = network(images)
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        (mean(logits.tanh()) + mean(gradient.square().sum((1, 2, 3)))).backward()
        return [logits, gradient]

    with pytest.MonkeyPatch.context() as alone:  # the reference: the same network on all images
        alone.setattr("hyperinverter.models.stylegan2.discriminator.world_size", lambda: 1)
        expected = [own_rows(x) for x in step(whole.clone(), Tensor.mean)]
    running = [network[0].running_mean, network[0].running_var]
    expected += [p.grad for p in network.parameters()] + [statistic.clone() for statistic in running]
    network.load_state_dict(before)
    network.zero_grad(set_to_none=True)

    synchronised(network)
    with averaged_gradients(network.parameters()):
        found = step(own_rows(whole).clone(), Tensor.mean)
    found += [p.grad for p in network.parameters()] + running
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)  # nothing that R1 and the loss leave alone gets a gradient
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert float(average(torch.tensor(float(rank())))) == 0.5


@in_all_processes
def overlapping(config) -> None:
    """Gradients of three large layers, of which one is unused, and their biases, over two passes that add up."""
    torch.manual_seed(rank())
    side = int(SMALL**0.5)
    layers = nn.ModuleList(nn.Linear(side, side) for _ in range(3))  # other weights in each process
    unused = nn.Linear(side, side)
    images = torch.randn(2, 4, side)
    parameters = [*layers[:2].parameters(), *unused.parameters(), *layers[2:].parameters()]

    def loss(x: Tensor, noting) -> Tensor:
        x = layers[0](x).tanh()
        x.register_hook(noting)  # when the first layer's gradient is still to come
        return layers[2](layers[1](x).tanh()).square().mean()

    for x in images:
        loss(x, lambda _: None).backward()
    own = [None if p.grad is None else p.grad.clone() for p in parameters]
    for parameter in parameters:
        parameter.grad = None

    started, seen, all_reduce = [], [], torch.distributed.all_reduce
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.distributed, "all_reduce", lambda *a, **k: started.append(1) or all_reduce(*a, **k))
        with averaged_gradients(parameters) as last:
            loss(images[0], lambda _: seen.append(len(started))).backward()
            last()
            loss(images[1], lambda _: seen.append(len(started))).backward()
    assert seen[0] == 0, "a sum that is not whole was sent"
    assert seen[1] >= 1, "nothing was sent before the backward pass ended"
    for parameter, mine in zip(parameters, own, strict=True):
        assert (parameter.grad is None) == (mine is None)
        if mine is not None:
            torch.testing.assert_close(parameter.grad, average(mine))
    assert all(p.grad is None for p in unused.parameters())


def fail_in_one(config) -> None:
    """The second process meets a mistake of the user at its third batch."""
    get, calls = Batches.get, []

    def breaking(self, position, batch_size):
        calls.append(position)
        if rank() == 1 and len(calls) == 3:
            raise UserError("the disk of process 1 is gone")
        return get(self, position, batch_size)

    Batches.get = breaking
    phase1.train(config)


# ---------------------------------------------------------------------------------------------------- tests


def test_two_processes_of_four_images_are_one_of_eight(config_of, tiny_model, photos, tmp_path, monkeypatch):
    photos = shutil.copytree(photos, tmp_path / "photos")
    (photos / "99.png").write_bytes(b"no image")
    data = DataConfig(root=str(photos), validation_fraction=0.3)
    monkeypatch.setitem(metrics.METRICS, "fid", MeanDistance)
    measured = EvaluateConfig(
        model=str(tiny_model), data=data, device="cpu", threads=1, batch_size=3, time_repeats=2,
        metrics=["l2", "psnr", "discriminator_features", "fid"],
    )  # fmt: skip
    todo = {}
    for name in ("one", "two"):
        runs = [(TRAIN[phase], config_of(phase, f"{phase}_{name}", data=data)) for phase in ("phase1", "phase2")]
        todo[name] = [*runs, (evaluate, replace(measured, output=str(tmp_path / f"evaluation_{name}")))]
    assert run_processes(2, work, *todo["two"], log=tmp_path / "log") == [0, 0], log_of(tmp_path)
    work(*todo["one"])
    for phase in ("phase1", "phase2"):
        assert_alike(phase, tmp_path / f"{phase}_one", tmp_path / f"{phase}_two")
        files = [sorted(path.name for path in (tmp_path / f"{phase}_{name}").rglob("*")) for name in ("one", "two")]
        assert [len(names) for names in files] == [len(files[0])] * 2, "one process writes, and what one writes"

    one, two = (tmp_path / f"evaluation_{name}" for name in ("one", "two"))
    assert (one / "images.jsonl").read_text() == (two / "images.jsonl").read_text()
    a, b = (json.loads((folder / "metrics.json").read_text()) for folder in (one, two))
    for result in (a, b):
        for summary in result["methods"].values():
            del summary["time_ms_median"], summary["time_ms_p95"]
        assert result["protocol"].pop("computing").keys() == result["methods"].keys()  # of that time
    assert a == b and a["num_images"] == 12 and list(a["files"]["unreadable"]) == ["99.png"]
    assert (one / "sheet.png").read_bytes() == (two / "sheet.png").read_bytes()


@pytest.mark.parametrize(
    ("size", "parts", "processes", "told"),
    [
        (4, 1, 8, "start 4 processes, or write 8, which is another training"),
        (8, 1, 3, "start 2 processes, or write 6 or 9"),
        (8, 4, 4, "start 2 processes, or write 16"),
    ],
)
def test_a_batch_that_processes_cannot_share_names_how_many_can(size, parts, processes, told, monkeypatch):
    """Issue 17, 11: the paper's adversarial batch of 4 in eight processes."""
    monkeypatch.setattr(distributed, "world_size", lambda: processes)
    with pytest.raises(UserError, match=told):
        distributed.check_divides("adversarial.batch_size", size, parts)


def test_what_spans_a_batch_spans_processes(tmp_path):
    assert run_processes(2, pieces, SimpleNamespace(device="cpu"), log=tmp_path / "log") == [0, 0], log_of(tmp_path)


def test_large_gradients_travel_while_the_backward_pass_runs(tmp_path):
    config = SimpleNamespace(device="cpu")
    assert run_processes(2, overlapping, config, log=tmp_path / "log") == [0, 0], log_of(tmp_path)


def test_the_end_of_one_process_ends_the_others_with_a_message(config_of, tmp_path):
    codes = run_processes(2, fail_in_one, config_of("phase1", "failing"), log=tmp_path / "log", timeout_s=100)
    assert all(codes), codes
    first, second = ((tmp_path / "log" / f"{r}.txt").read_text() for r in (0, 1))
    assert "UserError: the disk of process 1 is gone" in second
    assert "another process of this run has ended, so process 0 of 2 ends too" in first


@pytest.mark.slow
@pytest.mark.parametrize("augment", [[], ["translate", "scale", "rotate", "color"]], ids=["plain", "augmented"])
def test_the_gan_in_two_processes_is_that_in_one(augment, config_of, tmp_path):
    settings = {"augment": augment, "augment_target": -1.0, "augment_kimg": 0.1}
    one, two = (config_of("stylegan2", name, **settings) for name in ("one", "two"))
    assert run_processes(2, work, (stylegan2.train, two), log=tmp_path / "log") == [0, 0], log_of(tmp_path)
    stylegan2.train(one)
    assert_alike("stylegan2", tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_restyles_steps_and_e4es_discriminator_in_two_processes_are_those_in_one(config_of, tmp_path):
    """Every process sees the codes of all, and holds the same pools."""
    critic = LatentDiscriminatorConfig(r1_every=2, pool_size=6, optimizer=ADAM)
    settings = {"optimizer": ADAM, "latent_discriminator": critic, "progressive_every": 4}
    one, two = (config_of("restyle_e4e", name, **settings) for name in ("one", "two"))
    assert run_processes(2, work, (encoder.train, two), log=tmp_path / "log") == [0, 0], log_of(tmp_path)
    encoder.train(one)
    assert_alike("restyle_e4e", tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_phase_threes_samples_and_steps_in_two_processes_are_those_in_one(config_of, tmp_path):
    """Also in microbatches, and where the carrying network has gradients in every other step alone."""
    for number, changes in enumerate(({"gradient_accumulation": 2}, {"pair_weight": 0.0, "gradient_clip": 1.0})):
        one, two = (config_of("phase3", f"{name}{number}", optimizer=ADAM, **changes) for name in ("one", "two"))
        assert run_processes(2, work, (phase3.train, two), log=tmp_path / "log") == [0, 0], log_of(tmp_path)
        phase3.train(one)
        assert_alike("phase3", tmp_path / f"one{number}", tmp_path / f"two{number}")


@pytest.mark.slow
def test_a_run_goes_on_exactly_in_as_many_processes_and_closely_in_others(config_of, tmp_path):
    """Eight steps, stopped after four, one of them adversarial."""
    gan = AdversarialConfig(weight=0.1, start_step=3, batch_size=4, cold_steps=4, r1_every=2, optimizer=ADAM)
    changes = {"adversarial": gan, "schedule": {"max_steps": 8, "save_every": 4, "validate_every": 4}}
    whole, stopped, alone = (config_of("phase2", name, **changes) for name in ("whole", "stopped", "alone"))
    until = [replace(c, schedule=replace(c.schedule, max_steps=4)) for c in (stopped, alone)]
    todo = [(phase2.train, config) for config in (whole, *until, stopped)]
    assert run_processes(2, work, *todo, log=tmp_path / "log") == [0, 0], log_of(tmp_path)
    phase2.train(alone)
    assert_alike("phase2", tmp_path / "whole", tmp_path / "alone")
    assert "resumed with 1 process(es), saved with 2" in (tmp_path / "alone" / "log.txt").read_text()
    a, b = (load_training_state(tmp_path / name / "checkpoints") for name in ("whole", "stopped"))
    for part in TRAINED["phase2"]:
        assert all(torch.equal(a[part][name], b[part][name]) for name in a[part]), part
    assert len(a["rng_of_others"]) == 1 and a["processes"] == 2


@pytest.mark.slow
def test_statistics_of_each_process_leave_one_model(config_of, tmp_path):
    """sync_batchnorm=false: normalised by two images each, yet all processes go on with the same running statistics."""
    config = config_of("phase1", "apart", sync_batchnorm=False, schedule={"max_steps": 4, "batch_size": 6})
    assert run_processes(3, work, (phase1.train, config), log=tmp_path / "log") == [0, 0, 0], log_of(tmp_path)
    state = load_training_state(tmp_path / "apart" / "checkpoints")["w_encoder"]
    assert not torch.equal(state["input_layer.1.running_mean"], torch.zeros(8))
    assert int(state["input_layer.1.num_batches_tracked"]) == 4


@pytest.mark.slow
def test_torchrun_runs_the_scripts_and_tells_a_mistake_once(tiny_model, photos, tmp_path):
    def torchrun(script: str, *words: str) -> subprocess.CompletedProcess:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
        command = [*launcher, str(ROOT / "scripts" / f"{script}.py"), *words, "device=cpu", "threads=1"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)

    tiny = ["--config", str(ROOT / "configs/stylegan2/tiny.yaml"), f"data.root={photos}", "schedule.max_steps=2"]
    done = torchrun("train_stylegan2", *tiny)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "outputs/stylegan2_tiny/model/generator.safetensors").is_file()
    done = torchrun("train_stylegan2", *tiny, "output=other", "schedule.batch_size=3")
    assert done.returncode != 0
    assert done.stderr.count("error: schedule.batch_size is 3, the images of all processes together") == 1
    assert "write 2 or 4" in done.stderr and not (tmp_path / "other").exists()
    done = torchrun("invert", str(photos))
    assert done.stderr.count("error: this command runs in one process: start it with python instead of torchrun") == 1
