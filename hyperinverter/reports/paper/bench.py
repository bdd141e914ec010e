"""What the paper's tables and figures have in common: the methods with their weights, the photos, what is kept.

Everything that is finished lies in `output` under a key, a hash over weights, photos and settings: the same command
finds it again, after a kill too, and makes anew only what belongs to another key. Letters: N images, R resolution.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import hyperinverter
from hyperinverter.config.report_schema import ReproduceConfig
from hyperinverter.config.schema import DataConfig, RefineConfig
from hyperinverter.data.image_source import ImageSource, Subset
from hyperinverter.data.loader import Batches
from hyperinverter.data.sources import open_source
from hyperinverter.editing.learn import read_labels, rows_of
from hyperinverter.evaluation.editability import choose_photos
from hyperinverter.evaluation.reconstructing import Reconstructor
from hyperinverter.evaluation.reconstruction import open_images, originals
from hyperinverter.evaluation.sheet import Row as SheetRow
from hyperinverter.inverters import INVERTERS, Inverter, load
from hyperinverter.inverters.refine import with_rates
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.pretrained.files import part_file
from hyperinverter.pretrained.load import LoadedModel, load_model
from hyperinverter.releases.obtain import obtain, released_name
from hyperinverter.reports.paper.methods import OURS, PHASE_1, Method, check_made, find_method, head_of, model_of
from hyperinverter.utils.files import read_json, write_json
from hyperinverter.utils.text import Row
from hyperinverter.utils.waiting import log_message

READ_AT_ONCE = 16  # images
SHOWN_POOL = 64  # images of the generator that a figure's rows are chosen from


class Bench:
    """Methods and photos of one domain.

    Args:
        makes: whether model files may be converted from released ones that are here.
    Raises:
        UserError, FileNotFoundError: the generator is not there, on which all methods build.
    """

    def __init__(self, config: ReproduceConfig, device: torch.device, makes: bool = True) -> None:
        self.config, self.device, self.output = config, device, Path(config.output)
        base: str | Path = model_of(config)
        if makes:
            base = obtain(base, "generator")
        elif released := released_name(base):
            check_made(released, "generator")
        path = part_file(base, "generator", config.domain.name)
        head = head_of(path)
        self.base, self.generator_hash = str(path.parent), head["hash"]
        made = json.loads(head["config"])
        self.resolution, self.domain_name = int(made["resolution"]), config.domain.name
        self._makes = makes
        self.chosen_rows: list[SheetRow] | None = None  # of figures, see `grids`
        self._loaded: tuple[Method, Inverter] | None = None

    @cached_property
    def methods(self) -> dict[str, Method]:
        """Those of the config by name; looked for when they are asked for."""
        return {
            name: find_method(self.config, name, self.base, self.generator_hash, self._makes)
            for name in self.config.methods
        }

    @property
    def present(self) -> list[Method]:
        return [method for method in self.methods.values() if method.fault is None]

    @property
    def leading(self) -> Method:
        """By whose L2 photos are chosen: both phases, else Phase I, else the first method that is here."""
        names = [method.name for method in self.present]
        return self.methods[next((name for name in (OURS, PHASE_1) if name in names), names[0])]

    def faults(self) -> list[str]:
        """One line per method that cannot be run."""
        return [f"{method.name}: {method.fault}" for method in self.methods.values() if method.fault]

    def load(self, method: Method) -> Inverter:
        """The method, ready; the one that was asked for last stays in memory.

        Raises UserError, FileNotFoundError: its files are damaged, or a network that it optimises with is not there.
        """
        if self._loaded is None or self._loaded[0] != method:
            self._loaded = None  # its memory first
            assert method.folder is not None, method.fault
            device, projection, refine = str(self.device), self.config.projection, self.refine_of(method)
            self._loaded = (method, load(method.folder, method.name, device, projection, refine=refine))
        return self._loaded[1]

    def refine_of(self, method: Method) -> RefineConfig:
        """Its steps on what was predicted; 0 of methods that cannot be refined."""
        wanted = self.config.refine if method.refine is None else method.refine
        return wanted if INVERTERS[method.name].refines else RefineConfig()

    def refined(self, method: Method) -> list[Method]:
        """The method once for each of `refine_steps` and each of `refine_edit_consistency`."""
        result = {}
        for weight in self.config.refine_edit_consistency:
            for steps in sorted(set(self.config.refine_steps)):
                wanted = replace(self.config.refine, steps=steps, edit_consistency=weight if steps else 0.0)
                one = replace(method, refine=wanted)
                result[one.label] = one
        return list(result.values())

    def kept(self, method: Method) -> Path:
        """Where Inversions and reconstructions of a method that optimises lie, one of each photo."""
        return self.output / "table1" / method.label / "reconstructions" / method.name

    def reconstructor(self, method: Method, images: Batches) -> Reconstructor:
        return Reconstructor(self.load(method), self.kept(method), images, keep_inversions=True)

    @cached_property
    def model(self) -> LoadedModel:
        """Generator and domain alone."""
        return load_model(self.base, with_hyperinverter=False, with_w_encoder=False)

    @property
    def generator(self) -> Generator:
        return self.model.generator.to(self.device)

    @cached_property
    def source(self) -> ImageSource:
        return open_source(self.config.photos or [], resolution=self.resolution)

    @cached_property
    def labels(self) -> dict[str, Row]:
        """File name -> its row; {} where none are given."""
        return read_labels(self.config.labels) if self.config.labels else {}

    @cached_property
    def people(self) -> list[str | None]:
        """Who is on each photo, where the labels say it."""
        return [row.get("identity") if row else None for row in rows_of(list(self.source.names), self.labels)]

    @cached_property
    def wide(self) -> list[int]:
        """The photos of encoders."""
        count = self.config.table_photos
        return choose_photos([None] * len(self.source), len(self.source) if count is None else count)

    @cached_property
    def narrow(self) -> list[int]:
        """The photos of methods that optimise, some of `wide`, each of another person where labels tell people."""
        places = choose_photos([self.people[index] for index in self.wide], self.config.optimised_photos)
        return [self.wide[place] for place in places]

    def chosen(self, method: Method) -> list[int]:
        return self.narrow if method.optimises else self.wide

    def batches(self, indices: Sequence[int]) -> Batches:
        """Some of the held-out photos."""
        return Batches(Subset(self.source, indices), self.resolution, on_bad_file="refuse", device=self.device)

    def digest(self, indices: Sequence[int]) -> str:
        """Over names and bytes of some of the held-out photos."""
        return Subset(self.source, indices).digest()

    @cached_property
    def shown(self) -> Batches:
        """Photos that may be shown; where none are given, images of the generator."""
        if self.config.shown is None:
            return open_images(DataConfig(kind="generated", num_generated=SHOWN_POOL), self.generator, self.device)
        return open_images(DataConfig(root=self.config.shown, on_bad_file="refuse"), self.generator, self.device)

    @cached_property
    def shown_digest(self) -> str:
        source = self.shown.source
        return source.digest() if isinstance(source, ImageSource) else f"generated {SHOWN_POOL}"

    def credit(self) -> str:
        """Under a figure: what its images are."""
        if self.config.shown is None:
            return "images of the generator, which no photo may stand for"
        return self.config.shown_credit or "photos given as shown"

    def key(self, *parts: Any) -> str:
        """A hash over what a result depends on; plain JSON values."""
        text = json.dumps([hyperinverter.__version__, self.device.type, *parts], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def method_key(self, method: Method) -> list[Any]:
        """What a method's images depend on beside the photo."""
        projection = asdict(self.config.projection) if method.optimises else None
        refine = with_rates(self.refine_of(method), "tokens" in INVERTERS[method.name].refines)
        return [method.name, method.weights, projection, *([asdict(refine)] if refine.steps else [])]

    def methods_key(self) -> list[Any]:
        return [self.method_key(method) for method in self.present]

    def found(self, path: Path, key: str, pictures: Sequence[Path] = ()) -> dict[str, Any] | None:
        """What lies at `path`, where it was made under this key and its pictures are there."""
        known = read_json(path)
        return known if known and known.get("key") == key and all(map(Path.is_file, pictures)) else None

    def keep(self, path: Path, key: str, result: dict[str, Any]) -> dict[str, Any]:
        """Write a finished result under its key."""
        kept = {"key": key, **result}
        write_json(path, kept)
        return kept

    def reconstructions(
        self, images: Batches, indices: Sequence[int], methods: Sequence[Method] | None = None
    ) -> Iterator[tuple[Method, Tensor]]:
        """Method after method its reconstructions [N,3,R,R] of some images, on the CPU."""
        photos, names = photos_at(images, indices)
        for method in self.present if methods is None else methods:
            log_message(f"{method.title}: {len(names)} photos")
            yield method, self.reconstructor(method, images)(photos.to(self.device), names)[0].cpu()


def photos_at(images: Batches, indices: Sequence[int]) -> tuple[Tensor, list[str]]:
    """Some of the images, rounded [N,3,R,R] on the CPU, and their names, in the given order."""
    names = [images.names[index] for index in indices]
    result = originals(images, names, READ_AT_ONCE)
    return torch.stack([result[name] for name in names]), names
