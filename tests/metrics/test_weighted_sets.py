"""Distances of weighted sets: torch-fidelity's numbers without weights, and right ones with them."""

import pytest
import torch
from torch import Tensor

from hyperinverter.metrics.weighted_sets import Kernels, frechet, redrawn


@pytest.fixture
def sets() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.randn(30, 8, generator=random), 1.3 * torch.randn(25, 8, generator=random) + 0.2


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """KID of two sets [N, F] and [M, F], all of each at once; unbiased for small ones, so it may fall below 0."""
    return float(Kernels.of(a, b).distance(torch.ones(1, len(a)), torch.ones(1, len(b))))


def test_without_weights_they_are_torch_fidelitys(sets):
    from torch_fidelity import metric_fid, metric_kid

    a, b = sets
    statistics = [metric_fid.fid_features_to_statistics(x) for x in sets]
    wanted = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)[metric_fid.KEY_METRIC_FID]
    assert frechet(a, b) == pytest.approx(wanted, rel=1e-6) and frechet(a, a) == pytest.approx(0, abs=1e-9)
    small = a[:25]  # torch-fidelity takes equal numbers
    found = metric_kid.kid_features_to_metric(small, b, kid_subsets=1, kid_subset_size=25, verbose=False)
    assert kernel_distance(small, b) == pytest.approx(found[metric_kid.KEY_METRIC_KID_MEAN], rel=1e-5)


def test_a_weight_of_two_is_the_element_twice_but_never_a_pair_with_itself(sets):
    a, b = sets
    weights = torch.ones(30)
    weights[3], weights[7] = 2, 0
    twice = torch.cat([a[torch.arange(30) != 7], a[3:4]])
    assert frechet(a, b, weights) == pytest.approx(frechet(twice, b), rel=1e-6)
    biased, fair = kernel_distance(twice, b), float(Kernels.of(a, b).distance(weights[None], torch.ones(1, 25)))
    without = float(Kernels.of(a, b).distance((weights > 0)[None], torch.ones(1, 25)))
    assert abs(fair - without) < abs(biased - without)


def test_the_kernel_distance_is_not_biased_by_few_photos():
    """Two halves of one set lie around 0 apart, where the Frechet distance tells how few they are."""
    values = []
    for seed in range(40):
        x = torch.randn(24, 16, generator=torch.Generator().manual_seed(seed))
        values.append((kernel_distance(x[:12], x[12:]), frechet(x[:12], x[12:])))
    kernel, gauss = torch.tensor(values).T
    assert abs(kernel.mean()) < 2 * kernel.std() / 40**0.5 and gauss.mean() > 5 * gauss.std() / 40**0.5


def test_people_are_redrawn_whole():
    drawn = redrawn(["b", "a", "a"], 50)
    assert list(drawn) == ["a", "b"] and torch.equal(drawn["a"] + drawn["b"], torch.full((50,), 2))
    assert len(set(drawn["a"].tolist())) == 3
