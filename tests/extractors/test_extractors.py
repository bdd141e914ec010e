"""Every extractor keeps one contract: frozen, in eval mode, differentiable in the images, image by image."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hyperinverter.extractors import base, face_judges
from hyperinverter.extractors.base import Extractor, read_network
from hyperinverter.extractors.dlib_face import DlibFace
from hyperinverter.extractors.face_judges import SsrNetAge
from hyperinverter.extractors.identity import ArcFace, CurricularFace, Moco
from hyperinverter.extractors.mobilefacenet import MobileFaceNet, MobileFaceNetwork
from hyperinverter.extractors.onnx_faces import EmotionHappy, FaceResAge, FrFeature, FsaNetYaw
from hyperinverter.extractors.perceptual import PLACES, DiscriminatorFeatures, Lpips, SqueezeNetFeatures
from hyperinverter.extractors.resize import at_most, crop_resize
from hyperinverter.models.face_network import FaceNetwork
from hyperinverter.models.lpips_network import LpipsNetwork
from hyperinverter.models.stylegan2 import Discriminator
from hyperinverter.ops.distances import perceptual_distance, unit_normalise
from hyperinverter.releases.catalog import catalog
from hyperinverter.utils.errors import UserError

PX = 32


def squeezenet() -> SqueezeNetFeatures:
    channels = (64, 128, 256, 384, 384, 512, 512)
    heads = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate(channels)}
    names = {str(place): name for name, place in PLACES.items()}
    layers = ((*key.partition("."), value) for key, value in LpipsNetwork("squeeze").layers.state_dict().items())
    return SqueezeNetFeatures({f"{names[at]}.{_published(rest)}": value for at, _, rest, value in layers}, heads)


def _published(parameter: str) -> str:
    return parameter.replace("squeeze.", "squeeze1x1.")


def lpips_alex() -> Lpips:
    from torchvision.models import alexnet

    return Lpips({f"features.{k}": v for k, v in alexnet(weights=None).features.state_dict().items()})


def moco() -> Moco:
    from torchvision.models import resnet50

    return Moco(resnet50(weights=None).state_dict())


def lively(network: nn.Module) -> dict[str, torch.Tensor]:
    """Random weights under which features depend on the image: torch's default ones fade out in a deep ReLU network."""
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    return network.state_dict()


def face(depths: tuple[int, ...], **options: bool) -> dict[str, torch.Tensor]:
    return lively(FaceNetwork(depths, **options))


def lively_age() -> dict[str, torch.Tensor]:
    """Every bin's ReLU is alive, so that each stage has a say, and widths stay as they are: tanh of much is -1."""
    network = face_judges.SsrNetwork()
    lively(network)
    for stage in network.stages:
        for layer in (*stage.mixes, stage.hidden, stage.bins):
            nn.init.constant_(layer.bias, 2.0)
        nn.init.zeros_(stage.delta.weight)
    return network.state_dict()


BUILDERS = {
    "squeezenet_features": squeezenet,
    "mobilefacenet": lambda: MobileFaceNet(lively(MobileFaceNetwork())),
    "mobilefacenet, mirrored": lambda: MobileFaceNet(lively(MobileFaceNetwork()), is_mirrored=True),
    "ssrnet_age": lambda: SsrNetAge(lively_age()),
    "discriminator_features": lambda: DiscriminatorFeatures(
        Discriminator(resolution=PX, channel_base=512, channel_max=32)
    ),
    "lpips": lpips_alex,
    "moco": moco,
    "arcface": lambda: ArcFace(face((3, 4, 14, 3), squeeze_excitation=True, has_affine_embedding=True)),
    "curricularface": lambda: CurricularFace(
        face((3, 13, 30, 3), squeeze_excitation=False, has_affine_embedding=False)
    ),
}
HEAVY = ("moco", "arcface", "curricularface")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in HEAVY else []) for n in BUILDERS])
def test_contract(name):
    torch.manual_seed(0)
    extractor = BUILDERS[name]()
    parent = nn.Sequential(extractor).train()  # a trainer's train() must not wake dropout or batch statistics
    assert not any(module.training for module in extractor.modules())
    assert not any(parameter.requires_grad for parameter in parent.parameters())

    images = torch.rand(2, 3, PX, PX) * 2 - 1
    others = (images + 0.3 * torch.randn_like(images)).requires_grad_()
    features = extractor.features(images)
    distance = extractor.distance(extractor.features(others), features)
    assert distance.shape == (2,) and distance.dtype == torch.float32
    assert (distance > 1e-7).all()
    # tolerance: 1 - cosine of two equal float32 unit vectors
    assert extractor.distance(features, extractor.features(images)).abs().max() < 1e-6

    single = extractor.distance(extractor.features(others[1:]), extractor.features(images[1:]))
    torch.testing.assert_close(single, distance[1:], atol=1e-5, rtol=1e-4)

    distance.sum().backward()
    assert others.grad.isfinite().all() and others.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["squeezenet_features", "lpips", "discriminator_features", "mobilefacenet"])
def test_refuses_images_of_a_wrong_size(name):
    extractor = BUILDERS[name]()
    with pytest.raises(ValueError, match=r"8"):
        extractor.features(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"\[1, 1, 32, 32\]"):
        extractor.features(torch.zeros(1, 1, 32, 32))


def test_discriminator_is_copied():
    original = Discriminator(resolution=16, channel_base=256, channel_max=16)
    extractor = DiscriminatorFeatures(original)
    images = torch.rand(1, 3, 16, 16)
    before = extractor.features(images)[0].clone()
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.add_(1)
    torch.testing.assert_close(extractor.features(images)[0], before)
    assert all(parameter.requires_grad for parameter in original.parameters())


def test_unit_normalise_has_a_finite_gradient_at_zero():
    maps = torch.zeros(1, 4, 2, 2, requires_grad=True)
    unit_normalise(maps).sum().backward()
    assert maps.grad.isfinite().all()


def test_perceptual_distance_by_hand():
    a, b = [torch.zeros(1, 2, 1, 2)], [torch.zeros(1, 2, 1, 2)]
    a[0][0, 0] = torch.tensor([[1.0, 3.0]])  # squared differences 1 and 9 of channel 0, weight 2: mean of 2 and 18
    heads = [torch.tensor([2.0, 5.0]).view(1, 2, 1, 1)]
    assert perceptual_distance(a, b, heads).tolist() == [10.0]


@pytest.mark.parametrize(("pixels", "size"), [(64, 112), (256, 112)])
def test_crop_resize_is_pillow_s(pixels, size):
    rng = np.random.default_rng(0)
    image = rng.random((pixels, pixels), dtype=np.float32)
    left, top, side = 0.1178, 0.1095, 0.7663
    box = (left * pixels, top * pixels, (left + side) * pixels, (top + side) * pixels)
    expected = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box))
    got = crop_resize(torch.from_numpy(image)[None, None], left, top, side, size)[0, 0].numpy()
    assert np.abs(got - expected).max() < 1e-4


def test_at_most_is_a_box_mean_and_never_enlarges():
    images = torch.arange(16.0).view(1, 1, 4, 4)
    assert at_most(images, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert at_most(images, 8) is images


@pytest.mark.parametrize(
    "extractor",
    [
        Lpips, ArcFace, CurricularFace, Moco, SqueezeNetFeatures, MobileFaceNet, SsrNetAge, DlibFace,
        FsaNetYaw, FaceResAge, EmotionHappy, FrFeature,
    ],
)  # fmt: skip
def test_a_missing_network_is_named_with_its_purpose_and_place(extractor, monkeypatch, tmp_path):
    monkeypatch.setattr(base, "find_network_file", lambda name: None)
    monkeypatch.setattr(base, "faces_file", lambda name: None)
    monkeypatch.setattr(base, "has_package", lambda name: True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError, match="HYPERINVERTER_MODELS") as error:
        extractor.find()
    assert extractor.filenames[0] in str(error.value) and extractor.purpose in str(error.value)
    assert extractor.why_missing() == str(error.value)
    names = {extractor.filenames[0], *extractor.also_as}
    fetched = [each for each in catalog().values() if {each.file, each.makes} & names]
    assert any(f"`python scripts/download.py {each.name}" in str(error.value) for each in fetched) is bool(fetched)
    assert fetched or extractor not in (Lpips, ArcFace, CurricularFace, Moco, FsaNetYaw)


def test_a_file_in_torchvision_s_cache_is_found(monkeypatch, tmp_path):
    monkeypatch.setattr(base, "find_network_file", lambda name: None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / Lpips.filenames[0]).write_bytes(b"")
    assert Lpips.why_missing() is None


class Harmful:
    def __reduce__(self):
        return print, ("code from a weights file ran",)


@pytest.mark.parametrize("suffix", [".npz", ".pth"])
def test_a_file_that_carries_code_or_rubbish_is_refused(suffix, tmp_path, capsys):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".npz":
        np.savez(path, a=np.array([Harmful()], dtype=object))
    else:
        torch.save({"a": Harmful()}, path)
    with pytest.raises(UserError, match=f"weights{suffix}"):
        read_network(path)
    assert "code from" not in capsys.readouterr().out
    path.write_bytes(io.BytesIO(b"<html>quota exceeded</html>").read())
    with pytest.raises(UserError, match="fetch it again"):
        read_network(path)


def test_a_package_that_is_not_installed_is_a_reason(monkeypatch):
    monkeypatch.setattr(base, "has_package", lambda name: False)
    monkeypatch.setattr(base, "locate", lambda name: name)
    for extractor in (DlibFace, SsrNetAge, FsaNetYaw, FaceResAge, EmotionHappy, FrFeature):
        assert "pip install 'hyperinverter[faces]'" in extractor.why_missing()


def test_age_by_hand():
    """Bins of equal width and certain probabilities: 101 years in three, of these the second in three, and so on."""
    network = face_judges.SsrNetwork()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for stage, bins in zip(network.stages, ([0, 1, 0], [0, 0, 1], [0, 0, 0]), strict=True):
            stage.bins.bias.copy_(torch.tensor(bins, dtype=torch.float32))
    assert network.eval()(torch.zeros(2, 3, 64, 64)).tolist() == pytest.approx([101 / 3 + 2 * 101 / 9] * 2, rel=1e-5)


def test_keras_arrays_find_their_places():
    state = face_judges.SsrNetwork().state_dict()
    keras = {}
    for i, (stream, start) in enumerate((("large", 1), ("small", 5))):
        for k in range(4):
            keras[f"conv2d_{start + k}/kernel:0"] = state[f"{stream}.convs.{k}.weight"].permute(2, 3, 1, 0).numpy()
            keras[f"batch_normalization_{start + k}/moving_mean:0"] = np.full(16 if i else 32, start + k)
    keras["dense_5/kernel:0"] = state["stages.1.mixes.1.weight"].T.numpy()
    keras["pred_age_stage3/bias:0"] = np.arange(3)
    found = face_judges.from_keras(keras)
    assert all(found[key].shape == state[key].shape for key in found)
    torch.testing.assert_close(found["small.convs.2.weight"], state["small.convs.2.weight"])
    assert found["small.norms.0.running_mean"][0] == 5 and found["stages.2.bins.bias"].tolist() == [0, 1, 2]
    torch.testing.assert_close(found["stages.1.mixes.1.weight"], state["stages.1.mixes.1.weight"])


def test_weights_of_another_network_are_refused():
    state = MobileFaceNetwork().state_dict()
    state.pop("conv3.bias")
    state["surplus"] = torch.zeros(1)
    with pytest.raises(UserError, match=r"1 missing: conv3\.bias; 1 not known: surplus"):
        MobileFaceNet(state)


def test_the_protocol_must_be_filled_in():
    with pytest.raises(TypeError, match=r"features\(images\)"):
        Extractor().features(torch.zeros(1, 3, 8, 8))
