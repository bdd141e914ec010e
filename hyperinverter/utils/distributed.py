"""Several processes that compute as one: started by torchrun, talking through torch.distributed (gloo, NCCL).

    torchrun --nproc-per-node=4 scripts/train_phase2.py ...

One rule keeps N processes equal to one. A batch in a config is the batch of all processes together; of its images 0, 1,
2, ... process r holds r, r + N, r + 2N, ... Everything random is drawn for the whole batch, by every process from the
same stream, and each keeps its own rows; so the streams agree, and a run may change its number of processes. Gradients
and logged losses are means over all processes. What a network computes over a batch (BatchNorm's statistics, the
minibatch standard deviation, the running mean of w) spans all processes in train mode and none in eval mode.

Gradients are averaged by `utils.gradients` before the optimiser's step, and not by DistributedDataParallel: R1 and
path-length steps run through parts of a network and leave some parameters without a gradient, which Adam has to skip as
it does in one process, where DDP fails or fills in zeros. In one process every function here does nothing.
"""

import functools
import gc
import hashlib
import os
import time
from collections.abc import Callable
from datetime import timedelta
from itertools import chain, count
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from hyperinverter.utils.device import resolve_device
from hyperinverter.utils.errors import UserError

T = TypeVar("T")

# How long a process waits for the others: rank 0 measures and writes alone at the end of an evaluation.
PATIENCE = timedelta(hours=2)
_MET: list[tuple[dist.Store, int, int]] = []  # filled by the first group of this process
_GROUPS = count()
LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")


class PeerLost(UserError):
    """Another process of the run has ended; its own message says why."""

    is_reported = False  # each process says that it ends


def processes_started() -> int:
    """Processes that torchrun started together, read from its environment; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Processes that compute together now."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Rank 0 alone writes files, shows progress and speaks."""
    return rank() == 0


def own_device(name: str | torch.device) -> torch.device:
    """The device of this process: as `resolve_device`, with CUDA devices dealt out by local rank.

    Raises UserError: fewer devices than processes on this machine, or one that processes cannot share.
    """
    device = resolve_device(name)
    if processes_started() == 1 or device.type == "cpu":
        return device
    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes_started()))
    if device.type != "cuda" or device.index is not None:
        raise UserError(
            f"device is {device}, but {here} processes run here; write device=cuda (one each) or device=cpu"
        )
    if here > torch.cuda.device_count():
        raise UserError(
            f"{here} processes run here, but torch sees {torch.cuda.device_count()} CUDA device(s); start "
            f"--nproc-per-node={torch.cuda.device_count()}, or write device=cpu"
        )
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))


def in_all_processes(function: Callable[..., T]) -> Callable[..., T]:
    """Decorate `function(config)`: under torchrun it runs in every process, as one computation.

    The group is made at its start and ended at its end, behind a barrier. A mistake of the user that all processes meet
    is to be reported once: where another process does, the exception has a true attribute `is_reported`.

    Raises PeerLost: another process ended.
    """

    @functools.wraps(function)
    def wrapped(config: Any, **more: Any) -> T:
        if processes_started() == 1 or dist.is_initialized():
            return function(config, **more)
        device = own_device(config.device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        store, own_rank, size = _meet()
        dist.init_process_group(backend, store=store, rank=own_rank, world_size=size, timeout=PATIENCE)
        try:
            result = function(config, **more)
            dist.barrier()
        except (UserError, ValueError, OSError) as error:
            vars(error)["is_reported"] = not _is_first_to_say(str(error))
            raise
        except RuntimeError as error:
            if any(words in str(error) for words in LOST_PEER):
                where = f"process {rank()} of {world_size()}"
                raise PeerLost(
                    f"another process of this run has ended, so {where} ends too; its own message says why. The same "
                    f"command goes on from the last checkpoint, if it saves any"
                ) from error
            raise
        finally:
            gc.collect()  # nothing may hold on to the group when it ends
            dist.destroy_process_group()
        return result

    vars(wrapped)["runs_in_all_processes"] = True
    return wrapped


def _meet() -> tuple[dist.Store, int, int]:
    """What the processes find each other through, and who this one is.

    The store lives as long as the process, with new names for every group: of two trainings in a row, a fast process
    would else look for the second in the store of the first, which ends at that moment.
    """
    if not _MET:
        _MET.append(next(dist.rendezvous("env://")))
    store, own_rank, size = _MET[0]
    return dist.PrefixStore(f"group {next(_GROUPS)}", store), own_rank, size


def _is_first_to_say(message: str) -> bool:
    """Ask the store that all processes share; the others wait until the first has answered."""
    key = f"told/{hashlib.sha1(message.encode()).hexdigest()}"
    try:
        is_first = dist.distributed_c10d._get_default_store().add(key, 1) == 1
    except RuntimeError:  # the store is gone with the process that held it
        return True
    if not is_first:
        time.sleep(1)
    return is_first


def check_divides(key: str, size: int, parts: int = 1) -> None:
    """Refuse a batch that the processes cannot share equally.

    Args:
        key: what the user calls it.
        size: images of all processes together.
        parts: in which each process computes its share.
    """
    n = world_size() * parts
    if world_size() > 1 and size % n:
        nearest = sorted({max(size // n, 1) * n, (size // n + 1) * n})
        each = f" in {parts} parts each (gradient_accumulation)" if parts > 1 else ""
        most = max(p for p in range(1, world_size()) if size % (p * parts) == 0 or p == 1)
        raise UserError(
            f"{key} is {size}, the images of all processes together, which {world_size()} processes cannot share "
            f"equally{each}; start {most} process{'es' * (most > 1)}, or write {' or '.join(map(str, nearest))}, which "
            f"is another training: schedule.max_steps would then count steps of so many images"
        )


def place_of(device: torch.device) -> str:
    """Where a run computes, in words: `cuda`, or `cuda in 4 processes`."""
    return f"{device}" if world_size() == 1 else f"{device.type} in {world_size()} processes"


def own_rows(batch: T) -> T:
    """This process's part of a whole batch, [N * world, ...] -> [N, ...]; tensors, arrays and lists alike."""
    return cast(Any, batch)[rank() :: world_size()]


def randn_rows(count: int, *shape: int, shared: bool, **options: Any) -> Tensor:
    """Normal numbers [count, *shape] for this process's images.

    Args:
        shared: they belong to a batch that all processes share: drawn for the whole batch, own rows kept.
        options: device and dtype.
    """
    if not shared or world_size() == 1:
        return torch.randn(count, *shape, **options)
    return own_rows(torch.randn(count * world_size(), *shape, **options))


def randn_rows_like(x: Tensor, *, shared: bool) -> Tensor:
    """As `randn_rows`, with the shape [N, ...], device, dtype and order in memory of `x`, in which it is drawn."""
    if not shared or world_size() == 1:
        return torch.randn_like(x)
    is_channels_last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if is_channels_last else torch.contiguous_format
    whole = torch.empty([len(x) * world_size(), *x.shape[1:]], device=x.device, dtype=x.dtype, memory_format=layout)
    return own_rows(whole.normal_())


class _Sum(torch.autograd.Function):
    """Sum over processes; its gradient is the same sum of gradients, so it has derivatives of every order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient)


def all_rows(x: Tensor) -> Tensor:
    """Own rows [N, ...] -> the whole batch [N * world, ...] in its order; gradients flow to every process's rows."""
    if world_size() == 1:
        return x
    whole = x.new_zeros([len(x) * world_size(), *x.shape[1:]])
    mine = torch.arange(rank(), len(whole), world_size(), device=x.device)
    return _Sum.apply(whole.index_copy(0, mine, x))


@torch.no_grad()
def average(x: Tensor) -> Tensor:
    """Mean over processes, without gradients."""
    return x if world_size() == 1 else _Sum.apply(x) / world_size()


@torch.no_grad()
def gather_to_all(value: T) -> list[T]:
    """The value of every process, by rank; everywhere. Plain types and CPU tensors."""
    if world_size() == 1:
        return [value]
    result: list[Any] = [None] * world_size()
    dist.all_gather_object(result, value)
    return result


def gather_to_main(value: T) -> list[T]:
    """The value of every process, by rank, in rank 0; empty elsewhere."""
    if world_size() == 1:
        return [value]
    result: list[Any] | None = [None] * world_size() if is_main() else None
    dist.gather_object(value, result)
    return result or []


def gather_numbered(own: list[T], everywhere: bool = True) -> list[T]:
    """Tuples of all processes in the order of their first entries, numbers that no two share.

    `everywhere`: False gives them to rank 0 only, and [] to the others.
    """
    result = gather_to_all(own) if everywhere else gather_to_main(own)
    return sorted(chain.from_iterable(result), key=lambda item: cast(Any, item)[0])


def from_main(value: T) -> T:
    """Rank 0's value, everywhere."""
    if world_size() == 1:
        return value
    result = [value]
    dist.broadcast_object_list(result)
    return result[0]


def any_process(is_so: bool) -> bool:
    """Whether it is so in at least one process; the same answer everywhere. Leaves the GPU alone."""
    if world_size() == 1:
        return is_so
    count = torch.tensor([float(is_so)])
    dist.all_reduce(count)
    return count.item() > 0


def check_agreement(what: str, value: Any) -> None:
    """Refuse processes that are about to compute different things (say, machines that do not share their disk)."""
    values = gather_to_all(value)
    for other, result in enumerate(values):
        if result != values[0]:
            raise UserError(
                f"the processes disagree about {what}: process 0 has {values[0]}, process {other} has {result}; start "
                f"all with the same settings and files, and let machines share the output folder"
            )
