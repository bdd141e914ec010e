"""Batches of images as a pure function of the position in the stream; from a config to training and validation data.

N images per batch, R pixels. `position` counts images since the start of training: the same position gives the same
images, order and mirroring for any batch size, so that a run resumes exactly by its step count alone. With several
processes there is still one stream: each reads its own images of every batch (`utils.distributed.own_rows`).
"""

import logging
import threading
import time
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from hyperinverter.config.schema import DataConfig, DomainConfig
from hyperinverter.data.fit import FitNotes
from hyperinverter.data.generated import GeneratedSource
from hyperinverter.data.image_source import ImageSource
from hyperinverter.data.sampler import flips_at, sample_indices, split_by_name
from hyperinverter.data.sources import check_training_data, open_source
from hyperinverter.data.waiting import Waiting
from hyperinverter.utils.decode import BadImageError, decode_tensor
from hyperinverter.utils.device import own_cores
from hyperinverter.utils.distributed import check_divides, gather_to_all, own_rows, rank, world_size
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.images import from_uint8
from hyperinverter.utils.text import counted

BATCHES_AHEAD = 2  # that workers decode while the present one is trained on
UNREADABLE = -1  # in the place of an index
MOST_WORKERS = 16  # by default
READ_AT_ONCE = 32  # images, where all of them are read at the start

logger = logging.getLogger(__name__)


class Batches:
    """Endless shuffled batches of a source.

    Args:
        resolution: R; every image is brought to [3, R, R] by the one resize policy.
        flip: mirror every image with probability one half.
        on_bad_file: "skip": the turn of an unreadable file goes to the next readable one in name order, and the file
            is named in the log and in `bad_files`. "refuse": everything is decoded once at the start and all
            unreadable files are named in one error.
        cache_mib: decoded images stay in memory (uint8) when all of them fit in this many MiB.
        workers: threads that decode ahead; 0 decodes when asked; None: one for each core that this process may use.
            (Threads, not processes: decoders and resize release the interpreter, and nothing is sent or held twice.)
        device: where batches are wanted. They travel there as bytes, from pinned memory without waiting, and become
            numbers there.
    Raises:
        UserError: on_bad_file is "refuse" and files are unreadable; names them.
    """

    def __init__(
        self,
        source: ImageSource | GeneratedSource,
        resolution: int,
        *,
        seed: int = 0,
        flip: bool = False,
        on_bad_file: str = "skip",
        cache_mib: int = 1024,
        workers: int | None = 0,
        device: torch.device | str = "cpu",
    ):
        if on_bad_file not in ("skip", "refuse"):
            raise ValueError(f"on_bad_file must be skip or refuse, got {on_bad_file!r}")
        self.source = source
        self.resolution = resolution
        self.seed = seed
        self.flip = flip
        self.device = torch.device(device)
        self.bad_files: dict[str, str] = {}  # name -> reason
        self.fit = FitNotes(resolution, source.names)
        shape = (len(source), 3, resolution, resolution)
        fits = int(np.prod(shape, dtype=np.int64)) <= cache_mib * 2**20
        self._cache = np.empty(shape, np.uint8) if fits else None
        self._cached = np.zeros(len(source), bool)
        self._ahead: dict[Hashable, _Batch] = {}
        self._telling = threading.Lock()
        self._refuses = on_bad_file == "refuse"
        workers = min(own_cores(), MOST_WORKERS) if workers is None else workers
        threaded = workers > 0 and isinstance(source, ImageSource)  # a generator runs in its caller's thread
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode") if threaded else None
        self._waiting = Waiting(workers)
        if self._refuses:
            self._refuse_bad_files()

    def __len__(self) -> int:
        """Number of images of the source, the unreadable ones included."""
        return len(self.source)

    @property
    def names(self) -> Sequence[str]:
        return self.source.names

    def get(self, position: int, batch_size: int) -> tuple[Tensor, list[str]]:
        """The batch that starts at `position`, `batch_size` images; with several processes, this one's share of it.

        Returns:
            Images float32 [N, 3, R, R] in [-1, 1], and their names.
        Raises:
            UserError: no file of the source is readable, or the processes cannot share such a batch equally.
        """
        start = time.perf_counter()
        check_divides("batch_size", batch_size)
        if len(self) == 0:
            raise UserError("there are no images in this split: give more images or another validation_fraction")
        batch = self._ahead.pop((position, batch_size), None) or self._start_at(position, batch_size)
        if self._pool is not None:
            following = [(position + (k + 1) * batch_size, batch_size) for k in range(BATCHES_AHEAD)]
            for dropped in self._ahead.keys() - set(following):
                self._ahead.pop(dropped).cancel()
            for request in following:
                if request not in self._ahead:
                    self._ahead[request] = self._start_at(*request)
        indices = batch.indices()
        if isinstance(self.source, ImageSource):
            self._waiting.note(start, len(indices))
        return self._finished(batch.pixels), [self.names[i] for i in indices]

    def in_order(
        self, batch_size: int, max_images: int | None = None, shown_as: str | None = None
    ) -> Iterator[tuple[Tensor, list[str]]]:
        """Every readable image once, in name order, never mirrored; the last batch may be smaller.

        `shown_as`: what a progress bar says of it; None: there is none.
        """
        total = len(self) if max_images is None else min(max_images, len(self))
        with tqdm(total=total, desc=shown_as, unit="image", leave=False, disable=shown_as is None) as bar:
            for _, images, names in self._in_order(batch_size, max_images, first=0, every=1):
                yield images, names
                bar.update(len(names))

    def own_in_order(self, batch_size: int, max_images: int | None = None) -> Iterator[tuple[int, Tensor, list[str]]]:
        """The batches of `in_order` dealt out to the processes, whole ones, so that each holds what it holds in one.

        Yields:
            The batch's number in `in_order` counting unreadable ones, its images [N, 3, R, R], and their names.
        """
        yield from self._in_order(batch_size, max_images, first=rank(), every=world_size())

    def _in_order(
        self, batch_size: int, max_images: int | None, *, first: int, every: int
    ) -> Iterator[tuple[int, Tensor, list[str]]]:
        count = len(self) if max_images is None else min(max_images, len(self))
        numbers = range(first, -(-count // batch_size), every)
        ahead: list[_Batch] = []
        for place, number in enumerate(numbers):
            wanted = numbers[place : place + (BATCHES_AHEAD + 1 if self._pool is not None else 1)]
            for later in wanted[len(ahead) :]:
                indices = range(later * batch_size, min((later + 1) * batch_size, count))
                ahead.append(self._start(indices, [False] * len(indices), replace=False))
            batch = ahead.pop(0)
            result = np.array(batch.indices())
            good = result != UNREADABLE
            if good.any():
                pixels = batch.pixels if good.all() else batch.pixels[torch.from_numpy(good)]
                yield number, self._finished(pixels), [self.names[i] for i in result[good]]

    def share_report(self) -> None:
        """Let `bad_files` and `report` tell of the files that any process met."""
        for bad_files, fit in gather_to_all((self.bad_files, self.fit.state())):
            self.bad_files |= bad_files
            self.fit.merge(fit)

    def report(self) -> list[str]:
        """What happened to files so far, one line each: skipped, ignored, cropped, enlarged."""
        lines = [f"unreadable, skipped: {name}: {reason}" for name, reason in sorted(self.bad_files.items())]
        if ignored := self.source.ignored:
            lines.append(f"ignored, no image by their extension: {counted(len(ignored), 'file')}, such as {ignored[0]}")
        return lines + self.fit.report()

    def _finished(self, pixels: Tensor) -> Tensor:
        """uint8 in host memory -> float32 in [-1, 1] on the device."""
        return from_uint8(pixels.to(self.device, non_blocking=True))

    def _start_at(self, position: int, batch_size: int) -> "_Batch":
        indices = own_rows(sample_indices(len(self), self.seed, position, batch_size))
        flips = own_rows(flips_at(self.seed, position, batch_size)) if self.flip else np.zeros(len(indices), bool)
        return self._start(indices, flips.tolist(), replace=True)

    def _start(self, indices: Sequence[int], flips: Sequence[bool], *, replace: bool) -> "_Batch":
        """Let the workers read a batch; without any, it is read now."""
        shape = (len(indices), 3, self.resolution, self.resolution)
        pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        jobs = zip(pixels.numpy(), indices, flips, strict=True)
        if self._pool is None:
            return _Batch(pixels, [self._fill(*job, replace) for job in jobs])
        return _Batch(pixels, [self._pool.submit(self._fill, *job, replace) for job in jobs])

    def _fill(self, place: np.ndarray, index: int, flip: bool, replace: bool) -> int:
        """Put image `index`, or the next readable one, into `place` [3, R, R]; returns whose image it is."""
        image = self._pixels(index)
        if image is None:
            if not replace:
                return UNREADABLE
            index, image = self._next_good(index)
        place[:] = image[:, :, ::-1] if flip else image
        return index

    def _pixels(self, index: int) -> np.ndarray | None:
        """Image `index` as uint8 [3, R, R]; None when its file is unreadable."""
        if self._cached[index]:
            return self._cache[index]
        name = self.names[index]
        if name in self.bad_files:
            return None
        if isinstance(self.source, GeneratedSource):
            for i, image in self.source.pixels(index, whole_chunk=self._cache is not None):
                self._keep(i, image)
                if i == index:
                    wanted = image
            return wanted
        try:
            data, most = self.source.checked_bytes(index), self.source.max_megapixels
            image, size = decode_tensor(data, name, self.resolution, most)
        except BadImageError as error:
            with self._telling:  # two threads may meet the same file
                if name not in self.bad_files:
                    self.bad_files[name] = error.reason
                    logger.warning("%sunreadable image %s", "" if self._refuses else "skipped ", error)
            return None
        self.fit.note(name, size, index)
        pixels = image.numpy()
        self._keep(index, pixels)
        return pixels

    def _keep(self, index: int, pixels: np.ndarray) -> None:
        if self._cache is not None:
            self._cache[index] = pixels
            self._cached[index] = True

    def _next_good(self, index: int) -> tuple[int, np.ndarray]:
        for step in range(1, len(self)):
            candidate = (index + step) % len(self)
            image = self._pixels(candidate)
            if image is not None:
                return candidate, image
        some = "; ".join(f"{name}: {reason}" for name, reason in list(self.bad_files.items())[:3])
        raise UserError(f"none of the {len(self)} image files is readable ({some}): check data.root")

    def _refuse_bad_files(self) -> None:
        with tqdm(total=len(self), desc="reading all images once", unit="image", leave=False, delay=1) as bar:
            for start in range(0, len(self), READ_AT_ONCE):
                indices = range(start, min(start + READ_AT_ONCE, len(self)))
                self._start(indices, [False] * len(indices), replace=False).indices()
                bar.update(len(indices))
        if self.bad_files:
            listed = "\n  ".join(f"{name}: {reason}" for name, reason in sorted(self.bad_files.items()))
            raise UserError(
                f"{len(self.bad_files)} of {len(self)} image files are unreadable:\n  {listed}\n"
                "remove or replace them, or set data.on_bad_file=skip"
            )


@dataclass
class _Batch:
    """A batch that is being read: uint8 [N, 3, R, R], and for each row whose image it holds, once it does."""

    pixels: Tensor
    rows: list["Future[int] | int"]

    def indices(self) -> list[int]:
        """Wait for every row."""
        return [row.result() if isinstance(row, Future) else row for row in self.rows]

    def cancel(self) -> None:
        for row in self.rows:
            if isinstance(row, Future):
                row.cancel()


def reports(*several: Batches) -> list[str]:
    """What `report` says of several batches, in any process; a line that they share comes once."""
    for batches in several:
        batches.share_report()
    return list(dict.fromkeys(line for batches in several for line in batches.report()))


def open_training_data(
    data: DataConfig,
    domain: DomainConfig,
    seed: int,
    generator: nn.Module | None = None,
    device: torch.device | str = "cpu",
    resolution: int | None = None,
) -> tuple[Batches, Batches]:
    """Training and validation images of a run.

    Args:
        generator: the domain's generator; only for data.kind=generated.
        resolution: R, side of the images in px; None is the domain's.
    Raises:
        UserError: data.root is not set, holds no images, or leaves nothing to train on.
        FileNotFoundError: data.root or data.validation_root does not exist.
    """
    if data.kind == "generated":
        if generator is None:
            raise ValueError("data.kind=generated needs generator=, the domain's generator")
        reduced = domain.resolution if resolution is None else resolution
        training, validation = (
            GeneratedSource.of(data, generator, stream, reduced) for stream in ("train", "validation")
        )
        training.fill_store()
        validation.fill_store()
    else:
        check_training_data(data)
        training = open_source(data.root, data.kind, data.max_images, data.max_megapixels, domain.resolution)
        if data.validation_root is not None:
            shared = {"max_megapixels": data.max_megapixels, "resolution": domain.resolution}
            validation = open_source(data.validation_root, **shared)
        else:
            training, validation = split_by_name(training, data.validation_fraction)
    if data.kind != "generated" and len(training) == 0:
        raise UserError(f"no training images left: lower data.validation_fraction ({data.validation_fraction})")
    settings = {"on_bad_file": data.on_bad_file, "cache_mib": data.cache_mib, "workers": data.workers}
    settings["device"] = device
    return (
        Batches(training, resolution or domain.resolution, seed=seed, flip=data.flip, **settings),
        Batches(validation, resolution or domain.resolution, seed=seed, flip=False, **settings),
    )
