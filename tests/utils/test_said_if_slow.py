"""What shows that something happens."""

import time

import pytest

from hyperinverter.utils import waiting
from hyperinverter.utils.waiting import said_if_slow


def test_a_word_where_nothing_else_is_shown(capsys, monkeypatch):
    monkeypatch.setattr(waiting, "BEAT_S", 0.05)
    with said_if_slow("quick", after_s=60.0), said_if_slow("not wanted", after_s=0.0, wanted=False):
        pass
    assert capsys.readouterr().err == ""
    with pytest.raises(KeyError), said_if_slow("loading PyTorch", after_s=0.01):
        time.sleep(1.0)
        raise KeyError
    told = capsys.readouterr().err
    assert told.startswith("loading PyTorch ....") and told.endswith(".\n") and told.count("\n") == 1
