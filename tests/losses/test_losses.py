"""Losses: known values, the contract of everything in the table, and what build_losses refuses."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hyperinverter.extractors.base import Extractor
from hyperinverter.losses import LOSSES, FeatureLoss, L2Loss, TotalLoss, build_losses
from hyperinverter.losses.adversarial import discriminator_loss, generator_loss, lazy_r1_weight, r1_penalty
from hyperinverter.models.stylegan2 import Discriminator
from hyperinverter.utils.errors import UserError

PX = 16


class TinyExtractor(Extractor):
    """Stands in for every network that is read from a file."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv2d(3, 4, 3)
        self.freeze()

    def features(self, images):
        return F.normalize(self.net(images).flatten(1), dim=1)

    def distance(self, a, b):
        return 1 - (a * b).sum(dim=1)


@pytest.fixture
def no_files(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(Extractor, "find", classmethod(lambda cls: TinyExtractor()))


@pytest.fixture
def discriminator() -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(resolution=PX, channel_base=256, channel_max=16)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", LOSSES)
def test_contract(name, batch, no_files, discriminator):
    losses = build_losses({name: 2.0}, discriminator=discriminator, loss_resolution=PX).train()
    target = torch.rand(batch, 3, PX, PX, requires_grad=True)
    output = (target.detach() + 0.3 * torch.randn_like(target)).requires_grad_()
    total, values = losses(output, target)
    assert list(values) == [name] and not values[name].requires_grad and values[name].ndim == 0
    torch.testing.assert_close(total, 2 * values[name])
    total.backward()
    assert output.grad.abs().sum() > 0 and output.grad.isfinite().all()
    assert target.grad is None and all(p.grad is None for p in [*losses.parameters(), *discriminator.parameters()])
    same, _ = losses(target, target)
    assert abs(same.item()) < 1e-6 < total.item()


def test_l2_is_the_mean_square_in_minus_one_to_one():
    assert L2Loss()(torch.full((2, 3, 4, 4), 0.5), torch.zeros(2, 3, 4, 4)).item() == pytest.approx(0.25)


def test_the_sum_is_weighted_and_zero_weights_need_no_network(no_files):
    losses = build_losses({"l2": 3.0, "mobilefacenet": 0.5, "discriminator_features": 0.0})
    output, target = torch.rand(2, 2, 3, PX, PX)
    total, values = losses(output, target)
    assert set(values) == {"l2", "mobilefacenet"}
    torch.testing.assert_close(total, 3 * values["l2"] + 0.5 * values["mobilefacenet"])


def test_reconstruction_is_measured_at_the_loss_resolution_but_the_discriminator_at_its_own(discriminator):
    losses = build_losses({"l2": 1.0, "discriminator_features": 1.0}, discriminator=discriminator, loss_resolution=4)
    checkerboard = torch.ones(1, 3, PX, PX)
    checkerboard[:, :, ::2, ::2] = checkerboard[:, :, 1::2, 1::2] = -1
    _, values = losses(checkerboard, torch.zeros_like(checkerboard))  # its box mean is 0
    assert values["l2"] == 0 and values["discriminator_features"] > 0


def test_losses_stay_in_float32_under_autocast(no_files):
    losses = build_losses({"l2": 1.0, "lpips": 1.0})
    output, target = torch.rand(2, 2, 3, PX, PX)
    expected, _ = losses(output, target)
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = losses(output, target)
    assert total.dtype == torch.float32 and total == expected


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"lpip": 1.0}, "did you mean lpips"),
        ({"l2": -1.0}, r"loss_weights\.l2 is -1"),
        ({"l2": 0.0}, "nothing to minimise"),
        ({}, "nothing to minimise"),
        ({"discriminator_features": 1.0}, "train_stylegan2"),
    ],
)
def test_refusals_say_what_to_do(weights, message):
    with pytest.raises(UserError, match=message):
        build_losses(weights)


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (2, 1, 16, 16), (3, 16, 16)])
def test_shapes_are_checked_at_the_door(shape):
    losses = TotalLoss({"l2": L2Loss()}, {"l2": 1.0}, 256)
    with pytest.raises(ValueError, match="both be"):
        losses(torch.zeros(shape), torch.zeros(2, 3, 16, 16) if len(shape) == 4 else torch.zeros(shape))


def test_feature_losses_are_means_over_images_at_the_loss_resolution(no_files):
    losses = build_losses({"lpips": 1.0}, loss_resolution=8)
    extractor, seen = losses.losses["lpips"].extractor, []
    features = extractor.features
    extractor.features = lambda images: seen.append(images.shape[-1]) or features(images)
    output, target = torch.rand(2, 3, 3, PX, PX)
    value = losses(output, target)[1]["lpips"]
    assert seen == [8, 8]
    each = [losses(output[i : i + 1], target[i : i + 1])[1]["lpips"] for i in range(3)]
    torch.testing.assert_close(value, torch.stack(each).mean())


def test_the_loss_resolution_is_the_published_one_unless_told_otherwise():
    assert build_losses({"l2": 1.0}).loss_resolution == 256


def test_feature_loss_keeps_no_graph_of_the_target():
    extractor = TinyExtractor()
    seen = []
    features = extractor.features
    extractor.features = lambda images: seen.append(features(images)) or seen[-1]
    FeatureLoss(extractor)(torch.rand(1, 3, 8, 8, requires_grad=True), torch.rand(1, 3, 8, 8, requires_grad=True))
    assert [value.requires_grad for value in seen] == [False, True]


def test_adversarial_losses_by_hand():
    logits = torch.tensor([[2.0], [-1.0]])
    assert generator_loss(logits).item() == pytest.approx((F.softplus(torch.tensor([-2.0, 1.0]))).mean().item())
    zero = torch.zeros(4, 1)
    assert discriminator_loss(zero, zero).item() == pytest.approx(2 * torch.tensor(2.0).log().item())
    assert discriminator_loss(zero, zero, halved=True).item() == pytest.approx(torch.tensor(2.0).log().item())
    sure = torch.full((2, 1), 30.0)
    assert discriminator_loss(sure, -sure).item() < 1e-6 < generator_loss(-sure).item()


@pytest.mark.parametrize(
    ("gamma", "every", "step", "weight"),
    [
        (10.0, 16, 0, 80.0),  # faces and churches as published
        (100.0, 16, 32, 800.0),
        (10.0, 16, 15, 0.0),
        (10.0, 16, 17, 0.0),
        (3.0, 1, 7, 1.5),
        (0.5, 8, 8, 2.0),
        (0.0, 16, 0, 0.0),
        (10.0, 0, 0, 0.0),
    ],
)
def test_lazy_r1_is_weighted_with_its_interval(gamma, every, step, weight):
    """Issue 17, 8: without the factor every test passed, and R1 was 16 times too weak."""
    assert lazy_r1_weight(gamma, every, step) == weight


def test_r1_of_a_linear_critic_is_its_squared_weight():
    weight = torch.randn(3 * PX * PX)
    images = torch.rand(2, 3, PX, PX, requires_grad=True)
    penalty = r1_penalty(images, images.flatten(1) @ weight[:, None])
    assert penalty.item() == pytest.approx(weight.square().sum().item(), rel=1e-5)
    with pytest.raises(ValueError, match="requires_grad_"):
        r1_penalty(images.detach(), penalty)


def test_r1_trains_the_discriminator(discriminator):
    images = torch.rand(2, 3, PX, PX, requires_grad=True)
    r1_penalty(images, discriminator(images)).backward()
    assert discriminator.b16.conv0.weight.grad.abs().sum() > 0


def test_all_missing_networks_are_told_at_once_with_a_way_out(monkeypatch):
    def missing(_):
        raise UserError("net.npz was not found")

    monkeypatch.setitem(LOSSES, "squeezenet_features", missing)
    with pytest.raises(UserError) as error:
        build_losses({"l2": 1.0, "squeezenet_features": 0.8, "discriminator_features": 0.5})
    told = str(error.value)
    assert "loss_weights.squeezenet_features: net.npz was not found" in told
    assert "loss_weights.discriminator_features: needs the domain's discriminator" in told
    assert "'loss_weights={l2: 1.0, discriminator_features: 0.5}'" in told
