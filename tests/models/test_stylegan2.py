"""The generator: recorded outputs, published sizes, residuals against edited parameters, noise, truncation."""

import copy

import pytest
import recorded
import torch
from torch import Tensor

from hyperinverter.models.stylegan2 import Generator

SMALL = {"resolution": 16, "z_dim": 8, "w_dim": 12, "channel_base": 128, "channel_max": 8, "mapping_layers": 2}


def make(seed: int = 0, **changes: object) -> Generator:
    """A small generator in which every parameter matters: noise strengths and biases are not zero."""
    torch.manual_seed(seed)
    generator = Generator(**{**SMALL, **changes})
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith(("bias", "noise_strength")):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return generator


@recorded.needed
@pytest.mark.parametrize("name", ["nv_g32", "nv_g32_clamp", "nv_g32_tightclamp", "nv_g64_skip"])
def test_matches_the_recorded_generator(name: str) -> None:
    case = recorded.Case(name)
    config = case.info["config"]
    kwargs = config["init_kwargs"]
    synthesis = {k: v for k, v in kwargs["synthesis_kwargs"].items() if k not in ("num_fp16_res", "architecture")}
    generator = Generator(
        resolution=kwargs["img_resolution"], z_dim=kwargs["z_dim"], w_dim=kwargs["w_dim"], **synthesis
    )
    case.fill(generator, "G")
    assert generator.num_ws == config["num_ws"]
    features: dict[str, Tensor] = {}
    for block_name, block in generator.synthesis.named_children():
        block.register_forward_hook(lambda _, __, out, key=f"block_{block_name}_x": features.update({key: out[0]}))
    z, ws = case.input("z"), case.input("ws").requires_grad_()
    psi, cutoff = config["truncation_psi"], config["truncation_cutoff"]

    image = generator.synthesis(ws, noise_mode="const")
    case.compare("img_ws_const", image)
    for key, value in list(features.items()):
        case.compare(key, value)
    case.compare("grad_ws", torch.autograd.grad((image * case.input("probe")).sum(), ws)[0])
    with torch.no_grad():
        case.compare("w_psi1", generator.mapping(z)[:, 0])
        case.compare("w_psi", generator.mapping(z, psi)[:, 0])
        case.compare("w_psi_cutoff", generator.mapping(z, psi, cutoff))
        case.compare("img_ws_none", generator.synthesis(ws, noise_mode="none"))
        case.compare("img_z_psi1_const", generator(z))
        case.compare("img_z_psi_const", generator(z, psi))


@pytest.mark.parametrize(("resolution", "parameters", "keys"), [(1024, 30_370_060, 182), (256, 30_034_338, 144)])
def test_published_sizes(resolution: int, parameters: int, keys: int) -> None:
    with torch.device("meta"):
        generator = Generator(resolution=resolution)
    assert sum(p.numel() for p in generator.parameters()) == parameters
    assert len(generator.state_dict()) == keys
    assert generator.synthesis.b8.conv0.weight.shape == (512, 512, 3, 3)


def test_shapes_without_memory() -> None:
    """On the meta device everything runs through: shapes and costs can be asked for without weights."""
    with torch.device("meta"):
        generator = Generator(resolution=256)
        residuals = {"b64.conv0.weight": torch.zeros(2, 512, 512, 3, 3)}
        assert generator(torch.zeros(2, 512), weight_residuals=residuals).shape == (2, 3, 256, 256)


def test_config_rebuilds_it() -> None:
    generator = make()
    again = Generator(**generator.config)
    again.load_state_dict(generator.state_dict())
    z = torch.randn(2, 8)
    torch.testing.assert_close(again(z), generator(z))


def random_residuals(generator: Generator, n: int, names: list[str] | None = None) -> dict[str, Tensor]:
    return {
        name: (0.2 * torch.randn(n, *parameter.shape)).requires_grad_()
        for name, parameter in generator.synthesis.named_parameters()
        if names is None or name in names
    }


def test_residuals_equal_edited_parameters_image_by_image() -> None:
    """Values and gradients, for every parameter of the synthesis network at once."""
    generator = make().eval()
    ws = torch.randn(3, generator.num_ws, 12, requires_grad=True)
    residuals = random_residuals(generator, 3)
    probe = torch.randn(3, 3, 16, 16)
    images = generator.synthesis(ws, residuals)
    gradients = torch.autograd.grad((images * probe).sum(), [ws, *residuals.values()])
    for i in range(3):
        edited = copy.deepcopy(generator)
        with torch.no_grad():
            for name, parameter in edited.synthesis.named_parameters():
                parameter.add_(residuals[name][i])
        w = ws[i : i + 1].detach().requires_grad_()
        image = edited.synthesis(w)
        torch.testing.assert_close(images[i : i + 1], image, rtol=1e-4, atol=1e-4)
        expected = torch.autograd.grad((image * probe[i]).sum(), [w, *edited.synthesis.parameters()])
        torch.testing.assert_close(gradients[0][i : i + 1], expected[0], rtol=1e-3, atol=1e-3)
        for name, ours, theirs in zip(residuals, gradients[1:], expected[1:], strict=True):
            torch.testing.assert_close(ours[i], theirs, rtol=1e-3, atol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("name", ["b4.const", "b8.conv0.weight", "b16.torgb.weight", "b8.conv1.affine.bias"])
def test_single_residuals_zero_residuals_and_one_for_all(name: str) -> None:
    generator = make().eval()
    ws = torch.randn(2, generator.num_ws, 12)
    plain = generator.synthesis(ws)
    one = random_residuals(generator, 1, [name])
    assert not torch.allclose(generator.synthesis(ws, one), plain, atol=1e-3)
    both = {name: one[name].expand(2, *one[name].shape[1:])}
    torch.testing.assert_close(generator.synthesis(ws, one), generator.synthesis(ws, both), rtol=1e-4, atol=1e-4)
    zero = {name: torch.zeros_like(both[name])}
    torch.testing.assert_close(generator.synthesis(ws, zero), plain, rtol=1e-4, atol=1e-4)


def test_an_image_does_not_depend_on_its_batch() -> None:
    generator = make().eval()
    ws = torch.randn(3, generator.num_ws, 12)
    residuals = random_residuals(generator, 3)
    batch = generator.synthesis(ws, residuals)
    for i in range(3):
        alone = generator.synthesis(ws[i : i + 1], {k: v[i : i + 1] for k, v in residuals.items()})
        torch.testing.assert_close(batch[i : i + 1], alone, rtol=1e-4, atol=1e-4)


def test_gradients_without_residuals_also_with_constant_noise() -> None:
    """float64 finite differences through the whole network, twice: what path length regularisation needs."""
    generator = make(resolution=8, channel_base=16, channel_max=2, w_dim=3).double()
    ws = torch.randn(2, generator.num_ws, 3, dtype=torch.float64, requires_grad=True)
    names = ["synthesis.b8.conv0.bias", "synthesis.b8.conv1.noise_strength", "synthesis.b8.conv0.weight"]
    chosen = [generator.get_parameter(name).detach().clone().requires_grad_() for name in names]

    def run(ws: Tensor, *values: Tensor) -> Tensor:
        parameters = {name.removeprefix("synthesis."): v for name, v in zip(names, values, strict=True)}
        return torch.func.functional_call(generator.synthesis, parameters, (ws,))

    assert torch.autograd.gradcheck(run, (ws, *chosen), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (ws, *chosen), fast_mode=True)


def test_noise_modes() -> None:
    generator = make()
    ws = torch.randn(2, generator.num_ws, 12)
    const = [generator.synthesis(ws) for _ in range(2)]
    random = [generator.synthesis(ws, noise_mode="random") for _ in range(2)]
    none = generator.synthesis(ws, noise_mode="none")
    assert torch.equal(*const) and not torch.equal(*random)
    assert not torch.allclose(const[0], none) and not torch.allclose(random[0], none)
    same_w = generator.synthesis(ws[:1].repeat(2, 1, 1), noise_mode="random")
    assert not torch.allclose(same_w[0], same_w[1])  # each image has its own noise
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.zero_()
    torch.testing.assert_close(generator.synthesis(ws, noise_mode="random"), none, rtol=1e-4, atol=1e-5)


def test_truncation_and_running_mean() -> None:
    generator = make()
    z = torch.randn(64, 8)
    before = generator.mapping.w_avg.clone()
    ws = generator.mapping(z)
    assert torch.equal(generator.mapping.w_avg, before)
    generator.mapping(z, update_w_avg=True)
    torch.testing.assert_close(generator.mapping.w_avg, 0.005 * ws[:, 0].mean(dim=0))
    average = generator.mapping.w_avg
    torch.testing.assert_close(generator.mapping(z, 0.0), average.expand_as(ws))
    torch.testing.assert_close(generator.mapping(z, 0.5), (average + ws) / 2)
    cut = generator.mapping(z, 0.5, truncation_cutoff=2)
    torch.testing.assert_close(cut[:, :2], (average + ws[:, :2]) / 2)
    assert torch.equal(cut[:, 2:], ws[:, 2:])


def test_autocast_stays_close_and_trains() -> None:
    generator = make()
    ws = torch.randn(2, generator.num_ws, 12)
    residuals = random_residuals(generator, 2)
    exact = generator.synthesis(ws, residuals)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image = generator.synthesis(ws, residuals)
    assert image.dtype == torch.float32
    assert ((image - exact).norm() / exact.norm()).item() < 0.05
    image.square().mean().backward()
    assert all(r.grad is not None and r.grad.isfinite().all() for r in residuals.values())


def test_refuses_what_does_not_fit() -> None:
    generator = make()
    ws = torch.randn(2, generator.num_ws, 12)
    for resolution in (4, 24, 0):
        with pytest.raises(ValueError, match=f"power of two of at least 8 pixels, got {resolution}"):
            Generator(resolution=resolution)
    with pytest.raises(ValueError, match="channel_base must be at least the resolution 64, got 32"):
        Generator(resolution=64, channel_base=32)
    with pytest.raises(ValueError, match=r"expected z \[N, 8\], got \(2, 9\)"):
        generator(torch.randn(2, 9))
    with pytest.raises(ValueError, match=r"expected ws \[N, 6, 12\], got \(2, 12\)"):
        generator.synthesis(ws[:, 0])
    with pytest.raises(ValueError, match="unknown noise_mode 'constant'"):
        generator.synthesis(ws, noise_mode="constant")
    with pytest.raises(ValueError, match=r"'b32\.conv0\.weight' is no parameter of this 16 px generator"):
        generator.synthesis(ws, {"b32.conv0.weight": torch.zeros(2, 8, 8, 3, 3)})
    with pytest.raises(ValueError, match=r"'b8\.conv1\.weight' must be \(2, 8, 8, 3, 3\).*got \(2, 8, 8, 1, 1\)"):
        generator.synthesis(ws, {"b8.conv1.weight": torch.zeros(2, 8, 8, 1, 1)})
