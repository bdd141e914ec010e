"""A film with edited faces: followed, smoothed, put back, with its sound, and resumed after a kill."""

from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image
from script_runner import astronaut

from hyperinverter.config.model_schema import VideoConfig
from hyperinverter.data.inspect_image import inspect_image
from hyperinverter.directions import Direction, save_direction
from hyperinverter.editing.video import command, tracks
from hyperinverter.editing.video.command import edit_video
from hyperinverter.editing.video.tracks import FacePath, Flicker, Tracker, smooth_paths
from hyperinverter.extractors.face_finder import face_finder
from hyperinverter.inverters import Inversion, load
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.films import Film
from hyperinverter.utils.provenance import COMPOSITE

SIZE, FRAMES, FPS = (160, 120), 7, 10
needs_faces = pytest.mark.skipif(face_finder() is None, reason="no face detector is installed")


def write_film(path, pictures, sound="aac", rotation=0):
    """A film of pictures at FPS frames a second, with a tone."""
    rate = 48000 if sound == "libopus" else 44100
    with av.open(str(path), "w") as film:
        video = film.add_stream("libx264", rate=FPS, options={"crf": "10"})
        video.width, video.height = pictures[0].size
        video.pix_fmt = "yuv420p"
        if rotation:
            video.set_display_rotation(rotation)
        heard = film.add_stream(sound, rate=rate, layout="mono") if sound else None
        for picture in pictures:
            film.mux(video.encode(av.VideoFrame.from_image(picture)))
        film.mux(video.encode())
        if heard:
            tone = np.sin(np.arange(rate * len(pictures) // FPS) / 20).astype(np.float32)
            form = "s16" if sound in ("libopus", "pcm_s16le") else "fltp"
            for at in range(0, len(tone), 960):
                piece = tone[None, at : at + 960]
                piece = piece if form == "fltp" else (piece * 9000).astype(np.int16)
                frame = av.AudioFrame.from_ndarray(piece, format=form, layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = rate, at, Fraction(1, rate)
                film.mux(heard.encode(frame))
            film.mux(heard.encode())
    return path


def frames_of(path):
    return np.stack([np.asarray(frame) for _, frame in Film.open(path)]).astype(int)


def sound_of(path):
    with av.open(str(path)) as film:
        return b"".join(bytes(packet) for packet in film.demux(audio=0))


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A face that moves to the right."""
    photo = astronaut().crop((100, 0, 400, 225))
    pictures = [photo.transform(SIZE, Image.Transform.AFFINE, (1.6, 0, 2 * i, 0, 1.6, i)) for i in range(FRAMES)]
    return write_film(tmp_path_factory.mktemp("film") / "in.mp4", pictures)


@pytest.fixture
def config(tiny_model, tiny_domain, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "CHUNK", 3)
    real = command.open_method

    def of_faces(config):
        inverter = real(config)
        inverter.domain = replace(inverter.domain, alignment="ffhq")
        return inverter

    monkeypatch.setattr(command, "open_method", of_faces)
    direction = Direction("smile", torch.ones(16), {"projection_std": 0.5}, load(tiny_model).generator_hash)
    save_direction(direction, tmp_path / "smile.safetensors")

    def make(*files, **changes):
        settings = {"edits": {str(tmp_path / "smile.safetensors"): 2.0}, "batch_size": 2} | changes
        files = [str(file) for file in files]
        return VideoConfig(domain=tiny_domain, files=files, model=str(tiny_model), output=str(tmp_path), **settings)

    return make


POINTS = np.array([[-10.0, -8], [10, -8], [0, 12]])


class Faces:
    """Stands in for the detector: faces at known places, one list of centres per frame."""

    def __init__(self, monkeypatch):
        self.centres = []
        monkeypatch.setattr(tracks, "find_faces", lambda frame: [(self.quad(c), None) for c in self.centres])
        monkeypatch.setattr(tracks, "follow", self.follow)
        monkeypatch.setattr(tracks, "square_around", lambda points: self.quad(points.mean(axis=0)))

    def quad(self, centre):
        return np.array([[-40.0, -40], [-40, 40], [40, 40], [40, -40]]) + centre

    def follow(self, frame, quad):
        near = [c for c in self.centres if np.hypot(*(quad.mean(axis=0) - c)) < 20]
        return POINTS - POINTS.mean(axis=0) + near[0] if near else None


@pytest.fixture
def faces(monkeypatch):
    """A face at (40, 50) of every film."""
    pretended = Faces(monkeypatch)
    pretended.centres = [np.array([40.0, 50])]
    return pretended


@needs_faces
def test_a_film_comes_back_edited_at_its_face_with_its_times_and_its_sound(config, film, tmp_path):
    result = edit_video(config(film, tmp_path / "out.mp4"))
    assert result["frames"] == result["frames_with_a_face"] == FRAMES and result["sound"] == "copied"
    before, after = frames_of(film), frames_of(tmp_path / "out.mp4")
    assert before.shape == after.shape and sound_of(film) == sound_of(tmp_path / "out.mp4")
    changed = np.abs(before - after).max(axis=(0, 3)) > 40
    assert changed.any() and not changed[:, -20:].any()  # the face is left of the middle
    assert np.abs(before - after)[:, :, -20:].mean() < 4
    times = [[float(pts * each.time_base) for pts, _ in each] for each in map(Film.open, (film, tmp_path / "out.mp4"))]
    assert times[0] == pytest.approx(times[1], abs=1e-4)
    assert result["flicker"] > 0 and (tmp_path / "out_sheet.png").is_file() and (tmp_path / "out.json").is_file()
    assert not (tmp_path / "out.mp4.parts").exists()
    assert inspect_image(tmp_path / "out.mp4")[1].kind == COMPOSITE  # its file says so


def test_a_run_that_was_killed_goes_on_and_ends_as_if_it_had_not_been(config, film, faces, tmp_path, monkeypatch):
    edit_video(config(film, tmp_path / "whole.mp4"))

    def dies_at(module, name, count):
        real, calls = getattr(module, name), []

        def wrapped(*arguments):
            calls.append(arguments)
            if len(calls) == count:
                raise KeyboardInterrupt
            return real(*arguments)

        monkeypatch.setattr(module, name, wrapped)
        with pytest.raises(KeyboardInterrupt):
            edit_video(config(film, tmp_path / "out.mp4"))
        monkeypatch.setattr(module, name, real)

    dies_at(tracks, "follow", 6)  # in the second chunk of three frames
    assert len(list((tmp_path / "out.mp4.parts").glob("track_*.json"))) == 1
    dies_at(command, "crop_quad", 7)
    assert len(list((tmp_path / "out.mp4.parts").glob("codes_*"))) == 2
    dies_at(command, "write_part", 3)
    parts = sorted((tmp_path / "out.mp4.parts").glob("part_*"))
    assert len(parts) == 2
    written = [part.stat().st_mtime_ns for part in parts]
    with monkeypatch.context() as kept:
        kept.setattr(command.shutil, "rmtree", lambda folder: None)
        edit_video(config(film, tmp_path / "out.mp4"))
    assert [part.stat().st_mtime_ns for part in parts] == written
    assert (frames_of(tmp_path / "out.mp4") == frames_of(tmp_path / "whole.mp4")).all()
    edit_video(config(film, tmp_path / "out.mp4", smooth_codes_ms=0.0))  # parts of other settings are not taken
    assert (frames_of(tmp_path / "out.mp4") != frames_of(tmp_path / "whole.mp4")).any()


@pytest.mark.parametrize(("name", "sound", "told"), [("in.mkv", "pcm_s16le", "encoded as AAC"), ("in.mp4", None, None)])
def test_other_sound_and_a_phones_turned_film(name, sound, told, config, faces, tmp_path):
    photo = astronaut().crop((100, 0, 400, 225)).resize(SIZE).rotate(90, expand=True)
    write_film(tmp_path / name, [photo] * 4, sound, rotation=0 if sound else 90)
    found = Film.open(tmp_path / name)
    assert found.size == (photo.size if sound else photo.size[::-1])
    result = edit_video(config(tmp_path / name, tmp_path / "out.mp4"))
    assert result["sound"] == told and result["frames"] == 4
    with av.open(str(tmp_path / "out.mp4")) as film:
        assert [stream.codec_context.name for stream in film.streams] == ["h264", *(["aac"] if sound else [])]
    assert Film.open(tmp_path / "out.mp4").size == found.size


def test_sound_of_an_unknown_kind_is_left_out_and_that_is_said(config, faces, tmp_path, capsys):
    path = write_film(tmp_path / "in.mkv", [astronaut().crop((100, 0, 400, 225)).resize(SIZE)] * 2, "pcm_s16le")
    path.write_bytes(path.read_bytes().replace(b"A_PCM/INT/LIT", b"A_XYZ/INT/LIT"))
    result = edit_video(config(path, tmp_path / "out.mp4"))
    assert result["sound"] == "left out, of an unknown kind"
    assert "in.mkv: its sound is of a kind that is not known here and is left out" in capsys.readouterr().out
    with av.open(str(tmp_path / "out.mp4")) as film:
        assert not film.streams.audio


def test_a_folder_of_something_else_is_not_emptied_for_parts(config, tmp_path):
    write_film(tmp_path / "in.mp4", [astronaut().resize(SIZE)] * 3)
    (tmp_path / "out.mp4.parts").mkdir()
    (tmp_path / "out.mp4.parts" / "mine.txt").write_text("kept")
    with pytest.raises(UserError, match=r"out\.mp4\.parts is where .* rename it"):
        edit_video(config(tmp_path / "in.mp4", tmp_path / "out.mp4"))
    assert (tmp_path / "out.mp4.parts" / "mine.txt").read_text() == "kept"


def test_what_is_no_film_is_refused_with_what_to_do(config, faces, tmp_path, monkeypatch):
    faces.centres = []
    (tmp_path / "text.mp4").write_text("not a film")
    write_film(tmp_path / "grey.mp4", [Image.new("RGB", SIZE, (90, 90, 90))] * 3)
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\ngrey.mp4\n#EXT-X-ENDLIST\n"  # names another file
    (tmp_path / "list.mp4").write_text(playlist)
    (tmp_path / "list.m3u8").write_text(playlist)
    for files, message in (
        ([], "give the film to read and the one to write"),
        ([tmp_path / "text.mp4", tmp_path / "o.mp4"], r"text\.mp4: cannot be read as a film"),
        ([tmp_path / "list.mp4", tmp_path / "o.mp4"], r"list\.mp4: cannot be read as a film"),
        ([tmp_path / "list.m3u8", tmp_path / "o.mp4"], r"list\.m3u8: cannot be read as a film"),
        ([tmp_path / "grey.mp4", tmp_path / "o.avi"], r"give a name that ends in \.mp4"),
        ([tmp_path / "grey.mp4", tmp_path / "grey.mp4"], "the result would replace it"),
        ([tmp_path / "grey.mp4", tmp_path / "o.mp4"], "no face was found in its 3 frames"),
    ):
        with pytest.raises(UserError, match=message):
            edit_video(config(*files))
    with pytest.raises(FileNotFoundError, match="no such film"):
        edit_video(config(tmp_path / "absent.mp4", tmp_path / "o.mp4"))
    with monkeypatch.context() as small, pytest.raises(UserError, match="frames have more than 0 megapixels"):
        small.setattr("hyperinverter.utils.films.MOST_PIXELS", 100 * 100)
        edit_video(config(tmp_path / "grey.mp4", tmp_path / "o.mp4"))
    monkeypatch.undo()
    with pytest.raises(UserError, match="is not of faces in the FFHQ crop"):
        edit_video(config(tmp_path / "grey.mp4", tmp_path / "o.mp4"))


def followed(monkeypatch, places, which=1, levels=None):
    faces, tracker = Faces(monkeypatch), Tracker(10, which)
    for number, centres in enumerate(places):
        faces.centres = [np.array(c, float) for c in centres]
        tracker.take(number, Image.new("L", (64, 64), levels[number] if levels else 0).convert("RGB"))
    return tracker.tracks


def test_a_face_that_is_hidden_for_a_moment_is_one_track_and_its_place_is_filled_in(monkeypatch):
    places = [[(100 + 2 * i, 80)] if i not in (5, 6) else [] for i in range(12)]
    (path,) = smooth_paths(followed(monkeypatch, places), 0, 1)
    assert (path.start, path.stop) == (0, 12)
    np.testing.assert_allclose(path.quads.mean(axis=1)[:, 0], [100 + 2 * i for i in range(12)])


def test_a_new_scene_and_a_long_absence_begin_new_tracks(monkeypatch):
    still = [[(100, 80)]] * 12
    cut = followed(monkeypatch, still, levels=[0] * 6 + [200] * 6)
    assert [sorted(track.points) for track in cut] == [[*range(6)], [*range(6, 12)]]
    gone = followed(monkeypatch, still[:4] + [[]] * 7 + still)
    assert len(gone) == 2 and gone[1].points.keys() == set(range(12, 23))  # looked for every second frame


def test_which_faces_are_followed(monkeypatch):
    places = [[(100, 80), (300, 80)]] * 4 + [[(300, 80), (100, 80)]] * 4  # the other one is larger now
    for which, middles in ((1, [100]), (2, [300]), ("all", [100, 300])):
        found = smooth_paths(followed(monkeypatch, places, which), 0, 1)
        assert [path.quads.mean(axis=(0, 1))[0] for path in found] == pytest.approx(middles)
    late = [[(100, 80)]] * 5 + [[(100, 80), (300, 80)]] * 16
    assert [track.last for track in followed(monkeypatch, late, "all")] == [20, 20]


def test_smoothing_takes_jitter_away_and_leaves_even_motion(monkeypatch):
    noise = np.random.default_rng(0).normal(0, 2, 60)
    jittered = followed(monkeypatch, [[(100 + 2 * i + noise[i], 80)] for i in range(60)])
    even = followed(monkeypatch, [[(100 + 2 * i, 80)] for i in range(60)])
    middles = {
        (name, sigma): smooth_paths(found, sigma, 1)[0].quads.mean(axis=1)[:, 0]
        for name, found in (("jittered", jittered), ("even", even))
        for sigma in (0, 2)
    }
    np.testing.assert_allclose(middles["even", 2], middles["even", 0], atol=1e-6)
    second = {key: np.abs(np.diff(value, n=2)).mean() for key, value in middles.items()}
    assert second["jittered", 2] < 0.2 * second["jittered", 0]


def test_codes_are_means_of_the_same_faces_neighbours(tiny_model):
    ws, tokens = torch.randn(3, 6, 16), {"a": torch.randn(3, 4)}
    mixed = Inversion(ws, tokens).mixed(torch.tensor([[0.5, 0.5, 0], [0, 0, 1.0]]))
    torch.testing.assert_close(mixed.ws[0], (ws[0] + ws[1]) / 2)
    torch.testing.assert_close(mixed.tokens["a"], torch.stack([tokens["a"][:2].mean(0), tokens["a"][2]]))
    with pytest.raises(ValueError, match=r"expected \[n, 3\]"):
        Inversion(ws).mixed(torch.ones(2, 2))


def test_flicker_is_one_for_an_unchanged_film_and_grows_with_what_blinks():
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 99, (80, 80, 3), dtype=np.uint8)) for _ in range(6)]
    blinking = [frame.point(lambda level, up=60 * (i % 2): level + up) for i, frame in enumerate(frames)]
    quad = np.array([[10.0, 10], [10, 70], [70, 70], [70, 10]])
    for after, check in ((frames, lambda x: x == 1), (blinking, lambda x: x > 1.3)):
        flicker = Flicker([FacePath(0, np.stack([quad] * 6))])
        for number, pair in enumerate(zip(frames, after, strict=True)):
            flicker.take(number, *pair)
        assert all(check(figure) for figure in flicker.figures().values())
