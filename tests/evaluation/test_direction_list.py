"""list_directions: a sheet per direction, and a leakage matrix that says what a judge sees of it."""

import json
import shutil
from dataclasses import dataclass, replace

import pytest
import torch
from PIL import Image

from hyperinverter.config.faults import ConfigError
from hyperinverter.config.load import load_config
from hyperinverter.config.model_schema import GanspaceConfig, ListConfig
from hyperinverter.directions import Direction, save_direction
from hyperinverter.evaluation import direction_list
from hyperinverter.evaluation.direction_list import list_directions
from hyperinverter.inverters import load
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.images import load_image


class Brightness(torch.nn.Module):
    """A judge whose score is known: the mean of the image."""

    def features(self, images):
        return images.mean(dim=(1, 2, 3))[:, None]

    @classmethod
    def find(cls):
        return cls()


class Absent:
    @classmethod
    def find(cls):
        raise UserError("absent.npz was not found; get it")


@dataclass
class About:
    extractor: type
    what: str = "how bright it is"


@pytest.fixture
def config(tiny_model, tiny_domain, tmp_path, monkeypatch):
    folder = shutil.copytree(tiny_model, tmp_path / "micro")
    model = load(folder, "w_encoder")
    ws = model.generator.mapping(torch.randn(1, 16)).detach().requires_grad_()
    (slope,) = torch.autograd.grad(model.generator.synthesis(ws).mean(), ws)
    light = Direction("light", slope.sum(dim=(0, 1)), {"projection_std": 0.5}, model.generator_hash, (0, 6))
    save_direction(light, folder / "directions" / "light.safetensors")
    dark = replace(light, name="dark", vector=-light.vector)
    save_direction(dark, tmp_path / "dark.safetensors")
    monkeypatch.setattr(
        direction_list, "FACE_CLASSIFIERS", {"ssrnet_age": About(Brightness), "fsanet_yaw": About(Absent)}
    )
    monkeypatch.setattr(direction_list, "MobileFaceNet", Brightness)
    return ListConfig(
        domain=tiny_domain, model=str(folder), output=str(tmp_path / "out"), device="cpu", samples=4, images=2,
        judges=["ssrnet_age", "fsanet_yaw"], strength=0.5, truncation_psi=0.5,
    )  # fmt: skip


def test_a_judge_sees_what_a_direction_moves_and_its_opposite_undoes(config, tmp_path, capsys):
    found = list_directions(replace(config, directions=["light", str(tmp_path / "dark.safetensors")]))
    assert found == json.loads((tmp_path / "out" / "directions.json").read_text())
    effects = {name: row["effects"]["ssrnet_age"] for name, row in found["directions"].items()}
    assert effects["light"]["per_sd"] > 0
    assert effects["dark"]["per_sd"] == pytest.approx(-effects["light"]["per_sd"], rel=1e-3)
    assert found["directions"]["light"]["std_in_w"] == 0.5 and found["directions"]["light"]["styles"] == [0, 6]
    assert "get it" in found["not_measured"]["fsanet_yaw"] and "not measured: fsanet_yaw" in capsys.readouterr().out
    for name in ("sheet_light.png", "sheet_dark.png", "leakage.png"):
        assert len(load_image(tmp_path / "out" / name, 64).unique()) > 10


def test_all_of_the_models_directions_on_photos_and_none_is_told(config, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.new("RGB", (16, 16), (80 * number, 90, 90)).save(tmp_path / "photos" / f"{number}.png")
    found = list_directions(replace(config, photos=str(tmp_path / "photos"), judges=[]))
    assert list(found["directions"]) == ["light"] and found["samples"] == 3
    assert not (tmp_path / "out" / "leakage.png").exists()
    channel = list_directions(replace(config, directions=["style:b4.conv1:0"], judges=[]))
    assert channel["directions"]["b4.conv1_0"]["space"] == "S" and "in its style" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "micro" / "directions")
    with pytest.raises(UserError, match="brings no directions along"):
        list_directions(config)


@pytest.mark.parametrize("schema", [ListConfig, GanspaceConfig])
def test_samples_without_any_spread_are_refused(schema):
    for psi in ("0", ".nan"):
        with pytest.raises(ConfigError, match="truncation_psi: must be above 0 and finite"):
            load_config(schema, None, [f"truncation_psi={psi}"])
