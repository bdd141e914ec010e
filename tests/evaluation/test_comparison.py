"""The last method against the first: ratio or difference, with an interval of pairs."""

import pytest

from hyperinverter.evaluation.comparison import compare

METRICS = {"l2": {"better": "lower"}, "psnr": {"better": "higher"}, "fid": {"better": "lower"}}


def test_ratios_and_differences():
    values = (0.1, 0.2, 0.3, 0.4)
    records = [{"one": {"l2": v, "psnr": v}, "two": {"l2": v / 2, "psnr": v + 3}} for v in values]
    found = compare(records, ["one", "two"], METRICS)
    assert set(found) == {"l2", "psnr"}  # fid has no value per image
    assert found["l2"]["ratio"] == pytest.approx(0.5) and found["l2"]["interval_95"] == pytest.approx([0.5, 0.5])
    assert found["psnr"]["difference"] == pytest.approx(3) and found["psnr"]["interval_95"] == pytest.approx([3, 3])


def test_nothing_to_compare():
    records = [{"one": {"l2": 1.0}}] * 3
    assert compare(records, ["one"], METRICS) == {} and compare(records[:1], ["one", "one"], METRICS) == {}
