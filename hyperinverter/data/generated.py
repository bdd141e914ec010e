"""Images sampled from a generator instead of read from disk: one seed per image, kept in a store where one is named."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from hyperinverter.checkpoint import weights_hash
from hyperinverter.config.schema import DataConfig
from hyperinverter.data.names import Names
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import read_json, write_atomically, write_json
from hyperinverter.utils.images import to_uint8

CHUNK = 16  # images sampled together; fixed, so that an image's last bit does not depend on who asked for it


@dataclass(eq=False)
class GeneratedSource:
    """`count` images of a generator, z ~ N(0, I) seeded by (seed, stream, index), constant noise.

    Args:
        generator: as `models.stylegan2.Generator`; its weights must not change while this is in use.
        stream: "train" and "validation" of the same seed share no image.
        truncation_psi: 1 is the full distribution, 0 the mean face.
        truncation_psi_from: None, or every image has its own truncation, drawn evenly from here to `truncation_psi`.
        resolution: R, side of the images in px; None is the generator's, smaller ones are its images' box means.
        store: folder that keeps images once sampled, a file per CHUNK; a killed run goes on with what is there.
    Raises:
        UserError: the store holds images of another generator or of other settings.
    """

    generator: nn.Module
    count: int
    _: KW_ONLY
    seed: int = 0
    stream: str = "train"
    truncation_psi: float = 1.0
    truncation_psi_from: float | None = None
    resolution: int | None = None
    store: str | Path | None = None

    def __post_init__(self) -> None:
        self.resolution = self.generator.resolution if self.resolution is None else self.resolution
        self.names = Names.of(f"{self.stream}_{index:06d}" for index in range(self.count))
        self.ignored = Names.of([])
        if self.store is not None:
            self.store = Path(self.store)
            self._open_store()

    @classmethod
    def of(
        cls, data: DataConfig, generator: nn.Module, stream: str, resolution: int | None = None
    ) -> "GeneratedSource":
        """The "train" or "validation" images that a config's `data` describes (kind: generated)."""
        count = min(data.num_generated, data.max_images or data.num_generated)
        if stream == "validation":
            share = data.validation_fraction
            count = max(round(count * share), int(share > 0))
        return cls(
            generator,
            count,
            seed=data.generated_seed,
            stream=stream,
            truncation_psi=data.truncation_psi,
            truncation_psi_from=data.truncation_psi_from,
            resolution=resolution,
            store=data.store,
        )

    def __len__(self) -> int:
        return len(self.names)

    def pixels(self, index: int, whole_chunk: bool) -> Iterator[tuple[int, np.ndarray]]:
        """Sample image `index`, uint8 [3, R, R]; with `whole_chunk` also its neighbours, which cost little more."""
        start = index // CHUNK * CHUNK
        if self.store is not None:
            images = self._stored(start)
            if not whole_chunk:
                start, images = index, images[index - start : index - start + 1]
            yield from ((i, image) for i, image in enumerate(images, start) if i < len(self))
            return
        start = start if whole_chunk else index
        stop = min(start + CHUNK, len(self)) if whole_chunk else index + 1
        yield from enumerate(self._sample(start, stop), start)

    def w(self, names: Sequence[str]) -> Tensor:
        """The codes that images were made from, [N, w_dim]."""
        return self._codes([int(name.rpartition("_")[2]) for name in names])

    def _codes(self, indices: Sequence[int]) -> Tensor:
        device = next(self.generator.parameters()).device
        mapping = self.generator.mapping
        latents = [self._latent(index) for index in indices]
        with torch.no_grad():
            w = mapping(torch.stack([z for z, _ in latents]).to(device))[:, 0]
            psi = torch.tensor([psi for _, psi in latents], device=device)[:, None]
            if mapping.w_avg is not None:
                return torch.where(psi == 1, w, mapping.w_avg.expand_as(w).lerp(w, psi))
        if (psi != 1).any():
            raise UserError("truncation_psi needs the generator's mean of w, which this one has not: write 1")
        return w

    def fill_store(self) -> None:
        """Sample what the store still lacks, with a progress bar."""
        starts = range(0, len(self), CHUNK)
        missing = [start for start in starts if self.store is not None and not self._file(start).is_file()]
        for start in tqdm(
            missing, desc=f"sampling {len(self)} images", unit=f"x{CHUNK}", mininterval=1, disable=not missing
        ):
            self._stored(start)

    def _sample(self, start: int, stop: int) -> np.ndarray:
        ws = self._codes(range(start, stop))[:, None].expand(-1, self.generator.num_ws, -1)
        full = self.generator.resolution
        with torch.no_grad():  # of the full image, not by an early head: these are what such a head is trained on
            images = self.generator.synthesis(ws, noise_mode="const").clamp(-1, 1)
        images = torch.nn.functional.avg_pool2d(images, full // self.resolution)
        return to_uint8(images).cpu().numpy()

    def _latent(self, index: int) -> tuple[Tensor, float]:
        digest = hashlib.sha1(f"{self.seed}-{self.stream}-{index}".encode()).digest()
        rng = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        z = torch.randn(self.generator.z_dim, generator=rng)
        low = self.truncation_psi_from
        psi = self.truncation_psi if low is None else low + (self.truncation_psi - low) * torch.rand([], generator=rng)
        return z, float(psi)

    def _file(self, start: int) -> Path:
        return self.store / f"{self.stream}_{start:06d}.npy"

    def _stored(self, start: int) -> np.ndarray:
        """The CHUNK of images from `start` on, uint8 [CHUNK, 3, R, R], sampled unless it is there."""
        path, shape = self._file(start), (CHUNK, 3, self.resolution, self.resolution)
        if path.is_file():
            try:
                images = np.load(path, allow_pickle=False)
            except (OSError, ValueError) as error:
                raise UserError(f"{path}: {error}; delete this file, it is then sampled again") from error
            if images.shape != shape or images.dtype != np.uint8:
                raise UserError(
                    f"{path}: holds {images.dtype} {images.shape}, expected uint8 {shape}; delete this file"
                )
            return images
        images = self._sample(start, start + CHUNK)
        encoded = io.BytesIO()
        np.save(encoded, images)  # not into the file: numpy loses the reason when a disk is full
        with write_atomically(path) as partial:
            partial.write_bytes(encoded.getbuffer())
        return images

    def _open_store(self) -> None:
        self.store.mkdir(parents=True, exist_ok=True)
        state = self.generator.state_dict()
        made_by = {
            # an early head may still be trained, on just these images
            "generator": weights_hash({name: value for name, value in state.items() if ".early." not in name}),
            "seed": self.seed,
            "truncation_psi": self.truncation_psi,
            "truncation_psi_from": self.truncation_psi_from,
            "resolution": self.resolution,
        }
        path = self.store / "store.json"
        if path.is_file():
            if (result := read_json(path)) is None:
                remedy = "delete it together with the images beside it, or name another data.store"
                raise UserError(f"{path}: is damaged; {remedy}")
            if differ := [key for key, value in made_by.items() if result.get(key) != value]:
                message = ", ".join(f"{key} {result.get(key)} instead of {made_by[key]}" for key in differ)
                raise UserError(
                    f"{path}: the images there are of {message}; name another data.store, or delete this one"
                )
        else:
            write_json(path, made_by)
