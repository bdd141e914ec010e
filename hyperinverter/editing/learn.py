"""Learn a direction from labelled codes with a linear SVM in W: its unit normal, or how codes move along it.

Source: InterFaceGAN (Shen et al., CVPR 2020), section 3.1; here on the codes of real photos (E1) with their labels.
`pattern`: Haufe et al., NeuroImage 2014, equation 6: the weights of a classifier say what separates the classes, the
covariance times the weights what changes with them. Where W's spread is very uneven the normal leans to dimensions in
which codes hardly vary, and moving along it changes little in the image; the pattern does not, but takes along all that
comes with the attribute, background and light included. `shrunk` lies between them: (S + k m I)^-1 S n for covariance
S, mean variance m and normal n is the normal for k = 0 and the pattern for large k.
"""

import csv
import hashlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from hyperinverter.directions.direction import Direction
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.text import Row, bounded_lines, expanded, printable, rows_within

FILE_COLUMNS = ("file", "image_id", "filename", "file_name", "image", "name")  # of a CSV, the first that is there
ESTIMATES = ("normal", "shrunk", "pattern")
SHRINKAGE = 2.5  # k of `shrunk`: the attribute shows, and dimensions that vary much for other reasons count less
REGULARISATION_C = 1.0  # inverse strength of the SVM's ridge, on codes scaled to unit mean square


def learn_direction(
    ws: Tensor,
    labels: np.ndarray,
    held_out: np.ndarray,
    *,
    name: str = "direction",
    generator_hash: str = "",
    estimate: str = "normal",
) -> tuple[Direction, dict[str, float]]:
    """Fit a linear SVM with balanced class weights and take a unit vector that points to the positive class.

    Args:
        ws: codes, [n, w_dim].
        labels: bool [n], whether the photo has the attribute.
        held_out: bool [n], photos kept out of the fit, on which accuracy is measured.
        estimate: `normal`, the SVM's normal (InterFaceGAN); `pattern`, the codes' covariance times that normal; or
            `shrunk`, between the two.
    Returns:
        The direction, and its figures, which are also in `direction.info`: accuracy and balanced_accuracy (mean of the
        two classes' accuracies) of the SVM on held-out photos, both in [0, 1]; n_train, n_held_out; positive_fraction;
        projection_mean and projection_std of w·d, and class_distance between the classes' means of w·d, in units of W.
    Raises:
        ValueError: arrays of different lengths, or an unknown estimate.
        UserError: fewer than two photos of a class to learn from, or a class without held-out photos.
    """
    from sklearn.svm import LinearSVC

    labels, held_out = np.asarray(labels, bool), np.asarray(held_out, bool)
    if ws.ndim != 2 or not len(ws) == len(labels) == len(held_out):
        got = f"ws {tuple(ws.shape)}, {len(labels)} labels, {len(held_out)} held_out"
        raise ValueError(f"{got}; expected [n, w_dim], n and n")
    if estimate not in ESTIMATES:
        raise ValueError(f"estimate is {estimate!r}; write one of {', '.join(ESTIMATES)}")
    check_classes(labels, held_out, name)
    codes = ws.double().numpy()
    mean, scale = codes[~held_out].mean(0), codes[~held_out].std()  # one scale for all: it does not turn the normal
    svm = LinearSVC(C=REGULARISATION_C, class_weight="balanced", dual=False, max_iter=5000)
    svm.fit((codes[~held_out] - mean) / scale, labels[~held_out])
    predicted = svm.predict((codes[held_out] - mean) / scale)
    right = predicted == labels[held_out]
    vector = svm.coef_[0]
    if estimate != "normal":
        covariance = np.cov(codes[~held_out], rowvar=False)
        vector = covariance @ vector
        if estimate == "shrunk":
            ridge = SHRINKAGE * covariance.trace() / len(covariance)
            vector = np.linalg.solve(covariance + ridge * np.eye(len(covariance)), vector)
    vector = vector / np.linalg.norm(vector)
    projections = codes[~held_out] @ vector
    positive = labels[~held_out]
    figures = {
        "accuracy": float(right.mean()),
        "balanced_accuracy": float(np.mean([right[labels[held_out] == value].mean() for value in (True, False)])),
        "n_train": int((~held_out).sum()),
        "n_held_out": int(held_out.sum()),
        "positive_fraction": float(labels.mean()),
        "projection_mean": float(projections.mean()),
        "projection_std": float(projections.std()),
        "class_distance": float(projections[positive].mean() - projections[~positive].mean()),
    }
    return Direction(name, torch.from_numpy(vector), dict(figures), generator_hash), figures


def check_classes(labels: np.ndarray, held_out: np.ndarray, name: str) -> None:
    """Refuse classes that are too small; arguments as `learn_direction`."""
    for part, mask, least in (("to learn from", ~held_out, 2), ("held out", held_out, 1)):
        counts = {"with": int((labels & mask).sum()), "without": int((~labels & mask).sum())}
        for what, count in counts.items():
            if count < least:
                raise UserError(
                    f"{name}: {count} photos {part} {what} the attribute; at least {least} are needed: give more "
                    f"photos, another column, or another held_out_fraction"
                )


def read_labels(path: str | Path) -> dict[str, Row]:
    """File name -> its row, from a CSV (.gz allowed) with one of FILE_COLUMNS, or a list as CelebA's are.

    Raises FileNotFoundError: no such file. UserError: no `file` column, no rows, or a file twice.
    """
    path = expanded(path)
    if not path.is_file():
        raise FileNotFoundError(f"labels: {path}: no such file; give a CSV (.gz allowed) with a `file` column")
    try:
        lines = bounded_lines(path)
        first = next(lines, "")
        if first.strip().isdigit():  # CelebA's lists: the number of rows, the columns, then rows between spaces
            columns = ["file", *next(lines, "").split()]
            fields = (line.split() for line in lines if line.strip())
        else:
            reader = csv.reader(chain([first], lines), delimiter=next((mark for mark in ",;\t" if mark in first), ","))
            columns = next(reader, [])
            fields = (row for row in reader if row)
        named = next((column for column in columns if column.strip().lower() in FILE_COLUMNS), None)
        if named is None:
            message = printable(", ".join(columns[:20]), longest=300)
            raise UserError(f"labels: {path}: has columns {message}; one must be called `file` (or {FILE_COLUMNS[1]})")
        rows = rows_within(["file" if column == named else column for column in columns], fields, path.stat().st_size)
    except (OSError, EOFError, ValueError, csv.Error, zlib.error) as error:  # UnicodeDecodeError is a ValueError
        raise UserError(
            f"labels: {path}: not readable as CSV ({error}); save it as UTF-8, .gz only if packed"
        ) from error
    rows = [row for row in rows if row["file"]]
    if not rows:
        raise UserError(f"labels: {path}: has no rows below its head line")
    labels = {row["file"]: row for row in rows}
    if len(labels) < len(rows):
        raise UserError(f"labels: {path}: {len(rows) - len(labels)} files are listed more than once; keep one row each")
    return labels


def rows_of(names: list[str], labels: dict[str, Row]) -> list[Row | None]:
    """The label row of each image: by its whole name, else its file name without folders, else without suffix, as
    photos that were aligned are .png; None without a row."""
    stems: dict[str, Row | None] = {}
    for name, row in labels.items():
        stem = PurePosixPath(name).stem
        stems[stem] = None if stem in stems else row  # a.jpg and a.png are distinguished by their whole names only
    paths = [PurePosixPath(name) for name in names]
    return [
        labels.get(name) or labels.get(path.name) or stems.get(path.stem)
        for name, path in zip(names, paths, strict=True)
    ]


def check_column(rows: Iterable[Mapping[str, str | None]], column: str) -> str:
    """The name of a labels' column without the "-" that flips it. Raises UserError: no such column (lists them)."""
    name, row = column.removeprefix("-"), next(iter(rows))
    if name not in row:
        message = printable(", ".join(key for key in row if key != "file"), longest=400)
        raise UserError(f"labels have no column {name!r}; columns: {message}")
    return name


def attribute_values(rows: Sequence[Mapping[str, str | None]], column: str) -> np.ndarray:
    """A column of 0/1 (or -1/1, or False/True as pandas writes them) as bool [n]; a leading "-" in `column` flips it.

    Raises UserError: no such column (lists them), or another value in it.
    """
    flip, name = column.startswith("-"), check_column(rows, column)
    words = {"true": "1", "false": "0"}
    values = [(row[name] or "").strip() for row in rows]
    values = [words.get(value.lower(), value) for value in values]
    unknown = sorted(set(values) - {"0", "1", "-1"})
    if unknown:
        shown = ", ".join(map(repr, unknown[:5]))
        raise UserError(
            f"labels column {name!r} has values {shown}; expected 0 or 1 (or -1 or 1): turn scores into classes first, "
            f"such as 1 above the median"
        )
    return (np.array(values) == "1") != flip


def held_out_mask(
    names: list[str], rows: Sequence[Mapping[str, str | None]], fraction: float, seed: int = 0
) -> tuple[np.ndarray, str]:
    """Which photos are kept out of the fit, bool [n], and how they were chosen, in words.

    A `split` column decides when the photos are of more than one split: every split but `train` is held out. Otherwise
    a hash of `seed` and the person (`identity` column), or else the file name, holds out about `fraction` of them, the
    same ones on every run; by person, so that nobody is on both sides.
    """
    splits = [row.get("split", "") for row in rows]
    if "train" in splits and len(set(splits)) > 1:
        return np.array([split != "train" for split in splits]), "the labels' split column: all but train"
    if not 0 < fraction < 1:
        raise ValueError(f"held_out_fraction is {fraction}; write a number between 0 and 1, such as 0.2")
    by_person = all(row.get("identity") for row in rows)
    keys = [row["identity"] if by_person else name for name, row in zip(names, rows, strict=True)]
    hashes = [int(hashlib.sha256(f"{seed} {key}".encode()).hexdigest()[:8], 16) / 2**32 for key in keys]
    how = "person (identity column)" if by_person else "file name"
    return np.array(hashes) < fraction, f"a hash of the {how}, {fraction:g} held out"
