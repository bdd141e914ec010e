"""GANSpace: components fitted on W, files of every published form, what an edit sets, and its way to edit.py."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from hyperinverter.config.schema import DataConfig, EditConfig
from hyperinverter.directions import Direction, Pca, edit, fit_pca, load_direction, read_pca, save_direction, save_pca
from hyperinverter.directions.direction import in_w
from hyperinverter.directions.ganspace import PUBLISHED, Edit
from hyperinverter.editing.commands import edit_images
from hyperinverter.inverters import Inversion
from hyperinverter.pretrained.load import load_generator
from hyperinverter.published.vectors import Space
from hyperinverter.utils.errors import UserError


@pytest.fixture
def pca():
    """Of a W with 16 dimensions; unit components, orthogonal."""
    g = torch.Generator().manual_seed(0)
    components = torch.linalg.qr(torch.randn(16, 16, generator=g)).Q.T[:12]
    return Pca(torch.randn(16, generator=g), components, torch.linspace(3, 0.2, 12), "abc", "a test")


@pytest.fixture
def inversion():
    ws = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(1))
    return Inversion(ws, {"b4.conv1.weight": torch.randn(2, 4)})


def published_content(pca, transposed):
    """As the published files hold it; the one for faces has components that are a view of other memory."""
    comp = pca.components[:, None]
    if transposed:
        comp = pca.components.T.contiguous().T[:, None]
        assert not comp.is_contiguous()
    return {"mean": pca.mean[None], "comp": comp, "std": pca.stds}


def test_an_edit_sets_the_coordinate_on_its_styles_only(pca, inversion):
    direction = pca.direction(Edit(3, 1, 4))
    gamma = in_w([2.5], "std", direction)[0]
    moved = edit(inversion, direction, gamma)
    assert moved.tokens is inversion.tokens
    outside = [0, 4, 5]
    assert torch.equal(moved.ws[:, outside], inversion.ws[:, outside])
    # The first style decides how far: were it moved too, it would stand at 2.5 standard deviations.
    shift = moved.ws - inversion.ws
    component, std = pca.components[3], pca.stds[3]
    coordinate = (inversion.ws[:, 0] + shift[:, 1] - pca.mean) @ component / std
    torch.testing.assert_close(coordinate, torch.full((2,), 2.5))
    torch.testing.assert_close(shift[:, 1:4], shift[:, 1:2].expand(-1, 3, -1))
    # An absolute coordinate: the second edit finds the first style where it was, so nothing is left to do.
    whole = pca.direction(Edit(3, 0, 6))
    once = edit(inversion, whole, gamma)
    torch.testing.assert_close(edit(once, whole, gamma).ws, once.ws)
    each = edit(inversion, direction, torch.tensor([gamma, 0.0]))
    torch.testing.assert_close(each.ws[0], moved.ws[0])


def test_styles_beyond_the_generator_are_left_out_or_refused(pca, inversion):
    part = edit(inversion, pca.direction(Edit(0, 4, 18)), 1.0)
    assert torch.equal(part.ws[:, :4], inversion.ws[:, :4]) and not torch.equal(part.ws[:, 5], inversion.ws[:, 5])
    with pytest.raises(UserError, match=r"styles from 10 on, this generator has 6"):
        edit(inversion, pca.direction(Edit(0, 10, 11), "lipstick"), 1.0)
    with pytest.raises(ValueError, match="component 12 of 12"):
        pca.direction(Edit(12, 0, 6))
    with pytest.raises(ValueError, match=r"styles 3 to 3; expected START"):
        pca.direction(Edit(0, 3, 3))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("transposed", [False, True], ids=["own", "view"])
def test_published_forms_are_read(pca, tmp_path, legacy, transposed):
    path = tmp_path / "pca.pt"
    torch.save(published_content(pca, transposed), path, _use_new_zipfile_serialization=not legacy)
    found = read_pca(path)
    for part in ("mean", "components", "stds"):
        assert torch.equal(getattr(found, part), getattr(pca, part))
    assert found.generator_hash == "" and found.source == "pca.pt"


def test_own_files_keep_the_generator(pca, tmp_path):
    save_pca(pca, tmp_path / "pca.safetensors")
    found = read_pca(tmp_path / "pca.safetensors")
    assert torch.equal(found.components, pca.components) and found.generator_hash == "abc"
    direction = load_direction(tmp_path / "pca.safetensors#3:1-4", space=Space(w_dim=16), generator_hash="abc")
    assert torch.equal(direction.vector, pca.components[3]) and (direction.start, direction.end) == (1, 4)
    with pytest.raises(UserError, match="learned for generator abc, this is generator def"):
        load_direction(tmp_path / "pca.safetensors#3:1-4", generator_hash="def")


def test_a_direction_is_found_by_name_in_every_way(pca, inversion, tmp_path):
    torch.save(published_content(pca, False), tmp_path / "church_pca.pt")
    direction = load_direction(f"{tmp_path}/church_pca.pt#vibrant")
    expected = PUBLISHED["vibrant"]
    assert (direction.name, direction.start, direction.end) == ("vibrant", expected.start, expected.end)
    assert torch.equal(direction.vector, pca.components[expected.component])
    assert direction.info["published_strength_in_std"] == -20 and direction.info["component"] == 8
    save_direction(pca.direction(Edit(2, 1, 3), "tilt"), tmp_path / "directions" / "tilt.safetensors")
    by_name = load_direction("tilt", tmp_path, generator_hash="abc", space=Space(w_dim=16))
    files = {"lean": "pca.pt#2:1-3"}
    torch.save(published_content(pca, True), tmp_path / "pca.pt")
    by_config = load_direction("lean", tmp_path, files=files)
    assert (by_name.name, by_config.name) == ("tilt", "lean")
    for strength in (0.0, -2.0):
        want = edit(inversion, pca.direction(Edit(2, 1, 3)), strength).ws
        assert torch.equal(edit(inversion, by_name, strength).ws, want)
        assert torch.equal(edit(inversion, by_config, strength).ws, want)


def test_a_pca_of_another_generator_is_refused_by_its_mean(tiny_model, tmp_path):
    """As the published files are, without a hash; of one generator there may be many means, as w_avg is."""
    generator = load_generator(tiny_model)
    own, w_dim = fit_pca(generator, 8, samples=3000), generator.w_dim
    with torch.no_grad():
        z = torch.randn(2000, generator.z_dim, generator=torch.Generator().manual_seed(5))
        w_avg = generator.mapping(z)[:, 0].mean(dim=0)
    space = Space(6, w_dim, w_avg)
    torch.save(published_content(own, False), tmp_path / "own.pt")
    assert torch.equal(load_direction(f"{tmp_path}/own.pt#0:0-6", space=space).vector, own.components[0])
    for name, shift in (("mirrored", -2 * own.mean), ("moved", own.stds.square().sum().sqrt() * own.components[3])):
        torch.save(published_content(own, False) | {"mean": own.mean + shift}, tmp_path / f"{name}.pt")
        with pytest.raises(UserError, match=r"a PCA of another generator's W.*give the PCA of this generator"):
            load_direction(f"{tmp_path}/{name}.pt#0:0-6", space=space)
    with pytest.raises(UserError, match=r"a PCA of a W of 16 numbers, this generator's W has 512"):
        load_direction(f"{tmp_path}/own.pt#0:0-6", space=Space(18, 512))


def test_ganspaces_own_cache_is_the_same_pca(pca, tmp_path):
    comp, mean = pca.components[:, None].numpy(), pca.mean[None, None].numpy()
    layer = {"act_comp": np.ones((12, 1, 4, 4), "f4"), "act_mean": np.ones((1, 4, 4), "f4")}
    layer |= {"act_stdev": np.ones(12, "f4"), "var_ratio": np.ones(12, "f4")}
    np.savez_compressed(tmp_path / "cache.npz", lat_comp=comp, lat_mean=mean, lat_stdev=pca.stds.numpy(), **layer)
    found = load_direction(f"{tmp_path}/cache.npz#4:1-3", space=Space(6, 16))
    assert torch.equal(found.vector, pca.components[4]) and torch.equal(found.mean, pca.mean)
    np.savez(tmp_path / "layer.npz", **layer)
    with pytest.raises(UserError, match="a cache of GANSpace without components of the latent space"):
        load_direction(tmp_path / "layer.npz")


def test_what_is_no_pca_is_refused_with_a_remedy(pca, tmp_path):
    good = published_content(pca, False)
    torch.save(good, tmp_path / "pca.pt")
    torch.save({"mean": good["mean"]}, tmp_path / "part.pt")
    torch.save({**good, "comp": good["comp"][:5]}, tmp_path / "short.pt")
    torch.save({**good, "std": 0 * good["std"]}, tmp_path / "flat.pt")
    torch.save(torch.zeros(1, 16), tmp_path / "vector.pt")
    for name, message in (
        ("part.pt#0:0-1", "holds mean; expected the tensors mean, comp and std"),
        ("vector.pt#0:0-1", "holds a Tensor; expected the tensors"),
        ("short.pt#0:0-1", r"a PCA with mean \(1, 16\), comp \(5, 1, 16\), std \(12,\)"),
        ("flat.pt#0:0-1", "standard deviation that is 0"),
        ("pca.pt#beard", r"no direction 'beard' in a PCA; write COMPONENT:START-END.*eye_openness"),
        ("pca.pt#40:0-1", "component 40 of 12"),
        ("pca.pt", r"holds a PCA with many directions; name one behind the file, as FILE#34:10-11"),
    ):
        with pytest.raises(UserError, match=message):
            load_direction(f"{tmp_path}/{name}")
    with pytest.raises(FileNotFoundError, match="no such direction file"):
        load_direction(f"{tmp_path}/absent.pt#smile")


def test_fitted_components_are_those_of_w(tiny_model):
    """Held against NumPy's decomposition of other samples: same spread, same directions, fixed signs."""
    generator = load_generator(tiny_model)
    pca = fit_pca(generator, 4, samples=12_000, seed=3)
    again = fit_pca(generator, 4, samples=12_000, seed=3)
    assert torch.equal(pca.components, again.components) and pca.generator_hash == generator.weights_hash
    torch.testing.assert_close(pca.components @ pca.components.T, torch.eye(4), atol=1e-5, rtol=0)
    with torch.no_grad():
        w = generator.mapping(torch.randn(40_000, 16, generator=torch.Generator().manual_seed(9)))[:, 0].numpy()
    singular, rows = np.linalg.svd(w - w.mean(0), full_matrices=False)[1:]
    stds = singular / (len(w) - 1) ** 0.5
    np.testing.assert_allclose(pca.stds, stds[:4], rtol=0.05)
    np.testing.assert_allclose(pca.mean, w.mean(0), atol=0.05 * stds[0])
    assert abs(float(pca.components[0] @ torch.from_numpy(rows[0]))) > 0.98
    assert (pca.components.gather(1, pca.components.abs().argmax(1, keepdim=True)) > 0).all()
    with pytest.raises(ValueError, match="17 components from 100 samples of a W with 16 dimensions"):
        fit_pca(generator, 17, samples=100)


def test_scripts_edit_with_a_component_as_with_any_direction(tiny_model, tiny_domain, tmp_path):
    model = shutil.copytree(tiny_model, tmp_path / "micro")
    pca = fit_pca(load_generator(model), 5, samples=2000)
    save_pca(pca, model / "directions" / "pca.safetensors")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    tiny_domain = type(tiny_domain)(**{**vars(tiny_domain), "directions": {"tilt": "directions/pca.safetensors#1:0-3"}})
    config = EditConfig(
        domain=tiny_domain,
        model=str(model),
        data=DataConfig(root=str(tmp_path / "a.png")),
        directions=["tilt"],
        strengths=[-2.0, 3.0],
        strength_unit="std",
        output=str(tmp_path / "out"),
        device="cpu",
    )
    results = edit_images(config)
    assert results["directions"]["tilt"]["styles"] == [0, 3]
    ws = Inversion.load(tmp_path / "out" / "a" / "tilt_+3.safetensors").ws[0]
    coordinate = (ws - pca.mean) @ pca.components[1] / pca.stds[1]
    torch.testing.assert_close(coordinate[:3], torch.full((3,), 3.0), atol=1e-3, rtol=0)
    assert (coordinate[3:] - 3).abs().min() > 0.01


def test_a_direction_in_w_plus_moves_each_style_its_own_way(inversion, tmp_path):
    vector = torch.randn(1, 6, 16, generator=torch.Generator().manual_seed(2))
    direction = Direction("d", vector)
    torch.testing.assert_close(direction.vector.square().sum(2).mean(), torch.tensor(1.0))
    shift = edit(inversion, direction, 2.0).ws - inversion.ws
    torch.testing.assert_close(shift, (2 * direction.vector).expand_as(shift))
    same = torch.randn(16)
    torch.testing.assert_close(
        edit(inversion, Direction("d", same.expand(1, 6, 16)), 2.0).ws, edit(inversion, Direction("d", same), 2.0).ws
    )
    save_direction(direction, tmp_path / "d.safetensors")
    assert torch.equal(load_direction(tmp_path / "d.safetensors", space=Space(w_dim=16)).vector, direction.vector)
    with pytest.raises(ValueError, match=r"has 5x16 numbers; the codes here take 16 numbers .* or 6 x 16"):
        edit(inversion, Direction("d", vector[:, :5]), 1.0)
