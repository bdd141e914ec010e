"""Which keys a command has, and one value where a list is expected."""

import re
from pathlib import Path

import pytest
from test_load import fault, faults, write

from hyperinverter.config.load import load_config
from hyperinverter.config.model_schema import GanspaceConfig, ListConfig, VideoConfig
from hyperinverter.config.report_schema import BenchmarkConfig, ReproduceConfig
from hyperinverter.config.schema import (
    AlignConfig,
    EditConfig,
    EvaluateConfig,
    InterpolateConfig,
    InvertConfig,
    StyleGAN2Config,
)


def test_one_value_where_a_list_is_expected(tmp_path: Path):
    for texts, directions, strengths in (
        (["directions=smile", "strengths=2"], ["smile"], [2]),
        (["directions=pca#34:10-11, 007", "strengths=-1,1"], ["pca#34:10-11", "007"], [-1, 1]),
        (["directions=[smile,age]", "strengths=[1]"], ["smile", "age"], [1]),
    ):
        config = load_config(EditConfig, None, texts)
        assert (config.directions, config.strengths) == (directions, strengths)
    config = load_config(EditConfig, write(tmp_path, "directions: smile\nstrengths: 2\n"))
    assert (config.directions, config.strengths) == (["smile"], [2])
    path = write(tmp_path, "sides: {fp32: 4}\ntraining: {phase1: fp32}\n")
    config = load_config(BenchmarkConfig, path, ["budget=fp32"])
    assert (config.sides, config.training, config.budget) == ({"fp32": [4]}, {"phase1": ["fp32"]}, ["fp32"])
    for wrong in ("directions=null", "strengths=much", "directions="):
        assert "expected a list" in fault(EditConfig, wrong)


def test_a_command_has_only_its_own_keys_and_passes_over_those_of_commands_that_share_its_file(tmp_path: Path):
    text = "steps: 5\ndirections: [age]\nalign: true\nseed: 3\ndata: {flip: false, max_images: 2, num_generated: 9}\n"
    path = write(tmp_path, text)
    assert load_config(EditConfig, path).directions == ["age"]
    assert load_config(InterpolateConfig, path).steps == 5
    assert load_config(InvertConfig, path).align and load_config(AlignConfig, path).data.max_images == 2
    assert fault(InvertConfig, "strengths=[1]").endswith("unknown key; known here: domain, output, seed, device, "
        "threads, model, method, projection, precision, compile, resolution, refine, batch_size, provenance, data, "
        "align, face, methods")  # fmt: skip
    for schema_class, key in (
        (InvertConfig, "steps"),
        (EditConfig, "steps"),
        (AlignConfig, "method"),
        (EditConfig, "data.flip"),
        (EvaluateConfig, "data.store"),
        (InterpolateConfig, "directions"),
    ):
        assert "unknown key" in fault(schema_class, f"{key}=1"), (schema_class, key)
    assert "did you mean data.max_images?" in faults(InvertConfig, write(tmp_path, "max_image: 3\n"))[0]


def test_path_length_every_zero_is_off():
    assert load_config(StyleGAN2Config, None, ["path_length_every=0"]).path_length_every == 0


@pytest.mark.parametrize(
    ("schema_class", "text", "told"),
    [
        (EditConfig, "edits={smile: 1e9}", "edits.smile: must lie .* got 1000000000"),
        (EditConfig, "edits={smile: .nan}", "edits.smile: must lie .* got nan"),
        (EditConfig, "strengths=[1,-101]", "strengths: must lie between -100 and 100, usual are -3 to 3; got -101"),
        (VideoConfig, "edits={smile: 101}", "edits.smile: must lie"),
        (ReproduceConfig, "strengths=[101]", "strengths: must lie"),
        (GanspaceConfig, "strength=101", "strength: must lie"),
        (ListConfig, "strength=101", "strength: must lie"),
    ],
)
def test_a_strength_beyond_any_sense_is_refused_in_either_unit(schema_class: type, text: str, told: str):
    units = ["strength_unit=w", "strength_unit=std"] if hasattr(schema_class, "strength_unit") else []
    for words in [[text], *([text, unit] for unit in units)]:
        assert re.search(told, fault(schema_class, *words)), words
    assert load_config(EditConfig, None, ["edits={smile: 100}"]).edits == {"smile": 100}
