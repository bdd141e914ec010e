"""The benchmark's rendering of the released way: images, logits and gradients as ours, by the steps of the release."""

import pytest
import torch
from torch import Tensor

from hyperinverter.config.schema import DomainConfig
from hyperinverter.models.build import build_discriminator
from hyperinverter.models.hyperinverter import HyperInverterNetwork
from hyperinverter.reports.benchmark import release_networks
from hyperinverter.reports.benchmark.clock import Rounds
from hyperinverter.reports.benchmark.counting import count_generators
from hyperinverter.reports.benchmark.release import Release, ReleaseTraining
from hyperinverter.reports.benchmark.sides import make_model, random_network, with_hidden_size
from hyperinverter.reports.benchmark.training import make_losses, measure_training
from hyperinverter.utils.errors import UserError

CPU = torch.device("cpu")
ONCE = Rounds(most=1, least=1, seconds=1)
RESNET = {"trunk": "resnet", "stem_stride": 2, "depths": [1, 2, 1, 1], "strides": [1, 1, 1, 1]}


@pytest.fixture(params=["ir_se", "resnet", "torgb_left_out", "signed"])
def domain(request: pytest.FixtureRequest, tiny_domain: DomainConfig) -> DomainConfig:
    """16 px with either trunk, all or fewer target layers, and maps that E2 has to enlarge."""
    domain = with_hidden_size(tiny_domain, 4)
    if request.param == "resnet":
        for encoder in (domain.w_encoder, domain.layerwise_encoder):
            for key, value in RESNET.items():
                setattr(encoder, key, value)
    else:
        domain.layerwise_encoder.input_size, domain.layerwise_encoder.strides = 32, [1, 2, 1, 2]
    if request.param == "torgb_left_out":
        domain.hypernetwork.target_set = "conv_without_bias_without_torgb"
    if request.param == "signed":
        domain.hypernetwork.token_range = "signed"
    return domain


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / (b.max() - b.min())).item()


def test_reference_draws_the_same_images(domain: DomainConfig):
    """On the same weights: Phase I image, residuals and reconstruction, for a batch whose images differ."""
    torch.manual_seed(0)
    network = random_network(domain).eval()
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        theirs, ours = Release(network, domain, 3)(images), network(images)
        residuals = network.hypernetwork.decode(ours.tokens)
    assert relative(theirs.w_image, ours.w_image) < 1e-5
    assert relative(theirs.reconstruction, ours.reconstruction) < 1e-5
    assert theirs.residuals.keys() == residuals.keys()
    assert all(relative(theirs.residuals[name], residuals[name]) < 1e-4 for name in residuals)
    changed = relative(ours.w_image, ours.reconstruction)
    assert changed > 1e-2, "Phase II must change the image, or agreement would say nothing about it"


def test_reference_has_one_generator_per_image(tiny_domain: DomainConfig):
    network = random_network(tiny_domain)
    held = [Release(network, tiny_domain, n).generator_bytes() for n in (1, 4)]
    assert held[1] == 4 * held[0]
    counted = count_generators(tiny_domain, [1, 4])
    assert counted["reference"] == {"1": held[0] / 2**20, "4": held[1] / 2**20}
    assert count_generators(tiny_domain, [1], reference=False)["reference"] == {}
    # ours holds the weights and what was prepared of the convolutions, whatever the batch
    assert counted["ours"]["1"] == counted["ours"]["4"]
    assert held[0] / 2**20 < counted["ours"]["1"] < 2.5 * held[0] / 2**20


def test_what_a_generator_keeps_per_image_is_counted(tiny_domain: DomainConfig, monkeypatch):
    synthesise = HyperInverterNetwork.synthesise

    def keeping(self, ws, residuals, noise_mode="const", resolution=None):
        images = synthesise(self, ws, residuals, noise_mode, resolution)
        self.generator.synthesis.b16.last = {"images": [images]}
        return images

    monkeypatch.setattr(HyperInverterNetwork, "synthesise", keeping)
    ours = count_generators(tiny_domain, [1, 4])["ours"]
    assert ours["4"] - ours["1"] == pytest.approx(3 * 3 * 16 * 16 * 4 / 2**20)


@pytest.mark.parametrize("batch", [2, 4])
def test_reference_discriminator_gives_the_same_logits(tiny_domain: DomainConfig, batch: int):
    torch.manual_seed(0)
    network = build_discriminator(tiny_domain)
    weights = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    images = torch.randn(batch, 3, 16, 16)
    theirs = release_networks.discriminator(weights, images, 16, tiny_domain.discriminator.mbstd_group_size)
    torch.testing.assert_close(theirs, network(images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("phase", ["phase2", "phase2_adversarial"])
def test_training_steps_agree(tiny_domain: DomainConfig, phase: str):
    """Loss and every gradient of the first step; the frozen generators' wasted gradients are the release's alone."""
    model = make_model(tiny_domain)
    result = measure_training(phase, model, 4, ["reference", "fp32"], ONCE, CPU)["sides"]
    assert result["fp32"]["loss_difference"] < 1e-5 and result["fp32"]["gradient_difference"] < 1e-4
    assert ("discriminator" in result["fp32"]["stages"]) == (phase == "phase2_adversarial")


def test_reference_keeps_the_decoders_gradients(tiny_domain: DomainConfig):
    training = ReleaseTraining(random_network(tiny_domain), tiny_domain, make_losses(tiny_domain), 2)
    training.step(torch.randn(2, 3, 16, 16).clamp(-1, 1))
    assert all(weights["b8.conv0.weight"].grad is not None for weights in training.release.decoders)
    assert training.release.e1["linear.weight"].grad is None


def test_reference_freezes_d_but_for_its_own_update(tiny_domain: DomainConfig, monkeypatch: pytest.MonkeyPatch):
    """The encoders' backward pass also computed gradients for D's weights, which the released code does not."""
    network, d = random_network(tiny_domain), build_discriminator(tiny_domain)
    training = ReleaseTraining(network, tiny_domain, make_losses(tiny_domain), 2, d, 1.0, 1.0)
    before_update, update = [], training._update_D

    def noting(loss: Tensor) -> None:
        before_update.append([value.grad for value in training.d.values() if value.requires_grad])
        update(loss)

    monkeypatch.setattr(training, "_update_D", noting)
    training.step(torch.randn(2, 3, 16, 16).clamp(-1, 1), with_r1=True)
    assert len(before_update) == 2 and len(before_update[0]) > 10
    assert before_update[0] == [None] * len(before_update[0])
    assert not any(value.requires_grad for value in training.d.values())


def test_a_network_that_the_release_does_not_have_is_refused(tiny_domain: DomainConfig):
    other = with_hidden_size(tiny_domain, 4)
    other.hypernetwork.weight_layout = "paper"
    with pytest.raises(UserError, match=r"weight_layout.*leave `reference` out"):
        Release(random_network(other), other, 1)
