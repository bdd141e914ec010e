"""Files of the frozen networks that hold something else: one message that names the file."""

import numpy as np
import pytest
import torch

from hyperinverter.extractors.face_judges import _read_h5
from hyperinverter.extractors.identity import ArcFace, Moco
from hyperinverter.extractors.mobilefacenet import MobileFaceNet, MobileFaceNetwork
from hyperinverter.utils.errors import UserError

NETWORKS = (MobileFaceNet, ArcFace, Moco)
CONTENTS = {
    "number": 5, "nothing": None, "text": "x", "list": [], "list_of_tensors": [torch.ones(2)], "empty": {},
    "tensor": torch.ones(3), "numbers": {"a": 1}, "keys": {1: torch.ones(2)}, "deep": {"state_dict": {"a": {"b": {}}}},
    "state_is_a_list": {"state_dict": [1]}, "state_is_text": {"state_dict": "x"},
    "other": {"a.weight": torch.ones(2, 2)},
    "scalar": {"conv1.weight": torch.tensor(1.0)}, "nothing_by_name": {"conv1.weight": None},
}  # fmt: skip


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_other_content_is_told_with_the_files_name(network, tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERINVERTER_MODELS", str(tmp_path))
    path = tmp_path / network.filenames[0]
    for content in CONTENTS.values():
        torch.save(content, path)
        with pytest.raises(UserError) as caught:
            network.find()
        assert str(path) in str(caught.value), caught.value
    for arrays in ({"a": np.ones(3)}, {}, {"conv1.0.weight": np.full((64, 3, 3, 3), np.nan, "f4")}):
        with open(path, "wb") as file:
            np.savez(file, **arrays)
        with pytest.raises(UserError) as caught:
            network.find()
        assert str(path) in str(caught.value)


def test_weights_that_are_not_finite(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERINVERTER_MODELS", str(tmp_path))
    state = {name: tensor.numpy() for name, tensor in MobileFaceNetwork().state_dict().items()}
    with open(tmp_path / MobileFaceNet.filenames[0], "wb") as file:
        np.savez(file, **state)
    MobileFaceNet.find()
    name = next(name for name in state if name.endswith("weight"))
    state[name] = np.full_like(state[name], np.nan)
    with open(tmp_path / MobileFaceNet.filenames[0], "wb") as file:
        np.savez(file, **state)
    with pytest.raises(UserError, match=f"with NaN or infinity: {name}"):
        MobileFaceNet.find()


def test_a_damaged_hdf5_file_is_refused_and_nothing_else(tmp_path):
    """h5py raises a KeyError for some damage."""
    h5py = pytest.importorskip("h5py")
    path, refused = tmp_path / "a.h5", 0
    with h5py.File(path, "w") as file:
        file.create_dataset("conv2d_1/conv2d_1/bias:0", data=np.ones(4, "f4"))
    whole = path.read_bytes()
    for at in range(len(whole)):
        if whole[at] in (1, 2, 3, 8):  # versions, kinds and sizes of what follows
            path.write_bytes(whole[:at] + b"\x63" + whole[at + 1 :])
            try:
                _read_h5(path)
            except UserError as error:
                refused += str(path) in str(error)
    assert refused > 5
