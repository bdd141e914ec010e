"""Films through PyAV, which carries FFmpeg's libraries (extra `video`): pictures to H.264 in an MP4 file.

Inside the package a frame is a Pillow image or a tensor [3, H, W] in [-1, 1].
"""

from collections.abc import Sequence
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import write_atomically
from hyperinverter.utils.images import to_pil

CRF = 18  # of x264: 0 keeps everything, 23 is its default, at 18 eyes see no difference
H264 = {"crf": str(CRF), "preset": "medium"}


def check_films() -> None:
    """Refuse where no films can be read or written.

    Raises:
        UserError: PyAV is not installed.
    """
    if find_spec("av") is None:
        raise UserError("films need PyAV, which is not here: pip install 'hyperinverter[video]', or pip install av")


def save_mp4(frames: Sequence[Tensor | Image.Image], path: str | Path, frame_ms: int = 40) -> Path:
    """Write pictures as a film that every player shows: H.264, 4:2:0, of even sides (an odd one loses a pixel).

    Args:
        frames: images [3, H, W] in [-1, 1], or Pillow images, all of one size.
        path: ends in .mp4.
        frame_ms: how long each frame stands, ms.
    Raises:
        UserError: PyAV is not installed.
    """
    check_films()
    import av

    path = Path(path)
    if not frames:
        raise ValueError("expected at least one frame, got none")
    with (
        write_atomically(path) as temporary,
        av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as film,
    ):
        stream = film.add_stream("libx264", rate=Fraction(1000, frame_ms), options=H264)
        first = frames[0]
        size = first.size if isinstance(first, Image.Image) else tuple(first.shape[:0:-1])
        stream.width, stream.height = (side // 2 * 2 for side in size)
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            picture = to_pil(frame) if isinstance(frame, Tensor) else frame
            film.mux(stream.encode(video_frame(picture, stream.width, stream.height)))
        film.mux(stream.encode())
    return path


def video_frame(picture: Image.Image, width: int, height: int):
    """The picture's upper left width x height pixels as PyAV's frame."""
    import av

    return av.VideoFrame.from_ndarray(np.ascontiguousarray(np.asarray(picture)[:height, :width]), format="rgb24")
