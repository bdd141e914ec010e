"""Lay out a published dataset as the paper used it: split, counted, and without one photo in two splits.

Sources: CelebA-HQ (Karras et al., ICLR 2018) in the numbering of CelebAMask-HQ (Lee et al., CVPR 2020), whose
`CelebA-HQ-to-CelebA-mapping.txt` names each image's CelebA original; CelebA's `list_eval_partition.txt` splits those
(Liu et al., ICCV 2015). FFHQ (Karras et al., CVPR 2019). LSUN church outdoor (Yu et al., 2015). HyperInverter trains on
all of FFHQ and tests on CelebA-HQ's test part, and uses LSUN's own split.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from hyperinverter.config.schema import PrepareConfig
from hyperinverter.data.image_source import ImageSource
from hyperinverter.data.sources import open_source, spare_inputs
from hyperinverter.utils.checkout import command_of
from hyperinverter.utils.decode import BadImageError, decode_image
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.files import write_atomically, write_json
from hyperinverter.utils.images import contact_sheet
from hyperinverter.utils.output_names import OutputNames
from hyperinverter.utils.text import bounded_lines, counted

PARTITIONS = ("train", "validation", "test")  # 0, 1, 2 in list_eval_partition.txt
HASH_SIDE = 16  # a fingerprint has 16 x 16 bits
SAME_BITS = 10  # fingerprints that differ in at most this many are of one photo; of two faces some 60 to 130 differ
SHOWN = 8  # pairs, or images of a split, on a sheet
CELL = 128  # px
SUFFIXES = (".webp", ".jpg", ".png")  # of images whose key in a database has none


@dataclass(frozen=True)
class Dataset:
    """What a whole copy of a dataset holds.

    Attributes:
        counts: split -> images; a split that is not named here is not expected.
        side: the shorter side of every image in px, None where it differs.
    """

    counts: dict[str, int] = field(default_factory=dict)
    side: int | None = None


DATASETS = {
    "celeba_hq": Dataset({"train": 24_183, "validation": 2_993, "test": 2_824}),
    "ffhq": Dataset({"train": 70_000}),
    "lsun_church": Dataset({"train": 126_227, "test": 300}, side=256),
    "folder": Dataset(),
}


@dataclass
class Found:
    """One image of a split: its name there, the source and its number in it."""

    name: str
    source: ImageSource
    index: int


def prepare_data(config: PrepareConfig) -> dict[str, int]:
    """Write `output/train`, `output/test` and so on, and `prepare.json`, `sheet.png` and, if any, `duplicates.png`.

    Files are linked where the disk allows it and copied otherwise, as they are. What is written already is not written
    again, so an interrupted run goes on.

    Returns:
        Split -> images.
    Raises:
        UserError: images are missing, of another size, unreadable, or a photo stands in two splits; nothing is written
            before names and counts are right.
    """
    output = Path(config.output)
    splits = _splits(config)
    _check_counts(config, splits)
    _check_output(splits, output)
    duplicates, sizes = _write(config, splits, output)
    counts = {split: len(images) for split, images in splits.items()}
    report: dict[str, Any] = {
        "dataset": config.dataset,
        "counts": counts,
        "shorter_sides_px": {split: dict(sorted(found.items())) for split, found in sizes.items()},
        "duplicates": [[f"{a[0]}/{a[1].name}", f"{b[0]}/{b[1].name}"] for a, b in duplicates],
    }
    write_json(output / "prepare.json", report)
    rows = [[one.source.read(one.index) for one in images[:SHOWN]] for images in splits.values()]
    contact_sheet(rows, None, output / "sheet.png", captions=[f"{s}: {n:,}" for s, n in counts.items()], cell=CELL)
    if duplicates:
        pairs = [[one.source.read(one.index) for _, one in pair] for pair in duplicates[:SHOWN]]
        captions = [f"{a}\n{b}" for a, b in report["duplicates"][:SHOWN]]
        contact_sheet(pairs, None, output / "duplicates.png", captions, CELL)
        raise UserError(
            f"{len(duplicates)} photos stand in two splits, such as {report['duplicates'][0]}; all are in "
            f"{output / 'prepare.json'}, some to be looked at in duplicates.png. Remove each from one of its splits: "
            f"from {output}, and from where it came"
        )
    print(f"{', '.join(f'{n:,} {split}' for split, n in counts.items())} images in {output}; none is in two splits")
    return counts


def dry_run(config: PrepareConfig) -> str:
    splits = _splits(config)
    _check_counts(config, splits)
    _check_output(splits, Path(config.output))
    rows = (f"{Path(config.output) / split}: {len(images):,} images" for split, images in splits.items())
    return "\n".join(rows)


def celeba_hq_partition(mapping: Iterable[str], partition: Iterable[str]) -> dict[int, str]:
    """Number of a CelebA-HQ image -> its split.

    Args:
        mapping: lines of CelebA-HQ-to-CelebA-mapping.txt: rows `idx orig_idx orig_file` below a heading.
        partition: lines of list_eval_partition.txt: rows `000001.jpg 0`, where 0, 1, 2 are train, validation, test.
    Raises:
        UserError: a row of another form, or an image whose original is in no split; names it.
    """
    split_of = {}
    for number, row in enumerate(partition, 1):
        words = row.replace(",", " ").split()
        if not words or words[0] == "image_id":  # Kaggle's CSV has a heading
            continue
        if len(words) != 2 or words[1] not in ("0", "1", "2"):
            raise UserError(f"partition, line {number}: expected `000001.jpg 0`, got {row[:60]!r}")
        split_of[words[0]] = PARTITIONS[int(words[1])]
    result = {}
    for number, row in enumerate(mapping, 1):
        words = row.split()
        if not words or words[0] == "idx":
            continue
        if len(words) != 3 or not words[0].isdecimal() or len(words[0]) > 9:
            raise UserError(f"mapping, line {number}: expected `0 119613 119614.jpg`, got {row[:60]!r}")
        if words[2] not in split_of:
            raise UserError(
                f"mapping, line {number}: {words[2]} is not in the partition file; both must be CelebA's own"
            )
        result[int(words[0])] = split_of[words[2]]
    return result


def fingerprint(image: Image.Image) -> np.ndarray:
    """256 bits, uint8 [32]: whether each of 16 x 17 grey cells is lighter than the one left of it.

    Re-encoding and resizing hardly change it. Source: the difference hash (N. Krawetz, "Kind of like that", 2013).
    """
    grey = image.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX)
    cells = np.asarray(grey, np.int16)
    return np.packbits(cells[:, 1:] > cells[:, :-1])


def same_photos(first: np.ndarray, second: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of rows of two sets of fingerprints [n, 32] and [m, 32] that differ in at most SAME_BITS bits."""
    first, second = (np.ascontiguousarray(rows).view(np.uint64) for rows in (first, second))  # [n, 4]
    for index, row in enumerate(first):
        differing = np.bitwise_count(second ^ row).sum(axis=1)
        for other in np.flatnonzero(differing <= SAME_BITS):
            yield index, int(other)


def _splits(config: PrepareConfig) -> dict[str, list[Found]]:
    data = config.data
    if data.root is None:
        raise UserError(f"no images given: name a folder, .zip or LMDB, e.g. {command_of('prepare_data')} photos/")
    source = open_source(data.root, max_images=data.max_images, max_megapixels=data.max_megapixels)
    if config.dataset == "celeba_hq":
        return _celeba_hq(config, source)
    splits = {"train": source}
    if config.test_root is not None:
        splits["test"] = open_source(config.test_root, max_megapixels=data.max_megapixels)
    result = {}
    for split, images in splits.items():
        names = OutputNames()
        result[split] = [
            Found(names.path(name, Path(name).suffix.lower()), images, index) for index, name in enumerate(images.names)
        ]
    return result


def _celeba_hq(config: PrepareConfig, source: ImageSource) -> dict[str, list[Found]]:
    assert config.mapping is not None and config.partition is not None  # the config's checks ask for both
    split_of = celeba_hq_partition(bounded_lines(Path(config.mapping)), bounded_lines(Path(config.partition)))
    splits: dict[str, dict[int, Found]] = {split: {} for split in PARTITIONS}
    for index, name in enumerate(source.names):
        stem, suffix = os.path.splitext(name.rsplit("/", 1)[-1])
        if not stem.isdecimal() or len(stem) > 9 or int(stem) not in split_of:
            raise UserError(
                f"{name}: CelebA-HQ's images are named by their number, 0 to {max(split_of, default=0)}, such as "
                "17.jpg; leave other images out of data.root"
            )
        number = int(stem)
        split = splits[split_of[number]]
        if number in split:
            raise UserError(f"{name}: image {number} is there twice, as {source.names[split[number].index]} too")
        split[number] = Found(f"{number:05}{suffix.lower()}", source, index)
    return {split: [images[number] for number in sorted(images)] for split, images in splits.items() if images}


def _check_counts(config: PrepareConfig, splits: dict[str, list[Found]]) -> None:
    expected = DATASETS[config.dataset].counts
    if config.incomplete or not expected:
        return
    faults = [
        f"{split}: {len(splits.get(split, ())):,} images, all are {count:,}"
        for split, count in expected.items()
        if len(splits.get(split, ())) != count
    ]
    if faults:
        raise UserError(
            f"this is not the whole of {config.dataset}: {'; '.join(faults)}. Complete it, or write incomplete=true to "
            "work with a part; results then do not compare with published ones"
        )


def _check_output(splits: dict[str, list[Found]], output: Path) -> None:
    """Refuse folders of splits with images of an earlier run: what was removed from a dataset would stay in use."""
    for split in dict.fromkeys((*splits, *PARTITIONS)):
        names = {name for image in splits.get(split, ()) for name in _possible_names(image)}
        folder = output / split
        written = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        others = sorted(name for path in written if (name := path.relative_to(folder).as_posix()) not in names)
        if others:
            raise UserError(
                f"{folder}: has {len(others):,} files that are not of this dataset's {split} images, such as "
                f"{others[0]}; remove them, or give another output=FOLDER"
            )


def _possible_names(image: Found) -> list[str]:
    """What the file of an image may be called in its split's folder; an image of a database may have no suffix."""
    return [image.name] if Path(image.name).suffix else [image.name + suffix for suffix in SUFFIXES]


def _write(
    config: PrepareConfig, splits: dict[str, list[Found]], output: Path
) -> tuple[list[tuple[tuple[str, Found], tuple[str, Found]]], dict[str, Counter]]:
    """Link or copy every image; pairs of one photo in two splits, and per split how many images have which side."""
    places = {id(images[0].source): images[0].source.places() for images in splits.values()}
    inputs = {place for each in places.values() for place in each}
    side = DATASETS[config.dataset].side
    prints: dict[str, np.ndarray] = {}
    sizes: dict[str, Counter] = {}
    bad: list[str] = []
    for split, images in splits.items():
        rows, sizes[split] = np.zeros((len(images), HASH_SIDE**2 // 8), np.uint8), Counter()
        for number, image in enumerate(tqdm(images, desc=split, unit="image", mininterval=1)):
            original_name = image.source.names[image.index]
            try:
                content = image.source.checked_bytes(image.index)
                picture = decode_image(content, original_name, config.data.max_megapixels)
                shorter = min(picture.size)
                if side is not None and shorter != side:
                    fault = f"is {shorter} px on its shorter side; {config.dataset} has {side}"
                    raise BadImageError(original_name, fault)
            except BadImageError as error:
                bad.append(str(error))
                continue
            sizes[split][shorter] += 1
            rows[number] = fingerprint(picture)
            target = output / split / (image.name if Path(image.name).suffix else image.name + _suffix(content))
            spare_inputs(target, inputs)
            original = places[id(image.source)][image.index] if image.source.container is None else None
            _place(original, content, target)
        prints[split] = rows
    if bad:
        listed = "\n  ".join(bad[:SHOWN] + ["..."] * (len(bad) > SHOWN))
        raise UserError(
            f"{counted(len(bad), 'image')} cannot be used; replace or remove them, the rest is done:\n  {listed}"
        )
    names = list(splits)
    duplicates = [
        ((a, splits[a][i]), (b, splits[b][j]))
        for number, a in enumerate(names)
        for b in names[number + 1 :]
        for i, j in same_photos(prints[a], prints[b])
    ]
    return duplicates, sizes


def _suffix(content: bytes) -> str:
    """Of an image whose key in a database has none."""
    return ".webp" if content[8:12] == b"WEBP" else ".jpg" if content[:2] == b"\xff\xd8" else ".png"


def _place(original: Path | None, content: bytes, target: Path) -> None:
    """Link the image's own file, or write what it holds, unless it is there already."""
    if target.is_file() and target.stat().st_size == len(content) and target.read_bytes() == content:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if original is not None:
        try:
            target.unlink(missing_ok=True)
            os.link(original, target)
            return
        except OSError:  # another disk, or one without links
            pass
    with write_atomically(target) as temporary:
        temporary.write_bytes(content)
