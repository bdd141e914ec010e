"""Convolutions against PyTorch's own, and their first and second derivatives against finite differences."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hyperinverter.ops.conv2d import (
    Geometry,
    _convolve_each,
    _convolve_grouped,
    _weight_gradient_grouped,
    _weight_gradient_of_each,
    conv2d,
    conv_transpose2d,
    grouped_conv2d,
)


def double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(("stride", "padding", "size"), [(1, 1, 4), (2, 0, 5), (2, 1, 4), (2, 0, 6)])
def test_convolution_and_its_derivatives(stride: int, padding: int, size: int) -> None:
    torch.manual_seed(0)
    x, weight, bias = double(2, 2, size, size), double(3, 2, 3, 3), double(3)

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return conv2d(x, weight, bias, stride=stride, padding=padding)

    torch.testing.assert_close(ours(x, weight, bias), F.conv2d(x, weight, bias, stride, padding))
    assert torch.autograd.gradcheck(ours, (x, weight, bias), fast_mode=True)
    assert torch.autograd.gradgradcheck(ours, (x, weight, bias), fast_mode=True)


@pytest.mark.parametrize("shape", [(4, 5), (5, 4)])
def test_images_need_not_be_square(shape: tuple[int, int]) -> None:
    """One side needs a pixel of output padding in the adjoint, the other none."""
    torch.manual_seed(0)
    x, weight = double(1, 2, *shape), double(3, 2, 3, 3)

    def ours(x: Tensor, weight: Tensor) -> Tensor:
        return conv2d(x, weight, stride=2, padding=1)

    torch.testing.assert_close(ours(x, weight), F.conv2d(x, weight, None, 2, 1))
    assert torch.autograd.gradcheck(ours, (x, weight), fast_mode=True)


def test_transposed_convolution_and_its_derivatives() -> None:
    torch.manual_seed(0)
    x, weight = double(2, 2, 3, 3), double(2, 3, 3, 3)
    torch.testing.assert_close(conv_transpose2d(x, weight, stride=2), F.conv_transpose2d(x, weight, stride=2))
    assert torch.autograd.gradcheck(lambda x, w: conv_transpose2d(x, w, stride=2), (x, weight), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x, w: conv_transpose2d(x, w, stride=2), (x, weight), fast_mode=True)


@pytest.mark.parametrize(
    "geometry", [Geometry(1, 1, groups=2), Geometry(2, 1, groups=2), Geometry(2, 1, True, groups=2)]
)
def test_one_filter_per_channel_and_its_derivatives(geometry: Geometry) -> None:
    torch.manual_seed(0)
    x, weight = double(1, 2, 4, 4), double(2, 1, 4, 4)
    assert torch.autograd.gradcheck(lambda x, w: grouped_conv2d(x, w, geometry), (x, weight), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x, w: grouped_conv2d(x, w, geometry), (x, weight), fast_mode=True)


@pytest.mark.parametrize("transposed", [False, True])
def test_one_kernel_per_image(transposed: bool) -> None:
    torch.manual_seed(0)
    x, weight = double(2, 3, 4, 4), double(2, 3, 3, 3, 3)

    def ours(x: Tensor, weight: Tensor) -> Tensor:
        return conv_transpose2d(x, weight, stride=2) if transposed else conv2d(x, weight, padding=1)

    def theirs(x: Tensor, weight: Tensor) -> Tensor:
        return F.conv_transpose2d(x, weight, stride=2) if transposed else F.conv2d(x, weight, padding=1)

    expected = torch.cat([theirs(x[i : i + 1], weight[i]) for i in range(2)])
    torch.testing.assert_close(ours(x, weight), expected)
    assert torch.autograd.gradcheck(ours, (x, weight), fast_mode=True)
    assert torch.autograd.gradgradcheck(ours, (x, weight), fast_mode=True)


def test_one_kernel_per_image_with_bias() -> None:
    x, weight, bias = double(2, 3, 4, 4), double(2, 3, 3, 1, 1), double(3)
    torch.testing.assert_close(conv2d(x, weight, bias), conv2d(x, weight) + bias[:, None, None])


@pytest.mark.parametrize("geometry", [Geometry(1, 1), Geometry(2, 0), Geometry(2, 0, True)])
def test_the_grouped_form_used_on_a_gpu_is_the_same(geometry: Geometry) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 4, 5, 5), torch.randn(2, 3, 4, 3, 3)
    if geometry.transposed:
        weight = weight.transpose(1, 2).contiguous()
    y = _convolve_each(x, weight, geometry)
    torch.testing.assert_close(_convolve_grouped(x, weight, geometry), y)
    gradients = [f(x, y, weight, geometry) for f in (_weight_gradient_of_each, _weight_gradient_grouped)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-4)


def test_weights_of_a_fixed_filter_get_no_gradient() -> None:
    x, weight = double(1, 2, 4, 4), torch.randn(2, 1, 4, 4, dtype=torch.float64)
    (first,) = torch.autograd.grad(
        grouped_conv2d(x, weight, Geometry(1, 1, groups=2)).square().sum(), x, create_graph=True
    )
    first.square().sum().backward()
    assert x.grad is not None and weight.grad is None


@pytest.mark.parametrize(("channels", "outputs", "groups"), [(1, 3, 1), (2, 4, 2)])
def test_several_filters_of_one_channel(channels: int, outputs: int, groups: int) -> None:
    """Their adjoint adds up the filters of a channel, which one rotated filter per channel would not."""
    torch.manual_seed(0)
    x, weight = double(2, channels, 4, 4), double(outputs, 1, 3, 3)

    def ours(x: Tensor, weight: Tensor) -> Tensor:
        return grouped_conv2d(x, weight, Geometry(1, 1, groups=groups))

    torch.testing.assert_close(ours(x, weight), F.conv2d(x, weight, padding=1, groups=groups))
    assert torch.autograd.gradcheck(ours, (x, weight), fast_mode=True)


def test_autocast_chooses_the_precision() -> None:
    x, weight = torch.randn(1, 2, 4, 4), torch.randn(2, 2, 3, 3, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = conv2d(x, weight, padding=1)
        kept = grouped_conv2d(x, torch.ones(2, 1, 3, 3), Geometry(1, 1, groups=2))
        biased = conv2d(x, weight, torch.full([2], 1.003), padding=1)
        torch.testing.assert_close(biased, F.conv2d(x, weight, torch.full([2], 1.003), padding=1))
    assert y.dtype == biased.dtype == torch.bfloat16 and kept.dtype == torch.float32
    y.float().sum().backward()
    assert weight.grad is not None and weight.grad.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert conv2d(x.double(), weight.double(), padding=1).dtype == torch.float64, "as torch's own"


def test_half_precision_follows_float32_where_a_cpu_has_no_kernel_of_its_own() -> None:
    """The adjoint of filtered down-sampling, which discriminators take in every backward pass."""
    torch.manual_seed(0)
    x, weight = torch.randn(2, 6, 5, 5).bfloat16(), torch.randn(6, 1, 4, 4).bfloat16()
    geometry = Geometry(2, 1, transposed=True, groups=6)
    y = grouped_conv2d(x, weight, geometry)
    assert y.dtype == torch.bfloat16
    exact = F.conv_transpose2d(x.double(), weight.double(), stride=2, padding=1, groups=6)
    torch.testing.assert_close(y.double(), exact, rtol=2**-8, atol=0)  # rounded once, at the end
