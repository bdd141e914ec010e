"""Inception for FID and KID: one network from either file, and none from another."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hyperinverter.extractors import base, inception
from hyperinverter.utils.errors import UserError


def test_a_damaged_inception_file_is_refused_before_it_is_loaded(monkeypatch, tmp_path):
    path = tmp_path / inception.Inception.filenames[0]
    torch.save(nn.Linear(1, 1).state_dict(), path)
    monkeypatch.setattr(base, "locate", lambda name: path)
    with pytest.raises(UserError, match="SHA-256"):
        inception.Inception.find()


def test_inception_out_of_a_package_is_the_same_network(monkeypatch, tmp_path):
    """Four arrays for each convolution, in order; that the published ones are FID's was held against torch.jit once."""
    torch.manual_seed(0)
    state = inception._network().state_dict()
    names = [name.removesuffix(".conv.weight") for name in state if name.endswith(".conv.weight")]
    arrays = {}
    for i, name in enumerate(names):
        parts = (f"{name}.conv.weight", *(f"{name}.bn.{part}" for part in ("bias", "running_mean", "running_var")))
        arrays |= {str(4 * i + j): state[part].flatten() for j, part in enumerate(parts)}
    file = tmp_path / inception.Inception.also_as[0]
    save_file(arrays, file)
    monkeypatch.setattr(base, "locate", lambda name: file if name == file.name else None)
    image = torch.rand(1, 3, 40, 40) * 2 - 1
    direct = inception.Inception(state).features(image)
    torch.testing.assert_close(inception.Inception.find().features(image), direct, rtol=0, atol=0)
    with pytest.raises(UserError, match="these weights are not Inception-v3 of 2015, for FID: 2 arrays"):
        inception.Inception({"0": torch.zeros(3), "1": torch.zeros(3)})
