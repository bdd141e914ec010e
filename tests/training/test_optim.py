"""Which optimiser `ranger` really is: held against a reference written from the papers and the published trajectory."""

import copy
import io
import math
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
from recorded import Case, names
from torch import nn
from torch.nn.functional import conv2d, linear

from hyperinverter.config.schema import OptimizerConfig, Phase1Config
from hyperinverter.training.muon import orthogonal
from hyperinverter.training.optim import OPTIMIZERS, Ranger, backward_and_step, build_optimizer, restore_optimizer

STEPS = 40


class ReferenceRanger:
    """RAdam (arXiv:1908.03265, alg. 2) on centralised gradients, inside Lookahead (arXiv:1907.08610, alg. 1)."""

    def __init__(self, params, lr, betas, eps, k=6, alpha=0.5, weight_decay=0.0, N_sma_threshhold=5):
        self.params, self.lr, self.betas, self.eps = list(params), lr, betas, eps
        self.k, self.alpha, self.weight_decay, self.t = k, alpha, weight_decay, 0
        self.threshold = N_sma_threshhold
        self.m = [torch.zeros_like(p) for p in self.params]
        self.v = [torch.zeros_like(p) for p in self.params]
        self.slow = [p.detach().clone() for p in self.params]

    @torch.no_grad()
    def step(self):
        self.t += 1
        t, (beta1, beta2) = self.t, self.betas
        rho_max = 2 / (1 - beta2) - 1
        rho = rho_max - 2 * t * beta2**t / (1 - beta2**t)
        for p, m, v, slow in zip(self.params, self.m, self.v, self.slow, strict=True):
            g = p.grad - p.grad.mean(dim=tuple(range(1, p.dim())), keepdim=True) if p.dim() > 1 else p.grad
            m.copy_(beta1 * m + (1 - beta1) * g)
            v.copy_(beta2 * v + (1 - beta2) * g * g)
            p.mul_(1 - self.lr * self.weight_decay)
            rate = self.lr / (1 - beta1**t)
            if rho > self.threshold:  # the variance of the adaptive rate can be corrected; before that plain momentum
                top = (rho - 4) * (rho - 2) * rho_max
                correction = math.sqrt((1 - beta2**t) * top / ((rho_max - 4) * (rho_max - 2) * rho))
                p.sub_(rate * correction * m / (v.sqrt() + self.eps))
            else:
                p.sub_(rate * m)
            if t % self.k == 0:
                slow.add_(self.alpha * (p - slow))
                p.copy_(slow)


def small_problem(seed=0):
    """A linear and a convolution weight, a bias and a scalar, with targets: every branch of gradient centralisation."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=g)

    params = [nn.Parameter(draw(6, 5)), nn.Parameter(draw(6)), nn.Parameter(draw(4, 3, 3, 3)), nn.Parameter(draw(1))]
    x, target, images, wanted = draw(8, 5), draw(8, 6), draw(2, 3, 8, 8), draw(2, 4, 8, 8)
    return params, lambda W, b, K, s: objective(W, b, K, s, x, target, images, wanted)


def objective(W, b, K, s, x, target, images, wanted):
    return (linear(x, W, b) - target).square().mean() + (s * conv2d(images, K, padding=1) - wanted).square().mean()


def run(params, loss, optimizer, steps=STEPS):
    path = []
    for _ in range(steps):
        for p in params:
            p.grad = None
        loss(*params).backward()
        optimizer.step()
        path.append(torch.cat([p.detach().flatten().clone() for p in params]))
    return torch.stack(path)


def test_ranger_is_radam_with_lookahead_and_gradient_centralisation():
    config = OptimizerConfig(name="ranger", lr=0.02, betas=[0.95, 0.999], eps=1e-5)
    params, loss = small_problem()
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    ours = run(params, loss, build_optimizer(params, config))
    reference = run(twins, loss, ReferenceRanger(twins, config.lr, config.betas, config.eps))
    torch.testing.assert_close(ours, reference, rtol=0, atol=2e-6)
    assert (ours[-1] - ours[0]).abs().max() > 0.1  # it went somewhere


@pytest.mark.parametrize("threshold", [4.5, 8])
def test_ranger_takes_the_published_threshold(threshold):
    params, loss = small_problem()
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    options = {"lr": 0.02, "betas": [0.95, 0.999], "eps": 1e-5, "N_sma_threshhold": threshold}
    ours = run(params, loss, Ranger(params, **options))
    torch.testing.assert_close(ours, run(twins, loss, ReferenceRanger(twins, **options)), rtol=0, atol=2e-6)
    params, loss = small_problem()
    assert not torch.allclose(ours, run(params, loss, Ranger(params, lr=0.02)), atol=1e-4)


def test_the_packages_default_is_another_optimiser():
    """AdaBelief on: the same until RAdam's variance term joins (step 6), then elsewhere."""
    config = OptimizerConfig(name="ranger", lr=0.02, betas=[0.95, 0.999], eps=1e-5)
    paths = {}
    for name in ("ranger", "ranger_adabelief"):
        params, loss = small_problem()
        config.name = name
        paths[name] = run(params, loss, build_optimizer(params, config))
    difference, moved = paths["ranger"] - paths["ranger_adabelief"], paths["ranger"] - paths["ranger"][0]
    deviation = difference.norm(dim=1) / moved.norm(dim=1)
    assert deviation[4] < 1e-6
    assert deviation[-1] > 0.05


def test_phase_1_trains_with_the_papers_optimiser():
    config = Phase1Config().optimizer
    params, _ = small_problem()
    optimizer = build_optimizer(params, config)
    assert (config.name, config.lr, config.betas, config.eps) == ("ranger", 1e-4, [0.95, 0.999], 1e-5)
    assert optimizer.adabelief is False
    assert optimizer.param_groups[0]["weight_decay"] == 0
    assert (optimizer.k, optimizer.alpha, optimizer.N_sma_threshhold, optimizer.use_gc) == (6, 0.5, 5, True)


@pytest.mark.parametrize("name", names("ranger_.*"))
def test_published_trajectory(name):
    """The recorded steps of the published Ranger: ours in float32, the reference above in float64; losses too."""
    case = Case(name)
    config, tensors = case.info["config"], case.info["tensors"]
    options = {"lr": 1e-3, "betas": [0.95, 0.999], "eps": 1e-5} | config["kwargs"]

    def run_recorded(build, dtype):
        params = [nn.Parameter(case.input(key).to(dtype)) for key in config["parameter_order"]]
        data = [case.input(key).to(dtype) for key in "XTIJ"]
        losses = []

        def loss(*params):
            losses.append(objective(*params, *data))
            return losses[-1]

        path = run(params, loss, build(params), config["steps"])
        found = {f"final_{key}": value for key, value in zip(config["parameter_order"], params, strict=True)}
        found["trajectory"] = torch.cat([path[:, 0:3], path[:, 30:32], path[:, 36:39], path[:, -1:]], dim=1)
        found["loss_per_step"] = torch.stack(losses)
        assert set(found) == set(tensors)
        return found

    for key, value in run_recorded(lambda params: Ranger(params, **options), torch.float32).items():
        case.compare(key, value)
    for key, value in run_recorded(lambda params: ReferenceRanger(params, **options), torch.float64).items():
        wanted, entry = case.arrays[f"{key}.f64"].ravel(), tensors[key]
        sample = value.detach().flatten()[:: entry["stride"]].numpy()
        np.testing.assert_allclose(sample, wanted, rtol=0, atol=entry["atol"], err_msg=key)


def test_defaults_are_those_of_the_papers_optimiser():
    params, loss = small_problem()
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    config = OptimizerConfig(name="ranger", lr=1e-3, betas=[0.95, 0.999], eps=1e-5)
    assert torch.equal(run(params, loss, Ranger(params), 15), run(twins, loss, build_optimizer(twins, config), 15))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resume_is_exact_to_the_bit_and_silent(name, tmp_path):
    """Saved after 8 steps (between two Lookahead pulls), loaded with weights_only, continued to 20."""
    config = OptimizerConfig(name=name, lr=0.02, betas=[0.95, 0.999], eps=1e-5)
    params, loss = small_problem()
    whole = run(params, loss, build_optimizer(params, config), 20)

    params, loss = small_problem()
    printed = io.StringIO()
    with redirect_stdout(printed):
        optimizer = build_optimizer(params, config)
        run(params, loss, optimizer, 8)
        torch.save({"optimizer": optimizer.state_dict(), "params": [p.detach() for p in params]}, tmp_path / "state.pt")
        state = torch.load(tmp_path / "state.pt", weights_only=True)
        resumed = [nn.Parameter(p.clone()) for p in state["params"]]
        optimizer = build_optimizer(resumed, config)
        restore_optimizer(optimizer, state["optimizer"], config)
        copy.deepcopy(optimizer)  # __setstate__ of the package prints
    assert printed.getvalue() == ""
    assert torch.equal(run(resumed, loss, optimizer, 12), whole[8:])


def test_todays_rate_wins_on_resume():
    params, loss = small_problem()
    optimizer = build_optimizer(params, OptimizerConfig(lr=0.02))
    run(params, loss, optimizer, 2)
    other = build_optimizer(params, OptimizerConfig(lr=0.005, betas=[0.5, 0.9]))
    restore_optimizer(other, optimizer.state_dict(), OptimizerConfig(lr=0.005, betas=[0.5, 0.9]))
    assert other.param_groups[0]["lr"] == 0.005
    assert other.param_groups[0]["betas"] == (0.5, 0.9)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_muon_moves_matrices_evenly_in_all_directions_and_vectors_as_adam(memory_format):
    params, loss = small_problem()
    kernel = params[2] = nn.Parameter(params[2].detach().to(memory_format=memory_format))
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    before = [p.detach().clone() for p in params]
    config = OptimizerConfig(name="muon", lr=0.02)
    run(params, loss, build_optimizer(params, config), 1)
    run(twins, loss, build_optimizer(twins, OptimizerConfig(name="adam", lr=0.02)), 1)
    moved = [before - after.detach() for before, after in zip(before, params, strict=True)]
    for update in (moved[0], moved[2].flatten(1)):
        lengths = torch.linalg.svdvals(update) / (0.02 * 0.2 * math.sqrt(max(update.shape)))
        assert lengths.min() > 0.5 and lengths.max() < 1.5  # the iteration is that coarse by design
    assert kernel.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close([params[1], params[3]], [twins[1], twins[3]], rtol=0, atol=1e-7)


def test_muon_follows_the_rates():
    params, loss = small_problem()
    optimizer = build_optimizer(params, OptimizerConfig(name="muon", lr=0.02))
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    path = run(params, loss, optimizer, 2)
    assert torch.equal(path[0], path[1])


def test_muon_goes_on_from_a_copy_and_where_weights_lie_otherwise_in_memory():
    config = OptimizerConfig(name="muon", lr=0.02)
    params, loss = small_problem()
    optimizer = build_optimizer(params, config)
    run(params, loss, optimizer, 5)
    copies, copied = copy.deepcopy((params, optimizer))
    others = [nn.Parameter(p.detach().clone()) for p in params]
    others[2] = nn.Parameter(others[2].detach().to(memory_format=torch.channels_last))
    elsewhere = build_optimizer(others, config)
    restore_optimizer(elsewhere, copy.deepcopy(optimizer.state_dict()), config)
    whole = run(params, loss, optimizer, 5)
    assert torch.equal(run(copies, loss, copied, 5), whole)
    torch.testing.assert_close(run(others, loss, elsewhere, 5), whole, rtol=0, atol=2e-4)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="compares with torch.optim.Muon, of torch 2.9")
def test_muon_is_pytorchs_on_matrices():
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.randn(20, 30, generator=torch.Generator().manual_seed(0))) for _ in range(2))
    optimizers = [
        build_optimizer([ours], OptimizerConfig(name="muon", lr=0.02)),
        torch.optim.Muon([theirs], lr=0.02, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
    ]
    for _ in range(3):
        ours.grad, theirs.grad = (gradient := torch.randn(20, 30)), gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02 * 0.2 * 3 * 0.1)  # theirs is in bfloat16


@pytest.mark.parametrize("shape", [(24, 200), (40, 12)])
@pytest.mark.parametrize(("rank", "noise"), [(None, 1.0), (3, 1e-4), (1, 1e-2)])
def test_muons_iteration_is_newton_schulz(shape, rank, noise):
    """On a gradient of few directions and little noise too, whose square has eigenvalues 1e-8 of the largest."""
    draw = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, generator=draw)
    if rank:
        few = torch.randn(shape[0], rank, generator=draw) @ torch.randn(rank, shape[1], generator=draw)
        matrix = few + noise * matrix
    x = matrix.double() / matrix.double().norm()
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x - 4.7750 * square @ x + 2.0315 * square @ square @ x
    several = torch.stack([matrix, 2 * matrix.flip(0)])  # of any length, each by itself
    for result, expected in zip(orthogonal(several), (x, x.flip(0)), strict=True):
        torch.testing.assert_close(result, expected.float(), rtol=0, atol=3e-3 * x.abs().max().item())


def test_unknown_name_and_nothing_to_train():
    with pytest.raises(ValueError, match=r"rangr.*adam, ranger, ranger_adabelief"):
        build_optimizer([nn.Parameter(torch.zeros(1))], OptimizerConfig(name="rangr"))
    with pytest.raises(ValueError, match="no parameter requires a gradient"):
        build_optimizer([torch.zeros(1)], OptimizerConfig())


def test_clipping_returns_the_norm_before_it_and_bounds_the_update():
    p = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = torch.optim.SGD([p], lr=1.0)
    norm = backward_and_step(optimizer, (p * torch.tensor([30.0, 40.0])).sum(), clip=1.0)
    assert norm.item() == pytest.approx(50.0)
    torch.testing.assert_close(p.detach(), torch.tensor([2.4, 3.2]), rtol=1e-5, atol=0)
    assert backward_and_step(optimizer, p.sum()) is None
    assert backward_and_step(optimizer, p.sum(), measure=True).item() == pytest.approx(math.sqrt(2))
