"""The recorded outputs themselves: every case has a test, our recipe is the written one, the small collection fits."""

import ast
import importlib.util
import json
import re
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import recorded
from golden import copy_subset, recipe

shared = pytest.mark.skipif(not recorded.SHARED.is_dir(), reason="the full collection (../shared/golden) is absent")


def written_recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("written_recipe", recorded.SHARED / "fill.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@shared
def test_our_recipe_is_the_written_one():
    """Every rule that a table uses, and every kind of input, to the last bit."""
    theirs = written_recipe()
    smallest: dict[str, tuple[str, list[int]]] = {}
    for table in sorted(recorded.SHARED.glob("fill_tables/*.json")):
        for key, (shape, rule, _) in json.loads(table.read_text()).items():
            if rule not in smallest or np.prod(shape) < np.prod(smallest[rule][1]):
                smallest[rule] = (key, shape)
    assert len(smallest) > 10
    for rule, (key, shape) in smallest.items():
        if rule not in (recipe.KEPT, "zero"):
            expected = theirs.RULES[rule](theirs.normal(key, shape, 7), shape)
            assert np.array_equal(recipe.filled(key, shape, rule, 7), expected), rule
    for case in map(recorded.Case, ("nv_g32", "loss_id", "restyle_loop32", "e4e_editing_n14_b2")):
        for name, entry in case.info["inputs"].items():
            expected = theirs.make_input(entry, case.info["seed"])
            assert np.array_equal(case.input(name).numpy(), expected), name


@shared
@pytest.mark.parametrize("name", copy_subset.SUBSET)
def test_the_small_collection_is_part_of_the_full_one(name):
    info, arrays = copy_subset.thinned(recorded.SHARED, name)
    assert json.loads((recorded.SUBSET / f"{name}.json").read_text()) == info
    with np.load(recorded.SUBSET / f"{name}.npz") as kept:
        assert set(kept) == set(arrays)
        assert all(np.array_equal(kept[key], arrays[key], equal_nan=True) for key in arrays)
    for entry in info["fills"].values():
        ours, theirs = (folder / entry["table"] for folder in (recorded.SUBSET, recorded.SHARED))
        assert json.loads(ours.read_text()) == json.loads(theirs.read_text())


def test_the_small_collection_is_small_and_whole():
    names = {path.stem for path in recorded.SUBSET.glob("*.json")}
    assert names == set(copy_subset.SUBSET) == {path.stem for path in recorded.SUBSET.glob("*.npz")}
    assert sum(path.stat().st_size for path in recorded.SUBSET.rglob("*.*")) < 600_000


@cache
def claims() -> dict[str, str]:
    """Pattern or name of cases -> the test file that asks for them by `names`, `mostly_slow` or `Case`."""
    found = {}
    for path in Path(__file__).parent.rglob("test_*.py"):
        text = path.read_text()
        if path == Path(__file__) or not re.search("^(import|from) recorded", text, re.MULTILINE):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                called = ast.unparse(node.func).removeprefix("recorded.")
                if called in ("names", "mostly_slow", "Case"):
                    found[node.args[0].value] = path.name
    return found


@pytest.mark.parametrize("name", recorded.names(".*"))
def test_every_recorded_case_is_held_against_ours(name):
    """A case that is newly recorded without a test is noticed here."""
    assert any(re.fullmatch(pattern, name) for pattern in claims()), f"{name}: no test asks for it"
