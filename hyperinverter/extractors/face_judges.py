"""Networks that come trained and say something of a face in one number: its age, yaw, or how happy it looks."""

from dataclasses import dataclass

from hyperinverter.extractors.base import Extractor
from hyperinverter.extractors.onnx_faces import EmotionHappy, FaceResAge, FsaNetYaw
from hyperinverter.extractors.ssrnet import SsrNetAge


@dataclass(frozen=True)
class FaceClassifier:
    """A network that says something of a face in one number.

    Attributes:
        what: it is, in words.
        unit: of the number.
        attribute: that it measures, as directions name theirs.
        sign: -1 where more of the attribute lowers the number.
        stands_in_for: the network with which the paper measured the same, and whose numbers these are not.
    """

    extractor: type[Extractor]
    what: str
    unit: str
    attribute: str
    sign: int = 1
    stands_in_for: str = ""

    def raised(self, flip: bool = False) -> str:
        """The attribute that a direction to larger numbers raises, with a minus one that it lowers; or to smaller."""
        return self.attribute if (self.sign < 0) == flip else f"-{self.attribute}"


FACE_CLASSIFIERS = {
    "ssrnet_age": FaceClassifier(SsrNetAge, "age by SSR-Net", "years", "Young", -1, "DEX"),
    "faceres_age": FaceClassifier(FaceResAge, "age by FaceRes", "years", "Young", -1, "DEX"),
    "fsanet_yaw": FaceClassifier(FsaNetYaw, "yaw of the head by FSA-Net", "degrees", "Yaw", 1, "FacePoseNet"),
    "emotion_happy": FaceClassifier(EmotionHappy, "how probably a face looks happy", "probability", "Smiling"),
}
