"""Three recorded Phase II steps of the published code, repeated through ours: gradients, losses, images afterwards."""

import numpy as np
import pytest
import recorded
import torch
from torch.nn.functional import adaptive_avg_pool2d

from hyperinverter.config.schema import (
    DiscriminatorConfig,
    DomainConfig,
    EncoderConfig,
    HypernetworkConfig,
    LayerwiseEncoderConfig,
    OptimizerConfig,
)
from hyperinverter.extractors.lpips import Lpips
from hyperinverter.extractors.moco import Moco
from hyperinverter.losses import FeatureLoss, L2Loss, TotalLoss
from hyperinverter.models.build import build_discriminator, build_hyperinverter
from hyperinverter.training import phase2
from hyperinverter.training.optim import backward_and_step, build_optimizer

RESNET34 = {"trunk": "resnet", "depths": [3, 4, 6, 3], "strides": [1, 2, 2, 2], "stem_stride": 2}


def frozen_networks(lpips_state, moco_state):
    """LPIPS (backbone and linear heads) and MoCo with recorded weights under their publishers' names."""
    prefix = "net.layers."
    backbone = {f"features.{k.removeprefix(prefix)}": v for k, v in lpips_state.items() if k.startswith(prefix)}
    lpips = Lpips(backbone)
    for i, head in enumerate(lpips.model.lins):
        head.model[-1].weight.copy_(lpips_state[f"lin.{i}.1.weight"])
    return lpips, Moco(moco_state)


class Recorded:
    """Networks and losses of the recorded case, filled."""

    def __init__(self) -> None:
        self.case = case = recorded.Case("train_church64")
        self.opts = opts = case.info["config"]["opts"]
        domain = DomainConfig(
            resolution=64,
            w_encoder=EncoderConfig(**RESNET34),
            layerwise_encoder=LayerwiseEncoderConfig(**RESNET34),
            discriminator=DiscriminatorConfig(channel_base=2048, channel_max=64),
            hypernetwork=HypernetworkConfig(hidden_size=opts["hidden_dim"]),
        )
        self.model, self.D = build_hyperinverter(domain).train(), build_discriminator(domain)
        networks = {
            "generator": self.model.generator,
            "w_encoder": self.model.w_encoder,
            "w_bar_encoder": self.model.layerwise_encoder,
            "hypernet": self.model.hypernetwork,
            "discriminator": self.D,
        }
        for name, network in networks.items():
            case.fill(network, name)
        states = (case.state(name) for name in ("lpips_alex", "moco_resnet50"))
        lpips, moco = frozen_networks(*states)
        parts = {"l2": L2Loss(), "lpips": FeatureLoss(lpips), "moco": FeatureLoss(moco)}
        weights = {"l2": opts["hyper_l2_lambda"], "lpips": opts["hyper_lpips_lambda"], "moco": opts["hyper_id_lambda"]}
        self.total = TotalLoss(parts, weights, loss_resolution=256)

    def losses(self, output, target):
        """The published pooling to 256 px repeats the pixels of a 64 px image."""
        return self.total(adaptive_avg_pool2d(output, 256), adaptive_avg_pool2d(target, 256))

    def check(self, name, value, tolerance=1e-9):
        """Against the float64 record, in parts of its largest number."""
        sample = value.detach().flatten()[:: self.case.info["tensors"][name]["stride"]].numpy()
        wanted = self.case.arrays[f"{name}.f64"].flatten()
        np.testing.assert_allclose(sample, wanted, rtol=0, atol=tolerance * np.abs(wanted).max(), err_msg=name)


@pytest.mark.slow
@pytest.mark.timeout(3600)  # two minutes of one core alone, far more beside other work
def test_three_published_steps_in_float64(monkeypatch):
    """The encoder step alone, with D, and with D and R1. In float64, because a difference in the last float32
    digit grows a thousandfold in three Adam steps (the record allows 0.05), while without rounding nothing may differ.
    """
    r = Recorded()
    monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor)
    r.model.double(), r.D.double(), r.total.double()
    adam = OptimizerConfig(lr=r.opts["encoder_learning_rate"])
    optimizer = build_optimizer(r.model.trainable_parameters(), adam)
    optimizer_D = build_optimizer(r.D.parameters(), adam)
    r.D.requires_grad_(False)
    r1_weight = r.opts["hyper_d_r1_gamma"] / 2 * r.opts["hyper_d_reg_every"]
    rows = []
    for step in range(3):
        images = r.case.input(f"x{step}").double()
        D = r.D if step >= 1 else None
        values, fakes = phase2.encoder_losses(r.model, r.losses, images, D, r.opts["hyper_adv_lambda"])
        backward_and_step(optimizer, values["loss"])
        if step == 0:
            r.check("step0_final", fakes)
            r.check("step0_grad_e2_first_conv", r.model.layerwise_encoder.conv1.weight.grad)
            for key in ("b4_conv1_weight.w2", "b8_torgb_weight.w1", "b16_conv0_weight.feature_extractor.6.weight"):
                gradient = r.model.hypernetwork.weight_regressors.get_parameter(key).grad
                r.check(f"step0_grad.hypernet.weight_regressors.{key}", gradient)
        if D is not None:
            due = step % r.opts["hyper_d_reg_every"] == 0
            off = torch.autocast("cpu", enabled=False)
            more = phase2.discriminator_step(
                D, optimizer_D, images, fakes, r1_weight=r1_weight if due else 0.0, autocast=off
            )
            values |= more
            if due:
                values["r1"] = values["r1"] * r1_weight  # recorded with its weight
        names = ("loss", "l2", "lpips", "moco", "adversarial", "loss_D", "r1")
        rows.append([values[name].item() if name in values else np.nan for name in names])
    expected = np.delete(r.case.arrays["losses.f64"].reshape(3, 8), 4, axis=1)  # without id_improve
    np.testing.assert_allclose(rows, expected, rtol=1e-6)
    r.model.eval()
    with torch.no_grad():
        r.check("after_final", r.model(r.case.input("x0").double()).reconstruction, tolerance=1e-5)
