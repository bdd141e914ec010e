"""Identity, MoCo, LPIPS and L2 against recorded outputs of the published losses; skipped where those are absent."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hyperinverter.extractors.arcface import ArcFace
from hyperinverter.extractors.lpips import Lpips
from hyperinverter.extractors.moco import Moco
from hyperinverter.losses import FeatureLoss, L2Loss

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="recorded outputs (../shared/golden) are absent")


class Case:
    """One recorded case: its rebuilt inputs and weights, and the comparison with what was recorded."""

    def __init__(self, name: str) -> None:
        spec = importlib.util.spec_from_file_location("fill", GOLDEN / "fill.py")
        fill = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(fill)
        self.info = json.loads((GOLDEN / f"{name}.json").read_text())
        self.recorded = np.load(GOLDEN / f"{name}.npz", allow_pickle=False)
        seed = self.info["seed"]
        entries = self.info["inputs"].items()
        self.inputs = {key.split(".")[1]: torch.from_numpy(fill.make_input(entry, seed)) for key, entry in entries}
        self.state = {}
        for entry in self.info["fills"].values():
            values = fill.fill_table(GOLDEN / entry["table"], seed)
            self.state.update({key: torch.from_numpy(np.asarray(value)) for key, value in values.items()})

    def images(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(output that requires gradients, target)."""
        target = self.inputs["y"]
        return (target + self.inputs["noise"]).requires_grad_(), target

    def check(self, name: str, value: torch.Tensor) -> None:
        entry = self.info["tensors"][name]
        value = value.detach().double().numpy()
        assert list(value.shape) == entry["shape"], name
        sample = value.reshape(-1)[:: entry["stride"]]
        worst = np.abs(sample - self.recorded[name].reshape(-1)).max()
        assert worst <= entry["atol"], f"{name}: off by {worst:.3g}, allowed {entry['atol']:.3g}"
        assert np.linalg.norm(value) == pytest.approx(entry["l2"], rel=1e-4, abs=entry["atol"])


def check_loss_and_gradient(case: Case, loss: torch.nn.Module, name: str) -> None:
    output, target = case.images()
    value = loss(output, target)
    case.check(name, value)
    value.backward()
    case.check("grad_y_hat", output.grad)


def test_l2():
    check_loss_and_gradient(Case("loss_l2"), L2Loss(), "loss")


@pytest.mark.slow
def test_identity():
    case = Case("loss_id")
    arcface = ArcFace(case.state)
    with torch.no_grad():
        case.check("feats_y", arcface.features(case.inputs["y"]))
        case.check("feats_x", arcface.features(case.inputs["x"]))
        faces = torch.nn.functional.normalize(arcface.net(case.inputs["aligned112"]), dim=1)
        case.check("backbone_112", faces)
    check_loss_and_gradient(case, FeatureLoss(arcface), "loss")


@pytest.mark.slow
def test_moco():
    case = Case("loss_moco")
    moco = Moco({"state_dict": {f"module.encoder_q.{key}": value for key, value in case.state.items()}})
    with torch.no_grad():
        features = moco.features(case.inputs["y"])
        case.check("feats_y", features)
        single = moco.features(case.inputs["y"][:1])  # the published code cannot take a batch of one
    torch.testing.assert_close(single, features[:1], atol=1e-5, rtol=0)
    check_loss_and_gradient(case, FeatureLoss(moco), "loss")


@pytest.mark.parametrize("net", ["alex", pytest.param("vgg", marks=pytest.mark.slow)])
def test_lpips(net):
    case = Case(f"loss_lpips_{net}")
    prefix = "net.layers."
    backbone = {f"features.{k.removeprefix(prefix)}": v for k, v in case.state.items() if k.startswith(prefix)}
    lpips = Lpips(backbone, net)
    for i, head in enumerate(lpips.model.lins):  # the case fills the heads too
        head.model[-1].weight.copy_(case.state[f"lin.{i}.1.weight"])
    output, _ = case.images()
    with torch.no_grad():
        for i, maps in enumerate(lpips.features(output)):
            case.check(f"unit_feature_{i}", maps)
    check_loss_and_gradient(case, FeatureLoss(lpips), "lpips_batch")
