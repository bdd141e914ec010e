"""One file over HTTP: resumable, retried, atomic, and refused with a reason when it is not what was asked for.

The bytes go to `FILE.part`, beside it `FILE.part.json` says of what; only a complete and accepted file gets its name. A
resumed transfer asks again for the last few bytes it has and compares them, so that also a server without ETag cannot
splice two files together.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hyperinverter.releases.request import (
    Interrupted,
    RequestRefused,
    WebPage,
    looks_like_html,
    opened,
    page_message,
    pieces,
    stated_sha256,
    total_bytes,
)
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import read_json, write_json

OVERLAP = 1 << 14  # bytes that are fetched twice when a transfer is resumed
LONGEST_WAIT_S = 60.0
MOST_RESTARTS = 3


@dataclass(frozen=True)
class Limits:
    """How patient a transfer is.

    Attributes:
        attempts: tries in a row that may end without a single new byte.
        first_wait_s: pause before the second try; it doubles up to a minute. A server's Retry-After goes first.
        max_bytes: larger files are refused.
    """

    attempts: int = 6
    first_wait_s: float = 1.0
    max_bytes: int = 16 << 30


@dataclass(frozen=True)
class Fetched:
    """What arrived.

    Attributes:
        stated_sha256: what the server itself said the hash is (the Hugging Face hub does), else None.
        path: where it lies until it is accepted.
    """

    sha256: str
    size: int
    stated_sha256: str | None = None
    path: Path | None = field(default=None, compare=False)


class WrongContent(UserError):
    """The complete file is not the one that was asked for; it is of no use to go on with."""


class NotWhole(WrongContent, RequestRefused):
    """What arrived cannot be read to its end, although the server called it complete; another copy may be."""


@dataclass
class _State:
    """What a .part file is a part of."""

    url: str
    etag: str | None = None
    last_modified: str | None = None
    total: int | None = None

    @property
    def validator(self) -> str | None:
        """For If-Range, which takes no weak ETag."""
        if self.etag and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified


def fetch(
    url: str,
    target: Path,
    accept: Callable[[Fetched], None],
    *,
    limits: Limits = Limits(),
    size: int | None = None,
    headers: dict[str, str] | None = None,
    log: Callable[[str], None] = print,
) -> Fetched:
    """Download `url` to `target`, going on where an earlier call stopped.

    Args:
        target: gets its name only when everything is there and `accept` did not raise.
        accept: called with hash and size of the complete file; when it raises WrongContent, the bytes are deleted.
        size: bytes, where known; another length is refused.
        log: gets one line per interruption.
    Raises:
        RequestRefused: a web page came, the file is not there, the server forbids it, cannot be reached, or broke off
            too often; says what to do.
        UserError: it is too large, the disk is full, or another process downloads the same file.
    """
    part = target.with_name(target.name + ".part")
    with only_download(target):
        stated = _until_complete(url, part, limits, size, headers or {}, log)
        fetched = Fetched(*hash_file(part), stated, part)
        try:
            accept(fetched)
        except WrongContent:
            _discard(part)
            raise
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
        _discard(part)
        return fetched


@contextlib.contextmanager
def only_download(target: Path) -> Iterator[None]:
    """Hold a target for this process alone; makes its folder. Raises UserError: another process fetches it."""
    from filelock import FileLock, Timeout

    target.parent.mkdir(parents=True, exist_ok=True)
    try:  # the lock file stays: deleting it would break the exclusion
        with FileLock(target.with_name(f".{target.name}.lock"), timeout=0):
            yield
    except Timeout:
        raise UserError(f"{target}: another process is downloading it; wait for that one") from None


def hash_file(path: Path) -> tuple[str, int]:
    """SHA-256 (64 hex digits) and size in bytes."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return digest, file.seek(0, os.SEEK_END)


def _until_complete(
    url: str, part: Path, limits: Limits, size: int | None, headers: dict[str, str], log: Callable[[str], None]
) -> str | None:
    import requests

    idle = restarts = 0  # tries in a row without a new byte; times that everything was thrown away
    with requests.Session() as session:
        while True:
            before = _size(part)
            try:
                return _once(session, url, part, limits, size, headers)
            except Interrupted as stopped:
                if stopped.from_start:
                    _discard(part)
                    restarts += 1
                idle = 0 if _size(part) > before else idle + 1
                if idle >= limits.attempts or restarts > MOST_RESTARTS:
                    raise RequestRefused(
                        f"{url}: {stopped}; gave up after {max(idle, restarts)} tries.{_kept(part)} Run the same "
                        f"command again later, or give another copy (base_url=, hub=)"
                    ) from stopped
                wait_s = limits.first_wait_s * 2 ** max(idle - 1, 0) if stopped.wait_s is None else stopped.wait_s
                wait_s = min(wait_s, LONGEST_WAIT_S)
                log(f"{stopped}; trying again in {wait_s:.0f} s, {_size(part)} bytes are here")
                time.sleep(wait_s)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise UserError(f"{part}: the disk is full.{_kept(part)} Free some space and run again") from error
                raise


def _once(session: Any, url: str, part: Path, limits: Limits, size: int | None, headers: dict[str, str]) -> str | None:
    """One try, from where the part ends. Returns what the server says the SHA-256 is."""
    known = _read_state(part)
    have = _size(part) if known and known.url == url else 0
    start = max(have - OVERLAP, 0)
    asked = dict(headers)
    if start:
        asked["Range"] = f"bytes={start}-"
        if known and known.validator:
            asked["If-Range"] = known.validator
    with opened(session, url, asked) as response:
        if response.status_code == 416:
            raise Interrupted("the server has less than what is here: from the start", from_start=True)
        if response.status_code == 206 and not start:
            raise Interrupted("the server sent a part that nobody asked for: from the start", from_start=True)
        if response.status_code != 206:
            start = have = 0  # the server cannot resume, or it has another file now
        total = total_bytes(response, start)
        if start and known:
            _check_same_file(known, response, total, have)
        _check_size(url, total, size, limits)
        _check_space(part, total, have)
        state = _State(url, response.headers.get("ETag"), response.headers.get("Last-Modified"), total)
        write_json(_state_file(part), asdict(state))
        end = _receive(response, part, start, have, total, limits, url)
        if total is not None and end < total:
            raise Interrupted(f"the connection ended after {end} of {total} bytes")
        if end == 0:
            raise RequestRefused(f"{url}: the server sent an empty file; give another copy")
        return stated_sha256(response)


def _check_same_file(known: _State, response: Any, total: int | None, have: int) -> None:
    """Start over when what a server goes on with is another file, or it does not say of what length."""
    if known.total is not None and total != known.total:
        now = f"{total or 'of unknown length'} now"
        raise Interrupted(f"the file was {known.total} bytes long and is {now}: from the start", from_start=True)
    if total is not None and total < have:
        raise Interrupted(f"{have} bytes of the file are here, it has {total} now: from the start", from_start=True)
    etag = response.headers.get("ETag")
    if known.etag and etag and etag != known.etag:
        raise Interrupted("the file on the server has changed (ETag): from the start", from_start=True)


def _receive(response: Any, part: Path, start: int, have: int, total: int | None, limits: Limits, url: str) -> int:
    """Write the body behind what is there; returns where it ended."""
    from tqdm import tqdm

    position, name = start, part.name.removesuffix(".part")
    units = {"unit": "B", "unit_scale": True, "unit_divisor": 1024}
    with (
        tqdm(desc=name, total=total, initial=start, disable=None, **units) as bar,  # None: only on a terminal
        open(part, "r+b" if start else "wb") as file,
    ):
        for piece in pieces(response):
            if position == 0 and looks_like_html(piece[:1024]):
                raise RequestRefused(page_message(WebPage(piece), response.url, url))
            repeated = min(max(have - position, 0), len(piece))  # bytes that the part has already
            file.seek(position)
            if repeated and file.read(repeated) != piece[:repeated]:
                raise Interrupted("the file on the server has changed: from the start", from_start=True)
            file.seek(position + repeated)
            file.write(piece[repeated:])
            position += len(piece)
            if position > limits.max_bytes:
                raise UserError(f"{url}: {_too_large(f'more than {position} bytes', limits)}")
            bar.update(len(piece))
    return position


def _check_size(url: str, total: int | None, size: int | None, limits: Limits) -> None:
    if total is not None and size is not None and total != size:
        raise RequestRefused(f"{url}: is {total} bytes long, expected {size}: not the same file; give another copy")
    if total is not None and total > limits.max_bytes:
        raise UserError(f"{url}: {_too_large(f'{total} bytes', limits)}")


def _too_large(what: str, limits: Limits) -> str:
    return f"{what}, larger than the limit of {limits.max_bytes / 2**30:.3g} GiB; if that is right, raise max_gib"


def _check_space(part: Path, total: int | None, have: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - have > free:
        raise UserError(
            f"{part.parent}: {(total - have) / 1e6:.0f} MB are to come and {free / 1e6:.0f} MB are free.{_kept(part)} "
            f"Free some space, or give another folder (output=)"
        )


def _state_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_state(part: Path) -> _State | None:
    with contextlib.suppress(TypeError):
        known = _State(**(read_json(_state_file(part)) or {}))
        texts = (known.etag, known.last_modified)
        if all(isinstance(text, str | None) for text in texts) and isinstance(known.total, int | None):
            return known
    return None


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _state_file(part).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _kept(part: Path) -> str:
    return f" {_size(part)} bytes are kept in {part}." if _size(part) else ""
