"""Metrics: known values, the contract of everything in the table, and reasons for what cannot be measured."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from hyperinverter.config.schema import DomainConfig
from hyperinverter.extractors import base as extractor_base
from hyperinverter.extractors.base import Extractor
from hyperinverter.metrics import METRICS, NotMeasured, base, build
from hyperinverter.metrics.base import Parts, RecentFeatures, Reduction
from hyperinverter.metrics.distribution import Fid, Kid
from hyperinverter.metrics.features import MobileFaceNetIdentity
from hyperinverter.metrics.pixel import L2, MsSsim, Psnr
from hyperinverter.metrics.timing import time_per_image
from hyperinverter.models.stylegan2 import Discriminator
from hyperinverter.utils.images import from_uint8, save_image, to_uint8

PX = 32
DOMAIN = DomainConfig(name="small", resolution=PX, loss_resolution=PX)


class SmallExtractor(Extractor):
    """A seeded convolution; stands in for every network that is read from a file."""

    smallest_px = 1

    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.register_buffer("kernel", torch.randn(6, 3, 5, 5, generator=rng))
        self.passes = 0
        self.freeze()

    def features(self, images):
        self.passes += 1
        return F.normalize(F.conv2d(images, self.kernel, stride=4).relu().mean(dim=(2, 3)), dim=1)

    def pooled(self, images):
        return self.features(images)

    def distance(self, a, b):
        return 1 - (a * b).sum(dim=1)

    def similarity(self, a, b):
        return (a * b).sum(dim=1)


@pytest.fixture
def networks(monkeypatch):
    monkeypatch.setattr(Extractor, "find", classmethod(lambda cls: SmallExtractor()))
    monkeypatch.setattr(extractor_base, "locate", lambda name: name)
    monkeypatch.setattr(extractor_base, "has_package", lambda name: True)


@pytest.fixture
def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    real = F.interpolate(torch.rand(6, 3, 8, 8) * 2 - 1, PX, mode="bilinear")
    return real, (real + 0.2 * torch.randn_like(real)).clamp(-1, 1)


def discriminator() -> Discriminator:
    return Discriminator(resolution=PX, channel_base=512, channel_max=16)


@pytest.mark.parametrize("name", METRICS)
def test_contract(name, networks, pairs):
    (metric,), missing = build([name], DOMAIN, discriminator=discriminator())
    assert missing == {} and metric.name == name and metric.better in ("lower", "higher")
    assert isinstance(metric.unit, str) and all(key.startswith(name.split("_")[0]) for key in metric.protocol())
    real, fake = pairs
    worse, same = metric.fresh(), metric.fresh()
    for start in (0, 1):  # a batch of one and the rest
        part = slice(0, 1) if start == 0 else slice(1, None)
        values = worse.update(real[part], fake[part])
        same.update(real[part], real[part])
        if values is not None:
            assert values.shape == (len(real[part]),) and values.isfinite().all()
    assert math.isfinite(worse.compute())
    assert (worse.compute() > same.compute()) == (metric.better == "lower")
    if worse.interval():
        low, high = worse.interval()
        assert low <= worse.compute() <= high
    with pytest.raises(NotMeasured):
        metric.compute()  # the copies took everything, the original nothing
    with pytest.raises(ValueError, match="both be"):
        metric.update(real, fake[:1])


def test_without_files_every_reason_names_the_file_and_the_rest_is_measured(monkeypatch, pairs):
    monkeypatch.setattr(extractor_base, "locate", lambda name: None)
    found, missing = build(METRICS, DOMAIN)
    assert [metric.name for metric in found] == ["l2", "psnr", "ms_ssim"]
    assert set(missing) == set(METRICS) - {"l2", "psnr", "ms_ssim"}
    assert "alexnet-owt" in missing["lpips"] and "train_stylegan2" in missing["discriminator_features"]
    assert "dlib_face_recognition" in missing["dlib_identity"] and "hyperinverter[faces]" in missing["dlib_distance"]
    assert "weights-inception" in missing["fid"] and "weights-inception" in missing["kid_x1e3"]


def test_faces_are_compared_only_where_images_are_faces(networks):
    churches = DomainConfig(name="church", kind="scenes", resolution=PX, loss_resolution=PX)
    faces = ["identity", "mobilefacenet", "dlib_identity", "dlib_distance"]
    found, missing = build([*faces, "l2"], churches)
    assert [metric.name for metric in found] == ["l2"] and set(missing) == set(faces)
    assert all("not faces" in reason for reason in missing.values())


def test_images_too_small_for_a_network_are_a_reason(networks):
    small = DomainConfig(resolution=16, loss_resolution=16)
    _, missing = build(["lpips"], small)
    assert "at least 32 px" in missing["lpips"]


def test_unknown_metric():
    with pytest.raises(ValueError, match="ssmi"):
        build(["ssmi"], DOMAIN)


@pytest.mark.parametrize("offset", [0.1, 0.5])
def test_l2_and_psnr_of_a_constant_offset(offset):
    real = torch.zeros(2, 3, PX, PX)
    fake = real + offset
    assert L2(Reduction(PX)).per_image(real, fake).tolist() == pytest.approx([offset**2] * 2)
    expected = -10 * math.log10((offset / 2) ** 2 + 1e-8)  # half the offset on [0,1]
    assert Psnr().per_image(real, fake).tolist() == pytest.approx([expected] * 2, rel=1e-5)
    assert Psnr().per_image(real, real).tolist() == pytest.approx([80.0] * 2)


def test_psnr_is_piq_s(pairs):
    import piq

    real, fake = pairs
    expected = piq.psnr(fake * 0.5 + 0.5, real * 0.5 + 0.5, data_range=1.0, reduction="none")
    torch.testing.assert_close(Psnr().per_image(real, fake), expected)


def test_l2_above_the_loss_resolution_is_the_published_one(tmp_path):
    """Issue 17, 8b: reduced by Pillow's bilinear from file to 8 bits, where a box mean gave up to twice the number."""
    torch.manual_seed(0)
    real = from_uint8(torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8))
    fake = (real + 0.3 * torch.randn_like(real)).clamp(-1, 1)
    fake = from_uint8(to_uint8(fake))
    for kind, images in (("real", real), ("fake", fake)):
        for number, image in enumerate(images):
            save_image(image, tmp_path / f"{kind}{number}.png")

    def published(kind: str, number: int) -> np.ndarray:
        with Image.open(tmp_path / f"{kind}{number}.png") as file:
            return np.asarray(file.resize((PX, PX), Image.Resampling.BILINEAR), np.float64) / 127.5 - 1

    expected = [((published("fake", i) - published("real", i)) ** 2).mean() for i in (0, 1)]
    domain = DomainConfig(resolution=128, loss_resolution=PX)
    (metric,), _ = build(["l2"], domain)
    assert metric.per_image(real, fake).tolist() == pytest.approx(expected, rel=1e-5)
    (boxed,), _ = build(["l2"], domain, metric_filter="box")
    blocks = [x.numpy().reshape(2, 3, PX, 4, PX, 4).mean((3, 5)) for x in (real, fake)]
    by_box = ((blocks[0] - blocks[1]) ** 2).mean((1, 2, 3))
    assert boxed.per_image(real, fake).tolist() == pytest.approx(by_box.tolist(), rel=1e-5)
    assert by_box[0] > 1.5 * expected[0]  # noise: the wider filter averages more of it away


def test_every_metric_at_the_loss_resolution_sees_images_that_were_reduced_once(networks, monkeypatch):
    found = []
    monkeypatch.setattr(base, "resized_as_files", lambda images, px: found.append(px) or images[..., ::2, ::2])
    domain = DomainConfig(resolution=2 * PX, loss_resolution=PX)
    metrics, _ = build(["l2", "lpips", "squeezenet_features", "mobilefacenet"], domain)
    real, fake = torch.rand(2, 2, 3, 2 * PX, 2 * PX)
    for metric in metrics:
        metric.update(real, fake)
    assert found == [PX, PX]


def test_an_unknown_filter_is_named():
    with pytest.raises(ValueError, match="lanczos"):
        Reduction(PX, "lanczos")


def test_ms_ssim_enlarges_small_images_and_says_so():
    torch.manual_seed(0)
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    small = MsSsim.build(parts_for(64))
    assert small.protocol() == {"ms_ssim_enlarged_to": 256}
    assert small.per_image(image, image).item() == pytest.approx(1)
    large = MsSsim.build(parts_for(161))
    assert large.protocol() == {"ms_ssim_enlarged_to": None}
    image = torch.rand(1, 3, 161, 161) * 2 - 1
    assert large.per_image(image, image).item() == pytest.approx(1)


def test_ms_ssim_of_flat_images_by_hand():
    """Structure is equal at every scale, so only the last one's luminance is left, to the power of its weight."""
    real, fake = (torch.full((1, 3, 176, 176), 2 * level - 1) for level in (0.2, 0.4))
    luminance = (2 * 0.2 * 0.4 + 0.01**2) / (0.2**2 + 0.4**2 + 0.01**2)
    assert MsSsim(is_enlarging=False).per_image(real, fake).item() == pytest.approx(luminance**0.1333, abs=1e-4)
    white, beyond = torch.ones(2, 1, 3, 176, 176)
    assert MsSsim(is_enlarging=False).per_image(white, 1.5 * beyond).item() == pytest.approx(1, abs=1e-6)


def parts_for(resolution: int) -> Parts:
    return Parts(DomainConfig(resolution=resolution), None, torch.device("cpu"))


def test_identity_of_identical_faces_is_one(networks, pairs):
    (metric,), _ = build(["mobilefacenet"], DOMAIN)
    metric.update(pairs[0], pairs[0])
    assert isinstance(metric, MobileFaceNetIdentity) and metric.compute() == pytest.approx(1, abs=1e-6)
    assert metric.features.extractor.is_mirrored


def test_fid_and_kid_of_a_set_with_itself(pairs):
    from torch_fidelity import metric_kid

    features = RecentFeatures(SmallExtractor(), None)
    real, fake = (x.repeat(4, 1, 1, 1) + 0.1 * torch.randn(24, 3, PX, PX) for x in pairs)
    fid, kid = Fid(features), Kid(features)
    fid.update(real, real)
    kid.update(real, real)
    assert fid.compute() == pytest.approx(0, abs=1e-6)
    assert kid.compute() <= 1e-6  # unbiased: at or below 0 for the same images
    far = fid.fresh()
    far.update(real, fake)
    assert far.compute() > 1e-4
    assert kid.protocol() == {"kid_subset_size": 24, "kid_subsets": 100}
    assert fid.protocol() == {"fid_images": 24}
    smaller = Kid(features, 10)
    smaller.update(real, fake)
    kid = kid.fresh()
    kid.update(real, fake)
    assert smaller.protocol()["kid_subset_size"] == 10 and smaller.compute() != kid.compute()
    a, b = (torch.cat(x) for x in zip(*smaller.taken, strict=True))
    own = metric_kid.kid_features_to_metric(b, a, kid_subset_size=10, verbose=False)  # 100 subsets, seed 2020: its own
    assert smaller.compute() == pytest.approx(1000 * own[metric_kid.KEY_METRIC_KID_MEAN], rel=1e-9)


def test_two_images_are_enough_for_fid_and_one_is_not(pairs):
    fid = Fid(RecentFeatures(SmallExtractor(), None))
    fid.update(pairs[0][:1], pairs[1][:1])
    with pytest.raises(NotMeasured, match="at least 2 images, got 1"):
        fid.compute()
    fid.update(pairs[0][1:2], pairs[1][1:2])
    assert fid.compute() > 0


def test_fid_of_shifted_features_is_the_squared_shift():
    torch.manual_seed(0)
    real = torch.randn(200, 4)
    assert Fid(None).distance(real + 0.5, real) == pytest.approx(4 * 0.25, abs=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_numbers_are_those_of_torch_fidelity_on_datasets(pairs):
    import torch_fidelity
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    small = SmallExtractor()

    class Registered(FeatureExtractorBase):
        def __init__(self, name, features_list, **kwargs):
            super().__init__(name, features_list)

        def forward(self, x):
            return (small.features(from_uint8(x)),)

        @staticmethod
        def get_provided_features_list():
            return ("small",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return "small"

        @staticmethod
        def can_be_compiled():
            return False

        @staticmethod
        def get_dummy_input_for_compile():
            return torch.zeros(1, 3, PX, PX, dtype=torch.uint8)

    class Images(torch.utils.data.Dataset):
        def __init__(self, images):
            self.images = to_uint8(images)

        def __len__(self):
            return len(self.images)

        def __getitem__(self, index):
            return self.images[index]

    real, fake = (from_uint8(to_uint8(x)) for x in pairs)
    torch_fidelity.register_feature_extractor("small-extractor", Registered)
    expected = torch_fidelity.calculate_metrics(
        input1=Images(fake), input2=Images(real), feature_extractor="small-extractor", fid=True, kid=True,
        kid_subset_size=len(real), cuda=False, verbose=False, cache=False, num_workers=0, batch_size=4,
    )  # fmt: skip
    features = RecentFeatures(small, None)
    fid, kid = Fid(features), Kid(features)
    fid.update(real, fake)
    kid.update(real, fake)
    assert fid.compute() == pytest.approx(expected["frechet_inception_distance"], abs=1e-7)
    assert kid.compute() == pytest.approx(1000 * expected["kernel_inception_distance_mean"], abs=1e-6)


def test_metrics_and_methods_share_one_pass_over_the_real_images(pairs):
    extractor = SmallExtractor()
    features = RecentFeatures(extractor, None)
    real, fake = pairs
    for output in (fake, fake.clone()):
        for metric in (Fid(features), Kid(features)):
            metric.update(real, output)
    assert extractor.passes == 3


def test_identity_and_distance_share_one_pass_of_dlib(networks, pairs):
    (identity, distance), _ = build(["dlib_identity", "dlib_distance"], DOMAIN)
    for metric in (identity, distance):
        metric.update(*pairs)
    assert identity.features is distance.features and identity.features.extractor.passes == 2


def test_timing_counts_per_image_and_leaves_the_warm_up_out():
    calls = []
    timing = time_per_image(lambda: calls.append(1), batch_size=4, repeats=5, device=torch.device("cpu"))
    assert len(calls) > 5 and 0 <= timing.median_ms <= timing.p95_ms < 100
    assert (timing.batch_size, timing.repeats) == (4, 5) and timing.device.startswith("cpu")
    with pytest.raises(ValueError, match="at least 1"):
        time_per_image(lambda: None, batch_size=1, repeats=0, device=torch.device("cpu"))
