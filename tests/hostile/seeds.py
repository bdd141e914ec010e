"""Whole small files of every kind that the package reads, to be changed by `fuzz`: kind -> files with their reading."""

import contextlib
import gzip
import io
import random
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import readings
import torch
from PIL import Image, features

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "pretrained")]

import hostile  # noqa: E402 (lies beside the readers' tests)
from handwritten import archive, pickled, torch_old, torch_zip  # noqa: E402
from nvidia_file import Stored, nested, nvidia_bytes  # noqa: E402
from tiny_model import make_tiny_domain, save_feature_residual, save_tiny_model  # noqa: E402

from hyperinverter.checkpoint import read_model, save_training_state  # noqa: E402
from hyperinverter.config.schema import DataConfig, EditConfig  # noqa: E402
from hyperinverter.directions.direction import Direction  # noqa: E402
from hyperinverter.directions.files import save_direction  # noqa: E402
from hyperinverter.directions.ganspace import Pca, save_pca  # noqa: E402
from hyperinverter.editing import commands  # noqa: E402
from hyperinverter.inverters import Inversion, Inverter, load  # noqa: E402
from hyperinverter.models.residuals import FeatureCode  # noqa: E402
from hyperinverter.utils.films import save_mp4  # noqa: E402
from hyperinverter.utils.provenance import COMPOSITE, DRAWN, said  # noqa: E402

CANARY = "canary"


@dataclass(frozen=True)
class Seed:
    """A whole file.

    Attributes:
        path: where it lies; of a file that belongs to a folder the others lie beside it and are copied along.
        read: what the package does with it.
        folder: whether those others are needed.
    """

    path: Path
    read: Callable[[Path], object]
    folder: bool = False


def image_bytes(image_format: str, dice: random.Random, mode: str = "RGB", **options: object) -> bytes:
    draw = np.random.default_rng(dice.randrange(2**32))
    if mode == "I;16":
        image = Image.fromarray(draw.integers(0, 2**16, (40, 50)).astype(np.uint16))
    else:
        image = Image.fromarray(draw.integers(0, 256, (40, 50, 3)).astype(np.uint8)).convert(mode)
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def images(dice: random.Random) -> dict[str, bytes]:
    files = {
        "a.png": image_bytes("PNG", dice), "rgba.png": image_bytes("PNG", dice, mode="RGBA"),
        "deep.png": image_bytes("PNG", dice, mode="I;16"), "palette.png": image_bytes("PNG", dice, mode="P"),
        "a.jpg": image_bytes("JPEG", dice), "progressive.jpg": image_bytes("JPEG", dice, progressive=True),
        "cmyk.jpg": image_bytes("JPEG", dice, mode="CMYK"), "turned.jpg": image_bytes("JPEG", dice, exif=_turned()),
        "a.webp": image_bytes("WEBP", dice), "exact.webp": image_bytes("WEBP", dice, lossless=True),
        "a.bmp": image_bytes("BMP", dice), "a.ppm": image_bytes("PPM", dice), "a.tif": image_bytes("TIFF", dice),
        "lzw.tif": image_bytes("TIFF", dice, compression="tiff_lzw"), "a.gif": image_bytes("GIF", dice),
        "deflated.tif": image_bytes("TIFF", dice, compression="tiff_adobe_deflate"),
    }  # fmt: skip
    if features.check("avif"):
        files["a.avif"] = image_bytes("AVIF", dice)
    return files


def origins(dice: random.Random) -> dict[str, bytes]:
    return {
        "said.png": image_bytes("PNG", dice, **said(DRAWN, "PNG")),
        "said.jpg": image_bytes("JPEG", dice, **said(COMPOSITE, "JPEG")),
        "said.webp": image_bytes("WEBP", dice, **said(DRAWN, "WEBP")),
        "said.gif": image_bytes("GIF", dice, **said(DRAWN, "GIF")),
    }


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


def zips(dice: random.Random) -> dict[str, bytes]:
    members = {f"folder/{name}": data for name, data in list(images(dice).items())[:6]} | {"note.txt": b"x"}
    packings = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED, "bzip2": zipfile.ZIP_BZIP2,
                "lzma": zipfile.ZIP_LZMA}  # fmt: skip
    return {f"{name}.zip": archive(members, packing) for name, packing in packings.items()}


def database(folder: Path, dice: random.Random) -> Path | None:
    try:
        import lmdb
    except ImportError:
        return None
    with lmdb.open(str(folder), map_size=2**22) as environment, environment.begin(write=True) as transaction:
        for i in range(80):
            value = image_bytes("PNG", dice) if i % 8 == 0 else dice.randbytes(90)
            transaction.put(f"{i * 2654435761:040x}".encode(), value)
    return folder / "data.mdb"


def weights(canary: Path) -> dict[str, bytes]:
    torch.manual_seed(0)
    state = {"a.weight": torch.randn(4, 3), "b": torch.ones(2).half(), "n": torch.tensor(3)}
    files = {}
    for name, new in (("new.pt", True), ("old.pth", False)):
        stream = io.BytesIO()
        torch.save({"state_dict": state, "opts": {"x": 1, "y": [1.5, "z"]}}, stream, _use_new_zipfile_serialization=new)
        files[name] = stream.getvalue()
    files["nvidia.pkl"] = nvidia_bytes({"G_ema": Stored(nested(state), "Generator", {"z_dim": 4})})
    vector = np.random.default_rng(0).normal(size=(1, 16)).astype("f4")
    for name, array in (("a.npy", vector), ("whole.npy", np.arange(16)), ("steps.npy", np.array({"a": [vector]}))):
        stream = io.BytesIO()
        np.save(stream, array)
        files[name] = stream.getvalue()
    for name, save in (("a.npz", np.savez), ("packed.npz", np.savez_compressed)):
        stream = io.BytesIO()
        save(stream, a=np.ones((2, 3)), b=np.arange(4))
        files[name] = stream.getvalue()
    for gadget, body in hostile.running_code(canary).items():
        files[f"gadget_{gadget}.pkl"] = pickled(body)
        files[f"gadget_{gadget}.pt"] = torch_zip(body)
        files[f"gadget_{gadget}.pth"] = torch_old(body, b"]", b"")
    return files


def keras(path: Path) -> bool:
    try:
        import h5py
    except ImportError:
        return False
    with h5py.File(path, "w") as file:
        for layer in ("conv2d_1", "dense_1"):
            file.create_dataset(f"{layer}/{layer}/kernel:0", data=np.ones((3, 3, 3, 4), "f4"))
            file.create_dataset(f"{layer}/{layer}/bias:0", data=np.ones(4, "f4"))
    return True


YAML = """domain: {name: micro, resolution: 32, generator: {z_dim: 16, w_dim: 16}}
data:
  root: [a, b]
  max_images: 5
directions: [smile, age]
strengths: [-1.5, 0, 2e0]
output: outputs/${domain.name}
align: false
"""
VOTES = '{"page": "page", "participant": "x", "votes": [{"question": "editing_0", "ranked": ["b", "a"]}]}'
TABLE = "image_id,Smiling,Young\n" + "".join(f"{i:06d}.jpg,{i % 2},{-1 if i % 3 else 1}\n" for i in range(40))


def write_seeds(folder: Path) -> dict[str, list[Seed]]:
    """Write all of them below `folder`; what their code would create is CANARY beside it."""
    dice = random.Random(0)
    model = save_tiny_model(folder / "model" / "micro", make_tiny_domain())
    save_feature_residual(model)
    digest = read_model(model / "generator.safetensors").hash
    save_direction(Direction("d", torch.randn(16), generator_hash=digest), model / "d.safetensors")
    inversions = folder / "inversions"
    for name, more in (
        ("w", {}), ("tokens", {"tokens": {"a": torch.randn(2, 4), "b": torch.randn(2, 4)}}),
        ("dense", {"residuals": {"a.weight": torch.randn(2, 3, 2)}}),
        ("features", {"features": {"a": FeatureCode(torch.randn(2, 1, 4, 4), torch.randn(2, 6, 16))}}),
    ):  # fmt: skip
        one = Inversion(torch.randn(2, 1, 16).repeat(1, 6, 1), info={"steps": 3}, generator_hash=digest, **more)
        one.save(inversions / f"{name}.safetensors")
    save_pca(Pca(torch.randn(1, 16), torch.randn(3, 1, 16), torch.ones(3)), folder / "pca.safetensors")
    state = {"config": {"a": {"b": 1}}, "w": torch.randn(3, 4), "history": [[1, {"loss": 0.5}]], "trainer": "phase1"}
    save_training_state(folder / "checkpoints", 3, state)

    def given(files: dict[str, bytes], read: Callable[[Path], object], name: str) -> list[Seed]:
        place = folder / name
        place.mkdir(parents=True)
        for file, data in files.items():
            (place / file).write_bytes(data)
        return [Seed(place / file, read) for file in files]

    torch.save({f"mapper.course_mapping.mapping.1.{part}": torch.randn(shape) for part, shape in
                (("weight", (16, 16)), ("bias", (16,)))}, model / "mapper.pt")  # fmt: skip
    found = {
        "image": given(images(dice), readings.image, "image") + given(images(dice), readings.tensor, "tensor"),
        "origin": given(origins(dice), readings.origin, "origin"),
        "zip": given(zips(dice), readings.archive, "zip"),
        "weights": given(weights(folder.parent / CANARY), readings.weights, "weights"),
        "direction": [Seed(model / "d.safetensors", readings.direction),
                      Seed(model / "mapper.pt", readings.direction),
                      Seed(folder / "pca.safetensors", readings.weights),
                      *given({"a.npy": (folder / "weights" / "a.npy").read_bytes()}, readings.direction, "direction")],
        "model": [Seed(model / f"{part}.safetensors", readings.model, True)
                  for part in ("generator", "w_encoder", "hyperinverter", "feature_residual")],
        "inversion": [Seed(path, readings.inversion) for path in sorted(inversions.iterdir())],
        "checkpoint": [Seed(folder / "checkpoints" / "step_00000003.pt", readings.checkpoint)],
        "yaml": given({"a.yaml": YAML.encode()}, readings.config, "yaml"),
        "votes": given({"a.json": VOTES.encode()}, readings.votes, "votes"),
        "csv": given({"a.csv": TABLE.encode(), "a.csv.gz": gzip.compress(TABLE.encode())}, readings.labels, "csv"),
    }  # fmt: skip
    if find_spec("av"):
        moving = [Image.effect_noise((32, 24), 60).convert("RGB") for _ in range(4)]
        found["film"] = [Seed(save_mp4(moving, folder / "film" / "a.mp4"), readings.film)]
    if data := database(folder / "lmdb", dice):
        found["lmdb"] = [Seed(data, database_of)]
    if keras(folder / "a.h5"):
        found["h5"] = [Seed(folder / "a.h5", readings.keras)]
    found["command"] = [Seed(seed.path, invert) for kind in ("zip", "lmdb", "inversion", "image")
                        for seed in found.get(kind, []) if seed.path.parent.name != "tensor"
                        and seed.path.stem not in ("tokens", "dense", "features")]  # fmt: skip
    return found


def database_of(path: Path) -> None:
    readings.archive(path.parent)


@cache
def _inverter() -> Inverter:
    with tempfile.TemporaryDirectory() as folder:
        return load(save_tiny_model(Path(folder) / "micro", make_tiny_domain()), device="cpu")


def invert(path: Path) -> None:
    """The command, with `out` beside the folder of the file as its output."""
    root = path.parent if path.name == "data.mdb" else path
    commands.load = lambda *_, **__: _inverter()
    data = DataConfig(root=[str(root)], on_bad_file="skip", max_images=3)
    config = EditConfig(data=data, output=str(path.parents[1] / "out"), device="cpu", threads=1)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        commands.invert_images(config)
