"""How memory is held while the sides of the benchmark take turns."""

import torch

from hyperinverter.evaluation.benchmark import sides

CPU = torch.device("cpu")


def test_each_side_has_memory_as_its_way_has_it(monkeypatch):
    """Ours finds again, already mapped, what the released way's turn gave back."""
    told, resident = [], iter([900, 300, 700, 200])
    monkeypatch.setattr(sides, "keep_freed_memory", lambda keep=True: told.append(keep))
    monkeypatch.setattr(sides, "give_back", lambda: told.append("given back"))
    monkeypatch.setattr(sides, "resident_bytes", lambda: next(resident))
    monkeypatch.setattr(sides.torch, "ones", lambda size, dtype: told.append(size))
    allocation = sides.Allocation(CPU)
    for name in ("reference", "fp32", "bf16", "reference_tf32"):
        allocation.become(name)
    assert told == [False, "given back", True, 600, True, False, "given back"]
    told.clear()
    sides.Allocation(torch.device("cuda")).become("reference")
    assert told == []
