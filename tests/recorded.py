"""Recorded outputs of the published networks (../shared/golden): rebuild weights and inputs, then compare."""

import importlib.util
import json
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"
needed = pytest.mark.skipif(not GOLDEN.is_dir(), reason="recorded outputs (../shared/golden) are absent")


@cache
def _fill() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_fill", GOLDEN / "fill.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Case:
    """One recorded case."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.info = json.loads((GOLDEN / f"{name}.json").read_text())
        self.arrays = np.load(GOLDEN / f"{name}.npz", allow_pickle=False)

    def input(self, name: str = "x") -> Tensor:
        entry = {key.rpartition(".")[2]: value for key, value in self.info["inputs"].items()}[name]
        return torch.from_numpy(_fill().make_input(entry, self.info["seed"]))

    def fill(self, network: nn.Module, which: str) -> None:
        """Load one recorded network's weights by their published names, every key and nothing else."""
        entry = self.info["fills"][which]
        values = _fill().fill_table(GOLDEN / entry["table"], self.info["seed"])
        state = {
            key.removeprefix(entry["key_prefix"]): torch.from_numpy(np.asarray(value)) for key, value in values.items()
        }
        keys = set(network.state_dict()) - {key for key in network.state_dict() if key.endswith("resample_filter")}
        assert keys == set(state)
        network.load_state_dict({**network.state_dict(), **state})

    def state(self) -> dict[str, Tensor]:
        """All recorded weights by their published names."""
        tables = [GOLDEN / entry["table"] for entry in self.info["fills"].values()]
        values = [_fill().fill_table(table, self.info["seed"]) for table in tables]
        return {key: torch.from_numpy(np.asarray(value)) for table in values for key, value in table.items()}

    def compare(self, name: str, value: Tensor) -> None:
        """Every stride-th number within the recorded tolerance, and the norm of the whole tensor."""
        entry = self.info["tensors"][name]
        value = value.detach()
        assert list(value.shape) == entry["shape"], name
        sample = value.flatten()[:: entry["stride"]].numpy()
        np.testing.assert_allclose(sample, self.arrays[name].flatten(), rtol=0, atol=entry["atol"], err_msg=name)
        assert float(value.double().norm()) == pytest.approx(entry["l2"], rel=1e-4, abs=entry["atol"]), name
