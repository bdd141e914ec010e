"""A corpus of hostile files, and a run over them under a memory limit.

Code that ran would leave a file CANARY beside the corpus. `python hostile.py FOLDER REPORT` reads every file of FOLDER
in this one process and writes what came of each as JSON.
"""

import json
import resource
import struct
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from handwritten import (
    MAGIC,
    archive,
    call,
    link,
    literal,
    name,
    nested_storage,
    npy,
    pickled,
    safetensors,
    storage,
    tensor,
    text,
    torch_old,
    torch_zip,
)
from nvidia_file import Stored, nested, nvidia_bytes
from packages import Ir, gzipped, tar, wheel, wheel_of_zeros

CANARY = "canary"
SPARE_BYTES = 2**30  # address space that all files together may take on top of the imported packages


def running_code(canary: Path) -> dict[str, bytes]:
    """Instructions that would create the canary, by gadget."""
    shell, source = f"touch {canary}", f"open({str(canary)!r}, 'w')"
    other = canary.with_suffix(".other")  # a file that itself would create the canary, for functions that load files
    other.write_bytes(pickled(call("os.system", shell)))
    getattr_ = name("builtins", "getattr")
    return {
        "os_system": call("os.system", shell),
        "posix_system": call("posix.system", shell),
        "nt_system": call("nt.system", shell),
        "eval": call("builtins.eval", source),
        "exec": call("builtins.exec", source),
        "python2_eval": call("__builtin__.eval", source),
        "compile_exec": call("builtins.exec", call("builtins.compile", source, "x", "exec")),
        "open": call("builtins.open", str(canary), "w"),
        "io_open": call("_io.open", str(canary), "w"),
        "import": call("builtins.__import__", "antigravity"),
        "importlib": call("importlib.import_module", "antigravity"),
        "subprocess_popen": call("subprocess.Popen", ("touch", str(canary))),
        "subprocess_output": call("subprocess.check_output", ("touch", str(canary))),
        "pty_spawn": call("pty.spawn", ("touch", str(canary))),
        "runpy": call("runpy.run_path", str(other)),
        "getattr_chain": call(call(getattr_, call("builtins.__import__", "os"), "system"), shell),
        "getattr_globals": call(getattr_, name("collections", "OrderedDict"), "__init__"),
        "setattr": call("builtins.setattr", name("torch", "Tensor"), "__add__", name("os", "system")),
        "map": call("builtins.list", call("builtins.map", name("os", "system"), (shell,))),
        "partial": call(call("functools.partial", name("os", "system"), shell)),
        "reduce": call("functools.reduce", name("os", "system"), (shell, shell)),
        "attrgetter": call(call("operator.attrgetter", "system"), call("builtins.__import__", "os")),
        "methodcaller": call(call("operator.methodcaller", "system", shell), call("builtins.__import__", "os")),
        "pickle_loads": call("pickle.loads", b"C\x04abcd"),
        "torch_load": call("torch.load", str(other)),
        "torch_serialization_load": call("torch.serialization.load", str(other)),
        "torch_hub": call("torch.hub.load", str(canary.parent), "x"),
        "torch_jit": call("torch.jit.load", str(other)),
        "torch_compile": call("torch.utils.cpp_extension.load_inline", "x", source),
        "numpy_load": call("numpy.load", str(other), literal(None), True),
        "numpy_runstring": call("numpy.testing._private.utils.runstring", source, literal({})),
        "timeit": call("timeit.timeit", source),
        "cprofile": call("cProfile.run", source),
        "code_console": call("code.interact", source),
        "rmtree": call("shutil.rmtree", str(canary.parent)),
        "dotted_name": call(text("torch") + text("os.system") + b"\x93", shell),
        "dotted_allowed": call(text("collections") + text("OrderedDict.fromkeys") + b"\x93", "a"),
        "dotted_globals": call(text("torch._utils") + text("_rebuild_tensor.__globals__.get") + b"\x93", "os"),
        "name_is_no_text": b"K\x01K\x02\x93" + literal((shell,)) + b"R",
        "inst": b"(" + text(shell) + b"ios\nsystem\n",
        "obj": b"(" + name("os", "system") + text(shell) + b"o",
        "newobj": name("os", "system") + literal((shell,)) + b"\x81",
        "newobj_ex": name("os", "system") + literal((shell,)) + b"}\x92",
        "extension": b"\x82\x01",
        "persistent_text": b"Pos.system\n",
        "persistent_id": literal(("storage", "os.system")) + b"Q",
        "setstate_of_a_function": name("torch._utils", "_rebuild_tensor") + literal({"__call__": 1}) + b"b",
        "setstate_of_a_class": name("torch", "Size") + b"N" + literal({"make": 1}) + b"\x86b",
        "pollution_of_a_mapping": call("collections.OrderedDict") + b"N" + literal({"__class__": 1}) + b"\x86b",
        "factory": call("collections.defaultdict", name("os", "system")),
        "factory_is_called": call("collections.defaultdict", literal(shell)),
        "rebuild_of_a_function": call("torch._utils._rebuild_parameter", name("torch", "Size"), False, literal(None)),
        "rebuild_by_a_function": call(
            "torch._tensor._rebuild_from_type_v2",
            name("_codecs", "encode"),
            name("torch", "Tensor"),
            ("a", "latin1"),
            None,
        ),
        "codec": call("_codecs.encode", shell, "zip"),
        "method_of_a_value": call(literal(shell), "format"),
        "whole_network": call("torch.nn.modules.linear.Linear", 3, 3),
    }


def containers(code: dict[str, bytes]) -> dict[str, bytes]:
    """The same in every container: each gadget alone, and some in torch files and in nested storages."""
    files = {f"{gadget}.pkl": pickled(body) for gadget, body in code.items()}
    for gadget in ("os_system", "eval", "getattr_chain", "dotted_name", "persistent_id"):
        body = code[gadget]
        files[f"{gadget}.pt"] = torch_zip(body)
        files[f"{gadget}_as_value.pt"] = torch_zip(b"}" + text("w") + body + b"s")
        files[f"{gadget}.pth.tar"] = torch_old(body, b"]", b"")
        files[f"{gadget}_as_magic.pth"] = MAGIC + pickled(body)
        files[f"{gadget}_as_keys.pth"] = torch_old(tensor(storage("FloatStorage", "0", 4, None)), body)
        files[f"{gadget}_in_a_storage.pkl"] = pickled(nested_storage(pickled(body)))
        files[f"{gadget}_in_an_old_storage.pkl"] = pickled(nested_storage(torch_old(body, b"]", b"")))
    inner = torch_old(nested_storage(torch_old(storage("FloatStorage", "0", 4, None))))
    files["storage_in_a_storage.pkl"] = pickled(nested_storage(inner))
    files["zip_in_a_storage.pkl"] = pickled(nested_storage(torch_zip(storage())))
    files["zip_in_a_zip.pt"] = archive({"a.pt": torch_zip(storage())})
    files["storage_is_a_list.pkl"] = pickled(nested_storage(torch_old(b"]", b"]", b"")))
    module = literal(("module", name("torch", "Size"), "x.py", "source")) + b"Q"
    files["module_with_source.pth"] = torch_old(module, b"]", b"")
    files["object_array.npy"] = npy("'|O'", "(1,)", pickled(code["os_system"]))
    files["object_array.npz"] = archive({"a.npy": npy("'|O'", "(1,)", pickled(code["os_system"]))})
    files["script.pt"] = archive({"net/data.pkl": pickled(b"N"), "net/constants.pkl": pickled(code["eval"])})
    return files


def lying_tensors() -> dict[str, bytes]:
    """Tensors that reach beyond their numbers, or take more memory than the file holds."""
    wide = b"".join(text(f"w{i}") + b"h\x01" for i in range(3000))
    big = storage("FloatStorage", "0", 2**20)
    bodies = {
        "size_beyond": tensor(storage(), 0, (2**30,)),
        "stride_beyond": tensor(storage(), 0, (2, 2), (1000, 1)),
        "offset_beyond": tensor(storage(), 4),
        "negative_offset": tensor(storage(), -1),
        "negative_stride": tensor(storage(), 3, (4,), (-1,)),
        "overflowing": tensor(storage(), 0, (2**62, 2**62), (2**62, 2**62)),
        "expanded": tensor(storage(), 0, (2**20, 2**20), (0, 0)),
        "size_is_text": tensor(storage(), 0, ("4",)),
        "size_is_a_list": tensor(storage(), 0, literal([4])),
        "many_dimensions": tensor(storage(), 0, (1,) * 70, (1,) * 70),
        "storage_declares_more": tensor(storage("FloatStorage", "0", 2**40), 0, (2**40,)),
        "storage_declares_less": tensor(storage("FloatStorage", "0", 3)),
        "storage_is_absent": tensor(storage("FloatStorage", "1", 4)),
        "storage_elsewhere": tensor(storage("FloatStorage", "../../data/0", 4)),
        "storage_is_a_number": tensor(literal(5)),
        "wrong_arguments": call("torch._utils._rebuild_tensor_v2", 1, 2),
        "other_numbers": tensor(storage("DoubleStorage", "0", 4)),
        "no_truth": tensor(storage("BoolStorage", "0", 16), 0, (16,)),
        "sparse": call("torch._utils._rebuild_sparse_tensor", name("torch", "sparse_coo"), ()),
        "meta": call("torch._utils._rebuild_meta_tensor_no_storage", name("torch", "float32"), (2**40,), (1,), False),
    }
    files = {f"{lie}.pt": torch_zip(body, b"\x07" * 16) for lie, body in bodies.items()}
    files["three_thousand_times.pt"] = torch_zip(
        b"}" + tensor(big, 0, (2**20,)) + b"q\x010(" + wide + b"u", bytes(2**22)
    )
    for count in (2**40, -1, 5):
        files[f"old_numel_{count}.pth"] = torch_old(tensor(storage("FloatStorage", "0", count, None)))
    files["old_part_beyond.pth"] = torch_old(tensor(storage("FloatStorage", "0", 4, ("1", 2, 3))))
    files["old_count_differs.pth"] = torch_old(
        tensor(storage("FloatStorage", "0", 4, None)), None, struct.pack("<q", 2**50)
    )
    files["old_keys_are_deep.pth"] = torch_old(
        tensor(storage("FloatStorage", "0", 4, None)), b"](K\x01" + b"\x85" * 50_000 + b"e"
    )
    return files


def bombs() -> dict[str, bytes]:
    """Small files that ask for much memory, time or depth."""
    laughs = b"]q\0" + b"".join(b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(60))
    long_text = text("x" * 100_000) + b"q\x00"
    pairs = b"](" + b"K\x01K\x02\x86" * 2000 + b"eq\x00"
    zeros = bytes(2**26)
    lies = bytearray(archive({"a.npy": npy("'<f4'", f"({2**24},)", zeros)}, zipfile.ZIP_DEFLATED))
    place = lies.rfind(struct.pack("<I", len(npy("'<f4'", f"({2**24},)", b"")) + len(zeros)))
    lies[place : place + 4] = struct.pack("<I", 200)
    array = call("numpy.core.multiarray._reconstruct", name("numpy", "ndarray"), (0,), b"C\x01b")
    kind = call("numpy.dtype", "f4", False, True)
    deflated = {"packing": zipfile.ZIP_DEFLATED}
    bodies = {
        "long_bytes": b"\x8e" + struct.pack("<Q", 2**60),
        "long_text": b"\x8d" + struct.pack("<Q", 2**62),
        "long_integer": b"\x8b" + struct.pack("<i", 2**31 - 1),
        "negative_integer": b"\x8b" + struct.pack("<i", -5),
        "long_frame": b"\x95" + struct.pack("<Q", 2**62) + b"N",
        "large_memo": b"Nr" + struct.pack("<I", 2**32 - 1) + b"j" + struct.pack("<I", 2**32 - 2),
        "billion_laughs": laughs,
        "repeated_text": long_text + b"]" + b"(" + b"h\0" * 100_000 + b"e",
        "copied_pairs": pairs + b"0" + (name("collections", "OrderedDict") + b"h\0\x85R0") * 2000 + b"N",
        "many_sets": b"\x8f0" * 400_000 + b"N",
        "deep_tuple": b")" + b"\x85" * 100_000,
        "deep_key": b"})" + b"\x85" * 50_000 + b"Ns",
        "deep_member": b"\x8f()" + b"\x85" * 50_000 + b"\x90",
        "deep_call": name("torch", "Size") + b"K\x01" + b"\x85" * 50_000 + b"R",
        "list_as_key": b"}]Ns",
        "holds_itself": b"]q\0h\0a",
        "module_holds_itself": call("torch_utils.persistence._reconstruct_persistent_obj", b"}q\0"),
        "no_values": b"00R",
        "lone_mark": b"((((",
        "unknown_instruction": b"\xff",
        "missing_value": b"h\x05",
        "big_array": array + literal((1, (2**30, 2**30), kind, False, b"C\x01b")) + b"b",
        "object_array": call("numpy.dtype", "O8", False, True),
        "record_array": kind + literal((3, "|", None, ("a",), literal({}), 8, 1, 0)) + b"b",
        "wide_text": array + literal((1, (0,), call("numpy.dtype", "U99999999"), False, b"C\0")) + b"b",
        "unfinished_array": array,
        "wrong_scalar": call("numpy.core.multiarray.scalar", kind, b"C\x01b"),
        "endless_name": b"c" + b"o" * 100_000,
        "escape_in_a_name": call("os\x1b[2J.sys\x07tem", "x"),
    }  # fmt: skip
    return {f"{bomb}.pkl": pickled(body, 4) for bomb, body in bodies.items()} | {
        "npz_of_zeros.npz": archive({"a.npy": npy("'<f4'", f"({2**24},)", zeros)}, zipfile.ZIP_DEFLATED),
        "npz_that_lies.npz": bytes(lies),
        "large_shape.npy": npy("'<f4'", f"({2**50},)", bytes(16)),
        "odd_shape.npy": npy("'<f4'", "(" + "(" * 5000, bytes(16)),
        "compressed.pt": torch_zip(tensor(storage("FloatStorage", "0", 2**24), 0, (2**24,)), bytes(2**26), **deflated),
        "leads_out.pt": archive({"net/data.pkl": pickled(b"N"), "../../evil": b""}),
        "absolute.pt": archive({"net/data.pkl": pickled(b"N"), "/etc/passwd": b""}),
        "backslash.pt": archive({"net/data.pkl": pickled(b"N"), "net\\..\\..\\evil": b""}),
        "link.pt": archive({"net/data.pkl": pickled(b"N"), link(): b"/etc/passwd"}),
        "twice.pt": archive({"net/data.pkl": pickled(b"N"), zipfile.ZipInfo("net/data.pkl"): pickled(b"N")}),
        "encrypted.pt": torch_zip(b"N", change=lambda data: data.replace(b"\x14\0\0\0\0\0", b"\x14\0\1\0\0\0")),
        "big_endian.pt": archive({"net/data.pkl": pickled(b"N"), "net/byteorder": b"big"}),
        "no_directory.pt": b"PK\x03\x04" + bytes(500),
        "long_header.safetensors": struct.pack("<Q", 2**26) + b"{}" + bytes(100),
        "huge_tensor.safetensors": safetensors('{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,16]}}'),
        "overlapping.safetensors": safetensors(
            '{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
        ),
        "deep.safetensors": safetensors('{"a":' * 50_000),
    }


def networks() -> dict[str, bytes]:
    """NVIDIA pickles that are not what they should be."""
    module = nested({"fc.weight": torch.ones(2, 2), "fc.bias": torch.ones(2)})
    faults = {
        "later_version": {"version": 7},
        "version_is_text": {"version": "6"},
        "is_a_function": {"type": "func"},
        "no_state": {"state": None},
        "no_name": {"class_name": ["x"]},
        "parts_are_a_list": {"state": {"_modules": [1]}},
        "part_is_a_number": {"state": {"_modules": {"a": 1}}},
        "tensor_is_text": {"state": {"_parameters": {"a": "x"}}},
        "arguments_are_text": {"state": {"_init_kwargs": "x"}},
    }
    kinds = {fault: Stored(module, "Generator", changes=changes) for fault, changes in faults.items()}
    return {f"network_{fault}.pkl": nvidia_bytes({"G_ema": stored}) for fault, stored in kinds.items()}


PACKED = ("pack/net.xml", "pack/net.bin")  # members that are read of packages
ZEROS = 240  # MiB, more than may be held; packed they are some hundred kB


def head_of(member: str) -> bytes:
    """In a tar archive, before a member of ZEROS."""
    info = tarfile.TarInfo(member)
    info.size = ZEROS * 2**20
    return info.tobuf()


def packages() -> dict[str, bytes]:
    """Wheels and source archives that are small and unpack, or build, to something large."""
    ir, shifted = Ir(), Ir()
    ir.constant(np.ones(1, np.float32))
    shifted.constant(np.random.default_rng(0).random(2**22, dtype=np.float32))  # 16 MiB
    for number in range(1, 2000):
        place = {"shape": "4000000", "offset": 4 * number, "size": 16_000_000}
        shifted.constant(np.ones(0, np.float32), f"shifted{number}", **place)
    levels = "".join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9))
    entities = f'<!DOCTYPE net [<!ENTITY a "{"a" * 10}">{levels}]><net name="&j;"/>'.encode()
    header = bytearray(tar({PACKED[0]: b""})[:512])
    header[124:136], header[156:157] = (
        b"%011o\0" % (ZEROS * 2**20),
        b"x",
    )  # a pax header, which tarfile reads in one piece
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    return {
        "unpacks_to_zeros.whl": wheel_of_zeros(PACKED[1], ZEROS, **{PACKED[0]: ir.xml()}),
        "graph_of_zeros.whl": wheel_of_zeros(PACKED[0], ZEROS, **{PACKED[1]: ir.numbers}),
        "entities.whl": wheel({PACKED[0]: entities, PACKED[1]: b""}),
        "elements.whl": wheel({PACKED[0]: b"<net>" + b"<a/>" * 2_000_000 + b"</net>", PACKED[1]: b""}),
        "attributes.whl": wheel(
            {PACKED[0]: b"<net %b/>" % b" ".join(b'a%d=""' % i for i in range(300_000)), PACKED[1]: b""}
        ),
        "overlaps.whl": wheel({PACKED[0]: shifted.xml(), PACKED[1]: shifted.numbers}),
        "zeros_before.tar.gz": gzipped(head_of("other"), ZEROS, tar({PACKED[0]: b"<net/>"})),
        "zeros_inside.tar.gz": gzipped(head_of(PACKED[0]), ZEROS, bytes(1024)),
        "pax_of_zeros.tar.gz": gzipped(bytes(header), ZEROS),
    }


def write_corpus(folder: Path) -> list[Path]:
    """Write every hostile file into `folder`; what their code would create lies beside it."""
    folder.mkdir(parents=True)
    files = containers(running_code(folder.parent / CANARY)) | lying_tensors() | bombs() | networks() | packages()
    for file, data in files.items():
        (folder / file).write_bytes(data)
    return [folder / file for file in files]


def read_all(folder: Path) -> dict[str, list]:
    """File -> [how it ended, message, peak memory so far in KiB]."""
    from hyperinverter.published.reading import read_published
    from hyperinverter.utils.errors import UserError

    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + SPARE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    report = {"": ["", "", peak()]}
    for path in sorted(folder.iterdir()):
        try:
            members = PACKED if path.suffix in (".whl", ".gz") else ()
            result = ["read", type(read_published(path, members).content).__name__]
        except UserError as error:
            result = ["refused", str(error)]
        except BaseException as error:  # whatever else: it is what the test must tell
            result = ["fell", repr(error)]
        report[path.name] = [*result, peak()]
    return report


def peak() -> int:
    """Most memory held at once so far, KiB (VmHWM; ru_maxrss would count the process that started this one too)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1])


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(read_all(Path(sys.argv[1]))))
