"""One file over HTTP, against a server on this machine: resumed, retried, atomic; every refusal says what to do."""

import errno
import gzip
import hashlib
import random
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from file_server import LOGIN_PAGE, OLD_SCAN_PAGE, QUOTA_PAGE, SCAN_PAGE, Answer, FileServer, file_server

from hyperinverter.releases import transfer
from hyperinverter.releases.request import Interrupted, RequestRefused, looks_like_html, total_bytes
from hyperinverter.releases.transfer import OVERLAP, Fetched, Limits, fetch
from hyperinverter.utils.errors import UserError

CONTENT = random.Random(7).randbytes(300_000)
OTHER = random.Random(8).randbytes(300_000)
HASH = hashlib.sha256(CONTENT).hexdigest()
QUICK = Limits(attempts=3, first_wait_s=0.0)
CHUNKED, IN_CHUNKS = {"Transfer-Encoding": "chunked"}, b"%x\r\n%s\r\n0\r\n\r\n" % (len(CONTENT), CONTENT)
HTML = {"Content-Type": "text/html; charset=utf-8"}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "models" / "x.pkl"


def get(server: FileServer, target: Path, path: str = "/x.pkl", limits: Limits = QUICK, **options) -> Fetched:
    return fetch(server.url(path), target, lambda _: None, limits=limits, log=lambda _: None, **options)


@dataclass
class Response:
    headers: dict[str, str]


def leftovers(target: Path) -> list[str]:
    return sorted(
        path.name for path in target.parent.iterdir() if path.name not in (target.name, f".{target.name}.lock")
    )


# ------------------------------------------------------------------------------------------- one file over HTTP


def test_a_file_arrives_whole_and_leaves_nothing_else(server, target):
    server.answers["/x.pkl"] = Answer(CONTENT)
    assert get(server, target) == Fetched(HASH, len(CONTENT))
    assert target.read_bytes() == CONTENT and leftovers(target) == []
    assert server.requests[0][1]["Accept-Encoding"] == "identity"


def test_a_broken_connection_is_resumed_from_where_it_ended(server, target):
    server.answers["/x.pkl"] = Answer(CONTENT, break_after=[100_000, 80_000])
    get(server, target)
    assert target.read_bytes() == CONTENT
    second = 100_000 - OVERLAP  # all that came was kept
    assert server.ranges() == [None, f"bytes={second}-", f"bytes={second + 80_000 - OVERLAP}-"]
    assert server.requests[1][1]["If-Range"] == '"1"'


def test_a_later_call_goes_on_with_the_part_of_an_earlier_one(server, target):
    server.answers["/x.pkl"] = Answer(CONTENT, break_after=[200_000, *[0] * 3])
    with pytest.raises(UserError, match=r"gave up after 3 tries. 200000 bytes are kept in .*x.pkl.part"):
        get(server, target)
    assert not target.exists()
    get(server, target)
    assert target.read_bytes() == CONTENT and server.ranges()[-1] == f"bytes={200_000 - OVERLAP}-"


def test_a_server_that_cannot_resume_starts_over(server, target):
    server.answers["/x.pkl"] = Answer(CONTENT, ranges=False, etag=None, break_after=[100_000])
    get(server, target)
    assert target.read_bytes() == CONTENT and len(server.requests) == 2


def test_a_file_that_changed_meanwhile_is_never_spliced(server, target):
    """By its ETag; without one by its length, or by the bytes that are fetched twice."""
    for first, second in (
        (Answer(CONTENT, break_after=[100_000]), Answer(OTHER, etag='"2"')),
        (Answer(CONTENT, etag=None, break_after=[100_000]), Answer(OTHER[:250_000], etag=None)),
        (Answer(CONTENT, etag=None, break_after=[100_000]), Answer(OTHER, etag=None)),
        (Answer(CONTENT, etag=None, break_after=[100_000]), Answer(OTHER[:50_000], etag=None)),  # 416
    ):
        server.answers["/x.pkl"] = [first, second]
        get(server, target)
        assert target.read_bytes() == second.content and leftovers(target) == []
        target.unlink()


def test_a_server_whose_file_keeps_changing_is_given_up(server, target):
    answers = [Answer(random.Random(n).randbytes(300_000), etag=None, break_after=[100_000]) for n in range(40)]
    server.answers["/x.pkl"] = answers
    with pytest.raises(UserError, match="the file on the server has changed: from the start; gave up"):
        get(server, target)


def test_a_server_that_goes_on_with_another_file_is_not_believed(server, target):
    """A changed ETag although If-Range was sent, and a length that was known and is no longer told."""
    for second in (Answer(OTHER, etag='"2"', heeds_etag=False), Answer(CONTENT, total="*"), Answer(CONTENT, total="7")):
        server.answers["/x.pkl"] = [Answer(CONTENT, break_after=[100_000]), second, Answer(OTHER, etag='"3"')]
        server.requests.clear()
        get(server, target)
        assert target.read_bytes() == OTHER and leftovers(target) == [] and server.ranges()[2] is None
        target.unlink()


def test_a_part_that_nobody_asked_for_is_not_the_file(server, target):
    part = Answer(CONTENT[:1000], 206, {"Content-Range": f"bytes 0-999/{len(CONTENT)}"})
    server.answers["/x.pkl"] = [part, Answer(CONTENT)]
    get(server, target)
    assert target.read_bytes() == CONTENT
    server.answers["/y.pkl"] = part
    with pytest.raises(UserError, match="a part that nobody asked for"):
        get(server, target.with_name("y.pkl"), "/y.pkl")


def test_a_body_that_was_packed_unasked_is_unpacked_to_its_end(server, target):
    packed, headers = gzip.compress(CONTENT * 3), {"Content-Encoding": "gzip"}
    server.answers["/x.pkl"] = [
        Answer(packed[:-50], 200, headers, ranges=False, unsized=True),  # nothing but the packing tells that it is cut
        Answer(packed[:100_000], 200, headers, ranges=False, length=len(packed)),
        Answer(packed, 200, headers, ranges=False, unsized=True),
    ]
    get(server, target)
    assert target.read_bytes() == CONTENT * 3 and len(server.requests) == 3
    server.answers["/y.pkl"] = Answer(CONTENT, 200, {"Content-Encoding": "br"})
    with pytest.raises(RequestRefused, match=r"packs the file \(br\)"):
        get(server, target.with_name("y.pkl"), "/y.pkl")
    for more in (b"x", bytes(300_000), gzip.compress(CONTENT)):  # a second stream behind the first one's end
        server.answers["/z.pkl"] = Answer(packed + more, 200, headers, ranges=False, unsized=True)
        with pytest.raises(RequestRefused, match="goes on behind its end"):
            get(server, target.with_name("z.pkl"), "/z.pkl")


@pytest.mark.parametrize("state", ['{"url": 1}', '{"url": "%s", "etag": 5, "total": "x"}', "[" * 50_000, "[]"])
def test_notes_of_an_earlier_call_that_are_none_start_over(server, target, state):
    server.answers["/x.pkl"] = Answer(CONTENT)
    target.parent.mkdir()
    target.with_name("x.pkl.part").write_bytes(CONTENT[:100_000])
    target.with_name("x.pkl.part.json").write_text(state.replace("%s", server.url("/x.pkl")))
    get(server, target)
    assert target.read_bytes() == CONTENT and server.ranges() == [None]


def test_the_part_of_another_address_is_not_gone_on_with(server, target):
    server.answers["/a"] = Answer(CONTENT, break_after=[100_000, 0, 0, 0])
    server.answers["/b"] = Answer(OTHER)
    with pytest.raises(UserError):
        get(server, target, "/a")
    get(server, target, "/b")
    assert target.read_bytes() == OTHER and server.ranges()[-1] is None


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_tried_again_when_it_says(server, target, status, monkeypatch):
    pauses = []
    monkeypatch.setattr(transfer.time, "sleep", pauses.append)
    server.answers["/x.pkl"] = [Answer(b"later", status, {"Retry-After": "7"}), Answer(b"", status), Answer(CONTENT)]
    get(server, target, limits=Limits(first_wait_s=0.5))
    assert target.read_bytes() == CONTENT and pauses == [7.0, 1.0]


def test_a_server_that_is_not_there(target):
    with file_server() as gone:
        pass
    with pytest.raises(UserError, match=r"cannot be reached .*gave up after 3 tries"):
        get(gone, target)


@pytest.mark.parametrize(
    ("status", "told"), [(404, "no such file"), (403, "forbids"), (401, "HF_TOKEN"), (410, "no more")]
)
def test_refusals_are_not_tried_again(server, target, status, told):
    server.answers["/x.pkl"] = Answer(b"<html><title>Oh</title></html>", status, HTML)
    with pytest.raises(RequestRefused, match=told):
        get(server, target)
    assert len(server.requests) == 1 and not target.exists()


def test_redirects_are_followed_but_not_in_circles(server, target):
    server.answers["/x.pkl"] = Answer(b"", 302, {"Location": "/there"})
    server.answers["/there"] = Answer(CONTENT)
    get(server, target)
    assert target.read_bytes() == CONTENT
    server.answers["/there"] = Answer(b"", 302, {"Location": "/x.pkl"})
    with pytest.raises(RequestRefused, match="in a circle"):
        get(server, target.with_name("y"))


def test_addresses_that_are_none(server, target):
    for address in ("ftp://x/y", "x.pkl", "http://"):
        with pytest.raises(UserError, match="cannot be fetched"):
            fetch(address, target, lambda _: None, limits=QUICK)


def test_lengths_that_do_not_fit(server, target):
    server.answers["/x.pkl"] = Answer(CONTENT, length=len(CONTENT) + 1000, ranges=False)
    with pytest.raises(UserError, match="gave up after 3 tries"):
        get(server, target)
    server.answers["/x.pkl"] = Answer(CONTENT)
    with pytest.raises(RequestRefused, match="is 300000 bytes long, expected 299999"):
        get(server, target, size=len(CONTENT) - 1)
    server.answers["/x.pkl"] = Answer(b"")
    with pytest.raises(RequestRefused, match="an empty file"):
        get(server, target)
    assert not target.exists()


@pytest.mark.parametrize("number", ["²", "9" * 5000, "-5", "1e3", "", "0x10", "٣"])
def test_numbers_in_headers_that_are_none(server, target, number):
    """A length that is no number is no length; a part that says so nowhere is none."""
    raw = number.encode("utf-8").decode("latin-1")
    length = {"Content-Length": raw, "Content-Encoding": "identity", "Connection": "close"}
    server.answers["/x.pkl"] = [Answer(b"", 503, {"Retry-After": raw}), Answer(CONTENT, 200, length)]
    try:
        get(server, target)
        assert target.read_bytes() == CONTENT
    except UserError as error:
        assert str(error).startswith("http") and len(str(error)) < 1000
    assert total_bytes(Response({"Content-Length": number}), 0) is None
    for wrong in (f"bytes {number}-9/20", f"bytes 7-9/{number}"):
        with pytest.raises(Interrupted, match="another place"):
            total_bytes(Response({"Content-Range": wrong}), 7)
    assert total_bytes(Response({"Content-Range": "bytes 7-9/20"}), 7) == 20


def test_a_body_of_unknown_length_is_read_to_its_end(server, target):
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(CONTENT), CONTENT)
    cut_short = b"%x\r\n%s" % (len(CONTENT), CONTENT[:1000])
    encoding = {"Transfer-Encoding": "chunked"}
    server.answers["/x.pkl"] = [
        Answer(cut_short, 200, encoding, ranges=False),
        Answer(chunked, 200, encoding, ranges=False),
    ]
    get(server, target)
    assert target.read_bytes() == CONTENT and len(server.requests) == 2


def test_files_that_are_too_large_are_refused_before_and_while_they_come(server, target):
    small = replace(QUICK, max_bytes=200_000)
    server.answers["/x.pkl"] = Answer(CONTENT)
    with pytest.raises(UserError, match=r"300000 bytes, larger than the limit of .* raise max_gib"):
        get(server, target, limits=small)
    server.answers["/x.pkl"] = Answer(IN_CHUNKS, 200, CHUNKED, ranges=False)
    with pytest.raises(UserError, match="larger than the limit"):
        get(server, target, limits=small)
    assert not target.exists()


def test_a_disk_without_room_is_told_before_and_when_it_fills(server, target, monkeypatch):
    server.answers["/x.pkl"] = Answer(CONTENT)
    with monkeypatch.context() as patch:
        patch.setattr(transfer.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
        with pytest.raises(UserError, match="0 MB are to come and 0 MB are free"):
            get(server, target)
    with monkeypatch.context() as patch:

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(transfer, "_receive", full)
        with pytest.raises(UserError, match=r"the disk is full.* run again"):
            get(server, target)
    assert not target.exists()


def test_two_downloads_of_one_file_exclude_each_other(server, target):
    from filelock import FileLock

    target.parent.mkdir()
    with FileLock(target.with_name(f".{target.name}.lock")), pytest.raises(UserError, match="another process"):
        get(server, target)
    assert not server.requests


# ------------------------------------------------------------------------------------------- pages instead of files


def test_drives_confirmation_is_given(server, target):
    server.answers["/download?id=abc"] = Answer(SCAN_PAGE % b"/download", 200, HTML)
    server.answers["/download?id=abc&export=download&confirm=t&uuid=1-2-3"] = Answer(CONTENT, break_after=[100_000])
    get(server, target, "/download?id=abc")
    assert target.read_bytes() == CONTENT
    assert server.ranges()[-1] == f"bytes={100_000 - OVERLAP}-", "resumed past the page"
    server.answers["/uc?id=abc"] = Answer(OLD_SCAN_PAGE, 200, HTML)
    server.answers["/uc?export=download&confirm=Xy1&id=abc"] = Answer(OTHER)
    get(server, target, "/uc?id=abc")
    assert target.read_bytes() == OTHER


def test_a_confirmation_never_leads_to_a_stranger_or_round_and_round(server, target):
    server.answers["/x.pkl"] = Answer(SCAN_PAGE % b"http://elsewhere.example/download", 200, HTML)
    with pytest.raises(RequestRefused, match="did not scan the file for viruses"):
        get(server, target)
    server.answers["/x.pkl"] = Answer(SCAN_PAGE % b"/x.pkl", 200, HTML)
    with pytest.raises(RequestRefused, match="did not scan the file for viruses"):
        get(server, target)
    assert len(server.requests) == 3 and not target.exists()


@pytest.mark.parametrize(
    ("page", "told"),
    [
        (QUOTA_PAGE, "quota for this file is used up; try again in a day"),
        (LOGIN_PAGE, "not shared with everybody any more"),
        (b"<html><head><title>Moved house</title></head></html>", "a web page titled 'Moved house' came instead"),
    ],
)
@pytest.mark.parametrize("headers", [HTML, {}], ids=["said to be HTML", "said to be a file"])
def test_other_pages_are_named(server, target, page, told, headers):
    server.answers["/x.pkl"] = Answer(page, 200, headers)
    with pytest.raises(RequestRefused, match=told):
        get(server, target)
    assert not target.exists() and len(server.requests) == 1


def test_html_is_told_from_weights():
    for start in (b"<!DOCTYPE html>", b"\xef\xbb\xbf\n <HTML lang", b"<!-- x -->"):
        assert looks_like_html(start)
    for start in (b"PK\x03\x04", b"\x80\x02}q", b"\x80\x04\x95", b"", b"{\x00\x00\x00", b"<"):
        assert not looks_like_html(start)
