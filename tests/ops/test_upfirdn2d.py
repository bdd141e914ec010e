"""Resampling against its definition: insert zeros, convolve, decimate."""

import pytest
import torch
from torch import Tensor

from hyperinverter.ops.upfirdn2d import downsample2d, filter2d, setup_filter, upsample2d


def by_definition(x: Tensor, f: Tensor, up: int, down: int, before: int, after: int, gain: float) -> Tensor:
    """Loops over every output pixel and tap."""
    n, c, h, w = x.shape
    wide = torch.zeros(n, c, h * up + before + after, w * up + before + after)
    wide[:, :, before : before + h * up : up, before : before + w * up : up] = x
    size = f.shape[0]
    out = torch.zeros(n, c, *[(side - size) // down + 1 for side in wide.shape[2:]])
    for i in range(out.shape[2]):
        for j in range(out.shape[3]):
            patch = wide[:, :, i * down : i * down + size, j * down : j * down + size]
            out[:, :, i, j] = gain * (patch * f.flip(0, 1)).sum(dim=(2, 3))
    return out


UNEVEN = setup_filter([1, 2, 5, 4])  # not symmetric: shows a missing flip


@pytest.mark.parametrize("f", [setup_filter(), UNEVEN])
def test_matches_the_definition(f: Tensor) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 6)
    # The published paddings of the 4-tap filter: up-sampling 2 before and 1 after, down-sampling 1 and 1.
    torch.testing.assert_close(upsample2d(x, f), by_definition(x, f, 2, 1, 2, 1, 4.0))
    torch.testing.assert_close(downsample2d(x, f), by_definition(x, f, 1, 2, 1, 1, 1.0))
    torch.testing.assert_close(filter2d(x, f, padding=2, gain=3.0), by_definition(x, f, 1, 1, 2, 2, 3.0))


def test_the_filter_has_sum_one_and_keeps_a_constant_image() -> None:
    f = setup_filter()
    assert f.shape == (4, 4) and float(f.sum()) == pytest.approx(1)
    assert float(f[0, 0]) == pytest.approx(1 / 64)
    inner = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    ones = torch.ones(1, 1, 8, 8)
    torch.testing.assert_close(upsample2d(ones, f)[inner], torch.ones(1, 1, 12, 12))
    torch.testing.assert_close(downsample2d(torch.ones(1, 1, 16, 16), f)[inner], torch.ones(1, 1, 4, 4))


def test_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="sum other than zero"):
        setup_filter([1, -1])
    with pytest.raises(ValueError, match=r"taps, got \(3, 3\)"):
        upsample2d(torch.zeros(1, 1, 4, 4), setup_filter([1, 2, 1]))
    with pytest.raises(ValueError, match=r"\[N, C, H, W\], got \(3, 4, 4\)"):
        filter2d(torch.zeros(3, 4, 4), setup_filter())


def test_without_padding_only_whole_windows_count() -> None:
    assert filter2d(torch.ones(1, 2, 8, 8), setup_filter()).shape == (1, 2, 5, 5)
