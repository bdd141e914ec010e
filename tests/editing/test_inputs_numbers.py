"""Codes of other methods among the photos: read in every layout and edited; weights and other numbers are refused."""

import numpy as np
import pytest
import torch

from hyperinverter.checkpoint import save_model
from hyperinverter.config.schema import DataConfig, EditConfig
from hyperinverter.data.sources import open_source
from hyperinverter.editing.inputs import Inputs
from hyperinverter.inverters import load
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.safetensors_io import write_tensors


def taken(model, *paths):
    return list(Inputs(EditConfig(data=DataConfig(root=[str(path) for path in paths])), model))


def refusal(model, path) -> str:
    with pytest.raises(UserError) as error:
        taken(model, path)
    return str(error.value)


def write(codes, path):
    if path.suffix == ".pt":
        torch.save(codes, path)
    elif path.suffix == ".npy":
        np.save(path, codes.numpy())
    elif path.suffix == ".npz":
        np.savez(path, w=codes.numpy())  # as StyleGAN2's projector does
    else:
        write_tensors(path, {"latents": codes}, {})


@pytest.mark.parametrize("shape", [(2, 6, 16), (6, 16), (1, 96), (3, 16), (3, 1, 16), (16,)])
@pytest.mark.parametrize("suffix", [".pt", ".npy", ".npz", ".safetensors"])
def test_codes_of_other_methods_are_read_in_every_layout(shape, suffix, tiny_model, tmp_path):
    model, path = load(tiny_model), tmp_path / f"latents{suffix}"
    codes = torch.randn(shape)
    write(codes, path)
    photos = taken(model, path)
    if shape in ((2, 6, 16), (6, 16), (1, 96)):
        expected = codes.reshape(-1, 6, 16)
    else:
        expected = codes.reshape(-1, 1, 16).expand(-1, 6, -1)
    torch.testing.assert_close(torch.cat([photo.inversion.ws for photo in photos]), expected)
    labels = ["latents"] if len(expected) == 1 else [f"latents_{number:03d}" for number in range(len(expected))]
    assert [photo.label for photo in photos] == labels and all(photo.image is None for photo in photos)
    assert model.render(photos[0].inversion).shape == (1, 3, 16, 16)
    with pytest.raises(UserError, match="holds weights, codes or other numbers, not images"):
        open_source(path)


def test_codes_by_photo_keep_the_names_and_of_several_steps_the_last_is_taken(tiny_model, tmp_path):
    first, last = torch.randn(6, 16), torch.randn(6, 16)
    torch.save({"a.jpg": [first, last], "sub/b.jpg": [last.numpy()]}, tmp_path / "latents.pt")
    photos = taken(load(tiny_model), tmp_path / "latents.pt")
    assert [photo.label for photo in photos] == ["a", "b"]
    assert all(torch.equal(photo.inversion.ws[0], last) for photo in photos)


def test_the_pickled_mapping_that_restyle_writes_is_read_without_running_code(tiny_model, tmp_path):
    """Its inference script gives np.save a dict: photo -> the codes after every step."""
    steps = {name: [np.random.default_rng(i).normal(size=(6, 16)).astype("f4") for i in range(3)] for name in "ab"}
    np.save(tmp_path / "latents.npy", {f"{name}.jpg": value for name, value in steps.items()})
    photos = taken(load(tiny_model), tmp_path / "latents.npy")
    assert [photo.label for photo in photos] == ["a", "b"]
    assert all((photo.inversion.ws[0].numpy() == steps["a"][-1]).all() for photo in photos)
    ran = tmp_path / "ran"

    class Code:
        def __reduce__(self):
            return ran.touch, ()

    np.save(tmp_path / "latents.npy", {"a.jpg": Code()})
    assert "nothing was run" in refusal(load(tiny_model), tmp_path / "latents.npy") and not ran.exists()


def test_other_numbers_are_told_too(tiny_model, tmp_path):
    model = load(tiny_model)
    torch.save({"eigvec": torch.zeros(16, 17)}, tmp_path / "factor.pt")
    torch.save({"g_ema": {"a.b": torch.zeros(2)}}, tmp_path / "g.pt")
    np.savez(tmp_path / "cache.npz", act_comp=np.ones(3, "f4"), act_mean=np.ones(3, "f4"))
    np.save(tmp_path / "wide.npy", np.ones((18, 512), "f4"))
    torch.save(torch.full((16,), torch.nan), tmp_path / "nan.pt")
    save_model(tmp_path / "d.safetensors", {"direction": torch.ones(16)}, kind="direction", config={})
    assert "SeFa's factors" in refusal(model, tmp_path / "factor.pt")
    assert "a cache of GANSpace" in refusal(model, tmp_path / "cache.npz")
    assert "holds weights or other numbers" in refusal(model, tmp_path / "g.pt")
    assert "nan holds numbers that are not finite" in refusal(model, tmp_path / "nan.pt")
    message = refusal(model, tmp_path / "wide.npy")
    assert "(wide: [18, 512])" in message and "6 styles of 16 numbers" in message
    assert "not an Inversion" in refusal(model, tmp_path / "d.safetensors")
    with pytest.raises(UserError, match="not images: give photos"):
        open_source(tmp_path / "cache.npz")
