"""Modulated convolution against the paper's formula: one explicitly modulated weight per image."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hyperinverter.ops.modulated_conv import kernel_energy, modulated_conv2d, scales_weight
from hyperinverter.ops.upfirdn2d import filter2d, setup_filter

FILTER = setup_filter().double()


def by_formula(x: Tensor, weight: Tensor, styles: Tensor, residual: Tensor | None, demodulate: bool, up: int) -> Tensor:
    images = []
    for i in range(len(x)):
        w = weight if residual is None else weight + residual[i]
        w = w * styles[i][:, None, None]
        if demodulate:
            w = w / (w.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up == 1:
            image = F.conv2d(x[i : i + 1], w, padding=w.shape[-1] // 2)
        else:
            n, c, h, _ = x[i : i + 1].shape
            spread = torch.zeros(n, c, 2 * h - 1, 2 * h - 1, dtype=x.dtype)
            spread[:, :, ::2, ::2] = x[i : i + 1]
            image = F.conv2d(spread, w.flip(2, 3), padding=2)  # published: a true convolution here
            image = filter2d(image, FILTER, padding=1, gain=4)
        images.append(image)
    return torch.cat(images)


@pytest.mark.parametrize("size", [4, 8], ids=["scales_the_image", "scales_the_weight"])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
@pytest.mark.parametrize(("kernel", "up"), [(1, 1), (3, 1), (3, 2)])
def test_values_and_gradients(kernel: int, up: int, demodulate: bool, with_residual: bool, size: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, size, size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 3, kernel, kernel, dtype=torch.float64, requires_grad=True)
    styles = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    residual = torch.randn(2, 5, 3, kernel, kernel, dtype=torch.float64, requires_grad=True)
    inputs = [x, weight, styles, residual][: 4 if with_residual else 3]
    if with_residual and kernel == 3:
        assert scales_weight(x, weight + residual) == (size == 8)
    ours = modulated_conv2d(
        x,
        weight,
        styles,
        weight_residual=residual if with_residual else None,
        demodulate=demodulate,
        up=up,
        resample_filter=FILTER,
        padding=kernel // 2,
    )
    theirs = by_formula(x, weight, styles, residual if with_residual else None, demodulate, up)
    torch.testing.assert_close(ours, theirs)
    probe = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad((ours * probe).sum(), inputs),
        torch.autograd.grad((theirs * probe).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("size", [3, 6], ids=["scales_the_image", "scales_the_weight"])
@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (1, 1, -1, -1), (2, 1, -1, -1), (1, 4, -1, -1), (2, 4, -1, -1)])
def test_offset_gain_and_second_derivatives(shape: tuple[int, ...], size: int) -> None:
    torch.manual_seed(0)
    shape = tuple(size if side == -1 else side for side in shape)
    x, weight, styles = (torch.randn(s, dtype=torch.float64) for s in ((2, 2, size, size), (4, 2, 3, 3), (2, 2)))
    offset, residual = (torch.randn(s, dtype=torch.float64) for s in (shape, (2, 4, 2, 3, 3)))
    inputs = [tensor.requires_grad_() for tensor in (x, weight, styles, offset, residual)]

    def run(x: Tensor, weight: Tensor, styles: Tensor, offset: Tensor, residual: Tensor) -> Tensor:
        return modulated_conv2d(x, weight, styles, weight_residual=residual, padding=1, offset=offset, gain=2.0)

    plain = modulated_conv2d(x, weight, styles, weight_residual=residual, padding=1)
    torch.testing.assert_close(run(*inputs), 2 * plain + offset)
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("demodulate", [False, True])
@torch.no_grad()
def test_several_offsets_add_up_and_a_known_energy_changes_nothing(demodulate: bool, size: int) -> None:
    torch.manual_seed(0)
    x, weight, styles = torch.randn(2, 3, size, size), torch.randn(5, 3, 3, 3), torch.randn(2, 3)
    bias, noise = torch.randn(1, 5, 1, 1), torch.randn(2, 1, size, size)
    own = weight + torch.randn(2, 5, 3, 3, 3)
    for kernel in (weight, own):
        assert scales_weight(x, kernel) == (size == 8)
        kwargs = {"padding": 1, "demodulate": demodulate}
        plain = modulated_conv2d(x, kernel, styles, **kwargs)
        apart = modulated_conv2d(x, kernel, styles, offset=[bias, noise], energy=kernel_energy(kernel), **kwargs)
        torch.testing.assert_close(apart, plain + bias + noise)
    residual = own - weight
    torch.testing.assert_close(plain, modulated_conv2d(x, weight, styles, weight_residual=residual, **kwargs))


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("demodulate", [False, True])
@pytest.mark.parametrize("size", [4, 8], ids=["scales_the_image", "scales_the_weight"])
def test_gain_multiplies_the_convolution_on_every_path(size: int, demodulate: bool, kernel: int) -> None:
    torch.manual_seed(0)
    x, weight, styles = torch.randn(2, 3, size, size), torch.randn(5, 3, kernel, kernel), torch.randn(2, 3)
    kwargs = {"padding": kernel // 2, "demodulate": demodulate}
    gained = modulated_conv2d(x, weight, styles, gain=3.0, **kwargs)
    torch.testing.assert_close(gained, 3 * modulated_conv2d(x, weight, styles, **kwargs))


@pytest.mark.parametrize("wanted", ["x", "weight", "styles", "offset"])
@pytest.mark.parametrize("size", [4, 8], ids=["scales_the_image", "scales_the_weight"])
def test_each_input_has_its_gradient_when_the_others_are_constants(size: int, wanted: str) -> None:
    torch.manual_seed(0)
    shapes = {"x": (2, 3, size, size), "weight": (5, 3, 3, 3), "styles": (2, 3), "offset": (1, 5, 1, 1)}
    values = {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}

    def gradient(*names: str) -> Tensor:
        inputs = {name: value.clone().requires_grad_(name in names) for name, value in values.items()}
        result = modulated_conv2d(inputs["x"], inputs["weight"], inputs["styles"], offset=inputs["offset"], padding=1)
        return torch.autograd.grad(result.square().sum(), inputs[wanted])[0]

    torch.testing.assert_close(gradient(wanted), gradient(*shapes))


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("up", [1, 2])
def test_memory_format_is_kept_and_does_not_matter(up: int, with_residual: bool) -> None:
    torch.manual_seed(0)
    x, weight, styles = torch.randn(2, 4, 8, 8), torch.randn(6, 4, 3, 3), torch.randn(2, 4)
    kwargs = {
        "up": up,
        "resample_filter": setup_filter(),
        "padding": 1,
        "offset": torch.randn(1, 6, 1, 1),
        "weight_residual": torch.randn(2, 6, 4, 3, 3) if with_residual else None,
    }
    last = modulated_conv2d(x.contiguous(memory_format=torch.channels_last), weight, styles, **kwargs)
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(modulated_conv2d(x, weight, styles, **kwargs), last, rtol=1e-4, atol=1e-5)


def test_one_residual_for_the_whole_batch() -> None:
    x, weight, styles = torch.randn(2, 3, 4, 4), torch.randn(5, 3, 3, 3), torch.randn(2, 3)
    one = torch.randn(1, 5, 3, 3, 3)
    torch.testing.assert_close(
        modulated_conv2d(x, weight, styles, weight_residual=one, padding=1),
        modulated_conv2d(x, weight, styles, weight_residual=one.expand(2, -1, -1, -1, -1), padding=1),
        rtol=1e-4,
        atol=1e-5,
    )


def test_refuses_shapes_that_do_not_fit() -> None:
    x, weight, styles = torch.zeros(2, 3, 4, 4), torch.zeros(5, 3, 3, 3), torch.zeros(2, 3)
    with pytest.raises(ValueError, match="equal I"):
        modulated_conv2d(x, torch.zeros(5, 4, 3, 3), styles)
    with pytest.raises(ValueError, match=r"styles must be \[N, I\] = \(2, 3\), got \(1, 3\)"):
        modulated_conv2d(x, weight, styles[:1])
    with pytest.raises(ValueError, match=r"weight_residual must be .*\(2, 5, 3, 3, 3\).*got \(3, 5, 3, 3, 3\)"):
        modulated_conv2d(x, weight, styles, weight_residual=torch.zeros(3, 5, 3, 3, 3))
    with pytest.raises(ValueError, match="up must be 1 or 2, got 4"):
        modulated_conv2d(x, weight, styles, up=4)
    with pytest.raises(ValueError, match="resample_filter"):
        modulated_conv2d(x, weight, styles, up=2, padding=1)
