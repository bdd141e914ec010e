"""Which device to compute on: the word a user writes -> torch.device, refusing what is not there."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from hyperinverter.utils.errors import UserError

# What networks may compute in beside float32, under autocast.
HALF_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(name: str | torch.device) -> torch.device:
    """auto (cuda, then mps, then cpu), cpu, cuda, cuda:N or mps.

    Raises:
        UserError: no such device on this machine, or not a device's name.
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


def place(module: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device, in the memory order its convolutions are fast in: on a CPU, channels innermost."""
    module = module.to(device)
    return module.to(memory_format=torch.channels_last) if device.type == "cpu" else module


def arithmetic(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """A context that computes in fp32 (as a caller's own context says), bf16 or fp16."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, HALF_TYPES[precision])


def store_in(module: nn.Module, dtype: torch.dtype) -> None:
    """Keep matrices and kernels in the type that autocast would convert them to at every call.

    Vectors (biases, BatchNorm) stay as they are: they are small, and where they are added more digits cost nothing.
    """
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.to(dtype)
    if next(module.parameters()).device.type == "cuda":  # what its half-precision convolutions are fast in
        module.to(memory_format=torch.channels_last)
