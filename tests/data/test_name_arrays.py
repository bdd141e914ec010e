"""Names in one block: a list of strings to its reader, a few bytes each to the machine."""

import pickle
import tracemalloc

import numpy as np
import pytest

from hyperinverter.data.names import Names, concatenated, repeated
from hyperinverter.data.sources import ConcatSource, FilesSource

TEXTS = ["b.png", "a.png", "", "größe/日本.jpg", "a.png", "bad\udce9.png"]


def test_names_read_as_a_list_of_strings():
    names = Names.of(iter(TEXTS))
    assert names == TEXTS and list(names) == TEXTS and names != TEXTS[:-1]
    assert (len(names), names[-1], names[1:3], names.index("a.png")) == (6, "bad\udce9.png", TEXTS[1:3], 1)
    assert [names, Names.of([])] == [TEXTS, []]
    assert "a.png" in names and "c.png" not in names and sorted(names) == sorted(TEXTS)
    assert names.take([4, 0]) == ["a.png", "b.png"] and names.take(np.array([], int)) == []
    assert pickle.loads(pickle.dumps(names)) == TEXTS and repr(names).startswith("Names(['b.png', 'a.png', '', '...']")
    with pytest.raises(IndexError):
        names[6]


def test_names_of_bytes_show_them_their_own_way():
    names = Names.of([b"\x01\xff", b"key"], shown=bytes.hex)
    assert names == ["01ff", "6b6579"] and names.raw(0) == b"\x01\xff" and names.take([1]).raw(0) == b"key"


def test_a_name_takes_its_bytes_and_a_few_more():
    tracemalloc.start()
    names = Names.of(f"{i:040x}" for i in range(50_000))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 60 * len(names), f"{held / len(names):.0f} bytes a name of 40; a list takes 97"


def test_repeated_names_are_found_across_parts():
    one, two = Names.of(["a", "b", "c"]), Names.of(["c", "d", "a", "d"])
    assert repeated([one, two]) == {"a", "c", "d"} and repeated([one]) == set()
    assert concatenated([one, two]) == ["a", "b", "c", "c", "d", "a", "d"] and concatenated([one]) is one


def test_every_image_of_several_roots_has_a_name_of_its_own(tmp_path):
    """The lengthened name of one may be the plain name of another."""
    parts = [FilesSource(tmp_path, names) for names in (["a/x.png", "x.png"], ["x.png", "y.png"], ["x.png"])]
    names = ConcatSource(list(zip(parts, ["p", "a", "a"], strict=True))).names
    assert len(set(names)) == len(names) == 5 and names[1] == "p/x.png" and names[3] == "y.png"
