"""Changed files of every kind through every reader, each under a limit of memory and time: what came of them, counted.

    python tests/hostile/fuzz.py [--files 20000] [--seed 0] [--first 0] [--kinds image,zip] [--keep FOLDER]

For every file: the package reads it or refuses it with its own error; nothing of it runs, nothing is written outside
the output folder, memory stays within three times the file and 200 MB, the processor within 20 seconds. Whatever breaks
one of these is listed with the file's number; `--keep` saves those files. Linux.
"""

import argparse
import itertools
import json
import logging
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from changes import changed  # noqa: E402
from limits import MOST_SECONDS, SPARE_BYTES, TIMES_FILE, status  # noqa: E402
from seeds import CANARY, Seed, write_seeds  # noqa: E402

LONGEST_WAIT = 300  # seconds on the clock, for a file that waits for ever
BATCH = 40  # files read by one process before a new one is made
SAFETY_BYTES = 1_000_000_000  # beyond the limit, where memory is refused to the process
RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "os.startfile", "pty.spawn",
        "socket.connect", "socket.bind", "ctypes.dlopen")  # fmt: skip
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
           "shutil.rmtree", "shutil.move", "shutil.copyfile")  # fmt: skip
SHARES = {
    "image": 16,
    "zip": 12,
    "weights": 18,
    "direction": 6,
    "inversion": 12,
    "checkpoint": 9,
    "yaml": 9,
    "csv": 6,
    "lmdb": 9,
    "h5": 9,
    "film": 6,
}  # files of a kind for one of a model or a command, which take a second each


# --------------------------------------------------------------------------------------------------- reading


def read_batch(jobs: Sequence[tuple[int, Seed, Path]], report: int) -> None:
    """Read files one by one in this process; a JSON line for each goes to the handle `report`."""
    from hyperinverter.utils.errors import UserError

    state: dict[str, object] = {"place": None, "events": []}

    def audit(event: str, args: tuple) -> None:
        place = state["place"]
        if place is None:
            return
        if event in RUNS:
            state["events"].append(f"ran {event} {str(args)[:100]}")
        elif event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            _note_outside(args[0], place, state["events"], "opened")
        elif event in CHANGES:
            for arg in args[:2]:
                _note_outside(arg, place, state["events"], event)

    sys.addaudithook(audit)
    for number, seed, path in jobs:
        limit = TIMES_FILE * _size(path) + SPARE_BYTES
        taken = status("VmData")
        resource.setrlimit(resource.RLIMIT_DATA, (taken + limit + SAFETY_BYTES, resource.RLIM_INFINITY))
        Path("/proc/self/clear_refs").write_text("5")  # the highest use begins here
        before, begin = status("VmRSS"), time.process_time()
        signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
        signal.alarm(LONGEST_WAIT)
        state["place"], state["events"] = path.parents[1], []
        ending, told = "read", ""
        try:
            seed.read(path)
        except UserError as error:
            ending, told = "refused", str(error)
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            ending, told = "raw", f"{type(error).__name__}: {str(error)[:200]} ({last.filename}:{last.lineno})"
        state["place"] = None
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        faults = [*state["events"]]
        used = status("VmHWM") - before
        if used > limit:
            faults.append(f"memory {used / 1e6:.0f} MB, {told[:100]}")
        if ending == "refused" and (not told.isprintable() and not told.replace("\n", "").isprintable()):
            faults.append(f"unprintable message {told[:100]!r}")
        found = {"number": number, "ending": ending, "told": told[:300], "faults": faults,
                 "seconds": round(time.process_time() - begin, 2), "mb": round(used / 1e6)}  # fmt: skip
        os.write(report, json.dumps(found).encode() + b"\n")


def _note_outside(name: object, place: Path, events: list[str], what: str) -> None:
    if isinstance(name, str | bytes | os.PathLike):
        path = Path(os.path.realpath(os.fsdecode(name)))
        if not path.is_relative_to(os.path.realpath(place / "out")) and path != Path("/dev/null"):
            events.append(f"wrote: {what} {str(path)[:200]}")


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.iterdir() if file.is_file())


def read_all(jobs: Sequence[tuple[int, Seed, Path]]) -> Iterator[dict]:
    """Outcomes in order; a process that died gives one for the file that it was reading."""
    left = list(jobs)
    while left:
        here, there = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(here)
            try:
                read_batch(left, there)
            finally:
                os._exit(0)
        os.close(there)
        with os.fdopen(here) as lines:
            found = [json.loads(line) for line in lines]
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        yield from found
        left = left[len(found) :]
        if left:
            why = {-signal.SIGPROF: f"more than {MOST_SECONDS} s", -signal.SIGALRM: "waited for ever"}.get(code)
            number, _, _ = left.pop(0)
            yield {"number": number, "ending": "slow" if why else "died", "told": why or f"exit {code}", "faults": [],
                   "seconds": MOST_SECONDS, "mb": 0}  # fmt: skip


# --------------------------------------------------------------------------------------------------- the run


def run(
    files: int, seed: int = 0, first: int = 0, kinds: Sequence[str] = (), keep: Path | None = None, tell: bool = False
) -> dict:
    """Counts by kind and ending, and whatever broke a promise."""
    counts: dict[str, Counter] = {}
    broken: list[dict] = []
    top = {"mb": 0, "seconds": 0.0}
    logging.disable()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
        folder = Path(temporary)
        found = write_seeds(folder / "seeds")
        kinds = list(kinds) or list(found)
        content = {s.path: s.path.read_bytes() for kind in found for s in found[kind]}
        others = [data for data in content.values() if len(data) < 100_000]
        whole_files = [s for kind in kinds for s in found[kind] if not s.path.name.startswith("gadget_")]
        for whole in {(s.read, s.path.suffix): s for s in whole_files}.values():
            _try(whole)  # what is imported on first use is not the file's doing
        turns = [kind for kind in kinds for _ in range(SHARES.get(kind, 1))]
        rest = list(itertools.islice(itertools.cycle(turns), files))
        expected = sorted([*(path.name for path in folder.iterdir()), "work"])
        for start in range(first, files, BATCH):
            jobs = []
            for number in range(start, min(start + BATCH, files)):
                dice = random.Random(f"{seed}/{number}")
                whole = dice.choice(found[rest[number]])
                place = folder / "work" / str(number) / "in"
                place.mkdir(parents=True)
                if whole.folder:
                    for beside in whole.path.parent.iterdir():
                        os.link(beside, place / beside.name)
                    (place / whole.path.name).unlink()
                (place / whole.path.name).write_bytes(changed(content[whole.path], dice, others))
                jobs.append((number, whole, place / whole.path.name))
            for outcome, (number, whole, path) in zip(read_all(jobs), jobs, strict=True):
                kind = rest[number]
                counts.setdefault(kind, Counter())[outcome["ending"]] += 1
                top = {key: max(top[key], outcome[key]) for key in top}
                stray = sorted(p.name for p in path.parents[1].iterdir() if p.name not in ("in", "out"))
                outcome["faults"] += [f"wrote {name}" for name in stray]
                if outcome["faults"] or outcome["ending"] not in ("read", "refused"):
                    broken.append({"kind": kind, "file": whole.path.name, **outcome})
                    if tell:
                        print(json.dumps(broken[-1]), file=sys.stderr, flush=True)
                    if keep:
                        keep.mkdir(parents=True, exist_ok=True)
                        shutil.copy(path, keep / f"{number}_{kind}_{path.name}")
            shutil.rmtree(folder / "work")
            if tell and (start // BATCH) % 5 == 4:
                done = {kind: dict(count) for kind, count in counts.items()}
                print(f"{start + BATCH} files, {len(broken)} broke a promise: {done}", file=sys.stderr, flush=True)
        stray = [path.name for path in folder.iterdir() if path.name not in expected]
    counted = {kind: dict(count) for kind, count in counts.items()}
    return {"files": files, "seed": seed, "counts": counted, **_sums(broken),
            "written outside the run's folders": stray, "most": top, "broken": broken}  # fmt: skip


def _try(whole: Seed) -> None:
    """Read a whole file in this process, so that its children need not import anything."""
    from hyperinverter.utils.errors import UserError

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "in"
        shutil.copytree(whole.path.parent, place)
        try:
            whole.read(place / whole.path.name)
        except UserError as error:
            raise AssertionError(f"a whole file was refused: {error}") from error


def _sums(broken: list[dict]) -> dict[str, int]:
    faults = [fault for outcome in broken for fault in outcome["faults"]]
    return {
        "executed": sum(fault.startswith("ran ") for fault in faults) + sum(CANARY in fault for fault in faults),
        "written outside output": sum(fault.startswith("wrote") for fault in faults),
        "raw exceptions": sum(outcome["ending"] in ("raw", "died") for outcome in broken),
        "above the cap": sum(fault.startswith("memory") for fault in faults)
        + sum(outcome["ending"] == "slow" for outcome in broken),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number to begin with, after a run that was stopped")
    parser.add_argument("--kinds", default="", help="only these, with commas between")
    parser.add_argument("--keep", type=Path, help="where files that broke a promise are kept")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    kinds = [kind for kind in options.kinds.split(",") if kind]
    result = run(options.files, options.seed, options.first, kinds, options.keep, tell=True)
    print(json.dumps(result, indent=1))
    sys.exit(bool(result["broken"] or result["written outside the run's folders"]))


if __name__ == "__main__":
    main()
