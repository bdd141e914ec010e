"""Entries of the catalog from their publishers or mirrors: hashes are kept and a change is refused; the command."""

import hashlib
import io
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from file_server import QUOTA_PAGE, Answer, file_server
from script_runner import run_script

from hyperinverter.releases import download
from hyperinverter.releases.catalog import CatalogEntry, catalog, entry
from hyperinverter.releases.download import LOCK_NAME, Mirror, download_entry, read_lock
from hyperinverter.releases.transfer import Limits, WrongContent
from hyperinverter.utils.errors import UserError


def array_file(seed: int) -> bytes:
    """A whole .npy file: what is downloaded is read to its end before its hash is kept."""
    file = io.BytesIO()
    np.save(file, np.frombuffer(random.Random(seed).randbytes(300_000), np.uint8))
    return file.getvalue()


CONTENT, OTHER = array_file(7), array_file(8)
HASH = hashlib.sha256(CONTENT).hexdigest()
HTML = {"Content-Type": "text/html; charset=utf-8"}


@pytest.fixture
def one(server) -> CatalogEntry:
    server.answers["/x.pkl"] = Answer(CONTENT)
    return replace(entry("stylegan2_church"), name="one", file="x.pkl", copies=(server.url("/x.pkl"),))


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HYPERINVERTER_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def test_the_first_download_is_recorded_and_a_second_call_only_checks(one, root, server, capsys):
    path = download_entry(one)
    assert path == root / "published/x.pkl" and path.read_bytes() == CONTENT
    seen = read_lock(root)["one"]
    assert (seen.sha256, seen.size, seen.copy) == (HASH, len(CONTENT), one.copies[0])
    assert "NVIDIA" in capsys.readouterr().out, "the licence is shown"
    assert download_entry(one) == path and len(server.requests) == 1


def test_a_changed_file_is_refused_with_both_hashes(one, root, server):
    path = download_entry(one)
    path.unlink()
    server.answers["/x.pkl"] = Answer(OTHER, etag='"2"')
    with pytest.raises(WrongContent) as error:
        download_entry(one)
    told = (HASH, hashlib.sha256(OTHER).hexdigest(), "remove 'one' from", LOCK_NAME)
    assert all(text in str(error.value) for text in told)
    assert not path.exists() and not list(root.glob("published/*.part")), "nothing of it stays"
    path.write_bytes(OTHER)  # put there by hand
    with pytest.raises(WrongContent, match="when first used here"):
        download_entry(one)
    (root / LOCK_NAME).unlink()
    assert download_entry(one) == path and read_lock(root)["one"].copy == ""


def test_the_catalogs_own_hash_and_size_go_first(one, root):
    for known in ({"sha256": "0" * 64}, {"sha256": "0" * 8}):
        with pytest.raises(WrongContent, match="the catalog says 0"):
            download_entry(replace(one, **known))
    with pytest.raises(UserError, match="expected 5"):
        download_entry(replace(one, size=5))
    assert read_lock(root) == {}
    download_entry(replace(one, sha256=HASH[:8], size=len(CONTENT)))


def test_the_next_copy_is_tried_and_in_the_end_all_are_named(one, root, server):
    server.answers["/quota"] = Answer(QUOTA_PAGE, 200, HTML)
    copies = (server.url("/quota"), server.url("/gone"))
    with pytest.raises(UserError) as error:
        download_entry(replace(one, copies=copies))
    told = (
        "quota for this file is used up",
        "no such file (404)",
        str(root / "published/x.pkl"),
        "base_url=",
        one.project,
    )
    assert all(text in str(error.value) for text in told), error.value
    assert download_entry(replace(one, copies=(*copies, *one.copies))).is_file()


@pytest.mark.parametrize("address", ["http://127.0.0.1:{port}/x.pkl", "https://127.0.0.1:{open}/x.pkl", "{cut}"])
def test_a_copy_that_cannot_be_reached_or_breaks_off_does_not_end_the_download(one, root, server, address):
    """Nobody listens there; the certificate fails; the connection breaks each time: the second copy was not tried."""
    with file_server() as gone:
        pass
    server.answers["/cut.pkl"] = Answer(CONTENT, ranges=False, break_after=[100_000] * 9)
    ports = {"port": gone.address.rpartition(":")[2], "open": server.address.rpartition(":")[2]}
    first = address.format(**ports, cut=server.url("/cut.pkl"))
    quick = Limits(attempts=2, first_wait_s=0.01)
    path = download_entry(replace(one, copies=(first, *one.copies)), limits=quick)
    assert path.read_bytes() == CONTENT and read_lock(root)["one"].copy == one.copies[0]
    assert [file.name for file in path.parent.iterdir() if not file.name.startswith(".")] == ["x.pkl"]
    path.unlink()
    with pytest.raises(UserError, match=r"(?s)could not be fetched:.*(cannot be reached|certificate|gave up)") as error:
        download_entry(replace(one, copies=(first, server.url("/gone"))), limits=quick)
    assert first in str(error.value) and "no such file (404)" in str(error.value)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Answer(CONTENT[:200_000], unsized=True, ranges=False), "cut short"),
        (Answer(b"Service unavailable.\n"), "a text of 21 bytes"),
        (Answer(b'{"error": "no quota left"}'), "a text of 26 bytes"),
        (Answer(bytes(300_000)), "zeros only"),
        (Answer(CONTENT[:-1] + b"", unsized=True, ranges=False), "cut short"),
    ],
)
def test_what_cannot_be_read_to_its_end_is_neither_kept_nor_recorded(one, root, server, answer, told):
    """Status 200 and no word of its length: a cut body and an error page were recorded as the published file."""
    server.answers["/bad.pkl"] = answer
    with pytest.raises(UserError, match=rf"what arrived is no whole x\.pkl: .*{told}"):
        download_entry(replace(one, copies=(server.url("/bad.pkl"),)))
    assert read_lock(root) == {} and not list(root.glob("published/x.pkl*"))
    path = download_entry(replace(one, copies=(server.url("/bad.pkl"), *one.copies)))
    assert path.read_bytes() == CONTENT and read_lock(root)["one"].copy == one.copies[0]


def test_a_file_put_there_by_hand_is_read_before_it_is_recorded(one, root):
    path = root / "published" / "x.pkl"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT[:-100])
    with pytest.raises(WrongContent, match=r"is no whole x\.pkl: it is cut short"):
        download_entry(one)
    assert read_lock(root) == {} and path.exists()


def test_a_damaged_lock_file_is_told_before_anything_is_fetched(one, root, server):
    root.mkdir()
    (root / LOCK_NAME).write_text('{"version": 1, "files": {"one": 3}}')
    with pytest.raises(UserError, match=r"downloads.lock.json: cannot be read"):
        download_entry(one)
    assert not server.requests


def test_mirrors_by_address_and_on_the_hub(one, root, server, monkeypatch):
    server.answers["/a/b/x.pkl"] = Answer(CONTENT)
    download_entry(one, root / "1", Mirror(base_url=server.url("/a/b/")))
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("HF_TOKEN", "secret")
    told = {"Location": "/blob", "X-Linked-ETag": f'"{HASH}"'}
    server.answers["/me/models/resolve/main/x.pkl"] = Answer(b"", 302, told)
    server.answers["/me/models/resolve/refs%2Fpr%2F1/x.pkl"] = Answer(CONTENT)
    server.answers["/blob"] = Answer(CONTENT)
    download_entry(one, root / "2", Mirror(hub="me/models"))
    assert server.requests[1][1]["Authorization"] == "Bearer secret"
    download_entry(one, root / "3", Mirror(hub="me/models@refs/pr/1"))
    server.answers["/blob"] = Answer(OTHER)
    with pytest.raises(WrongContent, match="damaged on the way"):
        download_entry(one, root / "4", Mirror(hub="me/models"))


def test_drive_ids_become_addresses():
    addresses = Mirror().addresses(catalog()["stylegan2_church"])
    assert addresses == [download.DRIVE.format(id="1fJUwO39r91YyJCtMobT75jWNcpDkBBY5")]
    assert Mirror().addresses(catalog()["resnet34"])[0].startswith("https://download.pytorch.org/")


# ------------------------------------------------------------------------------------------- the command


def test_the_command_lists_plans_and_fetches(root, server, tmp_path, capsys):
    run_script("download", ["--list"], tmp_path)
    assert "hyperinverter_e4e_church_d128" in capsys.readouterr().out
    server.answers["/nets/moco_v2_800ep_pretrain.pth.tar"] = Answer(CONTENT)
    words = ["moco", "--base-url", server.url("/nets")]
    run_script("download", [*words, "--dry-run"], tmp_path)
    shown = capsys.readouterr().out
    assert server.url("/nets/moco_v2_800ep_pretrain.pth.tar") in shown and "unknown" in shown
    assert not server.requests and not root.exists() and list(tmp_path.iterdir()) == []
    run_script("download", words, tmp_path)
    assert (root / "nets/moco_v2_800ep_pretrain.pth.tar").read_bytes() == CONTENT
    assert json.loads((root / LOCK_NAME).read_text())["files"]["moco"]["sha256"] == HASH
    run_script("download", [*words, "--dry-run"], tmp_path)
    assert "is here" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["chruch"], "did you mean church"),
        (["church", "base_url=http://x", "hub=a/b"], "give one of them"),
        (["church", "hub=nonsense"], "OWNER/REPO"),
        (["church", "max_gib=0"], "max_gib"),
        (["church", "attempts=0"], "attempts"),
        (["church", "--base-url"], "needs a value"),
    ],
)
def test_mistakes_of_the_command_are_plain(words, told, root, tmp_path, capsys):
    with pytest.raises(AssertionError, match="stopped with code 2"):
        run_script("download", words, tmp_path)
    assert told in capsys.readouterr().err
