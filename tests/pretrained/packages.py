"""Small packages of weights written by hand: wheels, source archives, and OpenVINO's graphs with their numbers."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np

SETUP = "open({canary!r}, 'w')\nfrom setuptools import setup\nsetup(name={name!r}, version={version!r})\n"


def write_wheel(folder: Path, name: str, version: str, members: dict[str, bytes]) -> Path:
    """NAME-VERSION-py3-none-any.whl with these files, as pip takes it."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    told = {f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": b""}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in {**members, **told}.items():
            archive.writestr(member, content)
    return path


def write_sdist(folder: Path, name: str, version: str, members: dict[str, bytes], canary: Path) -> Path:
    """NAME-VERSION.tar.gz whose setup.py makes a file `canary` when it is run."""
    setup = SETUP.format(canary=str(canary), name=name, version=version).encode()
    told = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}.tar.gz"
    path.write_bytes(gzip.compress(tar({f"{name}-{version}/{member}": content for member, content in
                                        {"setup.py": setup, "PKG-INFO": told, **members}.items()})))  # fmt: skip
    return path


def tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            record = tarfile.TarInfo(name)
            record.size = len(content)
            archive.addfile(record, io.BytesIO(content))
    return buffer.getvalue()


class Ir:
    """An OpenVINO graph being written: `add` gives the number of a layer, `files` the .xml and the .bin."""

    def __init__(self) -> None:
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
        return f'{head}<net name="small" version="10">{body}</net>'.encode()

    def files(self, stem: str) -> dict[str, bytes]:
        return {f"{stem}.xml": self.xml(), f"{stem}.bin": self.numbers}
