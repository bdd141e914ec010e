"""Settings of the benchmark; the classes of all other commands are in `schema.py`."""

from dataclasses import dataclass, field

from hyperinverter.config.schema import CommandConfig

# What may be timed: the released code's way (`reference`), and ours by precision. tf32: as PyTorch runs convolutions on
# a GPU unless told otherwise. `_compile`: torch.compile. `_recompute`: in training, large blocks keep no activations.
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
INFERENCE_SIDES = ("reference", "reference_tf32", *PRECISIONS, *(f"{name}_compile" for name in PRECISIONS))
TRAINING_SIDES = ("reference", "reference_tf32", *(p + r for p in ("fp32", "tf32", "bf16") for r in ("", "_recompute")))
TRAINING_PHASES = ("phase1", "phase2", "phase2_adversarial")


@dataclass
class BenchmarkConfig(CommandConfig):
    """benchmark: time and memory of inference and training, beside the released code's way of working.

    Sides of one comparison run in turn; the first one is what the others are held against.
    """

    sides: dict[str, list[int]] = field(default_factory=lambda: {"reference": [1, 8], "fp32": [1, 8]})  # -> batch sizes
    hidden_sizes: list[int] = field(default_factory=list)  # D; []: the domain's own. After the first: smallest batch
    slider: str | None = "fp32"  # side whose re-rendering after an edit is measured; None: not measured
    training: dict[str, list[str]] = field(default_factory=dict)  # phase -> sides
    training_batch_size: int = 2  # images of a training step
    memory: bool = True  # peak memory of every side, each in a process of its own
    budget: list[str] = field(default_factory=list)  # training sides whose Phase II memory is computed, for any machine
    loading: list[int] = field(default_factory=list)  # decoding threads with which reading from disk is measured
    trained: bool = False  # the domain's trained weights instead of random ones: for the fast modes' differences
    rounds: int = 15  # of a comparison, at most
    least_rounds: int = 3  # however long they take
    seconds: float = 40.0  # of a comparison: no more rounds after the least ones than fit
    runs: list[str] = field(default_factory=list)  # benchmark configs to run one after the other instead of all this
    publish: str | None = None  # folder for <device>.json, and beside it <folder>.md made of all .json in it
