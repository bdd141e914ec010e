"""Films through PyAV, which carries FFmpeg's libraries (extra `video`): pictures to H.264 in MP4, films to frames.

Frames are upright RGB pictures. A film is written in parts, each whole or not there at all, which are joined at the end
without a second loss: packets are copied, and so is the sound. Nothing here grows with a film's length.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from hyperinverter.utils.errors import DAMAGED, UserError, reason_of
from hyperinverter.utils.files import write_atomically
from hyperinverter.utils.images import to_pil
from hyperinverter.utils.provenance import COMPOSITE, DRAWN, comment

CRF = 18  # of x264: 0 keeps everything, 23 is its default, at 18 eyes see no difference
H264 = {"crf": str(CRF), "preset": "medium"}
PARTS = {**H264, "bf": "0"}  # no frame refers to a later one: parts are joined in the order of their frames
PART_FORMAT = "nut"  # keeps times exactly, and the decoder's settings at every key frame
MP4_SOUND = ("aac", "mp3", "mp3float", "ac3", "eac3", "alac", "opus", "libopus", "flac")  # what players take in MP4
MOST_PIXELS = 40_000_000  # of a frame: 8K
# Films of any origin: no playlists and other formats that name further files or addresses, which would be opened.
SAFE = {"format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,nut", "protocol_whitelist": "file"}
UNKNOWN_COLOURS = 2  # what FFmpeg calls a colour space that a film does not name


def check_films() -> None:
    """Refuse where no films can be read or written. Raises UserError: PyAV is not installed."""
    if find_spec("av") is None:
        raise UserError("films need PyAV, which is not here: pip install 'hyperinverter[video]', or pip install av")


def save_mp4(frames: Sequence[Tensor | Image.Image], path: str | Path, frame_ms: int = 40) -> Path:
    """Write pictures as a film that every player shows: H.264, 4:2:0, of even sides (an odd one loses a pixel).

    Args:
        frames: images [3, H, W] in [-1, 1], or Pillow images, all of one size. Of tensors the file says that a network
            drew them.
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
        first = frames[0]
        if isinstance(first, Tensor):
            film.metadata["comment"] = comment(DRAWN)
        stream = film.add_stream("libx264", rate=Fraction(1000, frame_ms), options=H264)
        size = first.size if isinstance(first, Image.Image) else tuple(first.shape[:0:-1])
        stream.width, stream.height = (side // 2 * 2 for side in size)
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            picture = to_pil(frame) if isinstance(frame, Tensor) else frame
            pixels = np.ascontiguousarray(np.asarray(picture)[: stream.height, : stream.width])
            film.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        film.mux(stream.encode())
    return path


@dataclass(frozen=True)
class Film:
    """A film file's first video.

    Attributes:
        size: width and height of its upright frames, px.
        frames: how many there are, by its head; 0 where that does not say.
        fps: frames a second, on average.
        time_base: of `pts`, seconds.
        sound: FFmpeg's name of the kind of its sound; None: it has none that can be read.
        colours: FFmpeg's number of its colour space.
        sound_is_unknown: it has sound of a kind that is not known here, which is left out.
    """

    path: Path
    size: tuple[int, int]
    frames: int
    fps: Fraction
    time_base: Fraction
    sound: str | None
    colours: int
    sound_is_unknown: bool = False

    @classmethod
    def open(cls, path: str | Path) -> "Film":
        """Look at a film.

        Raises FileNotFoundError: no such file. UserError: PyAV is not installed, or the file is no film.
        """
        check_films()
        import av

        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such film")
        try:
            with av.open(str(path), options=SAFE) as film:
                if not film.streams.video:
                    raise UserError(f"{path}: holds no pictures; give a film")
                stream = film.streams.video[0]
                if stream.codec_context is None:
                    raise UserError(f"{path}: is packed in a way that is not known here; convert it to H.264")
                if stream.codec_context.width * stream.codec_context.height > MOST_PIXELS:
                    raise UserError(f"{path}: its frames have more than {MOST_PIXELS / 1e6:.0f} megapixels; reduce it")
                first = next(film.decode(stream), None)
                if first is None:
                    raise UserError(f"{path}: holds no frame that can be read; give another film")
                fps = stream.average_rate or stream.guessed_rate or Fraction(25)
                seconds = (stream.duration or 0) * (stream.time_base or 0)
                frames = stream.frames or int(seconds * fps)
                size, colours = _upright(first).size, int(first.colorspace)
                time_base = stream.time_base or 1 / fps
                heard = film.streams.audio[0].codec_context if film.streams.audio else None
                sound = heard.name if heard is not None else None
                unknown = sound is None and bool(film.streams.audio)
                return cls(path, size, frames, fps, time_base, sound, colours, unknown)
        except (*DAMAGED, OSError) as error:
            raise UserError(f"{path}: cannot be read as a film ({reason_of(error)}); give an .mp4 or .mov") from error

    def __iter__(self) -> Iterator[tuple[int, Image.Image]]:
        """(pts, upright picture) of every frame, in order; a film that is cut short ends with its last whole frame."""
        import av

        with av.open(str(self.path), options=SAFE) as film:
            stream = film.streams.video[0]
            stream.thread_type = "AUTO"
            before = None
            try:
                for frame in film.decode(stream):
                    if frame.pts is None or (before is not None and frame.pts <= before):
                        continue  # times that do not rise cannot be written
                    if frame.width * frame.height > MOST_PIXELS:
                        return
                    before, picture = frame.pts, _upright(frame)
                    yield before, picture if picture.size == self.size else picture.resize(self.size)
            except (*DAMAGED, OSError):
                return


def _upright(frame: Any) -> Image.Image:
    """A decoded frame as a picture, turned as the film's head says (phones write it)."""
    pixels = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4  # counter-clockwise
    return Image.fromarray(np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels)


def write_part(film: Film, frames: Iterator[tuple[int, Image.Image]], path: Path) -> None:
    """Encode some frames of a changed film, in its times and colour space, as one part."""
    import av
    from av.video.reformatter import ColorRange

    width, height = (side // 2 * 2 for side in film.size)
    with write_atomically(path) as temporary, av.open(str(temporary), "w", format=PART_FORMAT) as part:
        stream = part.add_stream("libx264", rate=film.fps, options=PARTS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.time_base = film.time_base
        context.colorspace = film.colours
        context.color_range = ColorRange.MPEG
        colours = None if film.colours == UNKNOWN_COLOURS else film.colours
        for pts, picture in frames:
            pixels = np.ascontiguousarray(np.asarray(picture)[:height, :width])
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=colours, dst_color_range=ColorRange.MPEG)
            frame.pts, frame.time_base = pts, film.time_base
            part.mux(stream.encode(frame))
        part.mux(stream.encode())


def join_parts(film: Film, parts: Sequence[Path], path: Path) -> None:
    """Join parts to an MP4 file with the sound of `film`, which is copied where players know its kind in such files."""
    import av

    with (
        write_atomically(path) as temporary,
        av.open(str(film.path), options=SAFE) as source,
        av.open(str(parts[0])) as first,
        av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as joined,
    ):
        joined.metadata["comment"] = comment(COMPOSITE)
        video = joined.add_stream_from_template(first.streams.video[0])
        ways = [_video_packets(parts, video)]
        if film.sound:
            sound = source.streams.audio[0]
            if film.sound in MP4_SOUND:
                written = joined.add_stream_from_template(sound)
                ways.append(_packets(source, sound, written))
            else:
                written = joined.add_stream("aac", rate=sound.codec_context.sample_rate)
                ways.append(_encoded_sound(source, sound, written))
        for _, packet in heapq.merge(*ways, key=lambda each: each[0]):  # by time, so that little is held
            joined.mux(packet)


def _video_packets(parts: Sequence[Path], written: Any) -> Iterator[tuple[float, Any]]:
    import av

    for part in parts:
        with av.open(str(part)) as film:
            yield from _packets(film, film.streams.video[0], written)


def _packets(source: Any, stream: Any, written: Any) -> Iterator[tuple[float, Any]]:
    """(seconds, packet) of a stream, to be written as they are."""
    for packet in source.demux(stream):
        if packet.dts is not None:
            packet.stream = written
            yield float(packet.dts * packet.time_base), packet


def _encoded_sound(source: Any, sound: Any, written: Any) -> Iterator[tuple[float, Any]]:
    at = 0.0
    for frame in chain(source.decode(sound), [None]):  # at the end, what the encoder still holds
        for packet in written.encode(frame):
            at = float(packet.dts * packet.time_base) if packet.dts is not None else at
            yield at, packet
