"""The command scripts/download.py: fetch by name, and make model folders of released models."""

import re
from pathlib import Path

from hyperinverter.config.model_schema import DownloadConfig
from hyperinverter.releases.catalog import (
    VECTORS,
    CatalogEntry,
    aligned,
    download_folder,
    entries_of,
    listing,
    released_models,
)
from hyperinverter.releases.download import Mirror, download_entry
from hyperinverter.releases.obtain import make_model, missing_parts, missing_vectors
from hyperinverter.releases.transfer import Limits
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.text import expanded


def download(config: DownloadConfig) -> None:
    """The command: fetch entries by name; names of models are fetched and converted into model folders."""
    if config.list or not config.names:
        print(listing())
        return
    root, mirror, limits = _settings(config)
    failed = {}
    for entry in _wanted(config, root):
        if made := entry.find_made(root):
            print(f"{entry.name}: is here: {made}")
            continue
        try:
            path = download_entry(entry, root, mirror, limits)
        except UserError as error:
            if entry.kind not in VECTORS or entry.name in config.names:
                raise
            failed[entry.name] = error  # a model works without its directions
            continue
        if entry.makes and config.convert:
            from hyperinverter.releases.convert import make_network  # brings torch along

            print(f"{entry.name}: ready in {make_network(entry, path, root)}")
    for name in config.names:
        if config.convert and name in released_models():
            print(f"{name}: ready in {make_model(name, root=root)}")
    for error in failed.values():
        print(error)


def _wanted(config: DownloadConfig, root: Path | None) -> list[CatalogEntry]:
    """Entries to fetch: of a model that will be converted, none that it has already."""
    result = {}
    for name in config.names:
        model = released_models().get(name) if config.convert else None
        ready = model is not None and model.is_generator_only and not missing_parts(name, root=root)
        spared = [*(model.entries() if ready else []), *model.vectors()] if model else []
        kept = missing_vectors(name, root) if model else []
        result |= {each.name: each for each in entries_of([name]) if each not in spared or each in kept}
    return list(result.values())


def dry_run(config: DownloadConfig) -> str:
    root, mirror, _ = _settings(config)
    if not config.names:
        return "nothing is named: it would list what there is"
    rows = [("name", "from", "to", "size", "licence")]
    for entry in _wanted(config, root):
        size = f"{entry.size / 1e6:.0f} MB" if entry.size else f"~{entry.about_mb} MB" if entry.about_mb else "?"
        target = (root or download_folder()) / entry.relative
        here = entry.find_made(root) or entry.find(root)
        for number, address in enumerate(mirror.addresses(entry)):
            source = "is here" if here else address
            rows.append((entry.name if not number else "  or", source, str(here or target), size, entry.licence_text))
            if here:
                break
    return "\n".join(aligned(rows))


def _settings(config: DownloadConfig) -> tuple[Path | None, Mirror, Limits]:
    if config.base_url and config.hub:
        raise UserError(f"base_url ({config.base_url}) and hub ({config.hub}) are both given; give one of them")
    if config.hub and not re.fullmatch(r"[\w.-]+/[\w.-]+(@\S+)?", config.hub):
        raise UserError(f"hub is {config.hub!r}; write OWNER/REPO or OWNER/REPO@REVISION")
    if config.attempts < 1 or not config.max_gib > 0:
        raise UserError(f"attempts ({config.attempts}) must be 1 or more, and max_gib ({config.max_gib}) above 0")
    root = expanded(config.output) if config.output else None
    limits = Limits(attempts=config.attempts, max_bytes=int(config.max_gib * 2**30))
    return root, Mirror(config.base_url, config.hub), limits
