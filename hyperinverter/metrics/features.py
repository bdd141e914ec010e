"""Metrics on the features of a frozen network: perceptual distances and identity of faces."""

from typing import Any, ClassVar, Self, cast

from torch import Tensor

from hyperinverter.extractors.base import Extractor
from hyperinverter.extractors.dlib_face import DlibFace
from hyperinverter.extractors.identity import CurricularFace
from hyperinverter.extractors.mobilefacenet import MobileFaceNet
from hyperinverter.extractors.onnx_faces import EmotionHappy, FaceResAge, FrFeature, FsaNetYaw
from hyperinverter.extractors.perceptual import DiscriminatorFeatures, Lpips, SqueezeNetFeatures
from hyperinverter.metrics.base import NotMeasured, Parts, PerImageMetric, RecentFeatures
from hyperinverter.utils.checkout import command_of


class FeatureDistance(PerImageMetric):
    """The extractor's distance at the loss resolution."""

    unit, better = "", "lower"
    extractor: ClassVar[type[Extractor]]
    is_of_faces: ClassVar[bool] = False

    def __init__(self, features: RecentFeatures) -> None:
        super().__init__()
        self.features = features

    @classmethod
    def build(cls, parts: Parts) -> Self:
        cls.check_faces(parts)
        parts.check_reduced(cls.extractor)
        return cls(RecentFeatures(cls.find().to(parts.device), parts.reduction))

    @classmethod
    def check_faces(cls, parts: Parts) -> None:
        """Raises NotMeasured: it is of faces, and the domain's images are not."""
        if cls.is_of_faces and parts.domain.kind != "faces":
            raise NotMeasured(f"{cls.name} compares faces; the images of domain {parts.domain.name} are not faces")

    @classmethod
    def find(cls) -> Extractor:
        return cls.extractor.find()

    @classmethod
    def networks(cls) -> dict[str, str]:
        return cls.extractor.file_hashes()

    def per_image(self, real: Tensor, fake: Tensor) -> Tensor:
        return self.features.extractor.distance(self.features(fake), self.features(real))


class LpipsDistance(FeatureDistance):
    """LPIPS v0.1, AlexNet."""

    name, extractor = "lpips", Lpips


class SqueezeNetDistance(FeatureDistance):
    """Caffe SqueezeNet features with LPIPS heads; not comparable with published LPIPS."""

    name, extractor = "squeezenet_features", SqueezeNetFeatures


class DiscriminatorDistance(FeatureDistance):
    """Distance in the features of the domain's discriminator, at its full resolution."""

    name, extractor = "discriminator_features", DiscriminatorFeatures

    @classmethod
    def build(cls, parts: Parts) -> Self:
        if parts.discriminator is None:
            raise NotMeasured(
                "the model folder has no discriminator.safetensors; train one with "
                f"{command_of('train_stylegan2')} or name it in domain.weights.discriminator"
            )
        return cls(RecentFeatures(DiscriminatorFeatures(parts.discriminator).to(parts.device), None))


class Identity(FeatureDistance):
    """Cosine of two face embeddings, 1 for the same image."""

    unit, better, is_of_faces = "cosine", "higher", True

    def per_image(self, real: Tensor, fake: Tensor) -> Tensor:
        return 1 - super().per_image(real, fake)


class MobileFaceNetIdentity(Identity):
    """MobileFaceNet, embeddings of image and mirrored image added."""

    name, extractor = "mobilefacenet", MobileFaceNet

    @classmethod
    def find(cls) -> Extractor:
        extractor = MobileFaceNet.find()
        extractor.is_mirrored = True
        return extractor

    def protocol(self) -> dict[str, Any]:
        return {"mobilefacenet": "fixed square of the FFHQ framing, resized to 112 px; image plus mirrored image"}


class CurricularFaceIdentity(Identity):
    """CurricularFace IR-101, another network than the identity loss's."""

    name, extractor = "identity", CurricularFace

    def protocol(self) -> dict[str, Any]:
        return {"identity": "CurricularFace IR-101, fixed square of the FFHQ framing, resized to 112 px; none skipped"}


class FrFeatureIdentity(Identity):
    """The 512-number embedding of fr_feature, which no loss uses."""

    name, extractor = "fr_feature", FrFeature

    def protocol(self) -> dict[str, Any]:
        return {"fr_feature": "fixed square of the FFHQ framing, resized to 112 px; none skipped"}


class FaceNumber(FeatureDistance):
    """By how much a number that a network gives for a face differs between the two images."""

    is_of_faces = True

    def protocol(self) -> dict[str, Any]:
        return {self.name: "absolute difference; fixed square of the FFHQ framing; none skipped"}


class YawDifference(FaceNumber):
    """FSA-Net."""

    name, unit, extractor = "fsanet_yaw", "degrees", FsaNetYaw


class AgeDifference(FaceNumber):
    """FaceRes."""

    name, unit, extractor = "faceres_age", "years", FaceResAge


class HappyDifference(FaceNumber):
    """The probability that a face looks happy."""

    name, unit, extractor = "emotion_happy", "probability", EmotionHappy


class DlibDistance(FeatureDistance):
    """Euclidean distance of dlib's embeddings, its own measure: below 0.6 it takes two photos for one person."""

    name, extractor, is_of_faces = "dlib_distance", DlibFace, True

    @classmethod
    def build(cls, parts: Parts) -> Self:
        cls.check_faces(parts)
        return cls(parts.dlib)

    def protocol(self) -> dict[str, Any]:
        return {"dlib": "face ResNet of dlib, fixed square of the FFHQ framing, resized to 150 px; none skipped"}


class DlibIdentity(DlibDistance):
    """Cosine of dlib's embeddings seen from a fixed mean face: 1 for the same image, about 0 for two people.

    dlib's embeddings all lie near one point, so that cosines from the origin are near 1 for any two faces.
    """

    name, unit, better = "dlib_identity", "cosine", "higher"

    def per_image(self, real: Tensor, fake: Tensor) -> Tensor:
        return cast(DlibFace, self.features.extractor).similarity(self.features(fake), self.features(real))

    def protocol(self) -> dict[str, Any]:
        return {**super().protocol(), "dlib_identity": "cosine after subtracting the mean embedding of FFHQ faces"}
