"""The Haar transform: orthonormal, each direction the other's gradient."""

import torch

from hyperinverter.ops.haar import inverse_haar


def test_inverse_haar_is_orthonormal_both_ways():
    x = torch.randn(2, 8, 3, 5, dtype=torch.double, requires_grad=True)
    assert torch.allclose(inverse_haar(x).square().sum(), x.square().sum())
    y = torch.randn(2, 2, 6, 10, dtype=torch.double, requires_grad=True)
    (gradient,) = torch.autograd.grad((inverse_haar(x) * y).sum(), x, create_graph=True)
    assert torch.allclose(inverse_haar(gradient), y)  # its transpose is its inverse
    (again,) = torch.autograd.grad((gradient * x).sum(), y)
    assert torch.allclose(again, inverse_haar(x))
