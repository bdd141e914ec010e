"""Small packages of weights written by hand: wheels, source archives, and OpenVINO's graphs with their numbers."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np

from hyperinverter.models.mobile_stylegan import MobileGenerator, band_order

TRANSPOSED = '<data transpose_a="false" transpose_b="true"/>'
SETUP = "open({canary!r}, 'w')\nfrom setuptools import setup\nsetup(name={name!r}, version={version!r})\n"


def write_wheel(folder: Path, name: str, version: str, members: dict[str, bytes]) -> Path:
    """NAME-VERSION-py3-none-any.whl with these files, as pip takes it."""
    info = f"{name}-{version}.dist-info"
    told = {f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": b""}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    path.write_bytes(wheel({**members, **told}))
    return path


def wheel(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def write_sdist(folder: Path, name: str, version: str, members: dict[str, bytes], canary: Path) -> Path:
    """NAME-VERSION.tar.gz whose setup.py makes a file `canary` when it is run."""
    setup = SETUP.format(canary=str(canary), name=name, version=version).encode()
    told = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}.tar.gz"
    path.write_bytes(gzip.compress(tar({f"{name}-{version}/{member}": content for member, content in
                                        {"setup.py": setup, "PKG-INFO": told, **members}.items()}), 1))  # fmt: skip
    return path


def tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            record = tarfile.TarInfo(name)
            record.size = len(content)
            archive.addfile(record, io.BytesIO(content))
    return buffer.getvalue()


def gzipped(*content: bytes | int) -> bytes:
    """Bytes, and of numbers so many MiB of zeros, which are not all held at once."""
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=1) as file:
        for each in content:
            for part in [each] if isinstance(each, bytes) else [bytes(2**20)] * each:
                file.write(part)
    return stream.getvalue()


def wheel_of_zeros(zeros: str, mib: int, **members: bytes) -> bytes:
    """With one more member, of so many MiB of zeros."""
    stream = io.BytesIO(wheel(members))
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as file, file.open(zeros, "w") as member:
        for _ in range(mib):
            member.write(bytes(2**20))
    return stream.getvalue()


class Ir:
    """An OpenVINO graph being written: `add` gives the number of a layer, `files` the .xml and the .bin."""

    def __init__(self, name: str = "small") -> None:
        self.name = name
        self.layers: list[str] = []
        self.edges: list[str] = []
        self.numbers = b""

    def add(self, kind: str, *sources: int, name: str = "", data: str = "") -> int:
        number = len(self.layers)
        self.layers.append(
            f'<layer id="{number}" name="{name or number}" type="{kind}" version="opset1">{data}</layer>'
        )
        for port, source in enumerate(sources):
            self.edges.append(f'<edge from-layer="{source}" from-port="0" to-layer="{number}" to-port="{port}"/>')
        return number

    def constant(self, values: np.ndarray, name: str = "", **changed: object) -> int:
        """`changed`: attributes to write in place of the true ones."""
        kind = {"float32": "f32", "int64": "i64", "int32": "i32", "float16": "f16"}[str(values.dtype)]
        told = {"element_type": kind, "shape": ", ".join(map(str, values.shape)), "offset": len(self.numbers),
                "size": values.nbytes, **changed}  # fmt: skip
        self.numbers += values.tobytes()
        data = "<data " + " ".join(f'{key}="{value}"' for key, value in told.items()) + "/>"
        return self.add("Const", name=name, data=data)

    def xml(self, head: str = '<?xml version="1.0"?>') -> bytes:
        body = f"<layers>{''.join(self.layers)}</layers><edges>{''.join(self.edges)}</edges>"
        return f'{head}<net name="{self.name}" version="10">{body}</net>'.encode()

    def files(self, stem: str) -> dict[str, bytes]:
        return {f"{stem}.xml": self.xml(), f"{stem}.bin": self.numbers}


WHEEL_MEMBERS = tuple(f"random_face/data/{part}.{kind}" for part in ("MappingNetwork", "SynthesisNetwork")
                      for kind in ("xml", "bin"))  # fmt: skip


def published(generator: MobileGenerator) -> tuple[Ir, Ir]:
    """Mapping and synthesis of a generator as the package `random-face` has them."""
    state = {name: value.detach().numpy() for name, value in generator.state_dict().items()}
    return _mapping(generator, state), _synthesis(generator, state)


def _mapping(generator: MobileGenerator, state: dict[str, np.ndarray]) -> Ir:
    ir = Ir("MappingNetwork")
    x, slope, gain = ir.add("Parameter"), ir.constant(np.array([0.2], np.float32)), ir.constant(np.ones(1, np.float32))
    for i in range(generator.mapping.num_layers):
        layer = generator.mapping.get_submodule(f"fc{i}")
        weight, bias = (state[f"mapping.fc{i}.{kind}"] for kind in ("weight", "bias"))
        product = ir.add("MatMul", x, ir.constant(weight * np.float32(layer.weight_gain)), data=TRANSPOSED)
        shape = ir.constant(np.array([1, len(bias)]))
        added = ir.add("Add", product, ir.add("Reshape", ir.constant(bias * np.float32(layer.bias_gain)), shape))
        x = ir.add("Multiply", ir.add("PReLU", added, slope), gain)
    ir.add("Result", x)
    return ir


def _synthesis(generator: MobileGenerator, state: dict[str, np.ndarray]) -> Ir:
    ir, last = Ir("SynthesisNetwork"), len(generator.synthesis.layers) - 1
    style, to_img = ir.add("Parameter"), f"layers.{last}.to_img"

    def value(name: str, banded: bool = False) -> np.ndarray:
        found = state[f"synthesis.{name}"]
        if banded:  # back into the published order of bands
            found, ours = np.empty_like(found), found
            found[band_order(len(found)).numpy()] = ours
        return found

    def modulation(name: str, called: str, banded: bool = False) -> int:
        weight = ir.constant(value(f"{name}.modulation.weight", banded), f"m.{called}.modulation.weight")
        bias = ir.constant(value(f"{name}.modulation.bias", banded)[None], f"m.{called}.modulation.bias")
        return ir.add("Add", ir.add("MatMul", style, weight, data=TRANSPOSED), bias)

    def convolution(x: int, name: str, called: str, banded: bool = False) -> int:
        x = ir.add("Multiply", modulation(name, f"{called}.conv"), x)
        kernel = f"{name}.weight"
        if f"synthesis.{kernel}" not in state:
            depthwise = ir.constant(value(f"{name}.depthwise")[:, None], f"m.{called}.conv.weight_dw")
            x, kernel = ir.add("GroupConvolution", x, depthwise), f"{name}.pointwise"
        x = ir.add("Convolution", x, ir.constant(value(kernel, banded)))
        if name != "to_img":
            x = ir.add("Add", x, ir.constant(value(f"{name}.noise_const")[None, None]))
        bias = value(f"{name}.bias", banded).reshape(1, -1, 1, 1)
        return ir.add("Add", x, ir.constant(bias, f"m.{called}.bias"))

    x = convolution(ir.constant(value("input"), "m.input.input"), "conv1", "conv1", banded=True)
    for i in range(last + 1):
        x = ir.add("Multiply", modulation(f"layers.{i}.up", f"layers.{i}.up", banded=True), x)
        x = convolution(x, f"layers.{i}.conv1", f"layers.{i}.conv1")
        x = convolution(x, f"layers.{i}.conv2", f"layers.{i}.conv2", banded=i < last)
    ir.add("Result", convolution(x, "to_img", to_img, banded=True))
    return ir


def generator_members(generator: MobileGenerator) -> dict[str, bytes]:
    mapping, synthesis = published(generator)
    return mapping.files("random_face/data/MappingNetwork") | synthesis.files("random_face/data/SynthesisNetwork")
