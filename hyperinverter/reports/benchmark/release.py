"""`reference`: the released code's way through the method, on our weights, in our process.

One deep copy of the generator per image of a batch, each drawing one image in a Python loop; dense residuals for every
image; E2 called once for the inputs and once for the Phase I images; the hypernetworks one after the other; separate
discriminator passes; and gradients for the frozen generators, which nothing switches off.

Source: the description of VinAIResearch/HyperInverter (3966220); see `release_networks`.
Letters: N images, R pixels, L styles.
"""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperinverter.config.schema import DomainConfig
from hyperinverter.losses import TotalLoss
from hyperinverter.models.hyperinverter import HyperInverterNetwork
from hyperinverter.models.hypernetwork import regressor_name
from hyperinverter.models.stylegan2 import Discriminator
from hyperinverter.reports.benchmark import release_networks as networks
from hyperinverter.reports.benchmark.clock import UNHEARD, Laps
from hyperinverter.utils.errors import UserError

Weights = dict[str, Tensor]


@dataclass
class ReleaseOutput:
    """Phase I images and reconstructions [N, 3, R, R], residuals by layer [N, O, I, k, k]."""

    w_image: Tensor
    reconstruction: Tensor
    residuals: Weights


class Release:
    """The released forward pass and its networks.

    Args:
        network: gives the weights; dense convolution weights are copied into the released memory order, other tensors
            are shared unless `trains`.
        batch_size: largest N; as many generators are held.
        trains: copy everything and let what the released code trains (and what it forgets to freeze) need gradients.
    Raises:
        UserError: a network that the released code does not have.
    """

    def __init__(
        self, network: HyperInverterNetwork, domain: DomainConfig, batch_size: int, *, trains: bool = False
    ) -> None:
        _check(domain)
        self.domain, self.trains = domain, trains
        self.e1 = _weights(network.w_encoder, trains)
        self.e2 = _weights(network.layerwise_encoder, trains)
        self.regressors: dict[str, tuple[Weights, int, tuple[int, ...]]] = {}
        for name, target in network.hypernetwork.targets.items():
            module = network.hypernetwork.weight_regressors[regressor_name(name)]
            self.regressors[name] = (_weights(module, trains), network.hypernetwork.style_indices[name], target.shape)
        generator = _weights(network.generator.synthesis, trains)
        self.w_avg, self.num_ws = network.generator.mapping.w_avg.detach(), network.generator.num_ws
        if trains:
            for weights in (self.e2, *(weights for weights, _, _ in self.regressors.values())):
                _require_gradients(weights)
            _require_gradients(generator)  # never switched off in the release
        self.decoders = [copy.deepcopy(generator) for _ in range(batch_size)]

    def trained(self) -> list[Tensor]:
        """What the released optimiser updates: E2 and the hypernetworks."""
        groups = [self.e2, *(weights for weights, _, _ in self.regressors.values())]
        return [value for weights in groups for value in weights.values() if value.requires_grad]

    def generator_bytes(self) -> int:
        """Memory of the generators held."""
        return sum(value.nbytes for weights in self.decoders for value in weights.values())

    def __call__(self, images: Tensor, watch: Laps = UNHEARD) -> ReleaseOutput:
        """Images [N, 3, R, R] in [-1, 1], N at most `batch_size`."""
        domain, res = self.domain, self.domain.resolution
        small = networks.resize(images, domain.w_encoder.input_size)
        with torch.no_grad():
            w = networks.w_encoder(self.e1, small, domain.w_encoder) + self.w_avg
        ws = w[:, None].repeat(1, self.num_ws, 1)
        watch.lap("w_encoder")
        with torch.no_grad():
            w_image = networks.synthesis(self.decoders[0], ws, res)
        watch.lap("first_synthesis")
        size = domain.layerwise_encoder.input_size
        small = small if size == domain.w_encoder.input_size else networks.resize(images, size)
        h = networks.layerwise_encoder(self.e2, small, domain.layerwise_encoder, self.trains)
        small = networks.resize(w_image, size)
        h_w = networks.layerwise_encoder(self.e2, small, domain.layerwise_encoder, self.trains)
        watch.lap("layerwise_encoder")
        signed = domain.hypernetwork.token_range == "signed"
        residuals = {
            name: networks.weight_regressor(weights, h_w[:, index], h[:, index], shape, signed)
            for name, (weights, index, shape) in self.regressors.items()
        }
        watch.lap("hypernetworks")
        drawn = []
        for number in range(len(images)):
            own = {name: value[number] for name, value in residuals.items()}
            drawn.append(networks.synthesis(self.decoders[number], ws[number : number + 1], res, own)[0])
        reconstruction = torch.stack(drawn)
        watch.lap("second_synthesis")
        return ReleaseOutput(w_image, reconstruction, residuals)


class ReleaseTraining:
    """The released Phase II step: encoder update, then D's update on the same fakes, R1 in an update of its own.

    Args:
        network: where the weights come from; copied.
        losses: reconstruction losses (frozen networks); shared with ours, as they are equal.
        discriminator: None trains without the adversarial term.
        r1_weight: gamma / 2 times the interval.
    """

    def __init__(
        self,
        network: HyperInverterNetwork,
        domain: DomainConfig,
        losses: TotalLoss,
        batch_size: int,
        discriminator: Discriminator | None = None,
        adversarial_weight: float = 0.0,
        r1_weight: float = 0.0,
    ) -> None:
        self.release = Release(network, domain, batch_size, trains=True)
        self.losses, self.adversarial_weight, self.r1_weight = losses, adversarial_weight, r1_weight
        self.trained = self.release.trained()
        # published: Adam at 1e-4 for both, betas 0.9 and 0.999
        self.optimizer = torch.optim.Adam(self.trained, lr=1e-4)
        self.d: Weights | None = None
        if discriminator is not None:
            self.d = _require_gradients(_weights(discriminator, copied=True))
            self.group_size = domain.discriminator.mbstd_group_size
            self.optimizer_D = torch.optim.Adam([v for v in self.d.values() if v.requires_grad], lr=1e-4)
            _require_gradients(self.d, False)  # published: D is frozen but for its own update

    def step(self, images: Tensor, watch: Laps = UNHEARD, *, with_r1: bool = False) -> Tensor:
        """Update on images [N, 3, R, R]; returns the encoder's loss.

        `with_r1`: also the lazy R1 update, as every 16th step does.
        """
        fakes = self.release(images).reconstruction
        loss, _ = self.losses(fakes, images)
        if self.d is not None:
            loss = loss + self.adversarial_weight * F.softplus(-self._logits(fakes)).mean()
        watch.lap("forward")
        self.optimizer.zero_grad()
        loss.backward()
        watch.lap("backward")
        self.optimizer.step()
        watch.lap("optimiser")
        if self.d is not None:
            _require_gradients(self.d)
            real, fake = self._logits(images), self._logits(fakes.detach())
            loss_D = (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2
            self._update_D(loss_D)
            if with_r1 and self.r1_weight:
                reals = images.detach().requires_grad_(True)
                logits = self._logits(reals)
                (gradient,) = torch.autograd.grad(logits.sum(), reals, create_graph=True)
                penalty = gradient.square().sum(dim=(1, 2, 3)).mean()
                self._update_D(penalty * self.r1_weight + 0 * logits[0].sum())
            _require_gradients(self.d, False)
            watch.lap("discriminator")
        return loss.detach()

    def _logits(self, images: Tensor) -> Tensor:
        return networks.discriminator(self.d, images, self.release.domain.resolution, self.group_size)

    def _update_D(self, loss: Tensor) -> None:
        self.optimizer_D.zero_grad()
        loss.backward()
        self.optimizer_D.step()


def _weights(module: nn.Module, copied: bool) -> Weights:
    """Parameters and buffers by their published names, in the usual memory order."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    plain = {name: value.detach().contiguous() for name, value in tensors.items()}
    return {name: value.clone() for name, value in plain.items()} if copied else plain


def _require_gradients(weights: Weights, wanted: bool = True) -> Weights:
    """Switch gradients on or off for parameters (buffers have these names)."""
    buffers = ("running_mean", "running_var", "num_batches_tracked", "resample_filter", "noise_const", "w_avg")
    for name, value in weights.items():
        if not name.endswith(buffers):
            value.requires_grad_(wanted)
    return weights


def _check(domain: DomainConfig) -> None:
    g, h, d = domain.generator, domain.hypernetwork, domain.discriminator
    plain = ("skip", "lrelu", None, 0)
    faults = []
    if (g.architecture, g.activation, g.conv_clamp, g.c_dim) != plain:
        faults.append("generator: another architecture, activation, clamp or condition than the released one")
    if (d.architecture, d.activation, d.conv_clamp, d.c_dim) != ("resnet", "lrelu", None, 0):
        faults.append("discriminator: another architecture, activation, clamp or condition than the released one")
    if h.weight_layout != "released" or not h.use_w_image_features or h.passes > 1:
        faults.append("hypernetwork: another weight_layout, no features of the Phase I image, or several passes")
    if faults:
        raise UserError(
            f"the released code has no such networks ({'; '.join(faults)}); leave `reference` out of `sides` to "
            f"measure this domain alone"
        )
