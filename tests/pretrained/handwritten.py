"""Files written by hand, instruction by instruction: pickles, torch files of both formats, arrays, archives."""

import io
import pickle
import struct
import warnings
import zipfile

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the first pickle of torch's older format
HEAD = MAGIC + b"\x80\x02M\xe9\x03." + b"\x80\x02}(X\x0d\0\0\0little_endian\x88u."


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def literal(value) -> bytes:
    """Instructions that push a plain value; bytes are instructions already."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, tuple):
        return b"(" + b"".join(map(literal, value)) + b"t"
    return pickle.dumps(value, 2)[2:-1] if not isinstance(value, str) else text(value)


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def call(function: bytes | str, *arguments) -> bytes:
    """Instructions that call `module.name` (or what instructions push) with these arguments."""
    target = name(*function.rsplit(".", 1)) if isinstance(function, str) else function
    return target + literal(arguments) + b"R"


def pickled(body: bytes, protocol: int = 2) -> bytes:
    return bytes([0x80, protocol]) + body + b"."


def storage(kind: str = "FloatStorage", key: str = "0", numel=4, *more) -> bytes:
    return literal(("storage", name("torch", kind), key, "cpu", numel, *more)) + b"Q"


def tensor(stored: bytes, offset=0, size=(4,), stride=(1,), function="torch._utils._rebuild_tensor_v2") -> bytes:
    return call(function, stored, offset, size, stride, False, call("collections.OrderedDict"))


def archive(entries: dict, packing: int = zipfile.ZIP_STORED, change=None) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", packing) as file:
        warnings.simplefilter("ignore")  # a name that stands twice is meant
        for entry, data in entries.items():
            info = entry if isinstance(entry, zipfile.ZipInfo) else zipfile.ZipInfo(entry)
            info.compress_type = packing
            file.writestr(info, data)
    data = stream.getvalue()
    return change(data) if change else data


def torch_zip(body: bytes, numbers: bytes = bytes(16), **more) -> bytes:
    return archive({"net/data.pkl": pickled(body), "net/byteorder": b"little", "net/data/0": numbers}, **more)


def torch_old(body: bytes, keys: bytes | None = None, numbers: bytes | None = None) -> bytes:
    numbers = struct.pack("<q", 4) + bytes(16) if numbers is None else numbers
    return HEAD + pickled(body) + pickled(literal(["0"]) if keys is None else keys) + numbers


def nested_storage(data: bytes) -> bytes:
    """A tensor of an NVIDIA pickle whose storage is this blob."""
    blob = b"B" + struct.pack("<I", len(data)) + data
    return tensor(call("torch.storage._load_from_bytes", blob))


def npy(descr: str, shape: str, data: bytes) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + data


def link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("net/link")
    info.external_attr = 0o120777 << 16
    return info


def safetensors(header: str) -> bytes:
    return struct.pack("<Q", len(header)) + header.encode() + bytes(16)
