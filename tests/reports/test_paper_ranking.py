"""Figures 6 and 10: the blind page, and votes that count for it alone; every vote here is made up, as its file says."""

import json
import re
from pathlib import Path

import pytest
from paper_bench import paper_config

from hyperinverter.config.report_schema import ReproduceConfig
from hyperinverter.reports.paper.ranking import count, read_votes
from hyperinverter.reports.reproduce.command import reproduce
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.images import load_image


@pytest.fixture
def config(tiny_model, tmp_path, monkeypatch) -> ReproduceConfig:
    config = paper_config(tiny_model, tmp_path, monkeypatch)
    config.parts, config.ranked, config.ranked_photos = ["fig6"], ["w_encoder", "hyperinverter"], 2
    return config


def synthetic(folder: Path, key: dict, best: str, participant: str) -> str:
    """A file of votes as the page saves it, all for one method; its name says that nobody gave them."""
    votes = []
    for question, codes in key["questions"].items():
        votes.append({"question": question, "ranked": sorted(codes, key=lambda code: key["codes"][code] != best)})
    path = folder / f"synthetic_votes_{participant}.json"
    path.write_text(json.dumps({"page": key["key"], "participant": participant, "votes": votes}))
    return str(path)


def test_the_page_is_one_file_that_does_not_say_who_made_what(config, tmp_path):
    result = reproduce(config)["fig6"]
    assert result["participants"] == 0 and result["questions"] == 4 and result["tasks"] == {}
    assert "Nobody has voted yet" in (tmp_path / "out" / "fig6.md").read_text()
    page, key = (tmp_path / "out" / name for name in ("fig6_ranking.html", "fig6_key.json"))
    text, codes = page.read_text(), json.loads(key.read_text())["codes"]
    assert len(codes) == 8 and all(code in text for code in codes)
    for name in ("w_encoder", "hyperinverter", "Phase", "both phases"):
        assert name not in text
    assert not re.search(r"(src|href)=[\"']?http|url\(|import ", text) and "default-src 'none'" in text
    data = json.loads(re.search(r"const data = (\{.*\});", text)[1])
    assert [question["task"] for question in data["questions"]] == ["reconstruction"] * 2 + ["editing"] * 2
    assert "bright" in data["questions"][2]["text"]
    # by keyboard: digits, Backspace and Enter are listened for; order is drawn in the browser
    assert all(word in text for word in ('"keydown"', "[1-9]", '"Backspace"', '"Enter"', "shuffled(", "aria-label"))
    before = page.read_bytes()
    reproduce(config)
    assert page.read_bytes() == before, "votes given on it count for it only as long as it is the same"


def test_votes_become_shares_with_intervals_beside_the_papers(config, tmp_path):
    reproduce(config)
    key = json.loads((tmp_path / "out" / "fig6_key.json").read_text())
    for participant, best in (("a", "hyperinverter"), ("b", "hyperinverter"), ("c", "w_encoder")):
        synthetic(tmp_path, key, best, participant)
    config.votes = [str(tmp_path / "synthetic_votes_*.json")]
    result = reproduce(config)["fig6"]
    assert result["participants"] == 3
    ours = result["tasks"]["editing"]["methods"]["hyperinverter"]
    assert ours["shares"] == pytest.approx([2 / 3, 1 / 3]) and ours["paper"] == 0.594
    low, high = ours["intervals_95"][0]
    assert 0 <= low < 2 / 3 < high <= 1
    assert load_image(tmp_path / "out" / "fig6.png", 64).shape == (3, 64, 64)
    assert "66.7%" in (tmp_path / "out" / "fig6.md").read_text()
    one = count(read_votes([str(tmp_path / "synthetic_votes_a.json")], key), "editing", key, "scenes")
    assert one["methods"]["hyperinverter"] == {"shares": [1.0, 0.0], "intervals_95": None, "paper": 0.772}


def test_votes_that_do_not_belong_are_refused_all_at_once(config, tmp_path):
    reproduce(config)
    key = json.loads((tmp_path / "out" / "fig6_key.json").read_text())
    good = Path(synthetic(tmp_path, key, "hyperinverter", "a"))
    saved = json.loads(good.read_text())
    changes = {
        "other_page": {**saved, "page": "0123"},
        "twice": {**saved, "votes": saved["votes"][:1]},
        "unknown": {**saved, "participant": "z", "votes": [{"question": "q", "ranked": []}]},
        "half": {
            **saved,
            "participant": "y",
            "votes": [{**saved["votes"][0], "ranked": saved["votes"][0]["ranked"][:1]}],
        },
        "shape": [1, 2],
        "types": {**saved, "participant": "w", "votes": [{"question": ["q"], "ranked": [1, 2]}]},
    }
    for name, content in changes.items():
        (tmp_path / f"synthetic_{name}.json").write_text(json.dumps(content))
    (tmp_path / "synthetic_cut.json").write_text(good.read_text()[:40])
    names = [*changes, "cut"]
    config.votes = [str(good), *(str(tmp_path / f"synthetic_{name}.json") for name in names)]
    with pytest.raises(UserError) as error:
        reproduce(config)
    lines = str(error.value).splitlines()
    assert len(lines) == len(names)
    words = ("page", "twice", "does not rank", "does not rank", "no file", "no file", "no file")
    for name, word in zip(names, words, strict=True):
        assert any(f"synthetic_{name}.json" in line and word in line for line in lines), name


def test_votes_that_are_not_there_are_told_before_any_work(config, tmp_path):
    config.votes = [str(tmp_path / "missing_*.json"), str(tmp_path / "none.json")]
    with pytest.raises(UserError, match=r"votes: .*missing_\*\.json, .*none\.json: no such file"):
        reproduce(config)
    assert not (tmp_path / "out").exists()


def test_fewer_than_two_methods_make_no_page(config, capsys):
    config.ranked = ["psp", "hyperinverter"]
    assert reproduce(config) == {}
    assert "people rank two methods or more" in capsys.readouterr().err
