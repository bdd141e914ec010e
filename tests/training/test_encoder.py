"""Training of pSp, e4e, ReStyle and HyperStyle: their formulas, what is essential to each, and their model folders."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import softplus

import hyperinverter
from hyperinverter.checkpoint import load_training_state, read_model
from hyperinverter.config.encoder_schema import LatentDiscriminatorConfig
from hyperinverter.config.schema import OptimizerConfig
from hyperinverter.losses import build_losses
from hyperinverter.pretrained.load import load_generator
from hyperinverter.training import encoder
from hyperinverter.training.encoder import start_encoder
from hyperinverter.training.latent_adversary import CodePool
from hyperinverter.utils.errors import UserError

from .conftest import ENCODERS, stats


def method_of(name: str) -> str:
    return ENCODERS[name]["method"]


@pytest.mark.parametrize("name", ENCODERS)
def test_a_run_writes_a_model_folder_that_its_method_loads(name, whole_run, tiny_model):
    folder, final = whole_run(name)
    method = method_of(name)
    generator = read_model(tiny_model / "generator.safetensors")
    for model, step in (("model", final["best/step"]), ("model_last", 6)):
        file = read_model(folder / model / f"{method}.safetensors", method)
        assert file.requires["generator"] == generator.hash == read_model(folder / model / "generator.safetensors").hash
        assert file.info["step"] == step and file.info["trainer"] == "train_encoder"
        assert f'hyperinverter.load(FOLDER, "{method}")' in (folder / model / "README.md").read_text()
    assert min(line["validation/loss"] for line in stats(folder) if "validation/loss" in line) == final["best/loss"]
    inverter = hyperinverter.load(folder / "model_last", method)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    inversion = inverter.invert(images)
    assert inversion.has_weights == (method == "hyperstyle")
    state = load_training_state(folder / "checkpoints")
    trained = "hypernet" if method == "hyperstyle" else "encoder"
    for key, value in inverter.network.get_submodule(trained).state_dict().items():
        torch.testing.assert_close(value, state[trained][key])
    assert list((folder / "samples").glob(f"input_{method}_00000006.png"))


# ------------------------------------------------------------------------------- formulas, written out once more


@pytest.fixture
def parts(make_config, tiny_model):
    """An objective of a method, its network and four images; the generator that it draws with."""

    def make(name: str, **changes):
        config = make_config(name, **changes)
        torch.manual_seed(0)
        generator = load_generator(tiny_model).requires_grad_(False)
        start = start_encoder(config, generator)
        for parameter in start.trained.parameters():  # heads that begin at zero would hide a wrong sum
            parameter.data += 0.02 * torch.randn_like(parameter)
        adversary = encoder.build_adversary(config, generator, torch.device("cpu"))
        losses = build_losses(config.loss_weights, loss_resolution=16)
        objective = encoder.build_objective(config, start, losses, 16, adversary)
        images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
        return objective, start, generator, images

    return make


def gradients_of(start) -> list[torch.Tensor]:
    return [parameter.grad for parameter in start.trained.parameters() if parameter.grad is not None]


def test_psp_minimises_its_image_losses_and_the_distance_of_its_codes(parts):
    objective, start, generator, images = parts("psp")
    ws = start.trained(images) + generator.mapping.w_avg
    l2 = (generator.synthesis(ws) - images).square().mean()
    distance = torch.stack([(each - generator.mapping.w_avg).square().sum().sqrt() for each in ws]).mean()
    parameters = list(start.trained.parameters())
    found = torch.autograd.grad(l2 + 0.01 * distance, parameters, allow_unused=True)  # 6 styles read no fine map
    expected = [gradient for gradient in found if gradient is not None]
    optimizer = torch.optim.SGD(start.trained.parameters(), lr=0.0)
    values = objective.update(images, 0, optimizer, measure=False)
    torch.testing.assert_close(values["loss"], (l2 + 0.01 * distance).detach())
    torch.testing.assert_close(values["w_norm"], distance.detach())
    for ours, theirs in zip(gradients_of(start), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_restyle_corrects_the_codes_by_what_it_drew_and_each_step_has_its_own_gradient(accumulation, parts):
    objective, start, generator, images = parts("restyle", gradient_accumulation=accumulation)
    start.trained.eval()  # BatchNorm of halves is not that of the whole
    drawn, ws, total = generator.synthesis(generator.mapping.w_avg.expand(4, generator.num_ws, -1)), None, 0.0
    losses = []
    for _ in range(2):
        offsets = start.trained(torch.cat([images, drawn.detach()], dim=1))
        ws = offsets + (generator.mapping.w_avg if ws is None else ws.detach())
        drawn = generator.synthesis(ws)
        losses.append((drawn - images).square().mean())
        total = total + losses[-1] / 2
    expected = torch.autograd.grad(total, list(start.trained.parameters()))
    optimizer = torch.optim.SGD(start.trained.parameters(), lr=0.0)
    values = objective.update(images, 0, optimizer, measure=False)
    torch.testing.assert_close(values["l2"], total.detach())
    for ours, theirs in zip(gradients_of(start), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)
    with torch.no_grad():
        measured = objective.measure(images, [])
        torch.testing.assert_close(start.model.eval()(images), ws.detach(), rtol=1e-4, atol=1e-5)
    assert [float(measured[name]) for name in ("loss_1", "loss_2", "loss")] == pytest.approx(
        [losses[0].item(), losses[1].item(), losses[1].item()], rel=1e-4
    )


def test_e4e_adds_one_difference_after_another(parts):
    objective, _, generator, images = parts("e4e", progressive_start=4, progressive_every=3)
    last = generator.num_ws - 1
    stages = {0: 0, 3: 0, 4: 1, 6: 1, 7: 2, 10: 3, 1000: last}
    for step, stage in stages.items():
        objective.begin(step)
        (ws, _), *_ = objective.outputs(images)
        differs = [bool((ws[:, i] != ws[:, 0]).any()) for i in range(last + 1)]
        assert differs == [0 < i <= stage for i in range(last + 1)], step
    enough = 4 + 3 * (last - 1) + 1
    for steps, stage in ((1, 0), (4, 0), (5, 1), (enough - 1, last - 1), (enough, last)):
        objective.config.schedule.max_steps = steps
        told = f"only {stage} of the {last} differences from w are trained; all take schedule.max_steps={enough} "
        assert [told in note for note in objective.notes] == [True] * (stage < last)


def test_e4es_own_terms_are_the_published_ones_and_choose_no_step(parts):
    objective, start, _, images = parts("e4e")
    weight, D = objective.config.delta_weight, objective.adversary.network
    optimizer = torch.optim.SGD(start.trained.parameters(), lr=0.0)
    values = objective.update(images, 3, optimizer, measure=False)  # stage 2
    (ws, image), *_ = objective.outputs(images)
    delta = sum((ws[:, i] - ws[:, 0]).square().sum(1).sqrt().mean() for i in (1, 2))
    assert float(values["delta"]) == pytest.approx(delta.item(), rel=1e-5) and delta > 0
    fooled = objective.measure(images, [])["adversarial"]
    expected = sum(softplus(-D(ws[:, i])).mean() for i in range(3)) / 3
    torch.testing.assert_close(fooled, expected.detach())
    l2 = (image - images).square().mean()
    total = float(values["l2"] + weight * values["delta"] + 0.1 * values["adversarial"])
    assert float(values["loss"]) == pytest.approx(total, rel=1e-5)
    assert objective.measure(images, [])["loss"].item() == pytest.approx(l2.item(), rel=1e-5)


def test_the_latent_discriminators_step_is_the_published_one(parts):
    """Sum of both terms, then R1 of gamma / 2 times the interval in a step of its own; reals are w of new samples."""
    settings = LatentDiscriminatorConfig(r1_every=4, r1_gamma=3.0, pool_size=0, optimizer=OptimizerConfig(lr=1e-3))
    objective, _, generator, _ = parts("e4e", latent_discriminator=settings)
    adversary, codes = objective.adversary, torch.randn(4, 1, 16)
    twin = copy.deepcopy(adversary.network).requires_grad_(True)
    torch.manual_seed(5)
    values = adversary.update(codes, 8)
    torch.manual_seed(5)
    torch.randint(1, [4])
    real = generator.mapping(torch.randn(4, 16))[:, 0]
    adam = torch.optim.Adam(twin.parameters(), lr=1e-3)
    loss = softplus(-twin(real)).mean() + softplus(twin(codes[:, 0])).mean()
    loss.backward()
    adam.step()
    adam.zero_grad()
    real = real.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(twin(real).sum(), real, create_graph=True)
    r1 = gradient.square().sum(1).mean()
    (r1 * 3.0 / 2 * 4).backward()
    adam.step()
    torch.testing.assert_close(values["loss_D"], loss.detach())
    torch.testing.assert_close(values["r1"], r1.detach())
    for ours, theirs in zip(adversary.network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-4, atol=1e-6)
        assert not ours.requires_grad
    assert "r1" not in adversary.update(codes, 9)


def test_a_full_pool_gives_earlier_codes_for_about_half_of_the_new_ones():
    torch.manual_seed(0)
    pool = CodePool(50, 2, torch.device("cpu"))
    first = torch.arange(100.0).view(50, 2)
    assert torch.equal(pool.exchange(first), first)
    new = -1 - torch.rand(40, 2)
    given = pool.exchange(new)
    exchanged = (given != new).any(1)
    assert 10 < int(exchanged.sum()) < 30
    everything = {tuple(code) for code in torch.cat([first, new]).tolist()}
    assert {tuple(code) for code in given.tolist()} | {tuple(code) for code in pool.codes.tolist()} == everything


def test_hyperstyle_multiplies_weights_and_refines_them(parts):
    """Every step against a generator whose weights are changed in place, W encoder and all."""
    objective, start, generator, images = parts("hyperstyle")
    start.trained.eval()
    model, totals = start.model, {}
    ws = (model.w_encoder(images)[:, None] + generator.mapping.w_avg).expand(-1, generator.num_ws, -1)
    drawn = generator.synthesis(ws).detach()
    outputs = list(objective.outputs(images))
    for _, image in outputs:
        for name, value in model.hypernet(torch.cat([images, drawn], dim=1)).items():
            totals[name] = totals.get(name, 0) + value
        singly = []
        for i in range(4):
            tuned = copy.deepcopy(generator)
            for name, parameter in tuned.synthesis.named_parameters():
                if name in totals:
                    parameter.data.mul_(1 + totals[name][i].detach())
            singly.append(tuned.synthesis(ws[i : i + 1]))
        drawn = torch.cat(singly).detach()
        torch.testing.assert_close(image.detach(), drawn, rtol=1e-4, atol=1e-4)
    assert len(outputs) == 2 and "b4.conv1.weight" in totals and not any("torgb" in name for name in totals)


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("strides", [[2, 1, 1, 1], [2, 2, 2, 1], [2, 2, 2, 2]])
def test_hyperstyle_takes_any_trunk(strides, separable, parts, make_config):
    """Last maps of 8, 2 and 1 px: a published block halves 16 px to two before it pools."""
    sizes = replace(make_config("hyperstyle").hyperstyle, separable=separable)
    trunk = replace(make_config("hyperstyle").domain.w_encoder, strides=strides)
    _, start, _, images = parts("hyperstyle", trunk_from="own", trunk=trunk, hyperstyle=sizes)
    factors = start.trained(torch.cat([images, images], dim=1))
    config = start.model.config
    assert {name: tuple(value.shape[1:]) for name, value in factors.items()} == {
        config.names[number]: shape for number, shape in config.shapes.items()
    }


# -------------------------------------------------------------------------------------------- what each is for


def overfit(objective, start, images: torch.Tensor, steps: int) -> list[dict]:
    """Updates on the same few images; the scalars of every step."""
    optimizer = torch.optim.Adam(start.trained.parameters(), lr=3e-3)
    return [objective.update(images, step, optimizer, measure=False) for step in range(steps)]


def test_e4es_differences_stay_small_beside_psps_and_its_discriminator_learns(parts):
    quick = LatentDiscriminatorConfig(optimizer=OptimizerConfig(lr=1e-2))
    changes = {"progressive_start": 2, "progressive_every": 2, "latent_discriminator": quick, "delta_weight": 0.02}
    sizes = {}
    for name in ("psp", "e4e"):
        objective, start, _, images = parts(name, **changes)
        values = overfit(objective, start, images, 25)
        with torch.no_grad():
            ((ws, _),) = objective.outputs(images)
        sizes[name] = float((ws[:, 1:] - ws[:, :1]).norm(dim=2).mean())
        assert values[-1]["l2"] < values[0]["l2"]
    assert 0 < sizes["e4e"] < 0.5 * sizes["psp"]
    first, last = (sum(float(each["loss_D"]) for each in part) for part in (values[:5], values[-5:]))
    assert last < 0.97 * first and values[-1]["D_real"] > values[-1]["D_fake"]


@pytest.mark.parametrize("name", ["restyle", "hyperstyle"])
def test_later_steps_lower_the_loss(name, parts):
    """On images that no update has seen: what one step cannot know, the next sees in what was drawn."""
    objective, start, generator, _ = parts(name)
    optimizer = torch.optim.Adam(start.trained.parameters(), lr=3e-3)
    random = torch.Generator().manual_seed(3)

    def sample(count: int) -> torch.Tensor:
        with torch.no_grad():
            return generator.synthesis(generator.mapping(torch.randn(count, 16, generator=random)))

    unseen = sample(16)
    for step in range(20):
        objective.update(sample(8), step, optimizer, measure=False)
    with torch.no_grad():
        measured = objective.measure(unseen, [])
    assert measured["loss_2"] < 0.99 * measured["loss_1"]


# --------------------------------------------------------------------------------------- what goes on, and from where


def test_another_method_does_not_go_on_with_a_run(make_config, whole_run):
    config = replace(make_config("e4e"), output=str(whole_run("psp")[0]))
    with pytest.raises(UserError, match="method: psp -> e4e"):
        encoder.train(config)


def test_a_method_goes_on_from_a_model_folder_and_from_e1s_trunk(make_config, whole_run, tiny_model):
    folder = whole_run("restyle")[0] / "model_last"
    start = start_encoder(make_config("restyle", init_from=str(folder)), load_generator(tiny_model))
    trained = read_model(folder / "restyle.safetensors").state
    for key, value in start.trained.state_dict().items():
        torch.testing.assert_close(value, trained[f"encoder.{key}"])
    assert "goes on from" in start.origin
    e1 = read_model(tiny_model / "w_encoder.safetensors").state
    config = make_config("restyle")
    config.domain = replace(config.domain, layerwise_encoder=replace(config.domain.layerwise_encoder, init="w_encoder"))
    config.trunk_from = "layerwise_encoder"
    state = start_encoder(config, load_generator(tiny_model)).trained.state_dict()
    stem = "input_layer.0.weight"
    assert torch.equal(state[stem][:, :3], e1[stem]) and state[stem].shape[1] == 6 and state[stem][:, 3:].std() > 0
    inner = [key for key in e1 if key.startswith("body.")]
    assert inner and all(torch.equal(state[key], e1[key]) for key in inner)


def test_an_encoder_saved_before_its_last_heads_are_trained_is_whole(make_config, capsys):
    """Heads that have not joined yet add nothing, whatever the stage at inference."""
    config = make_config("e4e", progressive_start=100)
    config.schedule = replace(config.schedule, max_steps=2)
    encoder.train(config)
    assert "only 0 of the 5 differences from w are trained; all take schedule.max_steps=" in capsys.readouterr().err
    inversion = hyperinverter.load(Path(config.output) / "model_last", "e4e").invert(torch.zeros(1, 3, 16, 16))
    assert torch.equal(inversion.ws, inversion.ws[:, :1].expand_as(inversion.ws))
