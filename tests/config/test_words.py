"""The words of a command line, as people type them."""

import pytest

from hyperinverter.config.load import load_config
from hyperinverter.config.schema import EditConfig
from hyperinverter.config.words import as_settings, overrides
from hyperinverter.utils.errors import UserError


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["strengths=[-3,", "0,", "3]"], r"strengths ends in the middle, at '\[-3,': the shell splits words at spaces"),
        (["strengths=-3,", "0,", "3"], r"so quote all of it, as in 'strengths=\[A, B\]'"),
        (["--strengths", "[-3,", "0]"], r"'strengths=\[A, B\]'"),
        (["edits={smile:", "2,", "age:", "-1}"], "so quote all of it, as in 'edits={NAME: VALUE, NAME: VALUE}'"),
    ],
)
def test_a_value_that_the_shell_has_split_needs_quotes(words: list[str], told: str):
    """It ended in `no such option: -1}` or in a photo `0,` that is not there."""
    with pytest.raises(UserError, match=told):
        as_settings(["photo.jpg", *words], EditConfig)


@pytest.mark.parametrize("word", ["strengths=[-3,0,3]", "output=a [b", "data.root=[a].jpg", "me[=you,", "edits={a: 1}"])
def test_a_whole_value_needs_none(word: str):
    assert as_settings([word], EditConfig) == [word]


def test_photos_are_named_in_one_way():
    """Those of data.root were left out without a word."""
    with pytest.raises(UserError, match=r"me\.jpg and data\.root=others both say what to work on; leave one out"):
        overrides(["me.jpg", "data.root=others"], EditConfig, "data.root")


@pytest.mark.parametrize("words", [["align=True"], ["--align", "True"], ["--align=TRUE"], ["--align"]])
def test_true_may_be_written_as_in_python(words: list[str]):
    assert load_config(EditConfig, None, as_settings(words, EditConfig)).align is True
    no = [word.replace("T", "F").replace("rue", "alse").replace("RUE", "ALSE") for word in words]
    assert no == words or load_config(EditConfig, None, as_settings(no, EditConfig)).align is False
