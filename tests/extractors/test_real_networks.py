"""The small networks with their real weights: known numbers. Skipped where the files are absent."""

import os
from pathlib import Path

import pytest
import torch

from hyperinverter.data.loader import Batches
from hyperinverter.data.sources import open_source
from hyperinverter.extractors.dlib_face import DlibFace
from hyperinverter.extractors.face_judges import SsrNetAge
from hyperinverter.extractors.mobilefacenet import MobileFaceNet
from hyperinverter.extractors.onnx_faces import EmotionHappy, FaceResAge, FrFeature, FsaNetYaw
from hyperinverter.extractors.perceptual import Lpips, SqueezeNetFeatures

SIBLING = Path(__file__).parents[3] / "shared" / "data" / "nets"
PHOTOS = SIBLING.parent / "photos" / "aligned"  # twelve people
# What the networks say of these at 256 px: degrees, years, probability. Recorded with onnxruntime 1.32.0; OpenCV 5.0
# gives the same from the same files.
RECORDED = {
    FsaNetYaw: (-2.222, 1.691, 1.630, -0.657, -3.117, 6.346, 2.118, 4.125, 0.684, 1.416, 0.823, 4.663),
    FaceResAge: (25.798, 22.910, 23.136, 26.445, 22.051, 24.007, 29.524, 25.717, 24.468, 23.822, 36.026, 37.410),
    EmotionHappy: (0.000, 0.002, 0.010, 1.000, 1.000, 0.004, 0.000, 1.000, 0.000, 0.002, 0.961, 0.002),
}
TOLERANCE = {FsaNetYaw: 0.05, FaceResAge: 0.05, EmotionHappy: 0.01}  # decoders and processors round otherwise
LIKENESS = (1.0, 0.049, -0.056, 0.037, 0.035, 0.062, -0.054, 0.083, 0.077, 0.104, -0.103, 0.256)  # to the first one


@pytest.fixture(autouse=True)
def networks(monkeypatch):
    folders = os.environ.get("HYPERINVERTER_MODELS", "")
    monkeypatch.setenv("HYPERINVERTER_MODELS", os.pathsep.join(filter(None, [folders, str(SIBLING)])))


@pytest.fixture
def photo() -> torch.Tensor:
    """The astronaut's head, 64 px, roughly in FFHQ framing [1,3,64,64]."""
    data = pytest.importorskip("skimage.data")
    image = torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None].float() / 127.5 - 1
    return torch.nn.functional.interpolate(image[:, :, 0:200, 124:324], 64, mode="bilinear", antialias=True)


def find(extractor):
    if extractor.why_missing():
        pytest.skip(extractor.why_missing())
    return extractor.find()


def test_mobilefacenet_knows_a_person_again(photo):
    network = find(MobileFaceNet)
    darker, mirrored, other = photo * 0.7, photo.flip(3), photo.flip(2)
    features = network.features(torch.cat([photo, darker, mirrored, other]))
    cosine = (features @ features[0]).tolist()
    assert cosine[0] == pytest.approx(1, abs=1e-5)
    assert cosine[1] > 0.8 and cosine[2] > 0.6  # recorded: same person above 0.5 on average at 64 px
    assert cosine[3] < 0.5  # upside down


def test_lpips_is_the_packages_with_the_published_alexnet(photo):
    import lpips

    network = find(Lpips)
    judge = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)  # its heads; its backbone is filled here
    filled = dict(judge.net.named_parameters())
    for index in (0, 3, 6, 8, 10):
        for kind in ("weight", "bias"):
            (name,) = (name for name in filled if name.endswith(f".{index}.{kind}"))
            filled[name].data = network.net.state_dict()[f"layers.{index}.{kind}"]
    torch.manual_seed(0)
    others = torch.cat([photo + 0.2 * torch.randn_like(photo), photo.flip(3), photo * 0.5])
    found = network.distance(network.features(others), network.features(photo.expand(3, -1, -1, -1)))
    torch.testing.assert_close(found, judge(others, photo.expand(3, -1, -1, -1)).flatten(), rtol=1e-5, atol=1e-6)
    assert found[0] > found[2] > 0.01  # recorded: noise 0.32


def test_squeezenet_features_grow_with_distortion(photo):
    network = find(SqueezeNetFeatures)
    torch.manual_seed(0)
    noise = torch.randn_like(photo)
    reference = network.features(photo)
    distances = [network.distance(network.features(photo + s * noise), reference).item() for s in (0, 0.05, 0.2, 0.5)]
    assert distances[0] == 0 and distances == sorted(distances) and distances[-1] > 10 * distances[1]


def test_dlib_knows_a_person_again(photo):
    network = find(DlibFace)
    features = network.features(torch.cat([photo, photo * 0.7, photo.flip(3), photo.flip(2)]))
    alone = network.features(photo[:1])
    torch.testing.assert_close(alone, features[:1])
    likeness = network.similarity(features, features[:1]).tolist()
    distance = network.distance(features, features[:1]).tolist()
    assert likeness[0] == pytest.approx(1, abs=1e-5) and distance[0] == 0
    assert min(likeness[1:3]) > 0.5 > likeness[3]  # upside down
    assert max(distance[1:3]) < 0.6  # dlib's own limit for one person


def test_age_of_the_astronaut(photo):
    age = find(SsrNetAge).features(photo)
    assert age.shape == (1, 1) and 15 < age.item() < 60  # she was 42; at 64 px a network of 41,000 numbers is rough


@pytest.fixture(scope="module")
def people() -> torch.Tensor:
    if not PHOTOS.is_dir():
        pytest.skip(f"the twelve aligned photos are not at {PHOTOS}")
    return next(Batches(open_source(PHOTOS), 256).in_order(12))[0]


@pytest.mark.parametrize("extractor", RECORDED)
def test_recorded_numbers_of_twelve_people(extractor, people):
    found = find(extractor).features(people)
    assert found.shape == (12, 1)
    torch.testing.assert_close(found[:, 0], torch.tensor(RECORDED[extractor]), atol=TOLERANCE[extractor], rtol=0)


def test_yaw_of_a_mirrored_photo_is_the_opposite(people):
    network = find(FsaNetYaw)
    both = network.features(people) + network.features(people.flip(3))
    assert both.abs().max() < 4  # recorded: 2.5 at most


def test_fr_feature_tells_people_apart(people):
    network = find(FrFeature)
    features = network.features(people)
    torch.testing.assert_close(features @ features[0], torch.tensor(LIKENESS), atol=0.005, rtol=0)
    small = network.features(torch.nn.functional.avg_pool2d(people, 4))  # 64 px
    likeness = small @ features.T
    assert likeness.diagonal().min() > 0.8  # recorded: 0.89
    assert (likeness - torch.eye(12)).max() < 0.5
