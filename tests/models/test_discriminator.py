"""The discriminator: recorded logits and R1 derivatives, published sizes, groups, features."""

import pytest
import recorded
import torch

from hyperinverter.models.stylegan2 import Discriminator
from hyperinverter.models.stylegan2.discriminator import minibatch_std

SMALL = {"resolution": 16, "channel_base": 128, "channel_max": 8}


@recorded.needed
@pytest.mark.parametrize("name", ["nv_d32_resnet", "nv_d32_resnet_b2", "nv_d32_resnet_b6g3"])
def test_matches_the_recorded_discriminator(name: str) -> None:
    """Logits, input gradients, and R1 with its derivatives to the image and to every parameter."""
    case = recorded.Case(name)
    config = case.info["config"]
    kwargs = config["init_kwargs"]
    discriminator = Discriminator(
        resolution=kwargs["img_resolution"],
        channel_base=kwargs["channel_base"],
        channel_max=kwargs["channel_max"],
        mbstd_group_size=kwargs.get("epilogue_kwargs", {}).get("mbstd_group_size", 4),
        conv_clamp=kwargs.get("conv_clamp"),
    )
    case.fill(discriminator, "D")
    images = case.input("img").requires_grad_()
    logits = discriminator(images)
    case.compare("logits", logits)
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    case.compare("grad_logits_sum_wrt_img", gradient)
    r1 = gradient.square().sum(dim=(1, 2, 3))
    case.compare("r1_per_sample", r1)
    case.compare("r1_mean", r1.mean())
    parameters = [discriminator.get_parameter(key) for key in config["param_order"]]
    second = torch.autograd.grad(r1.mean(), [images, *parameters], allow_unused=True)
    case.compare("grad_r1_mean_wrt_img", second[0])
    norms = [torch.zeros(()) if gradient is None else gradient.norm() for gradient in second[1:]]
    case.compare("grad_r1_mean_param_l2", torch.stack(norms))


@pytest.mark.parametrize(("resolution", "parameters", "keys"), [(1024, 29_012_513, 82), (256, 28_864_129, 64)])
def test_published_sizes(resolution: int, parameters: int, keys: int) -> None:
    with torch.device("meta"):
        discriminator = Discriminator(resolution=resolution)
    assert sum(p.numel() for p in discriminator.parameters()) == parameters
    assert len(discriminator.state_dict()) == keys


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
    with pytest.raises(ValueError, match="mbstd_group_size must be at least 1 or None"):
        Discriminator(**SMALL, mbstd_group_size=0)
