"""Projectors: the recorded runs of the published ones, and what the schedule, the noise and the arguments promise."""

import pytest
import torch
import torch.nn.functional as F
from golden import recipe
from recorded import Case, names
from rulers import SquaredDistance
from torch import Tensor, nn

from hyperinverter.inverters.projector import (
    WStatistics,
    learning_rate_ramp,
    noise_autocorrelation,
    project,
    w_statistics,
)
from hyperinverter.models.mobile_stylegan import MobileGenerator
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.published import from_published

SPACES = {"w_projector.project": "w", "w_plus_projector.project": "w_plus"}  # of the published functions
PTI_STYLES = 18  # PTI's W projector repeats w this often for every generator


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    return Generator(resolution=16, z_dim=8, w_dim=8, channel_base=128, channel_max=8, mapping_layers=2).eval()


@pytest.fixture
def target():
    return torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(scope="module")
def statistics(generator):
    return w_statistics(generator)


mean_colours = SquaredDistance(lambda images: F.adaptive_avg_pool2d(images, 4).flatten(1))


def recorded_features(state: dict[str, Tensor]) -> SquaredDistance:
    """The two convolutions that stand for VGG16 in the recorded runs."""
    first, second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1)
    first.load_state_dict({key[6:]: value for key, value in state.items() if key.startswith("conv1.")})
    second.load_state_dict({key[6:]: value for key, value in state.items() if key.startswith("conv2.")})

    def network(images: Tensor) -> Tensor:
        maps = second(F.leaky_relu(first(images), 0.2)).flatten(1)
        return maps / maps.shape[1] ** 0.5

    return SquaredDistance(network)


@pytest.mark.parametrize("name", names(r"(pti_)?projector_.*"))
def test_published_runs(name):
    """Every recorded number of a published run: losses, rates, latents, the code and the noise that come out."""
    case = Case(name)
    config, seed = case.info["config"], case.info["seed"]
    generator = from_published(case.state("G"), "stylegan2_ada_generator", **config["generator_init_kwargs"])
    drawn = iter(range(config["randn_like_calls"]))

    def draw(like: Tensor) -> Tensor:
        return torch.from_numpy(recipe.draw(f"input:randn_like:{next(drawn)}", like.shape, seed))

    losses, rates, latents = [], [], []

    def record(step: int, rate: float, loss: Tensor, latent: Tensor) -> None:
        rates.append(rate)
        losses.append(loss)
        latents.append(latent.clone())

    space = SPACES[config["function"]]
    found = project(
        generator,
        case.input("target"),
        recorded_features(case.state("feature_net")),
        w_statistics(generator, config["w_avg_samples"]),
        space=space,
        steps=config["num_steps"],
        draw=draw,
        on_step=record,
    )
    ws = found.ws
    if "PTI" in case.info["sources"][0]["repository"] and space == "w":
        assert torch.equal(ws, ws[:, :1].expand_as(ws))
        ws = ws[:, :1].expand(-1, PTI_STYLES, -1)
    assert next(drawn, None) is None  # as many draws as the published code made
    tensors = {
        "w_out": ws,
        "loss_per_step": torch.stack(losses),
        "lr_per_step": torch.tensor(rates, dtype=torch.float64),
        "w_opt_per_step": torch.stack(latents),
        **{f"final_noise.{key}": value for key, value in found.noise.items()},
    }
    assert set(tensors) == set(case.info["tensors"])
    for key, value in tensors.items():
        case.compare(key, value)
    assert torch.equal(found.losses, tensors["loss_per_step"])


def test_the_schedule_rises_stays_and_falls():
    assert learning_rate_ramp(0.0) == 0
    assert learning_rate_ramp(0.025) == pytest.approx(0.5)
    assert [learning_rate_ramp(t) for t in (0.05, 0.4, 0.75)] == pytest.approx([1, 1, 1])
    assert learning_rate_ramp(0.875) == pytest.approx(0.5)
    assert 0 < learning_rate_ramp(0.99) < 0.01


def mobile_generator(early_heads: dict[int, int] | None = None) -> MobileGenerator:
    sizes = {"z_dim": 8, "w_dim": 8, "channel_base": 128, "channel_max": 8, "mapping_layers": 2}
    return MobileGenerator(resolution=32, **sizes, early_heads=early_heads).eval()


def test_early_heads_have_no_noise_of_their_own():
    """Theirs is the layer's, of one number here, which mean 0 and mean square 1 would make NaN."""
    generator = mobile_generator({16: 8})
    found = project(generator, torch.zeros(1, 3, 32, 32), mean_colours, w_statistics(generator, 8), steps=3)
    assert found.losses.isfinite().all()
    assert found.noise and not any(name.startswith("early") for name in found.noise)


@pytest.mark.parametrize(("px", "heads"), [(16, 1), (8, 1), (32, 0), (64, 0), (None, 0)])
def test_what_is_compared_is_drawn_by_an_early_head_where_one_is_large_enough(px: int | None, heads: int):
    generator = mobile_generator({16: 8})
    target = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []
    drawn: list[torch.Tensor] = []
    generator.synthesis.early["16"].register_forward_hook(lambda *called: drawn.append(called[-1]))

    def flat(images: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return images.flatten(1)

    project(generator, target, SquaredDistance(flat), w_statistics(generator, 8), steps=1, feature_px=px)
    assert [image.shape[-1] for image in seen] == 2 * [min(px or 32, 32)] and len(drawn) == heads
    assert torch.equal(seen[0], torch.nn.functional.avg_pool2d(target, 32 // seen[0].shape[-1]))


def test_noise_keeps_the_strength_that_the_generator_stores_in_it():
    """MobileStyleGAN has no strength beside its noise: unit noise drowned the image, and no code could mend that."""
    generator = mobile_generator()
    stored = {name: b for name, b in generator.synthesis.named_buffers() if name.endswith("noise_const")}
    for number, buffer in enumerate(stored.values()):
        buffer.normal_(std=0.001 * (1 + number), generator=torch.Generator().manual_seed(number))
    found = project(generator, torch.zeros(1, 3, 32, 32), mean_colours, w_statistics(generator, 8), steps=3)
    assert found.noise.keys() == stored.keys()
    for name, buffer in stored.items():
        torch.testing.assert_close(found.noise[name].square().mean(), buffer.square().mean(), rtol=1e-4, atol=0)


def test_autocorrelation_tells_white_noise_from_a_pattern():
    g = torch.Generator().manual_seed(0)
    white = torch.randn(32, 32, generator=g)
    stripes = torch.ones(32, 32)
    stripes[::2] = -1
    assert noise_autocorrelation([white]) < 0.05
    # Every pixel equals its neighbour in the row and is the opposite of the one below; halved, the stripes are gone.
    torch.testing.assert_close(noise_autocorrelation([stripes]), torch.tensor(2.0))
    both = noise_autocorrelation([white, stripes])
    torch.testing.assert_close(both, noise_autocorrelation([white]) + noise_autocorrelation([stripes]))
    torch.testing.assert_close(noise_autocorrelation([torch.ones(32, 32)]), torch.tensor(6.0))  # 32, 16 and 8 px


@pytest.mark.parametrize("space", ["w", "w_plus"])
def test_a_projection_approaches_its_target(generator, statistics, space):
    with torch.no_grad():
        wanted = generator(torch.randn(1, 8, generator=torch.Generator().manual_seed(5)))
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    found = project(generator, wanted, mean_colours, statistics, space=space, steps=60, initial_learning_rate=0.05)
    assert found.losses.shape == (60,) and found.losses[-1] < 0.3 * found.losses[0]
    rows = found.ws[0].unique(dim=0)
    assert found.ws.shape == (1, 6, 8) and len(rows) == (1 if space == "w" else 6)
    for noise in found.noise.values():
        torch.testing.assert_close(noise.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
        torch.testing.assert_close(noise.square().mean(), torch.tensor(1.0), atol=1e-5, rtol=0)
    assert not found.ws.requires_grad
    after = generator.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(parameter.grad is None for parameter in generator.parameters())


def test_the_same_seed_gives_the_same_numbers_also_without_gradients_around(generator, statistics, target):
    first = project(generator, target, mean_colours, statistics, steps=5, seed=3)
    with torch.no_grad():
        again = project(generator, target, mean_colours, statistics, steps=5, seed=3)
    assert torch.equal(first.ws, again.ws) and torch.equal(first.losses, again.losses)
    assert not torch.equal(first.losses, project(generator, target, mean_colours, statistics, steps=5, seed=4).losses)


@pytest.mark.parametrize("space", ["w", "w_plus"])
def test_a_run_starts_from_the_mean_of_w(generator, target, space):
    start = torch.linspace(-1, 1, 8)
    found = project(generator, target, mean_colours, WStatistics(start, 1.0), space=space, steps=1)
    torch.testing.assert_close(found.ws, start.expand(1, 6, 8))  # the first rate is 0: nothing moves


def test_statistics_are_those_of_mapped_samples(generator):
    statistics = w_statistics(generator, 2500)
    with torch.no_grad():
        w = generator.mapping(torch.randn(20_000, 8, generator=torch.Generator().manual_seed(0)))[:, 0]
    torch.testing.assert_close(statistics.mean, w.mean(0), atol=0.05 * statistics.std, rtol=0)
    assert statistics.std == pytest.approx(float((w - w.mean(0)).square().sum(1).mean().sqrt()), rel=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": torch.zeros(2, 3, 16, 16)}, r"target has shape \(2, 3, 16, 16\); expected \(1, 3, 16, 16\)"),
        ({"space": "z"}, "space is 'z'; write one of w, w_plus"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_bad_arguments_are_refused(generator, statistics, target, change, message):
    with pytest.raises(ValueError, match=message):
        project(generator, features=mean_colours, statistics=statistics, **{"target": target, "steps": 1} | change)


def test_no_samples_are_no_statistics(generator):
    with pytest.raises(ValueError, match="w_avg_samples is 0"):
        w_statistics(generator, 0)
