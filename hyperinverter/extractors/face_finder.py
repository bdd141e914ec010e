"""Faces in a photo and the three points by which FFHQ crops: YuNet where its file and OpenCV are, else dlib.

YuNet (Wu, Peng, Yu, "YuNet: A Tiny Millisecond-level Face Detector", 2023; ShiqiYu/libfacedetection.train, Apache-2.0)
looks at a photo in 10 ms on one CPU core; dlib's HOG detector and 68 landmarks (extra `faces`) in 10 to 100 ms.
"""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hyperinverter.extractors.base import faces_file, has_package
from hyperinverter.extractors.crop import LEFT_EYE, MOUTH_LEFT, MOUTH_RIGHT, RIGHT_EYE
from hyperinverter.pretrained.files import find_network_file
from hyperinverter.releases.shipped import NETWORKS, shipped_models
from hyperinverter.utils.errors import UserError

YUNET_FILES = ("yunet_n_640_640.onnx", "yunet_n_640.onnx", "face_detection_yunet_2023mar.onnx")
YUNET_PX = 320  # longer side at which it looks: faces from a tenth of the photo's height are found
FINER_PX = (640, 1280)  # and at which alignment looks for smaller ones
YUNET_LEAST = 0.6  # score of what is reported at all; found photos of faces have 0.9 and more
DLIB_ALONE = threading.RLock()  # dlib's detector is for one thread at a time
DLIB_PX = (256, 640, 1280, 2560)  # the first for faces that fill the photo, the later ones while none was there
LANDMARK_MODEL = "shape_predictor_68_face_landmarks.dat"
# From this score on it is surely a face: the highest on 320 photos of churches were 0.77 (YuNet) and 0.1 (dlib).
SURE = {"yunet": 0.85, "dlib": 1.0}


@dataclass(frozen=True)
class FoundFace:
    """One face, in pixels of the photo: `box` [4] is left, top, width, height; the points are [2], x and y."""

    score: float
    box: np.ndarray
    left_eye: np.ndarray  # left as seen in the image
    right_eye: np.ndarray
    mouth: np.ndarray  # between its corners

    @property
    def points(self) -> np.ndarray:
        """Eyes and mouth, [3, 2]."""
        return np.stack([self.left_eye, self.right_eye, self.mouth])


@dataclass(frozen=True)
class FaceFinder:
    """`find` gives the faces of an upright RGB photo, the widest first; `name` is yunet or dlib.

    `sizes`: longer sides in px at which a photo can be looked at, for ever smaller faces; `find` stops at the first
    with a face, and leaves out those for faces that are a small part of the photo.
    """

    name: str
    find_at: Callable[[Image.Image, int], list[FoundFace]]
    sizes: tuple[int, ...]

    def find(self, photo: Image.Image) -> list[FoundFace]:
        sizes = self.sizes[: 1 if self.name == "yunet" else 2]
        return next(filter(None, (self.find_at(photo, px) for px in sizes)), [])

    @property
    def sure(self) -> float:
        return SURE[self.name]


@lru_cache(maxsize=1)
def face_finder() -> FaceFinder | None:
    """The best detector there is; None without any. Raises UserError: YuNet's file is damaged; names it."""
    file = next(filter(None, map(find_network_file, YUNET_FILES)), None)
    if file is not None and (find := _yunet(file)) is not None:
        return FaceFinder("yunet", find, (YUNET_PX, *FINER_PX))
    return FaceFinder("dlib", _find_by_dlib, DLIB_PX) if has_landmark_model() else None


def _yunet(file: Path) -> Callable[[Image.Image, int], list[FoundFace]] | None:
    """None where OpenCV is absent or has no face detector."""
    try:
        import cv2
    except ImportError:
        return None
    if not hasattr(cv2, "FaceDetectorYN"):
        return None
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # its engine warns of settings that are its own
    message = f"{file}: cannot be read as the face detector YuNet; fetch it again, or remove it"
    published = shipped_models()[NETWORKS].files.get(file.name)  # some damage ends OpenCV, and Python with it
    if published and hashlib.sha256(file.read_bytes()).hexdigest() != published:
        raise UserError(message)
    of_thread = threading.local()  # a network keeps the size of its input

    def own_network() -> Any:
        if not hasattr(of_thread, "network"):
            of_thread.network = cv2.FaceDetectorYN.create(str(file), "", (YUNET_PX, YUNET_PX), YUNET_LEAST)
        return of_thread.network

    try:
        own_network()
    except cv2.error as error:
        raise UserError(message) from error

    def find(photo: Image.Image, px: int) -> list[FoundFace]:
        network = own_network()
        pixels, scale = _resized(photo, px)
        network.setInputSize(pixels.shape[1::-1])
        _, rows = network.detect(np.ascontiguousarray(pixels[:, :, ::-1]))  # BGR
        result = []
        for row in () if rows is None else rows.astype(np.float64):
            points = row[4:14].reshape(5, 2) / scale  # eyes, nose, corners of the mouth; left as seen in the image
            result.append(FoundFace(row[14], row[:4] / scale, points[0], points[1], points[3:].mean(axis=0)))
        return _widest_first(result)

    return find


def _find_by_dlib(photo: Image.Image, px: int) -> list[FoundFace]:
    pixels, scale = _resized(photo, px)
    with DLIB_ALONE:
        _, detector, predictor = dlib_models()
        boxes, scores, _ = detector.run(pixels, 0, 0.0)
        shapes = [predictor(pixels, box) for box in boxes]
    result = []
    for box, score, shape in zip(boxes, scores, shapes, strict=True):
        points = np.array([(shape.part(i).x, shape.part(i).y) for i in range(68)]) / scale
        eyes = points[LEFT_EYE].mean(axis=0), points[RIGHT_EYE].mean(axis=0)
        edges = np.array([box.left(), box.top(), box.width(), box.height()]) / scale
        result.append(FoundFace(score, edges, *eyes, (points[MOUTH_LEFT] + points[MOUTH_RIGHT]) / 2))
    return _widest_first(result)


def _resized(photo: Image.Image, px: int) -> tuple[np.ndarray, float]:
    """RGB uint8 [H, W, 3] whose longer side is `px`, and by how much it is larger than the photo."""
    scale = px / max(photo.size)
    size = [max(1, round(side * scale)) for side in photo.size]
    return np.asarray(photo.resize(size, Image.Resampling.BILINEAR)), scale


def _widest_first(result: list[FoundFace]) -> list[FoundFace]:
    return sorted(result, key=lambda face: -face.box[2])


def has_landmark_model() -> bool:
    """Whether `dlib_models` will work."""
    return has_package("dlib") and faces_file(LANDMARK_MODEL) is not None


@lru_cache(maxsize=1)
def dlib_models() -> tuple[Any, Any, Any]:
    """The dlib module, its HOG face detector and the 68-point predictor; about a second on the first call."""
    import dlib

    return dlib, dlib.get_frontal_face_detector(), dlib.shape_predictor(str(faces_file(LANDMARK_MODEL)))
