"""Three recorded Phase II steps of the published code, repeated through ours: gradients, losses, images afterwards."""

import numpy as np
import pytest
import recorded
import torch
from torch.nn.functional import adaptive_avg_pool2d

from hyperinverter.config.schema import OptimizerConfig
from hyperinverter.extractors.identity import Moco
from hyperinverter.extractors.perceptual import Lpips
from hyperinverter.losses import FeatureLoss, L2Loss, TotalLoss
from hyperinverter.published import from_published
from hyperinverter.training import phase2
from hyperinverter.training.optim import backward_and_step, build_optimizer


class Recorded:
    """Networks and losses of a recorded case, read as its checkpoint."""

    def __init__(self, name) -> None:
        self.case = case = recorded.Case(name)
        self.opts = opts = case.info["config"]["opts"]
        generator = case.state("generator")
        self.model = from_published(case.release(), "hyperinverter", generator=generator, discriminator=True).train()
        self.D = self.model.published.others["discriminator"]
        lpips, moco = Lpips(case.state("lpips_alex")), Moco(case.state("moco_resnet50"))
        parts = {"l2": L2Loss(), "lpips": FeatureLoss(lpips), "moco": FeatureLoss(moco)}
        weights = {"l2": opts["hyper_l2_lambda"], "lpips": opts["hyper_lpips_lambda"], "moco": opts["hyper_id_lambda"]}
        self.total = TotalLoss(parts, weights, loss_resolution=256)

    def losses(self, output, target):
        """The published pooling to 256 px repeats the pixels of a 64 px image."""
        return self.total(adaptive_avg_pool2d(output, 256), adaptive_avg_pool2d(target, 256))

    def check(self, name, value, tolerance=1e-9):
        """Against the float32 record as it states, and against the float64 one in parts of its largest number."""
        entry = self.case.info["tensors"][name]
        sample = value.detach().flatten()[:: entry["stride"]].numpy()
        stated = self.case.arrays[name].flatten()
        np.testing.assert_allclose(sample, stated, rtol=0, atol=entry["atol"], err_msg=name)
        wanted = self.case.arrays[f"{name}.f64"].flatten()
        np.testing.assert_allclose(sample, wanted, rtol=0, atol=tolerance * np.abs(wanted).max(), err_msg=name)

    def check_first_step(self, images, fakes):
        """Images before the first update, and every gradient of it."""
        with torch.no_grad():
            w = self.model.encode(images)[:, None].repeat(1, self.model.generator.num_ws, 1)
            self.check("step0_w_image", self.model.render(w))
        self.check("step0_final", fakes)
        published = {"w_bar_encoder": self.model.layerwise_encoder, "hypernet": self.model.hypernetwork}
        gradients = {f"{k}.{n}": p.grad for k, net in published.items() for n, p in net.named_parameters()}
        order = self.case.info["config"]["param_order"]
        assert set(order) == set(gradients)
        self.check("step0_grad_l2", torch.stack([gradients[name].norm() for name in order]))
        self.check("step0_grad_e2_first_conv", gradients[order[0]])
        for name in self.case.info["tensors"]:
            if name.startswith("step0_grad."):
                self.check(name, gradients[name.removeprefix("step0_grad.")])


@pytest.mark.slow
@pytest.mark.timeout(3600)  # two minutes of one core alone, far more beside other work
@pytest.mark.parametrize("name", recorded.names("train_.*"))
def test_three_published_steps_in_float64(name, monkeypatch):
    """The encoder step alone, with D, and with D and R1. In float64, because a difference in the last float32
    digit grows a thousandfold in three Adam steps (the record allows 0.05), while without rounding nothing may differ.
    """
    r = Recorded(name)
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
            r.check_first_step(images, fakes)
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
