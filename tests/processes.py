"""Several processes on this machine, started as torchrun starts them, that import torch only once."""

import multiprocessing
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PRELOADED = [
    "hyperinverter.training.phase1",
    "hyperinverter.training.phase2",
    "hyperinverter.evaluation.reconstruction",
]


def run_processes(
    count: int, function: Callable[..., Any], *arguments: Any, log: Path, timeout_s: float = 250
) -> list[int]:
    """Call `function(*arguments)` in `count` processes under the environment that torchrun gives.

    Args:
        function: of a module that the new processes can import.
        log: folder; what process r writes to its standard error stands in `<r>.txt`.
        timeout_s: afterwards what still runs is killed.
    Returns:
        Exit codes, by rank.
    """
    started = start_processes(count, function, *arguments, log=log)
    deadline = time.monotonic() + timeout_s
    for process in started:
        process.join(max(deadline - time.monotonic(), 0))
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in started]


def start_processes(count: int, function: Callable[..., Any], *arguments: Any, log: Path) -> list[BaseProcess]:
    """The same without waiting for their end."""
    log.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")  # a fork of pytest itself would copy its threads' locks
    context.set_forkserver_preload(PRELOADED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = []
    for rank in range(count):
        environment = {key: str(value) for key, value in (common | {"RANK": rank, "LOCAL_RANK": rank}).items()}
        process = context.Process(target=_run, args=(environment, log / f"{rank}.txt", function, arguments))
        process.start()
        started.append(process)
    return started


def _run(environment: dict[str, str], log: Path, function: Callable[..., Any], arguments: tuple) -> None:
    os.environ.update(environment)
    sys.stderr = open(log, "a", buffering=1)  # noqa: SIM115 (until the process ends)
    os.dup2(sys.stderr.fileno(), 2)
    try:
        function(*arguments)
    except SystemExit:  # as a stopped trainer ends
        raise
    except BaseException:
        traceback.print_exc()
        raise SystemExit(1) from None
