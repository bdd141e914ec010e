"""The ablation runner on a tiny domain: every row trained and measured once, resumed, and the order told either way."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hyperinverter.config.domain_schema import HypernetworkConfig
from hyperinverter.config.faults import ConfigError
from hyperinverter.config.load import load_config, to_yaml
from hyperinverter.config.report_schema import AblateConfig
from hyperinverter.config.schema import DataConfig, WeightsConfig
from hyperinverter.reports.reproduce import ablations
from hyperinverter.reports.reproduce.ablations import why_not_these
from hyperinverter.reports.reproduce.command import ablate
from hyperinverter.reports.reproduce.publish import pages
from hyperinverter.training import phase2
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.images import load_image, save_image


@pytest.fixture
def config(tiny_domain, tiny_model, tmp_path) -> AblateConfig:
    """Three rows of micro: the base, one without features of the Phase I image, and a smaller D."""
    domain = replace(tiny_domain, weights=WeightsConfig(folder=str(tiny_model)))
    for i in range(12):
        torch.manual_seed(i)
        save_image(torch.rand(3, 16, 16) * 2 - 1, tmp_path / ("photos" if i < 8 else "held_out") / f"{i:02d}.png")
    rows = {}
    sizes = tiny_domain.hypernetwork.hidden_size
    for title, changed in {
        f"full, D = {sizes}": {},
        "without features of the Phase I image": {"use_w_image_features": False},
        f"D = {sizes // 2}": {"hidden_size": sizes // 2},
    }.items():
        (tmp_path / f"{len(rows)}.domain.yaml").write_text(
            to_yaml(replace(domain, hypernetwork=replace(domain.hypernetwork, **changed)))
        )
        text = f"domain: {tmp_path}/{len(rows)}.domain.yaml\nloss_weights: {{l2: 1.0, lpips: 0, identity: 0}}\n"
        rows[title] = str(tmp_path / f"{len(rows)}.yaml")
        Path(rows[title]).write_text(text)
    return AblateConfig(
        domain=domain, output=str(tmp_path / "out"), device="cpu", threads=1, rows=rows,
        settings=["schedule.max_steps=2", "schedule.batch_size=4", "optimizer.lr=1e-3"],
        data=DataConfig(root=str(tmp_path / "photos"), validation_fraction=0.25), photos=str(tmp_path / "held_out"),
        metrics=["l2", "psnr"], batch_size=3, sheet_rows=2, publish=str(tmp_path / "docs" / "results"),
    )  # fmt: skip


def test_rows_are_trained_measured_and_resumed(config: AblateConfig, tmp_path: Path, monkeypatch):
    result = ablate(config)
    base, without, *others = result["rows"]
    assert [row["title"] for row in result["rows"]] == [
        "full, D = 4", "without Phase II", "without features of the Phase I image", "D = 2"
    ]  # fmt: skip
    assert result["budget"] == {"steps": 2, "adversarial_steps": 0, "images": 8, "seed": 2107}
    assert result["num_images"] == 4 and result["photos"] == ["held_out"]
    assert base["parameters"] > others[1]["parameters"] > 0 and "against_base" not in base
    ratio = without["values"]["l2"] / base["values"]["l2"]
    assert without["against_base"]["l2"]["ratio"] == pytest.approx(ratio)
    low, high = without["against_base"]["l2"]["interval_95"]
    assert low <= ratio <= high
    statements = [one["statement"] for one in result["statements"]]
    assert statements == ["without Phase II is worse than full, D = 4",
                          "without features of the Phase I image is worse than full, D = 4",
                          "D = 2 is worse than D = 4"]  # fmt: skip
    for one in result["statements"]:
        low, high = one["interval_95"]
        expected = "holds" if low > 1 else "does not hold" if high < 1 else "open: the interval holds 1"
        assert one["verdict"] == expected
    assert load_image(tmp_path / "out" / "ablations.png", 64).shape == (3, 64, 64)
    written = json.loads((tmp_path / "docs/results" / config.domain.name / "ablations.json").read_text())
    assert written == result == json.loads((tmp_path / "out" / "ablations.json").read_text())
    for path, text in pages({config.domain.name: {"ablations": written}}, tmp_path / "docs" / "results").items():
        assert path.read_text() == text
    assert (
        path.stem == config.domain.name
        and "## Ablations" in text
        and "| without Phase II |" in text
        and str(tmp_path) not in text
    )

    # everything is there: nothing is trained or measured again
    monkeypatch.setattr(ablations, "evaluate", lambda config: pytest.fail("measured again"))
    steps = []
    monkeypatch.setattr(phase2, "step_over_parts", lambda *arguments, **options: steps.append(1))
    assert ablate(config) == result and steps == []

    # taken as table 3 without photos to train on, where photos, settings, rows and weights are the same
    hashes = dict(result["about"]["model"])
    alike = replace(config, data=DataConfig(validation_fraction=0.25))
    assert str(tmp_path) not in json.dumps(result["terms"]) and result["terms"]["data.root"] == ["photos"]
    assert why_not_these(alike, result, hashes) == [] == why_not_these(config, result, hashes)
    other = replace(alike, photos=str(tmp_path / "photos"), metrics=["l2"], rows=dict(list(config.rows.items())[:2]))
    other.settings = [*config.settings[:2], "optimizer.lr=2e-3"]
    told = [line.partition(":")[0] for line in why_not_these(other, result, hashes | {"w_encoder": "0123"})]
    assert told == ["optimizer.lr", "rows", "metrics", "w_encoder's weights", "photos"]
    assert "earlier version" in why_not_these(alike, {**result, "terms": {}}, hashes)[0]

    # other photos are measured, other settings are not gone on with
    settings, config.settings = config.settings, other.settings
    noted = (tmp_path / "out" / "terms.json").read_text()
    (tmp_path / "out" / "terms.json").write_text("{")
    with pytest.raises(UserError, match=r"terms.json is damaged, so nobody knows"):
        ablate(config)
    (tmp_path / "out" / "terms.json").write_text(noted)
    with pytest.raises(UserError, match=r"trained by other settings:\n  optimizer.lr: 0.001, now 0.002"):
        ablate(config)
    config.settings = list(settings)
    save_image(torch.zeros(3, 16, 16), tmp_path / "held_out" / "08.png")
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        ablate(config)

    # rows that went further do not pass for the shorter budget
    config.settings[0] = "schedule.max_steps=1"
    with pytest.raises(UserError, match="was trained for 2 steps by an earlier call, the rows' budget is now 1"):
        ablate(config)


def test_a_row_stopped_half_way_goes_on_and_ends_the_same(config: AblateConfig, tmp_path: Path, monkeypatch):
    config.rows = dict(list(config.rows.items())[:2])
    config.settings.append("schedule.save_every=1")
    whole = ablate(config)
    config.output, config.publish = str(tmp_path / "again"), None
    step, taken = phase2.step_over_parts, []

    def dying(*arguments, **options):
        taken.append(1)
        if len(taken) == 4:  # in the second row
            raise KeyboardInterrupt
        return step(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(phase2, "step_over_parts", dying)
        ablate(config)
    monkeypatch.setattr(phase2, "step_over_parts", lambda *a, **o: taken.append(1) or step(*a, **o))
    again = ablate(config)
    assert len(taken) == 4 + 1  # the first row and a step of the second are not done again
    assert again["rows"] == whole["rows"] and again["statements"] == whole["statements"]


def test_a_row_beyond_the_paper_is_told_as_one(config: AblateConfig):
    config.settings[0] = "schedule.max_steps=1"
    title, path = list(config.rows.items())[1]
    domain = Path(path).with_name("1.domain.yaml")
    text = domain.read_text().replace("use_w_image_features: false", "use_w_image_features: true")
    domain.write_text(text.replace("token_range: non_negative", "token_range: signed"))
    config.rows = {**dict(list(config.rows.items())[:1]), title: path}
    statements = [one["statement"] for one in ablate(config)["statements"]]
    assert statements[1].endswith("is worse than full, D = 4 (not a row of the paper)")


def test_d_is_compared_among_rows_of_one_mapper():
    """Scales of channels have no D: beside them the paper's matrices are a sweep of their own."""

    def row(**changes):
        hypernetwork = HypernetworkConfig(token_range="signed", **changes)
        return SimpleNamespace(domain=SimpleNamespace(hypernetwork=hypernetwork))

    rows = {"full": row(mapper="channel_scales"), "D = 64": row(hidden_size=64), "D = 32": row(hidden_size=32)}
    measured = {
        title: {"records": [{"hyperinverter": {"l2": l2 + i}, "w_encoder": {"l2": 9.0 + i}} for i in range(3)]}
        for title, l2 in zip(rows, (1.0, 2.0, 3.0), strict=True)
    }
    told = list(ablations._statements(rows, measured, {"l2": {"unit": "", "better": "lower"}}))
    assert [one["statement"] for one in told] == [
        "without Phase II is worse than full",
        "D = 64 is worse than full (not a row of the paper)",
        "D = 32 is worse than full (not a row of the paper)",
        "D = 32 is worse than D = 64",
    ]
    assert {one["verdict"] for one in told} == {"holds"}


def test_rows_of_unequal_budgets_are_refused(config: AblateConfig):
    path = Path(list(config.rows.values())[1])
    path.write_text(path.read_text() + "gradient_clip: 0.5\n")
    with pytest.raises(UserError, match=r"Phase I image: differs from full, D = 4 in gradient_clip"):
        ablate(config)
    config.photos = str(path.parent / "nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere"):  # before anything is trained
        ablate(config)
    assert not Path(config.output).exists()
    config.photos = None
    with pytest.raises(UserError, match="photos is not set"):
        ablate(config)


def test_mistakes_in_settings_are_told_together():
    with pytest.raises(ConfigError) as error:
        load_config(AblateConfig, None, ["rows={}", "settings=[schedule.max_steps]", "metrics=[l3]"])
    told = str(error.value)
    assert "rows" in told and "is no key=value" in told and "no such metric 'l3'" in told
