"""Identity, MoCo, LPIPS and L2 against recorded outputs of the published losses; skipped where those are absent."""

import pytest
import torch
from recorded import Case, needed

from hyperinverter.extractors.arcface import ArcFace
from hyperinverter.extractors.lpips import Lpips
from hyperinverter.extractors.moco import Moco
from hyperinverter.losses import FeatureLoss, L2Loss

pytestmark = needed


def images(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """(output that requires gradients, target)."""
    target = case.input("y")
    return (target + case.input("noise")).requires_grad_(), target


def check_loss_and_gradient(case: Case, loss: torch.nn.Module, name: str) -> None:
    output, target = images(case)
    value = loss(output, target)
    case.compare(name, value)
    value.backward()
    case.compare("grad_y_hat", output.grad)


def test_l2():
    check_loss_and_gradient(Case("loss_l2"), L2Loss(), "loss")


@pytest.mark.slow
def test_identity():
    case = Case("loss_id")
    arcface = ArcFace(case.state())
    with torch.no_grad():
        case.compare("feats_y", arcface.features(case.input("y")))
        case.compare("feats_x", arcface.features(case.input("x")))
        faces = torch.nn.functional.normalize(arcface.net(case.input("aligned112")), dim=1)
        case.compare("backbone_112", faces)
    check_loss_and_gradient(case, FeatureLoss(arcface), "loss")


@pytest.mark.slow
def test_moco():
    case = Case("loss_moco")
    moco = Moco({"state_dict": {f"module.encoder_q.{key}": value for key, value in case.state().items()}})
    with torch.no_grad():
        features = moco.features(case.input("y"))
        case.compare("feats_y", features)
        single = moco.features(case.input("y")[:1])  # the published code cannot take a batch of one
    torch.testing.assert_close(single, features[:1], atol=1e-5, rtol=0)
    check_loss_and_gradient(case, FeatureLoss(moco), "loss")


@pytest.mark.parametrize("net", ["alex", pytest.param("vgg", marks=pytest.mark.slow)])
def test_lpips(net):
    case = Case(f"loss_lpips_{net}")
    state, prefix = case.state(), "net.layers."
    backbone = {f"features.{k.removeprefix(prefix)}": v for k, v in state.items() if k.startswith(prefix)}
    lpips = Lpips(backbone, net)
    for i, head in enumerate(lpips.model.lins):  # the case fills the heads too
        head.model[-1].weight.copy_(state[f"lin.{i}.1.weight"])
    output, _ = images(case)
    with torch.no_grad():
        for i, maps in enumerate(lpips.features(output)):
            case.compare(f"unit_feature_{i}", maps)
    check_loss_and_gradient(case, FeatureLoss(lpips), "lpips_batch")
