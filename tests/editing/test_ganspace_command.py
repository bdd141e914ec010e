"""find_directions: a PCA from the command line, sheets to look at, and named components that edit as directions do."""

import json
from pathlib import Path

import pytest
import torch

from hyperinverter.config.faults import ConfigError
from hyperinverter.config.load import load_config
from hyperinverter.config.model_schema import GanspaceConfig
from hyperinverter.directions.files import load_direction
from hyperinverter.directions.ganspace import AbsoluteDirection, read_pca
from hyperinverter.editing.ganspace_command import find_directions
from hyperinverter.pretrained.load import load_generator
from hyperinverter.published.vectors import Space
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.images import load_image


@pytest.fixture
def config(tiny_model: Path, tmp_path: Path) -> GanspaceConfig:
    return GanspaceConfig(
        model=str(tiny_model), output=str(tmp_path / "out"), device="cpu", components=5, samples=200, shown=3,
        directions={"wide": "0:2-5", "fine": "4:4-6"},
    )  # fmt: skip


def test_components_are_shown_and_named_ones_saved(config, tiny_model, tmp_path):
    found = find_directions(config)
    output, generator = tmp_path / "out", load_generator(tiny_model)
    assert found == json.loads((output / "ganspace.json").read_text())
    assert found["sheets"] == [f"sheet_styles_{s}.png" for s in ("0_6", "0_2", "2_4", "4_6")]
    for sheet in found["sheets"]:
        assert len(load_image(output / sheet, 64).unique()) > 20
    stds = found["standard_deviations"]
    assert stds == sorted(stds, reverse=True) and sum(found["explained_of_these"]) == pytest.approx(1)
    wide = load_direction(
        output / "directions/wide.safetensors", generator_hash=generator.weights_hash, space=Space(w_dim=16)
    )
    assert isinstance(wide, AbsoluteDirection) and (wide.start, wide.end) == (2, 5)
    again = read_pca(output / "pca.safetensors")
    torch.testing.assert_close(wide.vector, again.components[0])
    # it sets the coordinate: whatever the code was, it then stands there
    ws = torch.randn(3, 1, 16).repeat(1, 6, 1)
    moved = wide.move(ws, torch.tensor(2.0))
    torch.testing.assert_close((moved[:, 3] - wide.mean) @ wide.vector, torch.full([3], 2.0), atol=1e-4, rtol=0)
    assert torch.equal(moved[:, 5], ws[:, 5])


def test_a_generator_alone_is_enough(config, tiny_model, tmp_path):
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone/generator.safetensors").write_bytes((tiny_model / "generator.safetensors").read_bytes())
    config.model, config.styles = str(tmp_path / "alone"), ["1-3"]
    assert find_directions(config)["sheets"] == ["sheet_styles_1_3.png"]


def test_what_is_not_there_is_told(config):
    for key, value, told in (
        ("styles", ["0-7"], "'0-7' is no range of this generator's 6 styles"),
        ("components", 17, "at most 16 components"),
        ("directions", {"x": "5:0-2"}, "component 5 of 5"),
        ("directions", {"x": "1:0-7"}, r"directions.x: styles 0-7, but this generator has 6"),
        ("directions", {"a/b": "1:0-2"}, "'a/b' is no name for a file"),
    ):
        good = getattr(config, key)
        setattr(config, key, value)
        with pytest.raises(UserError, match=told):
            find_directions(config)
        setattr(config, key, good)
    with pytest.raises(ConfigError, match="components"):
        load_config(GanspaceConfig, None, ["components=0", "strength=-1"])
