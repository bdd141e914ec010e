"""What shows that something happens."""

import time

from hyperinverter.utils.waiting import said_if_slow


def test_a_word_where_nothing_else_is_shown(capsys):
    with said_if_slow("quick", after_s=5.0), said_if_slow("not wanted", after_s=0.0, wanted=False):
        pass
    with said_if_slow("loading PyTorch", after_s=0.01):
        time.sleep(0.5)
    assert capsys.readouterr().err == "loading PyTorch ...\n"
