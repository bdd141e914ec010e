"""downloads.lock.json: which bytes a downloaded name meant when it was first used here; a change is refused.

The catalog knows few hashes, because its authors' sites publish none. So the first download is trusted, its SHA-256 is
recorded, and every later one has to be the same. A hash in the catalog goes first and is never overruled.
"""

import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hyperinverter.releases.catalog import CatalogEntry
from hyperinverter.releases.transfer import WrongContent
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import write_atomically

LOCK_NAME = "downloads.lock.json"
VERSION = 1


@dataclass(frozen=True)
class Seen:
    """One file as it was first seen."""

    file: str
    sha256: str
    size: int
    copy: str  # the address it came from, "" for a file that somebody put there
    date: str


def read_lock(root: Path) -> dict[str, Seen]:
    """CatalogEntry name -> what was seen first.

    Raises:
        UserError: the lock file is damaged; says what to do.
    """
    path = root / LOCK_NAME
    if not path.is_file():
        return {}
    try:
        content: Any = json.loads(path.read_text())
        if content["version"] != VERSION:
            raise ValueError(f"version {content['version']}")
        return {name: Seen(**values) for name, values in content["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); mend it, or delete it to trust the files as they are now"
        ) from error


def check(root: Path, entry: CatalogEntry, sha256: str, size: int, what: str) -> None:
    """Refuse bytes that are not those of the catalog, or of the first time.

    Args:
        root: folder of pretrained models, where the lock file lies.
        entry: what the bytes are meant to be.
        sha256: theirs, 64 hex digits; size: theirs.
        what: the address or file they came from, for the message.
    Raises:
        WrongContent: names both hashes and what to do.
    """
    if entry.sha256 and not sha256.startswith(entry.sha256):
        raise WrongContent(
            f"{what}: SHA-256 is {sha256}, the catalog says {entry.sha256} for {entry.name}: this is not the published "
            f"file; delete it and fetch it from {entry.source}"
        )
    if entry.size is not None and size != entry.size:
        raise WrongContent(
            f"{what}: has {size} bytes, the catalog says {entry.size} for {entry.name}: cut short or another file; "
            f"delete it and fetch it from {entry.source}"
        )
    first = read_lock(root).get(entry.name)
    if first and first.sha256 != sha256:
        raise WrongContent(
            f"{what}: SHA-256 is {sha256} ({size} bytes), but {entry.name} was {first.sha256} ({first.size} bytes) "
            f"when first used here on {first.date[:10]}. If its publisher says that it was replaced, remove "
            f"{entry.name!r} from {root / LOCK_NAME} and run again; otherwise do not use it: delete the file and fetch "
            f"it again"
        )


def record(root: Path, entry: CatalogEntry, sha256: str, size: int, copy: str = "") -> None:
    """Remember what was seen first; an entry that is there stays as it is."""
    with _alone(root):
        known = read_lock(root)
        if entry.name in known:
            return
        known[entry.name] = Seen(entry.file, sha256, size, copy, datetime.now(UTC).isoformat(timespec="seconds"))
        files = {name: asdict(seen) for name, seen in sorted(known.items())}
        with write_atomically(root / LOCK_NAME) as temporary:
            temporary.write_text(json.dumps({"version": VERSION, "files": files}, indent=2) + "\n")


@contextmanager
def _alone(root: Path) -> Any:
    """Two downloads that end at the same time both write the lock file."""
    from filelock import FileLock

    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{LOCK_NAME}.lock", timeout=30):
        yield
