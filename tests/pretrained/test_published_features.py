"""ArcFace, CurricularFace, MoCo and LPIPS through `from_published`: namings, what is inferred, what is refused.

The numbers are held against recorded outputs in tests/extractors/test_golden_losses.py and, for LPIPS, against the
`lpips` package here.
"""

import warnings

import pytest
import torch
from torch import Tensor, nn

from hyperinverter.models.face_network import FaceNetwork
from hyperinverter.models.lpips_network import TAPS
from hyperinverter.published import from_published
from hyperinverter.utils.errors import UserError

SMALL = {"stem_width": 4, "widths": (4, 6, 8, 10), "depths": (2, 1, 2, 1), "embedding_size": 7}
FACES = {
    "arcface": {**SMALL, "squeeze_excitation": True, "has_affine_embedding": True},
    "curricularface": {**SMALL, "squeeze_excitation": False, "has_affine_embedding": False},
}


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """Its weights, with BatchNorm statistics that matter."""
    torch.manual_seed(0)
    for name, value in network.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            value.uniform_(0.5, 1.5)
    return {key: value.clone() for key, value in network.state_dict().items()}


@pytest.mark.parametrize("kind", FACES)
@pytest.mark.parametrize("prefix", ["", "module.", "facenet."])
@torch.no_grad()
def test_face_networks_of_any_size(kind, prefix):
    original = FaceNetwork(**FACES[kind], input_size=32).eval()
    state = {prefix + key: value for key, value in state_of(original).items()}
    loaded = from_published(state, kind, input_size=32)
    faces = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(faces), original(faces)) and loaded(faces).shape == (2, 7)
    assert FaceNetwork(**loaded.published.config).state_dict().keys() == original.state_dict().keys()
    without_counters = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert torch.equal(from_published(without_counters, kind)(faces), original(faces))


def test_faults_of_face_networks_are_named():
    state = state_of(FaceNetwork(**FACES["arcface"]))
    with pytest.raises(UserError, match=r"has a output_layer\.4\.weight; read it as arcface"):
        from_published(state, "curricularface")
    with pytest.raises(UserError, match="read it as curricularface"):
        from_published(state_of(FaceNetwork(**FACES["curricularface"])), "arcface")
    with pytest.raises(UserError, match="input_size=224 was given, but the tensors say 112"):
        from_published(state, "arcface", input_size=224)
    missing = {key: value for key, value in state.items() if key != "body.2.res_layer.1.weight"}
    with pytest.raises(UserError, match=r"1 missing: body\.2\.res_layer\.1\.weight"):
        from_published(missing, "arcface")
    with pytest.raises(UserError, match="1 not known: surplus"):
        from_published({**state, "surplus": torch.zeros(1)}, "arcface")
    with pytest.raises(UserError, match=r"it has no output_layer\.3\.weight"):
        from_published({k: v for k, v in state.items() if not k.startswith("output_layer")}, "arcface")
    with pytest.raises(UserError, match=r"neither input_layer\.0\.weight"):
        from_published({"fc.weight": torch.zeros(2, 2)}, "arcface")


def moco_state() -> tuple[nn.Module, dict[str, Tensor]]:
    from torchvision.models import resnet50

    network = resnet50(weights=None, num_classes=128).eval()
    return network, state_of(network)


@torch.no_grad()
def test_moco_in_its_namings():
    """The released checkpoint with projection head, momentum encoder and queue; a bare ResNet50."""
    original, state = moco_state()
    released = {f"module.encoder_q.{key}": value for key, value in state.items()}
    released["module.encoder_q.fc.2.weight"] = torch.zeros(128, 128)
    released |= {
        "module.encoder_k.conv1.weight": torch.zeros(1),
        "module.queue": torch.zeros(1),
        "module.queue_ptr": torch.zeros(1),
    }
    images = torch.randn(1, 3, 64, 64)
    original.fc = nn.Identity()
    for content in ({"state_dict": released, "epoch": 800, "arch": "resnet50"}, released, state):
        loaded = from_published(content, "moco", arch="resnet50")
        assert torch.equal(loaded(images), original(images)) and not loaded.training
        assert (
            "projection head" in loaded.published.ignored[next(k for k in loaded.published.ignored if "fc.weight" in k)]
        )
    assert "momentum" in from_published(released, "moco").published.ignored["encoder_k.conv1.weight"]
    for change, told in (
        ({"module.encoder_q.layer5.weight": torch.zeros(1)}, r"1 not known: layer5\.weight"),
        ({"module.other": torch.zeros(1)}, "1 keys are not known: other"),
        ({"module.encoder_q.layer4.3.conv1.weight": torch.zeros(1)}, "four stages have"),
    ):
        with pytest.raises(UserError, match=told):
            from_published(released | change, "moco")
    with pytest.raises(UserError, match="arch='resnet101' was given"):
        from_published(released, "moco", arch="resnet101")
    with pytest.raises(UserError, match=r"it has no conv1\.weight"):
        from_published({"fc.weight": torch.zeros(1)}, "moco")


def package(net: str) -> nn.Module:
    import lpips

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*'(pretrained|weights)'.*")
        return lpips.LPIPS(net=net, pnet_rand=True, verbose=False).eval()


def other_namings(net: str, state: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The package's state dict under the names of the clone in pSp, and as a backbone file of torchvision's."""
    layers = {key.split(".", 2)[2]: value for key, value in state.items() if key.startswith("net.slice")}
    clone = {f"net.layers.{key}": value for key, value in layers.items()}
    clone |= {f"lin.{i}.1.weight": state[f"lin{i}.model.1.weight"] for i in range(len(TAPS[net]))}
    clone |= {"net.mean": state["scaling_layer.shift"], "net.std": state["scaling_layer.scale"]}
    backbone = {f"features.{key}": value for key, value in layers.items()} | {"classifier.1.bias": torch.zeros(1)}
    return {"package": state, "clone": clone, "backbone": backbone}


@pytest.mark.parametrize("net", TAPS)
@torch.no_grad()
def test_lpips_is_the_packages_in_every_naming(net):
    theirs = package(net)
    a, b = torch.rand(2, 2, 3, 64, 64) * 2 - 1
    expected = theirs(a, b).flatten()
    for naming, state in other_namings(net, theirs.state_dict()).items():
        loaded = from_published(state, "lpips", net=net)
        torch.testing.assert_close(loaded(a, b), expected, atol=1e-6, rtol=1e-5, msg=lambda m, n=naming: f"{n}: {m}")
        assert loaded.published.config["heads"] == (f"{net}.pth" if naming == "backbone" else "the file")
    assert "classifier" in loaded.published.ignored["classifier.1.bias"]


@torch.no_grad()
def test_a_backbone_takes_heads_of_a_given_file(tmp_path):
    theirs = package("squeeze")
    heads = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate(TAPS["squeeze"].values())}
    torch.save(heads, tmp_path / "heads.pth")
    backbone = other_namings("squeeze", theirs.state_dict())["backbone"]
    theirs.load_state_dict({**theirs.state_dict(), **heads, **{f"lins.{k[3:]}": v for k, v in heads.items()}})
    a, b = torch.rand(2, 1, 3, 64, 64) * 2 - 1
    for given in (heads, tmp_path / "heads.pth", str(tmp_path / "heads.pth")):
        loaded = from_published(backbone, "lpips", heads=given)
        torch.testing.assert_close(loaded(a, b), theirs(a, b).flatten(), atol=1e-6, rtol=1e-5)
    with pytest.raises(UserError, match="expected 7 of them"):
        from_published(backbone, "lpips", heads={"lin0.model.1.weight": heads["lin0.model.1.weight"]})


def test_faults_of_lpips_are_named():
    state = package("alex").state_dict()
    heads = {key: value for key, value in state.items() if key.startswith("lin")}
    for content, told in (
        (heads, "it holds the heads alone: give the backbone"),
        ({**state, "lins.2.model.1.weight": heads["lins.2.model.1.weight"] + 1}, "differs from the same head"),
        ({**state, "scaling_layer.shift": torch.zeros(1, 3, 1, 1)}, r"scaling_layer\.shift is \[0\.0, 0\.0, 0\.0\]"),
        ({**state, "net.slice1.0.weight": torch.zeros(96, 3, 7, 7)}, r"its first convolution is \(96, 3, 7, 7\)"),
        ({key: value for key, value in state.items() if "slice4" not in key}, r"2 missing: layers\.8\.weight"),
        ({key: value for key, value in state.items() if "lin" not in key or ".0." in key or "lin0" in key}, "missing"),
        ({**state, "surplus": torch.zeros(1)}, "1 keys are not known: surplus"),
    ):
        with pytest.raises(UserError, match=told):
            from_published(content, "lpips")
    with pytest.raises(UserError, match="net='vgg' was given, but the tensors say 'alex'"):
        from_published(state, "lpips", net="vgg")
    with pytest.raises(UserError, match="it holds its own heads"):
        from_published(state, "lpips", heads=heads)
