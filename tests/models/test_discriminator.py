"""The discriminator: published sizes, variants, groups, features.

Recorded logits and R1 derivatives are in tests/pretrained/test_published_stylegan2.py.
"""

from dataclasses import asdict
from itertools import pairwise

import pytest
import torch

from hyperinverter.config.schema import DiscriminatorConfig
from hyperinverter.models.stylegan2 import Discriminator
from hyperinverter.models.stylegan2.discriminator import minibatch_std

SMALL = {"resolution": 16, "channel_base": 128, "channel_max": 8}


@pytest.mark.parametrize(("resolution", "parameters", "keys"), [(1024, 29_012_513, 82), (256, 28_864_129, 64)])
def test_published_sizes(resolution: int, parameters: int, keys: int) -> None:
    with torch.device("meta"):
        discriminator = Discriminator(resolution=resolution)
    assert sum(p.numel() for p in discriminator.parameters()) == parameters
    assert len(discriminator.state_dict()) == keys


def test_the_config_section_is_the_networks_arguments() -> None:
    assert Discriminator(resolution=16).config == {"resolution": 16, **asdict(DiscriminatorConfig())}


def test_config_rebuilds_it() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(**SMALL, mbstd_group_size=2)
    again = Discriminator(**discriminator.config)
    again.load_state_dict(discriminator.state_dict())
    images = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(again(images), discriminator(images))


def test_features_of_every_block_feed_the_logits() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(**SMALL)
    images = torch.randn(4, 3, 16, 16)
    features = discriminator.features(images)
    assert [tuple(f.shape) for f in features] == [(4, 8, 8, 8), (4, 8, 4, 4)]
    torch.testing.assert_close(discriminator.b4(features[-1]), discriminator(images))


def test_minibatch_std_by_definition() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 2, 2)
    for group_size, groups in [(2, [[0, 2], [1, 3]]), (4, [[0, 1, 2, 3]]), (None, [[0, 1, 2, 3]]), (8, [[0, 1, 2, 3]])]:
        std = minibatch_std(x, group_size)
        assert std.shape == (4, 1, 2, 2)
        for members in groups:
            expected = (x[members].var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
            torch.testing.assert_close(std[members], expected.expand(len(members), 1, 2, 2))


def test_minibatch_std_by_parts_of_the_channels() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 6, 2, 2)
    std = minibatch_std(x, 2, 3)
    parts = [minibatch_std(part, 2) for part in x.split(2, dim=1)]
    torch.testing.assert_close(std, torch.cat(parts, dim=1))
    with pytest.raises(ValueError, match="6 channels do not divide into 4 parts"):
        minibatch_std(x, 2, 4)


@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
def test_every_architecture_reads_the_image_where_it_should(architecture: str) -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(**SMALL, architecture=architecture)
    reading = sorted(name for name, _ in discriminator.named_modules() if name.endswith("fromrgb"))
    assert reading == (["b16.fromrgb", "b4.fromrgb", "b8.fromrgb"] if architecture == "skip" else ["b16.fromrgb"])
    sizes = [f.shape[-1] for f in discriminator.features(torch.randn(2, 3, 16, 16))]
    assert all(b == a // 2 for a, b in pairwise([16, *sizes]))


def test_the_condition_is_a_projection() -> None:
    """Logits are linear in the mapped condition; without a condition, or with too few, it says so."""
    torch.manual_seed(0)
    discriminator = Discriminator(**SMALL, c_dim=3, mapping_layers=1)
    images, c = torch.randn(4, 3, 16, 16), torch.eye(3)[[0, 1, 2, 0]]
    assert discriminator(images, c).shape == (4, 1)
    features = discriminator.features(images)[-1]
    cmap = discriminator.mapping(None, c=c)
    doubled = discriminator.b4(features, None, 2 * cmap)
    torch.testing.assert_close(doubled, 2 * discriminator.b4(features, None, cmap))
    first = torch.eye(cmap.shape[1])[:1].expand(4, -1) * cmap.shape[1] ** 0.5  # of unit mean square, as conditions are
    torch.testing.assert_close(discriminator.b4(features, None, first), discriminator.b4(features)[:, :1])
    with pytest.raises(ValueError, match=r"conditional: expected c \[N, 3\], got None"):
        discriminator(images)
    with pytest.raises(ValueError, match="one condition per image, got 3 for 4 images"):
        discriminator(images, c[:3])
    with pytest.raises(ValueError, match=r"takes no condition \(c_dim is 0\)"):
        Discriminator(**SMALL)(images, c)


def test_autocast_stays_close() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(**SMALL)
    images = torch.randn(4, 3, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = discriminator(images)
    torch.testing.assert_close(logits.float(), discriminator(images), rtol=0.05, atol=0.1)
    logits.float().mean().backward()
    assert discriminator.b16.conv0.weight.grad.isfinite().all()


def test_refuses_what_does_not_fit() -> None:
    discriminator = Discriminator(**SMALL, mbstd_group_size=4)
    with pytest.raises(ValueError, match=r"images \[N, 3, 16, 16\] in \[-1, 1\], got \[2, 3, 8, 8\]"):
        discriminator(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match="batch of 6 images does not divide into groups of 4"):
        discriminator(torch.zeros(6, 3, 16, 16))
    with pytest.raises(ValueError, match=r"expected \[N, 1, 16, 16\], got \(2, 3, 16, 16\)"):
        Discriminator(**SMALL, img_channels=1)(torch.zeros(2, 3, 16, 16))
    with pytest.raises(ValueError, match="unknown architecture 'progressive'"):
        Discriminator(**SMALL, architecture="progressive")
    with pytest.raises(ValueError, match="mbstd_group_size must be at least 1 or None"):
        Discriminator(**SMALL, mbstd_group_size=0)
