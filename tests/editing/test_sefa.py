"""SeFa: the authors' formula, on every architecture, from the command line, and as a direction of its own styles."""

import numpy as np
import pytest
import torch

from hyperinverter.checkpoint import read_model, save_model
from hyperinverter.config.model_schema import GanspaceConfig
from hyperinverter.directions import Direction, edit, load_direction, save_direction
from hyperinverter.directions.ganspace import Sefa, style_matrix
from hyperinverter.editing.ganspace_command import find_directions
from hyperinverter.inverters import Inversion, load
from hyperinverter.models.mobile_stylegan import MobileGenerator
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.pretrained.load import load_generator
from hyperinverter.utils.errors import UserError


def small(architecture):
    torch.manual_seed(0)
    sizes = {"resolution": 32, "z_dim": 12, "w_dim": 12, "channel_base": 256, "channel_max": 16}
    if architecture == "mobile_stylegan":
        return MobileGenerator(**sizes, mapping_layers=1), {
            0: ["conv1.modulation"],
            1: ["layers.0.up.modulation", "layers.0.conv1.modulation"],
            2: ["layers.0.conv2.modulation"],
            4: ["layers.1.up.modulation", "layers.1.conv1.modulation"],
            5: ["layers.1.conv2.modulation"],
        }
    generator = Generator(**sizes, mapping_layers=1, architecture=architecture)
    return generator, {0: ["b4.conv1.affine"], 1: ["b8.conv0.affine"], 2: ["b8.conv1.affine"], 3: ["b16.conv0.affine"]}


@pytest.mark.parametrize("architecture", ["skip", "orig", "resnet", "mobile_stylegan"])
def test_components_are_the_eigenvectors_of_the_layers_own_weights(architecture):
    """As the authors' code: numpy.linalg.eig(W W^T) of the joined weights [w_dim, C] with columns of length 1."""
    generator, layers = small(architecture)
    for start, end in ((0, 3), (1, 6), (0, generator.num_ws)):
        if end == generator.num_ws:
            names = [n for n, _ in generator.synthesis.named_modules() if n.endswith((".affine", ".modulation"))]
            names = [name for name in names if "torgb" not in name and "to_img" not in name]
        else:
            names = [name for style, some in layers.items() if start <= style < end for name in some]
            if architecture != "mobile_stylegan" and end == 6:
                names += ["b16.conv1.affine", "b32.conv0.affine"]
        weights = [generator.synthesis.get_submodule(name).weight.detach().double().numpy().T for name in names]
        joined = np.concatenate(weights, axis=1)
        joined = joined / np.linalg.norm(joined, axis=0, keepdims=True)
        values, vectors = np.linalg.eig(joined @ joined.T)
        order = np.argsort(-values)
        found, eigenvalues = Sefa(generator).at(start, end)
        np.testing.assert_allclose(eigenvalues, values[order], rtol=1e-4)
        cosines = np.abs((found.numpy() * vectors[:, order].T).sum(axis=1))
        np.testing.assert_allclose(cosines, 1, atol=1e-3)


def test_styles_that_only_an_image_head_reads_are_told():
    generator, _ = small("mobile_stylegan")
    with pytest.raises(ValueError, match="no layer but an image head reads the styles 3-4"):
        style_matrix(generator, 3, 4)
    for text in ("0:4-3", "smile", "0:0-99"):
        with pytest.raises(ValueError, match="write COMPONENT:START-END"):
            Sefa(generator).named(text)


def test_the_command_saves_a_direction_that_moves_its_own_styles(tiny_model, tmp_path):
    config = GanspaceConfig(
        model=str(tiny_model), output=str(tmp_path), device="cpu", method="sefa", shown=2, images=1, styles=["0-6"],
        directions={"pose": "1:0-2"},
    )  # fmt: skip
    told = find_directions(config)
    assert (tmp_path / "sefa.json").is_file() and (tmp_path / "sheet_styles_0_6.png").is_file()
    assert told["directions"]["pose"]["eigenvalue"] > 0 and not (tmp_path / "pca.safetensors").exists()
    model = load(tiny_model)
    pose = model.direction(tmp_path / "directions/pose.safetensors")
    expected = Sefa(load_generator(tiny_model)).at(0, 2)[0][1]
    torch.testing.assert_close(pose.vector, expected)
    moved = edit(Inversion(torch.zeros(1, 6, 16)), pose, 2.0)
    torch.testing.assert_close(moved.ws[0, :2], (2 * expected).expand(2, -1))
    assert not moved.ws[0, 2:].any() and pose.styles == (0, 2) and pose.info["projection_std"] > 0
    with pytest.raises(ValueError, match=r"moves styles \(0, 9\); there are 6 here"):
        edit(Inversion(torch.zeros(1, 6, 16)), Direction("far", expected, styles=(0, 9)), 1.0)


def test_a_directions_file_says_its_space_norm_sign_and_styles(tmp_path):
    direction = Direction("up", torch.arange(1.0, 17), {"source": "a test"}, "abc", (1, 4))
    save_direction(direction, tmp_path / "up.safetensors", domain="micro", resolution=16)
    file = read_model(tmp_path / "up.safetensors", "direction")
    said = {key: file.config[key] for key in ("space", "norm", "styles", "w_dim", "domain", "resolution")}
    assert said == {"space": "W", "norm": 1.0, "styles": [1, 4], "w_dim": 16, "domain": "micro", "resolution": 16}
    assert "positive" in file.config["sign"] and file.requires == {"generator": "abc"}
    assert load_direction(tmp_path / "up.safetensors").styles == (1, 4)


@pytest.mark.parametrize("key", ["projection_std", "published_strength_in_std"])
@pytest.mark.parametrize("number", ["2", [1], True, float("inf"), float("nan")])
def test_numbers_that_a_file_of_any_origin_gives_are_checked(key, number, tmp_path):
    vector = torch.eye(16)[0]
    for state, ends in (({"direction": vector}, {}), ({"component": vector, "mean": vector}, {"start": 0, "end": 2})):
        save_model(tmp_path / "x.safetensors", state, kind="direction", config=ends, requires={}, info={key: number})
        with pytest.raises(UserError, match=f"says that its {key} is .*; expected a number"):
            load_direction(tmp_path / "x.safetensors")


@pytest.mark.parametrize("span", [["a", "b"], [0.5, 2.5], [True, 2], [[0], [1]], [3, 1], [-1, 1], [1], 5, {}, None])
def test_styles_that_a_file_of_any_origin_names_are_checked(span, tmp_path):
    vector, path = torch.eye(16)[0], tmp_path / "odd.safetensors"
    if span is not None:
        save_model(path, {"direction": vector}, kind="direction", config={"styles": span}, requires={}, info={})
        with pytest.raises(UserError, match=r"says that it moves the styles .*; expected START and END"):
            load_direction(path)
    ends = dict(zip(("start", "end"), span if isinstance(span, list) and len(span) == 2 else [span, 2], strict=True))
    save_model(path, {"component": vector, "mean": vector}, kind="direction", config=ends, requires={}, info={})
    with pytest.raises(UserError, match=r"says that it moves styles .*; expected START and END"):
        load_direction(path)
