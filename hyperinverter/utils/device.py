"""Which device to compute on, refusing what is not there; and what a process that computes sets up once."""

import functools
import logging
import os
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from hyperinverter.utils.errors import UserError

# What networks may compute in beside float32, under autocast.
HALF_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# What an x86 processor calls the instructions without which these types are slower than float32: matrix products (AMX),
# for fp16 also those of its vectors. bf16 of the vectors alone (avx512_bf16) loses more by conversions than it gains.
FAST_BY = {"bf16": {"amx_bf16"}, "fp16": {"amx_fp16", "avx512_fp16"}}
CPUINFO = Path("/proc/cpuinfo")

M = TypeVar("M", bound=nn.Module)
logger = logging.getLogger(__name__)


def resolve_device(name: str | torch.device) -> torch.device:
    """auto (cuda, then mps, then cpu), cpu, cuda, cuda:N or mps.

    Raises UserError: no such device on this machine, or not a device's name.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device is {name!r}; write auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device is {name}, but torch sees no CUDA device; write device=cpu or device=auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device is {name}, but torch sees {torch.cuda.device_count()} CUDA device(s), counted from 0")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"device is {name}, but torch sees no MPS device; write device=cpu or device=auto")
    return device


def to_device(module: M, device: torch.device) -> M:
    """Move a network to a device, in the memory order its convolutions are fast in: on a CPU, channels innermost."""
    module = module.to(device)
    return module.to(memory_format=torch.channels_last) if device.type == "cpu" else module


def arithmetic(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """A context that computes in fp32 (as a caller's own context says), bf16 or fp16."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, HALF_TYPES[precision])


@contextmanager
def tf32_allowed(allowed: bool) -> Iterator[None]:
    """Whether CUDA may compute float32 products with TF32 factors inside; elsewhere it changes nothing."""
    switches: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = allowed
    try:
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


def own_cores() -> int:
    """Cores that this process may use, a fair share of them where several processes run here."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)


@functools.cache
def warn_if_slower(device_type: str, precision: str) -> None:
    """Say once that a precision makes this processor slower; nothing of a GPU, or where the processor does not say."""
    if device_type != "cpu" or precision not in FAST_BY:
        return
    instructions = _x86_instructions()
    if instructions and not instructions & FAST_BY[precision]:
        names = " or ".join(sorted(FAST_BY[precision]))
        slower = f"precision={precision} makes this processor slower"
        logger.warning(f"{slower}: it has no matrix instructions for it ({names}); write precision=fp32")


def _x86_instructions() -> set[str]:
    """Names of the processor's extensions, as Linux lists them; empty elsewhere."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())


def store_in(module: nn.Module, dtype: torch.dtype) -> None:
    """Keep matrices and kernels in the type that autocast would convert them to at every call.

    Vectors (biases, BatchNorm) stay as they are: they are small, and where they are added more digits cost nothing.
    """
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.to(dtype)
    if next(module.parameters()).device.type == "cuda":  # what its half-precision convolutions are fast in
        module.to(memory_format=torch.channels_last)


def seed_everything(seed: int, threads: int | None = None) -> None:
    """Seed Python, NumPy and torch (all devices), and set torch's CPU threads, on which the last digits depend.

    Args:
        seed: 0 <= seed < 2**32, NumPy's range. The published seed is 2107.
        threads: of the CPU; None leaves torch's choice.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be at least 0 and below 2**32, got {seed}")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if threads:
        torch.set_num_threads(threads)
