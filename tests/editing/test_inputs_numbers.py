"""Codes, weights and other numbers among the photos: named for what they are, codes with the way to draw them."""

import re

import numpy as np
import pytest
import torch

import hyperinverter
from hyperinverter.config.schema import DataConfig, EditConfig
from hyperinverter.data.sources import open_source
from hyperinverter.editing.inputs import Inputs
from hyperinverter.inverters import Inversion, load
from hyperinverter.utils.errors import UserError


def refusal(model, path) -> str:
    with pytest.raises(UserError) as error:
        list(Inputs(EditConfig(data=DataConfig(root=[str(path)])), model))
    return str(error.value)


@pytest.mark.parametrize("shape", [(2, 6, 16), (6, 16), (1, 96), (3, 16), (16,)])
@pytest.mark.parametrize("suffix", [".pt", ".npy"])
def test_codes_are_told_with_the_line_that_draws_them(shape, suffix, tiny_model, tmp_path):
    model, path = load(tiny_model), tmp_path / f"latents{suffix}"
    codes = torch.randn(shape)
    torch.save(codes, path) if suffix == ".pt" else np.save(path, codes.numpy())
    told = refusal(model, path)
    assert f"holds codes {list(shape)} of W or W+, not a photo" in told
    line = re.search(r"load\(.*True\)", told)[0].replace(repr(model.model_name), "tiny_model")
    names = {"load": hyperinverter.load, "Inversion": Inversion, "codes": codes, "tiny_model": tiny_model}
    assert eval(line, names).shape[1:] == (3, 16, 16)
    with pytest.raises(UserError, match="holds weights, codes or other numbers, not images"):
        open_source(path)


def test_other_numbers_are_told_too(tiny_model, tmp_path):
    model = load(tiny_model)
    torch.save({"eigvec": torch.zeros(16, 16)}, tmp_path / "factor.pt")
    torch.save({"g_ema": {"a.b": torch.zeros(2)}}, tmp_path / "g.pt")
    np.savez(tmp_path / "cache.npz", act_comp=np.ones(3, "f4"), act_mean=np.ones(3, "f4"))
    assert "SeFa's factors" in refusal(model, tmp_path / "factor.pt")
    assert "holds weights or other numbers, not a photo" in refusal(model, tmp_path / "g.pt")
    assert "a cache of GANSpace" in refusal(model, tmp_path / "cache.npz")
    with pytest.raises(UserError, match="not images: give photos"):
        open_source(tmp_path / "cache.npz")
