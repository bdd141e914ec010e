"""PReLU against PyTorch's own, and its derivatives against finite differences."""

import pytest
import torch
from torch import nn

from hyperinverter.ops.bias_act import PReLU


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_and_gradients_are_pytorchs(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ours, theirs = PReLU(5), nn.PReLU(5)
    slopes = torch.tensor([0.25, -0.5, 0.0, 1.0, 2.0])
    x = torch.randn(2, 5, 4, 3).to(dtype).to(memory_format=torch.channels_last)
    x[0, :, 0, 0] = 0  # where the slope decides
    grad = torch.randn_like(x)
    found = []
    for module in (ours, theirs):
        module.load_state_dict({"weight": slopes})
        leaf = x.clone().requires_grad_()
        y = module(leaf) if module is ours else nn.functional.prelu(leaf, module.weight.to(dtype))
        y.backward(grad)
        found.append((y, leaf.grad, module.weight.grad))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6 if dtype == torch.float32 else 2e-2, atol=1e-6)
    assert torch.equal(found[0][1], found[1][1])


def test_derivatives() -> None:
    torch.manual_seed(0)
    module = PReLU(3).double()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, (x,), fast_mode=True)
    assert torch.autograd.gradgradcheck(module, (x,), fast_mode=True)
