"""The methods of the paper's tables: where the files of each are, what they say of themselves, and what is missing."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hyperinverter.config.report_schema import ReproduceConfig
from hyperinverter.config.schema import RefineConfig
from hyperinverter.inverters import INVERTERS, Inverter
from hyperinverter.pretrained.files import find_model_folder, part_file, search_folders
from hyperinverter.releases.obtain import missing_parts, obtain, released_name
from hyperinverter.utils.checkout import REPOSITORY, command_of
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.safetensors_io import read_head

OURS, PHASE_1 = "hyperinverter", "w_encoder"
TITLES = {PHASE_1: "Phase I", OURS: "both phases"}  # others by their class's


@dataclass(frozen=True)
class Method:
    """One row of the tables.

    Attributes:
        folder: model folder with its files; None where something is missing.
        weights: part -> hash of its file.
        trained: part -> what its file says of its training, see `_training`; the generator's is everybody's.
        fault: what is missing or does not fit, and how to get it.
        refine: in place of the config's.
    """

    name: str
    folder: str | None = None
    weights: dict[str, str] = field(default_factory=dict)
    trained: dict[str, dict[str, Any]] = field(default_factory=dict)
    fault: str | None = None
    refine: RefineConfig | None = None

    @property
    def title(self) -> str:
        title, refine = TITLES.get(self.name, INVERTERS[self.name].title), self.refine
        edits = f", edits {refine.edit_consistency:g}" if refine and refine.edit_consistency else ""
        return f"{title}, refine {refine.steps}{edits}" if refine and refine.steps else title

    @property
    def label(self) -> str:
        """Its name among files and rows."""
        if self.refine is None:
            return self.name
        edits = f"_edits{self.refine.edit_consistency:g}" if self.refine.edit_consistency else ""
        return f"{self.name}_refine{self.refine.steps}{edits}"

    @property
    def optimises(self) -> bool:
        """Whether its seconds are those of steps on every photo."""
        return INVERTERS[self.name].configure is not Inverter.configure


def images_seen(methods: Iterable[Method]) -> dict[str, int]:
    """Title -> images of the last training run, of the methods whose files tell it."""
    images = {method.title: method.trained.get(method.name, {}).get("images") for method in methods}
    return {title: number for title, number in images.items() if number}


def model_of(config: ReproduceConfig) -> str:
    return config.model or config.domain.weights.folder or config.domain.name


def common(config: ReproduceConfig) -> dict[str, Any]:
    """Settings that the commands which make parts have too."""
    return {key: getattr(config, key) for key in ("domain", "device", "threads", "seed", "batch_size")}


def find_method(config: ReproduceConfig, name: str, base: str, generator_hash: str, makes: bool = True) -> Method:
    """Where the method's files are: as `models` says, in the model folder, or where its trainer writes them."""
    run = Path("outputs") / f"{name}_{config.domain.name}" / "model"
    named = config.models.get(name)
    last = INVERTERS[name].parts[-1]  # the part that its trainer writes
    sources = [named] if named else [base, *([str(run)] if (run / f"{last}.safetensors").is_file() else [])]
    faults = []
    for source in sources:
        try:
            folder = obtain(source, *_obtained(name)) if makes else source
            heads = {part: head_of(part_file(folder, part, config.domain.name)) for part in INVERTERS[name].parts}
        except (FileNotFoundError, UserError) as error:
            faults.append(str(error))
            continue
        hashes = {part: head["hash"] for part, head in heads.items()}
        if fault := _misfit(name, heads, generator_hash):
            faults.append(f"{source}: {fault}")
            continue
        own = {part: head for part, head in heads.items() if part != "generator"}
        return Method(name, str(folder), hashes, {part: _training(Path(folder), head) for part, head in own.items()})
    return Method(name, fault=portable(faults[0]))


def missing_files(config: ReproduceConfig) -> list[str]:
    """What the methods lack beside the generator, without which there is no Bench; a line per file."""
    result: dict[str, None] = {}
    for name in config.methods:
        folder = config.models.get(name) or model_of(config)
        for part in [part for part in INVERTERS[name].parts if part != "generator"]:
            try:
                if released := released_name(folder):
                    check_made(released, part)
                else:
                    part_file(folder, part, config.domain.name)
            except FileNotFoundError as error:
                result[f"{part}: {' '.join(portable(str(error)).split())}"] = None
    return list(result)


def check_made(released: str, part: str) -> None:
    """Raises FileNotFoundError: a part of a released model is not converted yet; says what makes it."""
    if missing_parts(released, [part]):
        how = f"{command_of('download')} {released}"
        raise FileNotFoundError(f"{released}: {part}.safetensors is not made yet: {how} fetches the released files")


def portable(text: str) -> str:
    """A message without the folders of this machine, for results that are published."""
    for folder in (REPOSITORY, Path.cwd(), *search_folders()):
        text = text.replace(f"{folder}/", "")
    return text


def _obtained(name: str) -> tuple[str, ...]:
    """Parts as `obtain` names them, by which a released model is made."""
    own = [part for part in INVERTERS[name].parts if part != "generator"]
    return tuple(own or ["generator"])


def _training(folder: Path, head: dict[str, str]) -> dict[str, Any]:
    """`steps` and `images` of the run that wrote a part, its `trunk`, and `precision` where its config is at hand.

    Empty for what was converted from a released file, which says nothing of it.
    """
    info = json.loads(head.get("info", "{}"))
    if "images_seen" not in info:
        return {}
    summary = {"steps": info["step"], "images": info["images_seen"], "trunk": _trunk(json.loads(head["config"]))}
    run = find_model_folder(folder).parent / "config.yaml"  # of the run folder, where trainers write their model folder
    try:
        precision = yaml.safe_load(run.read_text(encoding="utf-8"))["precision"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return summary
    return summary | {"precision": str(precision)}


def _trunk(config: Any) -> dict[str, Any] | None:
    """Kind and sizes of the first trunk in a part's config."""
    if not isinstance(config, dict):
        return None
    if isinstance(config.get("trunk"), str):
        return {key: config.get(key) for key in ("trunk", "input_size", "stem_width", "widths", "depths")}
    return next(filter(None, map(_trunk, config.values())), None)


def _misfit(name: str, heads: dict[str, dict[str, str]], generator_hash: str) -> str | None:
    """Why files do not belong to the generator that all methods are measured with."""
    if (own := heads["generator"]["hash"]) != generator_hash:
        return f"its generator is {own}, the other methods' is {generator_hash}: give a folder of the same generator"
    for part, head in heads.items():
        wanted = json.loads(head.get("requires", "{}")).get("generator", generator_hash)
        if wanted != generator_hash:
            return (
                f"{part}.safetensors was trained for generator {wanted}, this domain's is {generator_hash}: "
                f"train {name} with this one, or give another folder in models"
            )
    return None


def head_of(path: Path) -> dict[str, str]:
    """What a model file says of itself, without its weights. Raises UserError: it is no file of ours."""
    with open(path, "rb") as file:
        try:
            result = read_head(file).metadata
        except ValueError as error:
            raise UserError(f"{path}: no model file ({error}); get or make it again") from error
    if not {"hash", "config"} <= result.keys():
        raise UserError(f"{path}: no model file of this project; get or make it again")
    return result
