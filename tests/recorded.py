"""Recorded outputs of the published networks: rebuild weights and inputs, run, compare.

The full collection is `../shared/golden` beside the checkout; without it the small one in `tests/golden` is used.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _pytest.mark import ParameterSet
from golden import recipe
from torch import Tensor, nn

SHARED = Path(__file__).parents[2] / "shared" / "golden"
SUBSET = Path(__file__).parent / "golden"
GOLDEN = SHARED if SHARED.is_dir() else SUBSET


def names(pattern: str) -> list[str]:
    """Names of the cases at hand that a regular expression matches in full, to parametrise a test with."""
    return sorted(path.stem for path in GOLDEN.glob("*.json") if re.fullmatch(pattern, path.stem))


def mostly_slow(pattern: str, *fast: str) -> list[ParameterSet]:
    """The same; all but the named ones are marked slow."""
    return [pytest.param(name, marks=[] if name in fast else pytest.mark.slow) for name in names(pattern)]


class Case:
    """One recorded case; a test that asks for one of the full collection skips where only the small one is.

    Attributes:
        info: what was run.
        arrays: recorded numbers, every stride-th of a tensor; `compare` holds a tensor against them.
    """

    def __init__(self, name: str) -> None:
        if not (GOLDEN / f"{name}.json").is_file():
            pytest.skip(f"recorded outputs of {name} are absent ({SHARED.parent.name}/{SHARED.name})")
        self.name = name
        self.info = json.loads((GOLDEN / f"{name}.json").read_text())
        with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as arrays:
            self.arrays = dict(arrays)

    def input(self, name: str = "x") -> Tensor:
        """An input by the end of its name: `x`, or `ffhq.latents` where `latents` alone names two."""
        found = [v for key, v in self.info["inputs"].items() if f".{key}".endswith(f".{name}")]
        assert len(found) == 1, f"{name}: {len(found)} inputs of that name among {list(self.info['inputs'])}"
        return torch.from_numpy(recipe.make_input(found[0], self.info["seed"]))

    def state(self, which: str | None = None, zero: str = "") -> dict[str, Tensor]:
        """Weights by their published names: of one network without its prefix, or of all with theirs.

        Those whose name matches `zero` are zeros: a hundred million numbers take seconds to draw.
        """
        if which is None:
            return {key: value for each in self.info["fills"] for key, value in self._weights(each).items()}
        prefix = self.info["fills"][which]["key_prefix"]
        return {key.removeprefix(prefix): value for key, value in self._weights(which, zero).items()}

    def release(self) -> dict[str, Any]:
        """The networks that share a checkpoint (those with a prefix) as that checkpoint, with its options."""
        fills = self.info["fills"]
        state = {k: v for which in fills if fills[which]["key_prefix"] for k, v in self._weights(which).items()}
        return {"state_dict": state, "opts": self.info["config"]["opts"]}

    def _weights(self, which: str, zero: str = "") -> dict[str, Tensor]:
        table = GOLDEN / self.info["fills"][which]["table"]
        values = recipe.fill_table(table, self.info["seed"], zero)
        return {key: torch.from_numpy(np.asarray(value)) for key, value in values.items()}

    def fill(self, network: nn.Module, which: str) -> None:
        """Load one recorded network's weights by their published names, every key and nothing else."""
        state = self.state(which)
        assert {key for key in network.state_dict() if not key.endswith("resample_filter")} == set(state)
        network.load_state_dict({**network.state_dict(), **state})

    def compare(self, name: str, value: Tensor, columns: Sequence[int] = ()) -> None:
        """Every stride-th number within the recorded tolerance; mean, std and norm of the whole tensor.

        Args:
            columns: numbers of the second dimension; where given, these alone are compared.
        """
        entry = self.info["tensors"][name]
        value = value.detach()
        assert list(value.shape) == entry["shape"], name
        sample, recorded = value.flatten()[:: entry["stride"]].numpy(), self.arrays[name].flatten()
        if columns:
            of = torch.arange(value.shape[1])[:, None].expand(value[0].reshape(value.shape[1], -1).shape)
            of = of.flatten().repeat(len(value))[:: entry["stride"]]
            kept = np.isin(of.numpy(), columns)
            assert kept.sum() > 10, "too few of them are recorded"
            np.testing.assert_allclose(sample[kept], recorded[kept], rtol=0, atol=entry["atol"], err_msg=name)
            return
        np.testing.assert_allclose(sample, recorded, rtol=0, atol=entry["atol"], err_msg=name)
        whole = value.double()
        found = {"mean": whole.mean(), "std": whole.std(unbiased=False), "l2": whole.norm()}
        for key, number in found.items():
            # what numbers that each differ by the tolerance make of a mean, and of a norm
            within = entry["atol"] * (whole.numel() ** 0.5 if key == "l2" else 1)
            assert float(number) == pytest.approx(entry[key], rel=1e-4, abs=within), f"{name}: {key}"
