"""Directions from every kind of file, checked on the way in; the edit formula; interpolation over steps."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from hyperinverter.directions import Direction, edit, load_direction, project_out, save_direction
from hyperinverter.directions.direction import in_w
from hyperinverter.inverters import Inversion, load
from hyperinverter.inverters.inversion import interpolate
from hyperinverter.published.vectors import Space
from hyperinverter.releases.direction_files import available_directions
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.safetensors_io import write_tensors


@pytest.fixture
def inversion():
    w = torch.randn(2, 1, 16, generator=torch.Generator().manual_seed(0))
    return Inversion(w.repeat(1, 6, 1), {"b4.conv1.weight": torch.randn(2, 4)})


def test_an_edit_moves_every_style_and_keeps_the_weights(inversion):
    direction = Direction("smile", torch.randn(1, 16) * 7)
    assert direction.vector.shape == (16,) and abs(direction.vector.norm() - 1) < 1e-6
    edited = edit(inversion, direction, -2.0)
    torch.testing.assert_close(edited.ws, inversion.ws - 2.0 * direction.vector)
    assert edited.tokens is inversion.tokens
    each = edit(inversion, direction, torch.tensor([0.0, 3.0]))
    assert torch.equal(each.ws[0], inversion.ws[0])
    torch.testing.assert_close((each.ws[1] - inversion.ws[1]).norm(dim=-1), torch.full((6,), 3.0))
    with pytest.raises(ValueError, match="3 strengths for 2 images"):
        edit(inversion, direction, torch.zeros(3))
    with pytest.raises(ValueError, match="direction 'x' has 8 numbers; the codes here take 16"):
        edit(inversion, Direction("x", torch.ones(8)), 1.0)


def test_strengths_in_standard_deviations_need_a_direction_that_says_them():
    known = Direction("smile", torch.randn(16), {"projection_std": 0.5})
    assert in_w([-2.0, 0.0, 3.0], "std", known) == [-1.0, 0.0, 1.5]
    assert in_w([-2.0, 3.0], "w", Direction("x", torch.ones(16))) == [-2.0, 3.0]
    with pytest.raises(UserError, match=r"projection_std.*strength_unit=w"):
        in_w([1.0], "std", Direction("x", torch.ones(16)))


def test_every_kind_of_file_gives_the_same_direction(tmp_path):
    vector = torch.randn(16)
    vector /= vector.norm()
    save_direction(Direction("a", vector, {"accuracy": 0.9}, "abc"), tmp_path / "directions" / "a.safetensors")
    np.save(tmp_path / "b.npy", vector[None].numpy())
    torch.save(vector[None], tmp_path / "c.pt")
    by_name = load_direction("a", tmp_path, generator_hash="abc")
    assert by_name.info == {"accuracy": 0.9} and by_name.generator_hash == "abc" and by_name.name == "a"
    named = load_direction("nice", tmp_path, files={"nice": "b.npy"})
    assert named.name == "nice"
    for direction in (by_name, named, load_direction(tmp_path / "b.npy"), load_direction(str(tmp_path / "c.pt"))):
        torch.testing.assert_close(direction.vector, vector)


def test_wrong_directions_are_refused_with_a_remedy(tmp_path, tiny_model):
    save_direction(Direction("a", torch.ones(16), {}, "abc"), tmp_path / "directions" / "a.safetensors")
    with pytest.raises(UserError, match="learned for generator abc, this is generator def"):
        load_direction("a", tmp_path, generator_hash="def")
    with pytest.raises(UserError, match="a W of 16 numbers; this generator takes 512"):
        load_direction("a", tmp_path, space=Space(w_dim=512))
    with pytest.raises(FileNotFoundError, match=r"no direction 'b' .*there are: a\..*learn_direction"):
        load_direction("b", tmp_path)
    with pytest.raises(FileNotFoundError, match="no such direction file"):
        load_direction("smile", tmp_path, files={"smile": "directions/smile.safetensors"})
    with pytest.raises(UserError, match="holds a generator, but a direction is needed"):
        load_direction(tiny_model / "generator.safetensors")
    np.save(tmp_path / "zero.npy", np.zeros(16))
    np.save(tmp_path / "code.npy", np.array([object()]), allow_pickle=True)
    torch.save({"w": torch.ones(16), "v": torch.ones(16)}, tmp_path / "dict.pt")
    np.save(tmp_path / "complex.npy", np.ones(16, np.complex64))
    for name, message in (
        ("zero.npy", "has length 0"),
        ("code.npy", "needs builtins.object, .*nothing was run"),
        ("complex.npy", "holds complex numbers"),
        ("dict.pt", "holds w, v; expected one tensor"),
    ):
        with pytest.raises(UserError, match=message):
            load_direction(tmp_path / name)


def test_a_text_or_a_picture_is_no_direction_and_nothing_to_fetch_again(tmp_path, monkeypatch):
    """All were to be "fetched again"; then all, pictures too, to be read by numpy.loadtxt."""
    numbers = np.arange(16.0)
    np.savetxt(tmp_path / "spaces.txt", numbers)
    np.savetxt(tmp_path / "commas.csv", numbers[None], delimiter=",")
    (tmp_path / "list.json").write_text(json.dumps(numbers.tolist(), indent=1))
    (tmp_path / "named.json").write_text(json.dumps({"smile": [numbers.tolist()]}))
    (tmp_path / "cut.json").write_text(json.dumps(numbers.tolist())[:-5])
    (tmp_path / "note.txt").write_text("a smile, from 0 to 1")
    (tmp_path / "smile.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(9))
    (tmp_path / "smile.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(99))
    advice = {
        "spaces.txt": r"numpy\.loadtxt\('spaces\.txt'\)\)$",
        "commas.csv": r"numpy\.loadtxt\('commas\.csv', delimiter=','\)\)$",
        "list.json": r"json\.load\(open\('list\.json'\)\)\)$",
        "named.json": r"json\.load\(open\('named\.json'\)\)\['smile'\]\)$",
        "cut.json": r"as JSON it is damaged \(.* line 1 column \d+.*\): write it again, or give .*\.safetensors$",
        "note.txt": r"a text of 20 bytes .*\.safetensors$",
        "smile.png": r"a PNG image.*\.safetensors$",
        "smile.mat": r"a MATLAB file.*\.safetensors$",
    }
    monkeypatch.chdir(tmp_path)
    for name, message in advice.items():
        with pytest.raises(UserError, match=message) as error:
            load_direction(name)
        text = str(error.value)
        assert "fetch" not in text and "give a direction as .npy, .pt or .safetensors" in text
        if "become one by " in text:  # what it says to do
            exec(text.split("become one by ")[1], {"numpy": np, "json": json})
            assert load_direction(Path(name).stem + ".npy").vector[15] > 0


W, L = 16, 6
VECTOR, STYLES = torch.arange(1.0, W + 1), torch.randn(L, W, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("shape", [(W,), (1, W), (1, 1, W), (W, 1)])
def test_every_layout_of_a_direction_of_w_is_the_same(tmp_path, shape):
    for repeat in (1, L):  # editors of W+ write a direction of W out for every style
        values = VECTOR.repeat(repeat).reshape(*([repeat, *shape] if repeat > 1 else shape))
        np.save(tmp_path / "d.npy", values.numpy())
        direction = load_direction(tmp_path / "d.npy", space=Space(L, W))
        assert direction.is_step_in_w and direction.num_ws is None
        torch.testing.assert_close(direction.vector, VECTOR / VECTOR.norm())


@pytest.mark.parametrize("shape", [(L, W), (1, L, W), (L, 1, W), (1, 1, L, W), (L * W,), (1, L * W)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_every_layout_of_a_direction_of_w_plus_is_the_same(tmp_path, inversion, shape, dtype):
    torch.save({"direction": STYLES.reshape(shape).to(dtype)}, tmp_path / "d.pth")
    direction = load_direction(tmp_path / "d.pth", space=Space(L, W))
    moved = edit(inversion, direction, 2.0).ws - inversion.ws
    expected = 2 * STYLES / STYLES.square().sum(dim=1).mean().sqrt()
    torch.testing.assert_close(moved[0], expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        (
            (1, 32),
            r"has shape \(1, 32\), as one vector of a W of 32 numbers; as 2 styles of 16 .* 16 numbers .* or 6 x 16",
        ),
        ((18, W), r"as 18 styles of 16 numbers \(a generator of 1024 px\); .* or 6 x 16"),
        ((1, 18 * W), r"as one vector of a W of 288 numbers; as 18 styles of 16 numbers \(a generator of 1024 px\)"),
        ((100,), r"has shape \(100,\), as one vector of a W of 100 numbers; this generator takes 16 numbers"),
        ((L, 8), r"as 6 styles of 8 numbers"),
        ((2, L, W), r"has shape \(2, 6, 16\); this generator takes"),
    ],
)
def test_a_direction_of_another_size_names_both_readings(tmp_path, shape, told):
    np.save(tmp_path / "d.npy", np.random.default_rng(0).normal(size=shape).astype("f4"))
    with pytest.raises(UserError, match=told):
        load_direction(tmp_path / "d.npy", space=Space(L, W))


def test_files_of_many_directions_are_named_for_what_they_are(tmp_path):
    factors = torch.linalg.qr(torch.randn(W, W, generator=torch.Generator().manual_seed(1)))[0]
    torch.save({"ckpt": "550000.pt", "eigvec": factors}, tmp_path / "factor.pt")
    with pytest.raises(UserError, match=r"SeFa's factors, .*; name one behind the file, as FILE#0"):
        load_direction(tmp_path / "factor.pt")
    direction = load_direction(f"{tmp_path}/factor.pt#3", space=Space(L, W))
    torch.testing.assert_close(direction.vector, factors[:, 3])
    with pytest.raises(UserError, match="holds 16 directions of SeFa"):
        load_direction(f"{tmp_path}/factor.pt#16")
    with pytest.raises(FileNotFoundError, match=r"no direction 'age' .* python scripts/download.py age_ffhq; or learn"):
        load_direction("age", tmp_path)


def test_interpolation_goes_from_the_first_to_the_last(tiny_model):
    model = load(tiny_model)
    first, last = model.invert(torch.rand(2, 3, 16, 16) * 2 - 1)
    points = interpolate(first, last, 5)
    assert len(points) == 5 and torch.equal(points[0].ws, first.ws) and torch.equal(points[-1].ws, last.ws)
    torch.testing.assert_close(model.render(points[0]), model.render(first))
    torch.testing.assert_close(model.render(points[-1]), model.render(last))
    codes = interpolate(first, last, 2, weights=False)
    torch.testing.assert_close(model.render(codes[0]), model.render(first.without_weights()))
    with pytest.raises(ValueError, match="write at least 2"):
        interpolate(first, last, 1)


def test_interpolated_tokens_render_as_interpolated_weights(tiny_model):
    model = load(tiny_model)
    first, last = model.invert(torch.rand(2, 3, 16, 16) * 2 - 1)
    decode = model.network.hypernetwork.decode
    with torch.no_grad():
        a, b = decode(first.tokens), decode(last.tokens)
    dense = {name: 0.7 * a[name] + 0.3 * b[name] for name in a}
    expected = Inversion(0.7 * first.ws + 0.3 * last.ws, residuals=dense)
    middle = model.render(first.interpolate(last, 0.3))
    torch.testing.assert_close(middle, model.render(expected, allow_other_model=True), atol=1e-4, rtol=1e-4)


def test_a_direction_without_others_is_at_right_angles_to_them():
    smile, age, tall = (torch.randn(16, generator=torch.Generator().manual_seed(i)) for i in range(3))
    directions = [Direction(name, vector) for name, vector in (("smile", smile), ("age", age), ("tall", tall))]
    left = project_out(directions[0], directions[1:])
    assert abs(left.vector @ directions[1].vector) < 1e-6 and abs(left.vector @ directions[2].vector) < 1e-6
    one = project_out(directions[0], directions[1:2])  # InterFaceGAN: n1 - (n1.n2) n2
    n1, n2 = directions[0].vector, directions[1].vector
    torch.testing.assert_close(one.vector, (n1 - (n1 @ n2) * n2) / (n1 - (n1 @ n2) * n2).norm())
    torch.testing.assert_close(
        project_out(directions[0], [*directions[1:], directions[1]]).vector, left.vector
    )  # twice
    assert left.info["without"] == ["age", "tall"] and 0 < left.info["cosine_to_before"] < 1
    per_style = Direction("w_plus", torch.randn(1, 6, 16))
    wide = project_out(directions[0], [per_style])
    assert wide.num_ws == 6 and abs((wide.vector * per_style.vector).sum()) < 1e-5
    with pytest.raises(ValueError, match="'smile' is made of smile alone"):
        project_out(directions[0], [directions[0]])
    with pytest.raises(ValueError, match="are of different W"):
        project_out(directions[0], [Direction("small", torch.ones(8))])


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".pkl", ".safetensors"])
def test_every_container_of_a_direction_is_found_by_its_name(tmp_path, suffix):
    vector, path = torch.arange(1.0, 17), tmp_path / "directions" / f"up{suffix}"
    path.parent.mkdir()
    if suffix == ".npy":
        np.save(path, vector[None].numpy())
    elif suffix == ".npz":
        np.savez(path, boundary=vector.numpy())
    elif suffix == ".pt":
        torch.save(vector, path)
    elif suffix == ".pkl":
        path.write_bytes(pickle.dumps({"direction": vector.numpy()}))
    else:
        write_tensors(path, {"direction": vector}, {})
    torch.testing.assert_close(load_direction("up", tmp_path).vector, vector / vector.norm())
    assert available_directions(tmp_path) == ["up"]
