"""Identity, MoCo, LPIPS and L2 against recorded outputs of the published losses."""

import pytest
import torch
from recorded import Case, mostly_slow, names

from hyperinverter.extractors.base import Embedding
from hyperinverter.extractors.identity import ArcFace, Moco
from hyperinverter.extractors.perceptual import Lpips
from hyperinverter.losses import FeatureLoss, L2Loss


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
    if "grad_y_hat_l2" in case.info["tensors"]:
        case.compare("grad_y_hat_l2", output.grad.norm())


def compare_features(case: Case, extractor: Embedding) -> dict[str, torch.Tensor]:
    """Unit features of output, target and input, and the cosines that the published losses report beside the loss."""
    pictures = {"y_hat": images(case)[0], "y": case.input("y"), "x": case.input("x")}
    features = {name: extractor.features(picture) for name, picture in pictures.items()}
    for name, value in features.items():
        case.compare(f"feats_{name}", value)
    target = (features["y_hat"] * features["y"]).sum(1)
    views = (features["y"] * features["x"]).sum(1)
    case.compare("diff_target", target)
    case.compare("diff_input", (features["y_hat"] * features["x"]).sum(1))
    case.compare("diff_views", views)
    case.compare("sim_improvement", (target - views).mean())
    return features


@pytest.mark.parametrize("name", names("loss_l2.*"))
def test_l2(name):
    check_loss_and_gradient(Case(name), L2Loss(), "loss")


@pytest.mark.slow
@pytest.mark.parametrize("name", names("loss_id.*"))
def test_identity(name):
    case = Case(name)
    arcface = ArcFace(case.state())
    with torch.no_grad():
        compare_features(case, arcface)
        faces = torch.nn.functional.normalize(arcface.net(case.input("aligned112")), dim=1)
        case.compare("backbone_112", faces)
    check_loss_and_gradient(case, FeatureLoss(arcface), "loss")


@pytest.mark.slow
@pytest.mark.parametrize("name", names("loss_moco.*"))
def test_moco(name):
    case = Case(name)
    moco = Moco({"state_dict": {f"module.encoder_q.{key}": value for key, value in case.state().items()}})
    with torch.no_grad():
        features = compare_features(case, moco)["y"]
        single = moco.features(case.input("y")[:1])  # the published code cannot take a batch of one
    torch.testing.assert_close(single, features[:1], atol=1e-5, rtol=0)
    check_loss_and_gradient(case, FeatureLoss(moco), "loss")


@pytest.mark.parametrize("name", mostly_slow("loss_lpips_.*", "loss_lpips_alex"))
def test_lpips(name):
    case = Case(name)
    lpips = Lpips(case.state(), name.split("_")[2])
    output, target = images(case)
    with torch.no_grad():
        ours, theirs = lpips.features(output), lpips.features(target)
        for i, maps in enumerate(ours):
            case.compare(f"unit_feature_{i}", maps)
        heads = lpips.net.heads
        layers = [((a - b).square() * w).sum(1).mean((1, 2)) for a, b, w in zip(ours, theirs, heads, strict=True)]
        case.compare("per_sample_per_layer", torch.stack(layers, dim=1))
    check_loss_and_gradient(case, FeatureLoss(lpips), "lpips_batch")
