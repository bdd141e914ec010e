"""Names of results made from names of unknown origin: none leads elsewhere, none meets another."""

import json
import random
import sys
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hyperinverter.config.faults import ConfigError
from hyperinverter.config.load import load_config
from hyperinverter.config.model_schema import DirectionConfig
from hyperinverter.config.schema import DataConfig, EditConfig, InterpolateConfig
from hyperinverter.editing import align_command as aligning
from hyperinverter.editing.commands import edit_images, interpolate_images, invert_images
from hyperinverter.extractors.align import AlignedFace
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.output_names import LONGEST_PART, OutputNames, file_name, inside

BLACK = Image.new("RGB", (16, 16))
# what leads elsewhere, hides, is no name, or is too long
HOSTILE = (
    "/", "//", ".", "..", "...", "../x.png", "../../x.png", "a/../../x.png", "/tmp/x.png", "//host/share/x.png",
    "C:\\x.png", "C:x.png", "..\\x.png", "\\\\host\\x.png", "~/x.png", "x/", "./x.png", ".lock", ".x.png.1.tmp",
    " ", "", "a\nb.png", "a\rb.png", "\x1b[2Jx.png", "\u202egnp.exe", "\udcff.png", "a\0b.png", "sheet.png", "frames",
    "alignment.json.png", "edit.json.png", "sheet_smile.png.png", "a.png/b.png", "a.png", "A.png",
    "é.png", "e\u0301.png",
    "x" * 4000, "é" * 300 + ".png", "y/" * 3000 + "z.png", "con", "nul.png", "aux./b.png", "a ./b. .png",
)  # fmt: skip


@pytest.mark.parametrize("way", ["label", "path"])
def test_every_name_stays_inside_and_is_different(way, tmp_path):
    names = OutputNames(reserved=["sheet", "frames"])
    base = tmp_path / "output"
    made = [names.label(name) if way == "label" else names.path(name, ".png") for name in (*HOSTILE, *HOSTILE)]
    assert len({name.casefold() for name in made}) == len(made)
    for name in made:
        assert (base / name).resolve().is_relative_to(base.resolve()) and (base / name) != base
        assert all(part not in ("", ".", "..") and part[0] != "." for part in name.split("/")), name
        assert name.isprintable() and max(len(part.encode()) for part in name.split("/")) <= LONGEST_PART + 8
        target = base / (f"{name}.png" if way == "label" else name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"")  # the file system takes them all, side by side
    assert {path.name for path in tmp_path.iterdir()} == {"output"}


@pytest.mark.parametrize(
    "letters",
    ["\u0390 \u1fd3 \u0399\u0308\u0301", "\u1fd2 \u03b9\u0308\u0300", "\u212a k K", "\u1e9e ß SS", "é e\u0301 E\u0301"],
)
def test_letters_that_a_file_system_does_not_tell_apart(letters):
    """A Mac's folds the case of decomposed letters: three Greek ones met there that are different when composed."""
    names = OutputNames()
    made = [names.label(text) for text in letters.split()]
    met = {unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold()) for name in made}
    assert len(met) == len(made), made


def test_no_result_lies_behind_a_link_that_leads_out(tmp_path):
    output, elsewhere = tmp_path / "output", tmp_path / "elsewhere"
    (output / "own").mkdir(parents=True)
    elsewhere.mkdir()
    for name, target in (("out", elsewhere), ("up", ".."), ("nowhere", elsewhere / "x"), ("circle", "circle")):
        (output / name).symlink_to(target)
    (output / "in").symlink_to("own")
    (tmp_path / "linked").symlink_to(output)
    for base in (output, tmp_path / "linked"):
        for name in ("out", "out/a.png", "up", "up/a.png", "nowhere", "nowhere/a.png", "circle/a.png"):
            with pytest.raises(UserError, match=f"{base / name}: a link that leads out of {base}; remove it"):
                inside(base, name)
        for name in ("a", "a/b.png", "own/a.png", "in/a.png"):
            assert inside(base, name) == base / name


@pytest.mark.parametrize("command", ["align", "edit", "interpolate"])
def test_a_link_in_the_output_folder_is_not_written_through(command, tmp_path, tiny_model, tiny_domain, monkeypatch):
    """Once `edit` put a photo's pictures wherever a link of its name led."""
    photos, output, elsewhere = tmp_path / "photos", tmp_path / "out", tmp_path / "elsewhere"
    for folder in (photos / "a", output, elsewhere):
        folder.mkdir(parents=True)
    for name in ("a", "b") if command == "interpolate" else ("a",):
        Image.new("RGB", (16, 16), "red").save(photos / "a" / f"{name}.png")
    (output / "a").symlink_to(elsewhere)
    (output / "a_a").symlink_to(elsewhere)
    given = {"domain": tiny_domain, "data": DataConfig(root=str(photos)), "output": str(output)}
    given["model"] = str(tiny_model)
    config = {
        "align": lambda: EditConfig(**given),
        "edit": lambda: EditConfig(**given, directions=[], strengths=[1.0]),
        "interpolate": lambda: InterpolateConfig(**given),
    }[command]()
    act = {"align": aligning.align_folder, "edit": edit_images, "interpolate": interpolate_images}[command]
    monkeypatch.setattr(aligning, "align_faces", lambda *_: [AlignedFace(BLACK, np.zeros((4, 2)))])
    with pytest.raises(UserError, match=r"out/a.*: a link that leads out of"):
        act(config)
    assert not list(elsewhere.iterdir())


def test_plain_names_stay_as_they_are():
    names = OutputNames()
    assert [names.label(name) for name in ("a.png", "b.jpg", "sub/a.png", "c", "IMG.2020.jpg", "x.")] == [
        "a", "b", "sub_a", "c", "IMG.2020", "x",
    ]  # fmt: skip
    assert [names.path(name, ".png") for name in ("deep/er/c d.jpg", "ü.webp")] == ["deep/er/c d.png", "ü.png"]
    assert file_name("age_+2 (old)") == "age_+2 (old)"


def test_random_names_never_leave_the_folder():
    letters = ["/", "\\", ".", "..", "a", ":", "\0", " ", "\n", "ü", "\ud800", "~", "*"]
    choose = random.Random(0)
    names = OutputNames()
    for _ in range(3000):
        text = "".join(choose.choices(letters, k=choose.randint(0, 9)))
        for made in (names.label(text), names.path(text, ".png"), file_name(text)):
            parts = Path(made).parts
            assert parts and not Path(made).is_absolute() and ".." not in parts and "\0" not in made, (text, made)


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def hostile_archive(path: Path, outside: Path) -> Path:
    """A zip whose members are called after files outside, with three harmless ones."""
    Image.new("RGB", (16, 16), "red").save(path.with_suffix(".png"))
    data = path.with_suffix(".png").read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        for name in (
            f"{outside}/absolute.png", "../up.png", "../../up2.png", "a/../../../up3.png", "..\\back.png",
            "a.png", "a.jpg", "sheet.png", "edit.json.png", "invert.json.png", "x" * 250 + ".png",
        ):  # fmt: skip
            archive.writestr(name, data)
    return path


def hostile_database(folder: Path) -> Path:
    lmdb = pytest.importorskip("lmdb", reason="the lmdb package, which writes databases, is not installed")
    Image.new("RGB", (16, 16), "red").save(folder.with_suffix(".png"))
    data = folder.with_suffix(".png").read_bytes()
    with lmdb.open(str(folder), map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
        for key in (b"..", b".", b"/", b"../up", b"../../up2", b"/tmp/hyperinverter_outside", b"plain"):
            transaction.put(key, data)
    return folder


@pytest.mark.parametrize("container", ["zip", "lmdb"])
@pytest.mark.parametrize("command", ["align", "edit", "invert"])
def test_no_command_writes_outside_its_output(container, command, tmp_path, tiny_model, tiny_domain, monkeypatch):
    """An absolute member, `../` in a key and the key `..` were written beside or above the output folder."""
    work = tmp_path / "deep" / "er" / "work"
    work.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    if container == "zip":
        root = hostile_archive(work / "photos.zip", tmp_path / "elsewhere")
    else:
        root = hostile_database(work / "photos_lmdb")
    before = everything(tmp_path)
    config = EditConfig(
        domain=tiny_domain, data=DataConfig(root=str(root)), output=str(work / "out"), model=str(tiny_model),
        directions=[], strengths=[1.0],
    )  # fmt: skip
    if command == "align":
        monkeypatch.setattr(aligning, "align_faces", lambda *_: [AlignedFace(BLACK, np.zeros((4, 2)))])
        aligning.align_folder(config)
        record = json.loads((work / "out" / "alignment.json").read_text())
        count = len(record["photos"])
        assert all((work / "out" / photo["file"]).is_file() for photo in record["photos"].values())
    else:
        count = len((edit_images if command == "edit" else invert_images)(config)["images"])
    assert count == 7  # members that begin with ".." count as hidden, keys do not
    new = everything(tmp_path) - before
    assert len(new) > count and all(name.startswith("deep/er/work/out/") for name in new), sorted(new)
    assert not Path("/tmp/hyperinverter_outside.png").exists()


def test_names_in_a_config_are_names_of_files():
    for cls, words in (
        (EditConfig, ["domain.name=../x"]),
        (EditConfig, ["domain.directions={../smile: smile.pt}"]),
        (DirectionConfig, ["attributes={../../smile: Smiling}"]),
    ):
        with pytest.raises(ConfigError, match="is no name for a file"):
            load_config(cls, None, words)


@pytest.mark.parametrize("name", ["img.png", "folder{}/img.png", "img_{}.png"])
def test_the_last_of_many_names_costs_no_more_than_the_first(name):
    """Counted in lines that run: 16,000 photos of one name took two minutes when each looked at all before it."""
    names, lines = OutputNames(), []

    def count(frame, event, argument):
        lines[-1] += event == "line"
        return count

    for i in range(4000):
        traced = i in (100, 3999)
        if traced:
            lines.append(0)
            sys.settrace(count)
        names.label(name.format(i % 1000))
        sys.settrace(None)
    assert lines[1] <= 2 * lines[0]
