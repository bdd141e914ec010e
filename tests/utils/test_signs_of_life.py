"""What shows that something happens."""

import os
import subprocess
import sys
import time
import types

import pytest
from tqdm import tqdm

from hyperinverter.utils import waiting
from hyperinverter.utils.waiting import another_process_speaks, doing, signs_of_life


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(waiting, "QUIET_S", 0.1)


def test_a_word_where_nothing_else_is_shown(capsys):
    with pytest.raises(KeyError), signs_of_life(), doing("the whole"):
        with doing("loading the model"):
            time.sleep(0.8)
        print("loaded")
        time.sleep(0.3)
        raise KeyError
    shown = capsys.readouterr()
    first, second = shown.err.splitlines()
    assert first.startswith("loading the model ....") and second.startswith("the whole ...")
    assert shown.out == "loaded\n" and shown.err.endswith(".\n")


def test_what_comes_next_gets_a_line_of_its_own(capsys):
    """Dots went on behind `loading PyTorch` long after it was loaded."""
    with signs_of_life():
        with doing("loading PyTorch"):
            time.sleep(0.4)
        time.sleep(0.4)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("loading PyTorch ...") and second.startswith("working ...")


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (40, 100)])
def test_a_terminal_without_a_size_shows_bars(rows, columns):
    """As under `docker run -t` in some CI: tqdm drew nothing there, for minutes."""
    import fcntl
    import struct
    import termios

    code = (
        "from hyperinverter.utils.waiting import signs_of_life\n"
        "with signs_of_life():\n"
        "    from tqdm import tqdm\n"
        "    with tqdm(total=2) as bar: bar.update()\n"
    )
    near, far = os.openpty()
    fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    try:
        subprocess.run([sys.executable, "-c", code], stderr=far, check=True, timeout=60)
        shown = os.read(near, 4096).decode()
    finally:
        os.close(far)
        os.close(near)
    assert "| 0/2 [" in shown and "hidden" not in shown


def test_a_bar_that_was_shown_early_is_cleared_at_its_end(capsys):
    """A bar with a delay believed that it had never been seen, and an error was written behind it."""
    with signs_of_life():
        bar = tqdm(total=2, leave=False, delay=100)
        time.sleep(0.5)
        waiting.close_bars()
        sys.stderr.write("error: x")
    shown = capsys.readouterr().err
    assert "0/2" in shown and shown.replace("\r", "\n").splitlines()[-1] == "error: x"
    assert bar.disable


def test_nothing_while_others_write_and_after_the_end(capsys):
    outside = sys.stdout, sys.stderr
    with signs_of_life(wanted=False):
        time.sleep(0.3)
    with signs_of_life():
        with signs_of_life(), another_process_speaks():
            time.sleep(0.3)
        with doing("quick"):
            pass
    assert (sys.stdout, sys.stderr) == outside and capsys.readouterr() == ("", "")


def test_a_bar_that_stands_still_counts_its_seconds(capsys):
    with signs_of_life(), tqdm(total=2, desc="photos") as bar:
        time.sleep(1.6)
        bar.update()
    shown = capsys.readouterr().err
    assert shown.count("| 0/2 [") > 3 and "0/2 [00:01" in shown and "working" not in shown


def test_every_command_shows_signs(capsys, monkeypatch):
    from hyperinverter.config import cli
    from hyperinverter.config.model_schema import DownloadConfig

    monkeypatch.setattr(cli, "_import", lambda action: lambda config: time.sleep(0.5))
    command = cli.Command(DownloadConfig, "some:action", None, "What it does.")
    cli.run(command, ["names=[x]"])
    assert capsys.readouterr().err.startswith("working ...")
    monkeypatch.setenv("LOCAL_RANK", "1")  # the first of torchrun's processes speaks
    cli.run(command, ["names=[x]"])
    assert capsys.readouterr().err == ""


def test_a_sign_shown_while_tqdm_is_being_imported_is_no_error(monkeypatch):
    """The thread met a module without its class, and said so on the terminal."""
    monkeypatch.setitem(sys.modules, "tqdm", types.ModuleType("tqdm"))
    assert waiting._bars() == []
    monkeypatch.delitem(sys.modules, "tqdm")
    assert waiting._bars() == []
