"""The StyleGAN2 trainer: its formulas against direct computation, and a stopped run against an uninterrupted one."""

import math
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from hyperinverter.checkpoint import load_training_state, read_model, save_training_state
from hyperinverter.config.schema import DataConfig, OptimizerConfig, ScheduleConfig, StyleGAN2Config
from hyperinverter.data.loader import open_training_data
from hyperinverter.models.build import build_generator
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.pretrained.load import load_discriminator, load_generator
from hyperinverter.training import discriminator, stylegan2, validation
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.images import to_uint8


@pytest.fixture
def config(tmp_path, tiny_domain):
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(6):
        Image.effect_noise((16, 16), 20 + 10 * i).convert("RGB").save(photos / f"{i}.png")
    schedule = ScheduleConfig(max_steps=6, batch_size=4, log_every=2, images_every=6, save_every=3)
    return StyleGAN2Config(
        domain=tiny_domain,
        data=DataConfig(root=str(photos), validation_fraction=0.0),
        output=str(tmp_path / "whole"),
        device="cpu",
        schedule=schedule,
        r1_every=2,
        path_length_every=3,
        ema_kimg=0.01,
    )


def test_a_stopped_run_ends_as_an_uninterrupted_one(config, tmp_path, monkeypatch):
    def features(device):
        torch.rand(7)  # as building a network does
        return "frechet_test", lambda x: x.flatten(1)[:, ::97]

    monkeypatch.setattr(validation, "sample_features", features)
    config = replace(config, data=replace(config.data, validation_fraction=0.5))
    whole = stylegan2.train(config)
    stopped = replace(config, output=str(tmp_path / "stopped"))
    stylegan2.train(replace(stopped, schedule=replace(config.schedule, max_steps=3)))
    again = stylegan2.train(stopped)
    timeless = [{k: v for k, v in found.items() if not k.startswith("time/")} for found in (whole, again)]
    assert timeless[0] == timeless[1] and "validation/frechet_test" in whole
    states = [load_training_state(tmp_path / name / "checkpoints") for name in ("whole", "stopped")]
    for part in ("G", "D", "average"):
        for name, tensor in states[0][part].items():
            assert torch.equal(tensor, states[1][part][name]), f"{part}.{name}"


def test_a_run_leaves_a_loadable_model_folder_and_its_records(config, tmp_path, tiny_domain):
    stylegan2.train(config)
    folder = tmp_path / "whole"
    average = load_training_state(folder / "checkpoints")["average"]
    generator = load_generator(folder / "model", tiny_domain)
    assert all(torch.equal(average[name], tensor) for name, tensor in generator.state_dict().items())
    load_discriminator(folder / "model", tiny_domain)
    assert read_model(folder / "model" / "generator.safetensors").info["images_seen"] == 24
    for name in ("config.yaml", "environment.txt", "log.txt", "stats.jsonl", "samples/fakes_00000006.png"):
        assert (folder / name).stat().st_size > 0, name
    z = torch.randn([64, generator.z_dim], generator=torch.Generator().manual_seed(config.seed))
    tenth = to_uint8(generator(z, truncation_psi=0.7)[9])  # of eight in a row
    with Image.open(folder / "samples" / "fakes_00000006.png") as grid:
        assert grid.size == (8 * 16, 8 * 16)
        tile = pil_to_tensor(grid.crop((16, 16, 32, 32)))
    assert (tile.int() - tenth).abs().max() <= 1
    # going on from those weights with fresh optimisers
    again = replace(config, output=str(tmp_path / "again"), init_from=str(folder / "model"))
    stylegan2.train(replace(again, schedule=replace(config.schedule, max_steps=1)))


def features_by(numbers: slice):
    """Some pixels as features, in the place of a network."""
    return lambda device: ("frechet_test", lambda x: x.flatten(1)[:, numbers])


def test_the_model_nearest_to_held_out_photos_is_kept(config, tmp_path, monkeypatch):
    found = iter([5.0, 2.0, 3.0])
    monkeypatch.setattr(validation, "sample_features", features_by(slice(4)))
    monkeypatch.setattr(validation.SampleDistance, "__call__", lambda self, G: next(found))
    schedule = replace(config.schedule, validate_every=2)
    stylegan2.train(replace(config, data=replace(config.data, validation_fraction=0.5), schedule=schedule))
    kept = read_model(tmp_path / "whole" / "model" / "generator.safetensors").info
    assert kept["images_seen"] == 16 and kept["validation"]["frechet_test"] == 2.0
    assert read_model(tmp_path / "whole" / "model_last" / "generator.safetensors").info["images_seen"] == 24
    assert '"validation/frechet_test": 3.0' in (tmp_path / "whole" / "stats.jsonl").read_text()


def test_the_distance_to_photos_is_zero_for_the_photos_themselves_and_says_why_not_measured(
    config, tiny_domain, monkeypatch
):
    monkeypatch.setattr(validation, "sample_features", features_by(slice(None, None, 97)))
    _, photos = open_training_data(replace(config.data, validation_fraction=0.9), tiny_domain, 0)
    distance = validation.SampleDistance(photos, None, 2, seed=0, device=torch.device("cpu"))
    G = build_generator(tiny_domain)
    first = distance(G)
    assert first > 0 and distance(G) == first, "the same latents every time"
    mirrored = torch.cat([torch.cat([x, x.flip(3)]) for x, _ in photos.in_order(2)])
    played = iter(mirrored.split(2))
    monkeypatch.setattr(G, "forward", lambda z: next(played)[: len(z)])
    assert distance(G) == pytest.approx(0, abs=1e-4)
    monkeypatch.setattr(validation, "sample_features", lambda device: "no network")
    absent = validation.SampleDistance(photos, None, 2, seed=0, device=torch.device("cpu"))
    assert absent.name is None and absent.reason == "no network"
    _, one = open_training_data(replace(config.data, max_images=4, validation_fraction=0.25), tiny_domain, 0)
    few = validation.SampleDistance(one, None, 2, seed=0, device=torch.device("cpu"))
    assert len(one) == 1 and few.reason.startswith("it needs 2 validation photos, there are 1 (")


def test_an_earlier_run_is_not_overwritten_and_a_foreign_checkpoint_is_named(config, tmp_path):
    stylegan2.train(replace(config, schedule=replace(config.schedule, max_steps=3)))
    with pytest.raises(UserError, match="resume is never"):
        stylegan2.train(replace(config, resume="never"))
    foreign = tmp_path / "foreign" / "checkpoints"
    save_training_state(foreign, 3, {"trainer": "phase1"})
    with pytest.raises(UserError, match="is a checkpoint of phase1, not of stylegan2"):
        stylegan2.train(replace(config, output=str(tmp_path / "foreign")))


def test_training_moves_both_networks_and_the_average_lies_between(config, tmp_path, tiny_domain):
    torch.manual_seed(config.seed)
    stylegan2.train(config)
    state = load_training_state(tmp_path / "whole" / "checkpoints")
    start = load_training_state(tmp_path / "whole" / "checkpoints" / "step_00000003.pt")
    for part in ("G", "D", "average"):
        assert any(not torch.equal(state[part][name], start[part][name]) for name in state[part]), part
    assert not torch.equal(state["G"]["synthesis.b4.const"], state["average"]["synthesis.b4.const"])


def test_other_network_sizes_are_refused(config):
    stylegan2.train(replace(config, schedule=replace(config.schedule, max_steps=3)))
    wider = replace(config.domain, generator=replace(config.domain.generator, channel_max=8))
    with pytest.raises(UserError, match=r"(?s)does not fit this config.*channel_max: 16 -> 8"):
        stylegan2.train(replace(config, domain=wider))


def test_a_run_that_diverges_stops_and_keeps_the_last_good_checkpoint(config, tmp_path):
    good = replace(config, schedule=replace(config.schedule, max_steps=3))
    stylegan2.train(good)
    wild = OptimizerConfig(lr=1e30, betas=[0.0, 0.99])
    with pytest.raises(UserError, match=r"step_00000003.pt. Try a lower optimizer.lr"):
        stylegan2.train(replace(config, optimizer=wild, discriminator_optimizer=wild))
    assert load_training_state(tmp_path / "whole" / "checkpoints")["step"] == 3


def test_path_length_is_the_norm_of_the_jacobian_product():
    torch.manual_seed(0)
    G = Generator(resolution=8, z_dim=8, w_dim=8, channel_base=64, channel_max=8, mapping_layers=2)
    mean = torch.tensor(0.3)
    torch.manual_seed(1)
    penalty, moved = stylegan2.path_length_penalty(G, 2, "none", mean)

    # the same numbers, through the full Jacobian
    torch.manual_seed(1)
    ws = G.mapping(torch.randn([2, G.z_dim]))
    noise = torch.randn_like(G.synthesis(ws, noise_mode="none")) / 8  # drawn in the images' own memory order
    lengths = []
    for i in range(2):
        jacobian = torch.autograd.functional.jacobian(lambda w: G.synthesis(w, noise_mode="none")[0], ws[i : i + 1])
        product = torch.einsum("chw,chwlk->lk", noise[i], jacobian[:, :, :, 0])  # J^T y, [L, w_dim]
        lengths.append(product.square().sum(1).mean().sqrt())
    lengths = torch.stack(lengths)
    expected_mean = 0.3 + 0.01 * (lengths.mean() - 0.3)
    assert torch.allclose(moved, expected_mean, rtol=1e-4)
    assert torch.allclose(penalty, (lengths - expected_mean).square().mean(), rtol=1e-3)
    penalty.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in G.synthesis.parameters())


@pytest.mark.parametrize(
    ("images_seen", "batch", "kimg", "rampup", "kept"),
    [
        (1_000_000, 32, 10.0, 0.05, 0.9977844),  # 0.5 ** 0.0032: ten thousand images halve it
        (1_000_000, 10_000, 10.0, None, 0.5),
        (32, 32, 10.0, None, 0.9977844),
        (32, 32, 10.0, 0.05, 9.5367e-7),  # half-life 1.6 images: 20 of them in a batch
        (100_000, 5000, 10.0, 0.05, 0.5),  # half-life 5,000 images
        (4, 4, 0.0, 0.05, 0.0),  # no average
    ],
)
def test_the_average_keeps_what_its_half_life_and_its_ramp_up_say(images_seen, batch, kimg, rampup, kept):
    """Issue 17, 8: without the ramp-up every test passed."""
    assert stylegan2.kept_share(images_seen, batch, kimg, rampup) == pytest.approx(kept, rel=1e-4)


def test_blending_keeps_a_share_of_the_average_and_copies_buffers(tiny_domain):
    average, current = build_generator(tiny_domain), build_generator(tiny_domain)
    for network, value in ((average, 1.0), (current, 3.0)):
        for tensor in [*network.parameters(), *network.buffers()]:
            tensor.data.fill_(value)
    stylegan2.blend(average, current, 0.75)
    assert all((parameter == 1.5).all() for parameter in average.parameters())
    assert all((buffer == 3).all() for buffer in average.buffers())


def test_a_run_weights_its_regularisers_and_its_average_by_its_config(config, monkeypatch):
    """R1: gamma 10 every 2 steps, so 10; path length: weight 2 every 3 steps, so 6; batches of 4, half-life 10."""
    ratios, kept, blend, step = {}, [], stylegan2.blend, stylegan2.step_over_parts

    def noting(optimizer, compute, parts, **settings):
        values = step(optimizer, compute, parts, **settings)
        for name in {"r1", "penalty"} & values.keys():
            ratios.setdefault(name, []).append(float(values["loss"] / values[name]))
        return values

    for module in (stylegan2, discriminator):
        monkeypatch.setattr(module, "step_over_parts", noting)
    monkeypatch.setattr(stylegan2, "blend", lambda *args: kept.append(args[2]) or blend(*args))
    stylegan2.train(replace(config, ema_rampup=0.5))
    assert ratios == {"r1": pytest.approx([10.0] * 3), "penalty": pytest.approx([6.0] * 2)}  # steps 0, 2, 4 and 0, 3
    # half-lives 2, 4, 6, 8, 10 and from there on 10 images
    assert kept == pytest.approx([0.25, 0.5, 0.629961, 0.707107, 0.757858, 0.757858], rel=1e-5)


def test_style_mixing_takes_fine_styles_from_a_second_latent(tiny_domain, monkeypatch):
    G = build_generator(tiny_domain)
    seen = {}
    monkeypatch.setattr(G.synthesis, "forward", lambda ws, noise_mode: seen.update(ws=ws))
    torch.manual_seed(0)
    stylegan2.render(G, stylegan2.draw(G, 64, mixing_probability=1.0), "none")
    differs = (seen["ws"] != seen["ws"][:, :1]).any(2)  # [N, L]
    assert differs[:, -1].all() and not differs[:, 0].any()
    assert (differs.int().diff(dim=1) >= 0).all(), "one crossover: coarse styles first, then fine ones"
    assert differs.int().sum(1).unique().numel() > 2, "the crossover is drawn per image"
    stylegan2.render(G, stylegan2.draw(G, 8, mixing_probability=0.0), "none")
    assert (seen["ws"] == seen["ws"][:, :1]).all()


def test_lazy_regularisation_rescales_adam():
    found = stylegan2.lazy(OptimizerConfig(lr=2e-3, betas=[0.0, 0.99]), every=16)
    assert math.isclose(found.lr, 2e-3 * 16 / 17) and math.isclose(found.betas[1], 0.99 ** (16 / 17))
    assert stylegan2.lazy(OptimizerConfig(lr=2e-3), every=0).lr == 2e-3
