"""Copy a few small cases of the recorded outputs beside this file, thinned: `python tests/golden/copy_subset.py FROM`.

A thinned case keeps every m-th of the recorded numbers and says so in its stride; mean, std and norm stay those of the
whole tensor.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
SUBSET = (
    "nv_g32", "nv_g16_cond", "nv_d32_resnet", "ros_g32", "e1_resnet34", "wr_3x512x1_d32", "loss_l2",
    "loss_lpips_alex", "ranger_default", "ranger_options", "projector_w", "pti_projector_w", "edit_formulas",
)  # fmt: skip
NUMBERS = 1000  # kept of one tensor, at most


def thinned(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Description and arrays of a recorded case with at most NUMBERS numbers per tensor."""
    info = json.loads((folder / f"{name}.json").read_text())
    arrays = {}
    with np.load(folder / f"{name}.npz", allow_pickle=False) as recorded:
        for tensor, entry in info["tensors"].items():
            every = -(-recorded[tensor].size // NUMBERS)
            entry["stride"] *= every
            for key in (tensor, f"{tensor}.f64"):
                if key in recorded:
                    arrays[key] = recorded[key].flatten()[::every] if every > 1 else recorded[key]
    return info, arrays


def main(folder: Path) -> None:
    (HERE / "fill_tables").mkdir(exist_ok=True)
    for name in SUBSET:
        info, arrays = thinned(folder, name)
        (HERE / f"{name}.json").write_text(json.dumps(info, indent=1) + "\n")
        np.savez_compressed(HERE / f"{name}.npz", **arrays)
        for entry in info["fills"].values():
            shutil.copyfile(folder / entry["table"], HERE / entry["table"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
