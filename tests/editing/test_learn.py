"""A planted direction is found again from labels; labels files are matched, split and checked."""

import csv
import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from hyperinverter.config.model_schema import DirectionConfig
from hyperinverter.config.schema import DataConfig
from hyperinverter.directions import load_direction
from hyperinverter.editing import learn
from hyperinverter.editing.learn import learn_direction
from hyperinverter.editing.learn_command import learn_directions
from hyperinverter.inverters import load
from hyperinverter.utils.errors import UserError


def planted(n=1500, w_dim=32, share=0.5, seed=0):
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=w_dim)
    direction /= np.linalg.norm(direction)
    ws = rng.normal(size=(n, w_dim)) + rng.normal(size=w_dim)
    score = ws @ direction
    labels = score + 0.1 * rng.normal(size=n) > np.quantile(score, 1 - share)
    return torch.tensor(ws, dtype=torch.float32), labels, torch.tensor(direction, dtype=torch.float32)


@pytest.mark.parametrize("share", [0.5, 0.06])  # 6 % is the share of glasses
def test_a_planted_direction_is_recovered(share):
    ws, labels, true = planted(share=share)
    held_out = np.arange(len(ws)) % 5 == 0
    direction, figures = learn_direction(ws, labels, held_out, name="smile", generator_hash="abc")
    assert direction.vector @ true >= 0.95
    assert figures["accuracy"] > 0.9 and figures["balanced_accuracy"] > 0.9
    assert figures["n_held_out"] == 300 and figures["n_train"] == 1200 and figures["class_distance"] > 0
    projections = ws[torch.tensor(~held_out)] @ direction.vector
    assert figures["projection_std"] == pytest.approx(projections.std(correction=0).item(), rel=1e-4)
    assert direction.generator_hash == "abc" and direction.info["accuracy"] == figures["accuracy"]
    turned, _ = learn_direction(ws, ~labels, held_out)
    assert turned.vector @ true <= -0.95


def test_the_pattern_is_how_codes_move_where_the_spread_is_uneven():
    """A cause moves the codes along `moves`; a narrow dimension repeats the label and attracts the normal."""
    rng = np.random.default_rng(0)
    labels = rng.random(4000) < 0.5
    moves = rng.normal(size=16)
    moves /= np.linalg.norm(moves)
    ws = rng.normal(size=(4000, 16)) + np.outer(2.0 * (labels - 0.5), moves)
    ws[:, 0] = 0.02 * (labels - 0.5) + 0.003 * rng.normal(size=4000)
    moves[0] = 0.01
    held_out = np.arange(4000) % 5 == 0
    ws, moves = torch.tensor(ws, dtype=torch.float32), torch.tensor(moves / np.linalg.norm(moves), dtype=torch.float32)
    normal, _ = learn_direction(ws, labels, held_out)
    pattern, figures = learn_direction(ws, labels, held_out, estimate="pattern")
    assert pattern.vector @ moves >= 0.9 > normal.vector @ moves
    assert figures["class_distance"] == pytest.approx(2.0, abs=0.2), "in units of W, along the way that codes move"


def test_shrunk_leaves_out_what_only_comes_along():
    """Labels move codes along dimension 1; dimension 0 follows weakly and varies much on its own, as light does."""
    rng = np.random.default_rng(0)
    labels = rng.random(4000) < 0.5
    ws = rng.normal(size=(4000, 16)) * 0.5
    ws[:, 0] = 3.0 * rng.normal(size=4000) + 1.5 * (labels - 0.5)
    ws[:, 1] += labels - 0.5
    ws[:, 2] = 0.02 * (labels - 0.5) + 0.01 * rng.normal(size=4000)
    held_out = np.arange(4000) % 5 == 0
    by = {
        estimate: learn_direction(torch.tensor(ws), labels, held_out, estimate=estimate)[0].vector.abs()
        for estimate in ("normal", "shrunk", "pattern")
    }
    assert by["pattern"][0] > by["pattern"][1], "the pattern moves what comes along most"
    assert by["normal"][2] > by["normal"][1], "the normal leans into the dimension that hardly varies"
    assert by["shrunk"][1] > 2 * by["shrunk"][0] and by["shrunk"][1] > 5 * by["shrunk"][2]
    with pytest.raises(ValueError, match="normal, shrunk, pattern"):
        learn_direction(torch.tensor(ws), labels, held_out, estimate="mean")


def test_classes_that_are_too_small_are_refused():
    ws, labels, _ = planted(n=50)
    with pytest.raises(UserError, match="x: 0 photos to learn from with the attribute"):
        learn_direction(ws, np.zeros(50, bool), np.arange(50) < 10, name="x")
    with pytest.raises(UserError, match="photos held out with"):
        learn_direction(ws, labels, np.zeros(50, bool))
    with pytest.raises(ValueError, match="expected \\[n, w_dim\\], n and n"):
        learn_direction(ws, labels[:-1], np.zeros(50, bool))


def write_labels(path, rows):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_labels_are_matched_by_name_and_flipped_on_request(tmp_path):
    path = write_labels(tmp_path / "l.csv.gz", [{"file": "a.jpg", "Young": 1}, {"file": "b.jpg", "Young": -1}])
    labels = learn.read_labels(path)
    rows = learn.rows_of(["train/a.jpg", "b.jpg", "c.jpg"], labels)
    assert rows[2] is None
    assert learn.attribute_values(rows[:2], "Young").tolist() == [True, False]
    assert learn.attribute_values(rows[:2], "-Young").tolist() == [False, True]
    with pytest.raises(UserError, match="no column 'Smiling'; columns: Young"):
        learn.attribute_values(rows[:2], "Smiling")
    assert learn.attribute_values([{"x": "True"}, {"x": "false"}], "x").tolist() == [True, False], "as pandas writes"
    with pytest.raises(UserError, match="values 'yes'; expected 0 or 1"):
        learn.attribute_values([{"x": "yes"}, {"x": "1"}], "x")
    with pytest.raises(FileNotFoundError, match="give a CSV"):
        learn.read_labels(tmp_path / "absent.csv")
    with pytest.raises(UserError, match="listed more than once"):
        learn.read_labels(write_labels(tmp_path / "twice.csv", [{"file": "a", "x": 1}] * 2))
    with pytest.raises(UserError, match="must be called `file`"):
        learn.read_labels(write_labels(tmp_path / "other.csv", [{"photo": "a", "x": 1}]))
    (tmp_path / "no.csv.gz").write_bytes(b"not packed")
    with pytest.raises(UserError, match="not readable as CSV"):
        learn.read_labels(tmp_path / "no.csv.gz")


CELEBA = "3\nSmiling Young\n000001.jpg -1  1\n000002.jpg  1 -1\n000003.jpg  1  1\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list_attr_celeba.txt", CELEBA),
        ("list_attr_celeba.txt", CELEBA.replace("\n", "\r\n")),
        ("list_attr_celeba.csv", "image_id,Smiling,Young\n000001.jpg,-1,1\n000002.jpg,1,-1\n000003.jpg,1,1\n"),
        ("excel.csv", "\ufeffFilename;Smiling;Young\n000001.jpg;0;1\n000002.jpg;1;0\n000003.jpg;1;1\n"),
        ("tabs.tsv", "Smiling\tfile\tYoung\n-1\t000001.jpg\t1\n1\t000002.jpg\t-1\n1\t000003.jpg\t1\n"),
    ],
)
def test_attribute_lists_as_people_have_them(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    labels = learn.read_labels(tmp_path / name)
    assert list(labels) == ["000001.jpg", "000002.jpg", "000003.jpg"]
    rows = learn.rows_of(["000003.jpg", "faces/000001.png", "000002.jpg"], labels)  # aligned photos are .png
    assert learn.attribute_values(rows, "Smiling").tolist() == [True, False, True]
    assert learn.attribute_values(rows, "Young").tolist() == [True, True, False]


def test_equal_stems_are_told_apart_by_their_suffix(tmp_path):
    labels = learn.read_labels(write_labels(tmp_path / "l.csv", [{"file": "a.jpg", "x": 1}, {"file": "a.png", "x": 0}]))
    assert learn.rows_of(["a.webp", "a.png"], labels)[0] is None
    assert learn.rows_of(["a.webp", "a.png"], labels)[1]["x"] == "0"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([0.13, 0.87, 0.5, 0.9], "values '0.13', '0.5', '0.87', '0.9'; expected 0 or 1 .*turn scores into classes"),
        (["87", "12", "55", "3"], "turn scores into classes"),
        (["yes", "no", "no", "yes"], "expected 0 or 1"),
        ([1, 1, 1, 1], "without the attribute"),
    ],
)
def test_unfit_labels_are_told_before_photos_are_encoded(tmp_path, tiny_domain, values, told):
    (tmp_path / "photos").mkdir()
    rows = [{"file": f"{i}.png", "Smile": value} for i, value in enumerate(values)]
    for row in rows:
        Image.new("RGB", (16, 16)).save(tmp_path / "photos" / row["file"])
    config = DirectionConfig(
        domain=tiny_domain,
        data=DataConfig(root=str(tmp_path / "photos")),
        model="no model is loaded before",
        labels=str(write_labels(tmp_path / "l.csv", rows)),
        attributes={"smile": "Smile"},
        held_out_fraction=0.5,
    )
    with pytest.raises(UserError, match=told):
        learn_directions(config)
    config.labels = str(write_labels(tmp_path / "l.csv", [{"file": "other.png", "Smile": 1}]))
    with pytest.raises(UserError, match="none of the 4 photos"):
        learn_directions(config)


def test_photos_are_held_out_by_split_else_by_person_else_by_name():
    names = [f"{i}.jpg" for i in range(1000)]
    split = [{"split": "test" if i % 4 == 0 else "train", "identity": str(i // 5)} for i in range(1000)]
    mask, how = learn.held_out_mask(names, split, 0.2)
    assert mask.tolist() == [i % 4 == 0 for i in range(1000)] and "split column" in how
    one_split = [row | {"split": "train"} for row in split]
    mask, how = learn.held_out_mask(names, one_split, 0.2)
    assert 0.1 < mask.mean() < 0.3 and "person" in how
    assert all(len(set(mask[i : i + 5])) == 1 for i in range(0, 1000, 5))
    mask, how = learn.held_out_mask(names, [{}] * 1000, 0.2)
    assert 0.15 < mask.mean() < 0.25 and "file name" in how
    assert mask.tolist() == learn.held_out_mask(names, [{}] * 1000, 0.2)[0].tolist()
    assert mask.tolist() != learn.held_out_mask(names, [{}] * 1000, 0.2, seed=1)[0].tolist()


def test_the_command_learns_from_photos_and_reuses_the_codes(tmp_path, tiny_model, tiny_domain, capsys):
    """Photos are labelled by their own code along a planted direction; the saved file must point there."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    names = [f"{i:03d}.png" for i in range(300)]
    for name in names:
        low = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(low).resize((16, 16), Image.Resampling.BICUBIC).save(tmp_path / "photos" / name)
    model = load(tiny_model, "w_encoder")
    ws = model.invert(tmp_path / "photos", batch_size=64).ws[:, 0]
    axis = torch.linalg.eigh(torch.cov(ws.T)).eigenvectors[:, -1]  # the direction in which the codes spread most
    scores = ws @ axis
    rows = [{"file": n, "Young": int(s > scores.median())} for n, s in zip(names, scores, strict=True)]
    config = DirectionConfig(
        domain=tiny_domain,
        data=DataConfig(root=str(tmp_path / "photos")),
        output=str(tmp_path / "out"),
        model=str(tiny_model),
        labels=str(write_labels(tmp_path / "labels.csv", rows)),
        attributes={"age": "-Young"},
    )
    learn_directions(config)
    first = load_direction(tmp_path / "out" / "directions" / "age.safetensors", generator_hash=model.generator_hash)
    assert (
        first.info["balanced_accuracy"] > 0.85 and first.info["attribute"] == "-Young" and first.info["photos"] == 300
    )
    assert ((ws - ws.mean(0)) @ first.vector * (scores - scores.mean())).sum() < 0  # turned round by the minus
    assert "terms of both" in first.info["licence"]
    capsys.readouterr()
    learn_directions(config)
    assert "codes taken from" in capsys.readouterr().out
    again = load_direction(tmp_path / "out" / "directions" / "age.safetensors")
    assert torch.equal(first.vector, again.vector)
    (tmp_path / "out" / "codes.safetensors").write_bytes(b"cut short")
    learn_directions(config)
    assert "the codes are made again" in capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "directions.json").read_text())
    assert summary["directions"]["age"]["n_train"] + summary["directions"]["age"]["n_held_out"] == 300


def test_the_difference_of_two_groups_and_one_direction_without_another(tmp_path, tiny_model, tiny_domain, capsys):
    rng = np.random.default_rng(0)
    for group in ("dark", "light", "one.png"):
        for number in range(1 if "." in group else 3):
            path = tmp_path / group if "." in group else tmp_path / group / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            pixels = rng.integers(0, 100, (16, 16, 3), dtype=np.uint8) + (100 if group == "light" else 0)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    model = load(tiny_model, "w_encoder")
    means = [model.invert(tmp_path / group).ws[:, 0].mean(0) for group in ("dark", "light", "one.png")]
    config = DirectionConfig(
        domain=tiny_domain,
        output=str(tmp_path / "out"),
        model=str(tiny_model),
        attributes={"smile": "Smiling"},  # as a config file brings them; there are no labels
        differences={
            "light": [str(tmp_path / "dark"), str(tmp_path / "light")],
            "own": [str(tmp_path / "one.png"), str(tmp_path / "dark")],
        },
        without={"own": ["light"]},
    )
    summary = learn_directions(config)
    light, own = (load_direction(tmp_path / "out" / "directions" / f"{n}.safetensors") for n in ("light", "own"))
    step = means[1] - means[0]
    torch.testing.assert_close(light.vector, step / step.norm(), atol=1e-4, rtol=0)
    assert summary["directions"]["light"]["class_distance"] == pytest.approx(float(step.norm()), rel=1e-3)
    assert abs(own.vector @ light.vector) < 1e-5 and own.info["without"] == ["light"]
    assert (means[0] - means[2]) @ own.vector > 0 and own.info["projection_std"] > 0
    assert "own: without light; cosine" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="no direction 'age'"):
        learn_directions(replace(config, without={"own": ["age"]}, output=str(tmp_path / "none")))
    assert not (tmp_path / "none").exists()  # told before photos are encoded
    learn_directions(replace(config, without={"own": ["light"], "light": ["own"]}))  # each of the other as it was
    other = load_direction(tmp_path / "out" / "directions" / "light.safetensors")
    before = (means[0] - means[2]) / (means[0] - means[2]).norm()
    assert abs(other.vector @ before) < 1e-4 < abs(light.vector @ before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, "labels is empty"),
        ({"attributes": {}}, "attributes is empty"),
        ({"data": DataConfig()}, "data.root"),
    ],
)
def test_what_is_not_set_is_named(change, message):
    settings = {"data": DataConfig(root="x"), "labels": "y", "attributes": {"a": "b"}} | change
    with pytest.raises(UserError, match=message):
        learn_directions(DirectionConfig(**settings))
