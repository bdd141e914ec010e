"""Output folders: refused before any work where they cannot be written, held by one process, tidied after kills."""

import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hyperinverter.utils import files
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import HOST, AppendedFile, check_writable, copy_file, write_atomically
from hyperinverter.utils.held_folders import lock_folder


def write(path: Path, data: bytes) -> None:
    with write_atomically(path) as temporary:
        temporary.write_bytes(data)


def test_folders_that_can_be_made(tmp_path: Path):
    for name in ("new", "new/and/deeper", "."):
        check_writable(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_what_is_no_folder_is_refused(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "broken_link").symlink_to(tmp_path / "gone")
    for name in ("notes.txt", "notes.txt/run", "broken_link"):
        there = tmp_path / name.removesuffix("/run")
        with pytest.raises(UserError, match=re.escape(f"output is {tmp_path / name}, but {there} is not a folder")):
            check_writable(tmp_path / name)


@pytest.mark.parametrize("name", ["/proc", "/proc/foo", "/proc/foo/bar", "a" * 300])
def test_where_the_system_makes_no_folder_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Root may write into /proc, by its mode; it was the first file that said `No such file or directory`."""
    if name.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("needs Linux's /proc")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: True)
    with pytest.raises(UserError, match=f"output is {name}, but the system makes no .*; give another output=FOLDER"):
        check_writable(name)
    assert not list(tmp_path.iterdir())


def test_a_variable_of_the_shell_is_no_folder():
    """A config's `output: $SCRATCH/run` made a folder of that very name."""
    with pytest.raises(UserError, match=r"output is \$SCRATCH/run: variables of the shell are not read here"):
        check_writable("$SCRATCH/run")


def test_what_may_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write everywhere
    with pytest.raises(UserError, match="you may not write into"):
        check_writable(tmp_path / "a/b")


def test_what_killed_processes_left_goes_with_the_next_write(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = {
        "dead": tmp_path / f".a.png.{dead.pid}@{HOST}.tmp",
        "own number": tmp_path / f".b.png.{os.getpid()}@{HOST}.tmp",
        "alive": tmp_path / f".c.png.{os.getppid()}@{HOST}.tmp",
        "elsewhere": tmp_path / f".d.png.{dead.pid}@another-host.tmp",
        "not ours": tmp_path / ".e.tmp",
    }
    for path in left.values():
        path.write_bytes(b"x")
        os.utime(path, (1e9, 1e9))
    write(tmp_path / "x", b"1")
    assert {name for name, path in left.items() if path.exists()} == {"alive", "elsewhere", "not ours"}
    left["dead"].write_bytes(b"x")
    write(tmp_path / "y", b"1")  # a folder is looked through once
    assert left["dead"].exists()


def test_a_command_that_was_killed_and_is_run_again_leaves_only_results(tmp_path):
    code = (
        "import os, signal, sys; from hyperinverter.utils.files import write_atomically\n"
        "with write_atomically(sys.argv[1]) as temporary:\n"
        "    temporary.write_bytes(b'1')\n"
        "    if len(sys.argv) > 2: os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out" / "x.png")]
    assert subprocess.run([*command, "die"], check=False).returncode == -9
    assert len(list((tmp_path / "out").iterdir())) == 1
    subprocess.run(command, check=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x.png"]


@pytest.mark.skipif(os.name != "posix", reason="needs locks of folders")
def test_a_lock_is_of_the_folder_and_not_of_its_name(tmp_path):
    folder, moved = tmp_path / "run", tmp_path / "moved"
    with lock_folder(folder):
        (folder / ".lock").unlink()
        with pytest.raises(UserError, match="is writing into this folder"), lock_folder(folder):
            pass
        folder.rename(moved)
        with pytest.raises(UserError, match="is writing into this folder"), lock_folder(moved):
            pass
        folder.mkdir()
        (folder / ".lock").write_text("another's")
        for path in (folder / "x", folder / "inside" / "x"):
            with pytest.raises(UserError, match="the output folder was"):
                write(path, b"1")
        write(tmp_path / "elsewhere", b"1")
    assert (folder / ".lock").read_text() == "another's" and [p.name for p in folder.iterdir()] == [".lock"]
    with lock_folder(moved):
        write(moved / "x", b"1")


def test_a_log_that_was_deleted_begins_anew(tmp_path):
    file = AppendedFile(tmp_path / "log.txt", lambda error: None)
    file.write(b"1")
    (tmp_path / "log.txt").unlink()
    file.write(b"2")
    file.close()
    assert (tmp_path / "log.txt").read_bytes() == b"2"


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="needs links that can be told from files")
def test_files_that_grow_are_not_written_through_a_link(tmp_path):
    """A `.lock` that led elsewhere emptied what it led to."""
    precious, folder = tmp_path / "precious", tmp_path / "run"
    precious.write_bytes(b"1")
    folder.mkdir()
    for name, open_it in (
        (".lock", lambda: lock_folder(folder).__enter__()),
        ("log.txt", lambda: AppendedFile(folder / "log.txt", lambda error: None)),
    ):
        (folder / name).symlink_to(precious)
        with pytest.raises(UserError, match=f"{name}: a link, which is not written through; remove it"):
            open_it()
        (folder / name).unlink()
    assert precious.read_bytes() == b"1"


def test_a_copy_is_whole_or_absent(tmp_path):
    source, target = tmp_path / "a", tmp_path / "folder" / "b"
    source.write_bytes(bytes(5000))
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            copy_file(source, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert error.value.filename == str(target) and not list(target.parent.iterdir())
    copy_file(source, target)
    assert target.read_bytes() == source.read_bytes() and target.stat().st_mtime_ns == source.stat().st_mtime_ns


def test_files_are_copied_in_one_place():
    """`shutil` leaves half a copy on a full disk."""
    package = Path(files.__file__).parents[1]
    for path in package.rglob("*.py"):
        if path.name != "files.py":
            assert not re.search(r"shutil\.(copy|move)|copytree", path.read_text()), f"{path}: use copy_file"
