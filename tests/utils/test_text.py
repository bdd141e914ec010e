from hyperinverter.utils.text import expanded, printable


def test_what_steers_a_terminal_is_written_out():
    assert printable("b4.conv1.weight, é 漢") == "b4.conv1.weight, é 漢"
    assert printable("a\x1b[2Jb\x07") == r"a\x1b[2Jb\x07"
    assert printable("a\nb\tc") == r"a\nb\tc" and printable("a\nb\tc", keep="\n") == "a\nb\\tc"
    assert printable("\u202egpj.exe\udcff") == r"\u202egpj.exe\udcff"
    assert printable("k" * 50, longest=10) == "k" * 10 + "..."


def test_a_home_folder_of_nobody_is_a_name_as_any_other(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded("~/a").as_posix() == "/home/me/a"
    assert expanded("~nobody_is_called_so/a").as_posix() == "~nobody_is_called_so/a"
