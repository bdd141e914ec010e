"""Two kinds of files: a model (.safetensors that carries its own config) and a training state (.pt, for exact resume).

Both are written to a temporary file beside the target and renamed, so that a killed process leaves the old file whole,
and both are checked against a checksum when they are read. Neither is ever read with code execution: models are
safetensors, training states load with `weights_only=True`.
"""

import hashlib
import json
import random
import re
import shlex
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from hyperinverter.utils.checkout import command_of
from hyperinverter.utils.errors import DAMAGED, UserError, reason_of
from hyperinverter.utils.files import write_atomically
from hyperinverter.utils.safetensors_io import read_tensors, write_tensors
from hyperinverter.utils.state_dicts import is_finite

T = TypeVar("T")

MODEL_FORMAT = "hyperinverter-model-1"
MAKES_ZEROS = re.compile(rb"c(?:__builtin__|builtins)\nbytearray\n")  # of any length: torch admits this one
DEEPEST = 40  # levels of what metadata holds as JSON
KINDS = ("generator", "early_head", "discriminator", "w_encoder", "hyperinverter", "feature_residual", "direction",
         "psp", "e4e", "restyle", "hyperstyle", "layerwise_encoder", "hypernetwork", "arcface", "curricularface",
         "moco", "lpips", "trunk")  # fmt: skip


@dataclass
class ModelFile:
    """What a model file holds; `state` is float32 whatever the precision on disk."""

    path: Path
    kind: str
    state: dict[str, Tensor]
    config: dict
    hash: str
    requires: dict[str, str] = field(default_factory=dict)
    info: dict = field(default_factory=dict)


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of the tensors in name order; the first 16 hex digits."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def save_model(
    path: str | Path,
    module_or_state: nn.Module | Mapping[str, Tensor],
    *,
    kind: str,
    config: dict,
    requires: Mapping[str, str] | None = None,
    info: Mapping | None = None,
    half: bool | Sequence[str] = False,
) -> str:
    """Write weights with their config into one .safetensors file and return the weights' hash.

    Args:
        module_or_state: a module (its state_dict is taken) or a state dict.
        config: what is needed to rebuild the network; plain JSON types.
        requires: part -> weights hash of the files that this one was trained with, e.g. {"generator": "1f…"}.
        info: anything a reader may want to know: steps, images seen, licence, measured results.
        half: store floating-point tensors as float16; given as text, those whose names begin so. The hash is of what is
            stored.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; write one of {', '.join(KINDS)}")
    state = module_or_state.state_dict() if isinstance(module_or_state, nn.Module) else dict(module_or_state)
    stored = {}
    begins = ("",) if half is True else tuple(half or ())
    for name, tensor in state.items():
        tensor = tensor.detach().cpu()
        if begins and name.startswith(begins) and tensor.is_floating_point():
            tensor = tensor.to(torch.float16)
        stored[name] = tensor.clone(memory_format=torch.contiguous_format)
    digest = weights_hash(stored)
    metadata = {
        "format": MODEL_FORMAT,
        "kind": kind,
        "hash": digest,
        "config": json.dumps(config),
        "requires": json.dumps(dict(requires or {})),
        "info": json.dumps(dict(info or {})),
    }
    write_tensors(path, stored, metadata)
    return digest


def read_safetensors(path: str | Path, what_to_do: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of any .safetensors file.

    `what_to_do`: the end of the refusal. Raises UserError: not a whole .safetensors file.
    """
    try:
        return read_tensors(path)
    except ValueError as error:
        raise UserError(f"{path}: not a readable .safetensors file ({error}); {what_to_do}") from error


def read_model(path: str | Path, kind: str | None = None) -> ModelFile:
    """Read a model file and check that its weights are the ones its hash names.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: not a safetensors file, not written by this project, another kind than asked for, or changed weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such model file")
    target = f"{shlex.quote(str(path.with_suffix('')))}_converted.safetensors"
    convert = f"{command_of('convert')} {shlex.quote(str(path))} {target}"
    with open(path, "rb") as file:
        begins = file.read(9)
    is_pickle = re.match(rb"\x80[\x02-\x05]", begins) and begins[8:] != b"{"  # the latter is a .safetensors file's
    if begins.startswith(b"PK") or (is_pickle and path.suffix != ".safetensors"):  # what torch.save writes
        raise UserError(
            f"{path}: holds weights as they were published; convert them once with\n  {convert}\nand give that file"
        )
    metadata, stored = read_safetensors(path, "it may be cut short or another format: copy it again")
    if metadata.get("format") != MODEL_FORMAT:
        raise UserError(
            f"{path}: a .safetensors file, but not one of this project (its metadata has no {MODEL_FORMAT!r}); if it "
            f"is a published one, convert it with\n  {convert}"
        )
    if missing := [key for key in ("kind", "hash", "config", "requires", "info") if key not in metadata]:
        raise UserError(f"{path}: its metadata lacks {', '.join(missing)}; get or write the file again")
    if kind is not None and metadata["kind"] != kind:
        raise UserError(
            f"{path}: holds a {metadata['kind'][:40]}, but a {kind} is needed here; give the {kind} file, "
            f"or the folder of a whole model"
        )
    digest = weights_hash(stored)
    if digest != metadata["hash"]:
        raise UserError(
            f"{path}: weights hash {digest}, but the file says {metadata['hash'][:40]}: it was changed; get it again"
        )
    if bad := [name for name, tensor in stored.items() if not is_finite(tensor)]:
        raise UserError(f"{path}: {bad[0]} holds NaN or infinite numbers; get the file or train it again")
    state = {name: tensor.float() if tensor.dtype == torch.float16 else tensor for name, tensor in stored.items()}
    config, requires, info = (recorded(path, metadata, key, dict) for key in ("config", "requires", "info"))
    if not all(isinstance(digest, str) for digest in requires.values()):
        raise UserError(f"{path}: its metadata 'requires' names no hashes; get or write the file again")
    return ModelFile(path, metadata["kind"], state, config, digest, requires, info)


def recorded(path: Path, metadata: Mapping[str, str], key: str, kind: type[T]) -> T:
    """A value that is kept as JSON in a file's metadata.

    Raises UserError: absent, no JSON, nested without end, or not of this kind; names the file and the key.
    """
    try:
        value = json.loads(metadata[key])
        if isinstance(value, kind) and not _is_deep(value):
            return value
        reason = f"is not {'a mapping' if kind is dict else 'a list'} as it should be"
    except KeyError:
        reason = "is absent"
    except (ValueError, RecursionError) as error:
        reason = f"is no JSON ({str(error)[:80]})"
    raise UserError(f"{path}: its metadata {key!r} {reason}; get or write the file again")


def _is_deep(value: object) -> bool:
    level: list[object] = [value]
    for _ in range(DEEPEST):
        level = [inner for outer in level if isinstance(outer, dict | list)
                 for inner in (outer.values() if isinstance(outer, dict) else outer)]  # fmt: skip
    return bool(level)


def save_training_state(folder: str | Path, step: int, state: dict, keep: int = 2) -> Path:
    """Write `step_<step>.pt` atomically, and only then delete all but the newest `keep` states up to this step.

    `state` holds plain types and tensors.

    Raises OSError: it cannot be written (full disk, read-only folder); the earlier states are untouched.
    """
    folder = Path(folder)
    path = folder / f"step_{step:08d}.pt"
    with write_atomically(path) as temporary, open(temporary, "wb") as file:
        sink = _Sink(file)
        try:
            torch.save({"step": step, **state}, cast(IO[bytes], sink))
        except RuntimeError as error:  # torch loses the reason when it tidies up after a failed write
            if sink.error is not None:
                raise sink.error from error
            raise
    remove_older_states(folder, step, keep)
    return path


def remove_older_states(folder: str | Path, step: int, keep: int) -> None:
    """Delete all but the newest `keep` states up to this step."""
    for old in [old for old in training_states(Path(folder)) if _step_of(old) <= step][max(keep, 1) :]:
        old.unlink(missing_ok=True)


class _Sink:
    """A file that remembers why it could not be written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def load_training_state(folder_or_file: str | Path, *, set_aside: bool = False) -> dict | None:
    """The newest training state that loads, or None when a folder holds none.

    A damaged newest file (copy cut short, flipped bits) is named in a warning, and the one before it is taken.

    Args:
        set_aside: rename damaged files to `<name>.damaged` when an earlier state is taken, so that they count no longer
            as checkpoints; for the one run that goes on in this folder.
    Raises:
        FileNotFoundError: a file was named and is not there.
        UserError: a file was named and cannot be read, or every state in the folder is damaged.
    """
    source = Path(folder_or_file)
    if source.suffix == ".pt":
        if not source.is_file():
            raise FileNotFoundError(f"{source}: no such checkpoint")
        candidates = [source]
    else:
        candidates = training_states(source)
    faults: list[str] = []
    damaged: list[Path] = []
    for path in candidates:
        try:
            state = _read_state(path)
        except (*DAMAGED, OSError) as error:
            faults.append(f"{path}: cannot be read ({reason_of(error)})")
            damaged += [path] if isinstance(error, DAMAGED) else []
            continue
        aside = f", and {', '.join(p.name for p in damaged)} is renamed to *.damaged" if set_aside and damaged else ""
        for path_damaged in damaged if set_aside else ():
            path_damaged.rename(path_damaged.with_name(f"{path_damaged.name}.damaged"))
        for fault in faults:
            warnings.warn(f"{fault}; the checkpoint before it, {path.name}, is taken{aside}", stacklevel=2)
        return state
    if faults:
        raise UserError(
            "\n".join(faults) + "\nno checkpoint could be read: delete these files, or give another output folder"
        )
    return None


def _read_state(path: Path) -> dict:
    with zipfile.ZipFile(path) as archive:
        end = 0
        for record in sorted(archive.infolist(), key=lambda record: record.header_offset):
            if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
                raise ValueError(f"{record.filename[:40]} in it is compressed, which training states never are")
            if record.header_offset < end:
                raise ValueError(f"{record.filename[:40]} in it lies on another part")
            end = record.header_offset + record.file_size
            if record.filename.endswith("data.pkl") and MAKES_ZEROS.search(archive.read(record)):
                raise ValueError("it asks for empty memory, as no training state does")
        if wrong := archive.testzip():
            raise ValueError(f"the checksum of {wrong} is another than was written: the file was damaged")
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or type(state.get("step")) is not int or state["step"] < 0:
        raise ValueError("it holds no training state")
    return state


def training_states(folder: Path) -> list[Path]:
    """The files of a folder that are called as training states are, newest first."""
    paths = [path for path in folder.glob("step_*.pt") if re.fullmatch(r"step_\d+\.pt", path.name)]
    return sorted(paths, key=_step_of, reverse=True)


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step_"))


def rng_state() -> dict:
    """State of Python's, NumPy's and torch's global generators in this process, as plain types and tensors."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = cast(tuple[Any, ...], np.random.get_state())
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [name, keys.tolist(), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict) -> None:
    """Undo `rng_state`."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])
