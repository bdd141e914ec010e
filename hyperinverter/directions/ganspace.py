"""Directions without labels: GANSpace's principal components of W, and SeFa's of the generator's own weights.

Sources: GANSpace (Härkönen et al., NeurIPS 2020, arXiv:2004.02546), as HyperInverter edits with it (its section 4.3): a
component on a range of styles, with an absolute coordinate. SeFa (Shen and Zhou, "Closed-Form Factorization of Latent
Semantics in GANs", CVPR 2021, arXiv:2007.06600), section 3.2, as the authors' code does it: what changes a layer's
styles most are the eigenvectors of A^T A, where the rows of A are the unit vectors along which single channels of the
chosen layers read w. Image heads do not count.
Letters: N images, L styles, K components, n samples, C channels of all chosen layers.
"""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from hyperinverter.directions.direction import SPAN, Direction, check_numbers, is_span
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.models.target_layers import target_layers
from hyperinverter.pretrained.load import hash_of
from hyperinverter.published.reading import read_published
from hyperinverter.published.vectors import Space, pca_of, write_pca
from hyperinverter.utils.errors import UserError

CHUNK = 5000  # samples mapped at a time
BAR_SAMPLES = 200_000  # fewer are drawn in seconds and show no bar
HEAD = re.compile(r"(.*\.)?(torgb|to_img)\..*")


@dataclass(frozen=True)
class Edit:
    """A component on the styles start ... end - 1; `strength`: standard deviations from the mean, where published."""

    component: int
    start: int
    end: int
    strength: float | None = None


# HyperInverter's and PTI's tables for their PCA of StyleGAN2 on FFHQ and LSUN church; numbers mean nothing elsewhere.
FACES = {
    "eye_openness": Edit(54, 7, 8, 5.0),
    "trimmed_beard": Edit(58, 7, 9, 7.0),
    "lipstick": Edit(34, 10, 11, 20.0),
    "face_roundness": Edit(37, 0, 5, 20.0),
    "nose_length": Edit(51, 4, 5, -30.0),
    "eyebrow_thickness": Edit(37, 8, 9, 20.0),
    "head_angle_up": Edit(11, 1, 4, -10.5),
    "displeased": Edit(36, 4, 7, 10.0),
}
CHURCH = {
    "clouds": Edit(20, 7, 9, -20.0),
    "vibrant": Edit(8, 12, 14, -20.0),
    "blue_skies": Edit(11, 9, 14, 9.9),
    "trees": Edit(12, 5, 6, -19.1),
}
PUBLISHED = {**FACES, **CHURCH}


@dataclass
class AbsoluteDirection(Direction):
    """Sets how far codes stand along a component, where other directions add to it.

    The published formula: with c = ((w_0 - mean)·v) / std of the first style, the styles start ... end - 1 move by
    (strength - c)·std·v. The strength γ of `edit` is strength·std here, a distance in W from the mean; in
    strength_unit=std it is the published number. Strength 0 is therefore the mean along v and not "no change".

    Attributes:
        vector: v, [w_dim], as stored (the formula does not scale it).
        mean: of W, [w_dim].
        start, end: styles that move, `end` excluded; what lies beyond the generator's L is left out, as published.
    """

    mean: Tensor = field(kw_only=True)
    start: int = field(kw_only=True)
    end: int = field(kw_only=True)
    adds_vector = False

    def __post_init__(self) -> None:
        self.vector, self.mean = (tensor.detach().float().flatten() for tensor in (self.vector, self.mean))
        if self.vector.shape != self.mean.shape:
            raise ValueError(
                f"direction {self.name!r}: component has {self.vector.numel()} numbers, mean {self.mean.numel()}"
            )
        if not (torch.isfinite(self.vector).all() and torch.isfinite(self.mean).all() and self.vector.any()):
            raise ValueError(f"direction {self.name!r}: component is 0, or it or the mean is not finite")
        if not is_span((self.start, self.end)):
            raise ValueError(f"direction {self.name!r} says that it moves styles {self.start} to {self.end}; {SPAN}")
        check_numbers(self.name, self.info)

    def move(self, ws: Tensor, gamma: Tensor) -> Tensor:
        if self.start >= ws.shape[1]:
            raise UserError(
                f"direction {self.name!r} moves the styles from {self.start} on, this generator has {ws.shape[1]}; "
                f"it was made for a larger generator: leave it out"
            )
        vector, mean = self.vector.to(ws), self.mean.to(ws)
        distance = (ws[:, 0] - mean) @ vector  # [N]
        moved = ws.clone()
        moved[:, self.start : self.end] += (gamma - distance[:, None, None]) * vector
        return moved

    def content(self) -> tuple[dict[str, Tensor], dict]:
        tensors = {"component": self.vector, "mean": self.mean}
        return tensors, {"method": "ganspace", "start": self.start, "end": self.end}


@dataclass
class Pca:
    """Principal components of W.

    Attributes:
        mean: [w_dim]; [1, w_dim] is taken too.
        components: [K, w_dim], unit vectors, the widest first; published files have [K, 1, w_dim].
        stds: [K], standard deviation of W along each.
        generator_hash: the generator whose W it is; "" for a published file.
        source: for `info` of its directions.
    """

    mean: Tensor
    components: Tensor
    stds: Tensor
    generator_hash: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        content = {"mean": self.mean, "comp": self.components, "std": self.stds}
        self.mean, self.components, self.stds = pca_of(content, Space())

    def direction(self, edit: Edit, name: str = "") -> AbsoluteDirection:
        """One component on a range of styles.

        Args:
            edit: which; its strength is written into `info` as the published one.
            name: "" is made from the component's number.
        """
        if not 0 <= edit.component < len(self.stds):
            raise ValueError(f"component {edit.component} of {len(self.stds)}, counted from 0")
        info = {
            "method": "GANSpace: sets the coordinate, in standard deviations from the mean",
            "source": self.source,
            "component": edit.component,
            "styles": [edit.start, edit.end],
            "projection_std": float(self.stds[edit.component]),
        }
        if edit.strength is not None:
            info["published_strength_in_std"] = edit.strength
        vector = self.components[edit.component]
        name = name or f"component_{edit.component}_styles_{edit.start}_{edit.end}"
        return AbsoluteDirection(
            name, vector, info, self.generator_hash, mean=self.mean, start=edit.start, end=edit.end
        )

    def named(self, text: str) -> AbsoluteDirection:
        """A direction by its name in the published tables, or as COMPONENT:START-END."""
        if text in PUBLISHED:
            return self.direction(PUBLISHED[text], text)
        if (place := component_on_styles(text)) is None:
            raise ValueError(
                f"no direction {text!r} in a PCA; write COMPONENT:START-END, such as 54:7-8, or one of "
                f"{', '.join(PUBLISHED)}"
            )
        return self.direction(Edit(*place))


def read_pca(path: str | Path, space: Space | None = None) -> Pca:
    """A PCA as `save_pca`, the published ones (`ffhq_pca.pt`, `church_pca.pt`) or GANSpace's caches (.npz) hold it.

    Args:
        space: of the generator that is to be edited; a PCA of another W is refused. None: of any.
    Raises:
        FileNotFoundError: no such file.
        UserError: unreadable, not a PCA, or of another W; says what it holds.
    """
    file = read_published(path)
    made_for, space = file.metadata.get("generator", ""), space or Space()
    if made_for:
        space = replace(space, w_avg=None)  # the hash tells more than the mean
    try:
        return Pca(*pca_of(file.content, space), made_for, file.path.name)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def save_pca(pca: Pca, path: str | Path) -> None:
    """Write a .safetensors file with the published names and shapes, which `read_pca` reads."""
    write_pca(path, pca.mean, pca.components, pca.stds, pca.generator_hash)


@torch.no_grad()
def fit_pca(generator: Generator, components: int = 80, *, samples: int = 100_000, seed: int = 0) -> Pca:
    """Principal components of a generator's W, exactly, from the covariance of mapped samples in double precision.

    Args:
        generator: without class conditioning.
        components: K, at most w_dim.
        samples: n; GANSpace takes a million.
        seed: of z, drawn on the CPU so that every device sees the same.
    Raises:
        ValueError: more components than dimensions, or no more samples than components.
    """
    if not 1 <= components <= generator.w_dim or samples <= components:
        raise ValueError(
            f"{components} components from {samples} samples of a W with {generator.w_dim} dimensions; expected at "
            f"most {generator.w_dim} components and more samples than components"
        )
    parameter = next(generator.parameters())
    random = torch.Generator().manual_seed(seed)
    total = torch.zeros(generator.w_dim, dtype=torch.float64)
    products = torch.zeros(generator.w_dim, generator.w_dim, dtype=torch.float64)
    origin = None  # near the mean, so that no digits are lost in the difference below
    starts = range(0, samples, CHUNK)
    for start in tqdm(starts, desc="GANSpace", leave=False, disable=samples < BAR_SAMPLES or None):
        z = torch.randn(min(CHUNK, samples - start), generator.z_dim, generator=random).to(parameter)
        w = generator.mapping(z)[:, 0].cpu().double()  # [n, w_dim]
        origin = w.mean(dim=0) if origin is None else origin
        total += (w - origin).sum(dim=0)
        products += (w - origin).T @ (w - origin)
    assert origin is not None
    shift = total / samples
    covariance = (products - samples * torch.outer(shift, shift)) / (samples - 1)
    vectors, variances = strongest_first(covariance)
    stds = variances[:components].sqrt()
    return Pca(origin + shift, vectors[:components], stds, hash_of(generator), f"{samples} samples, seed {seed}")


def strongest_first(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors [D, D] of a symmetric matrix [D, D], in rows, the strongest first, and their eigenvalues [D].

    A vector's sign is free; here its largest entry is positive, so that every machine gives the same.
    """
    values, vectors = torch.linalg.eigh(matrix)  # rising, in columns
    vectors = vectors.flip(1).T
    largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    return vectors * largest.sign(), values.flip(0).clamp(min=0)


def component_on_styles(text: str) -> tuple[int, int, int] | None:
    """COMPONENT:START-END as numbers; None: it is not written so."""
    match = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})-([0-9]{1,9})", text)
    return None if match is None else (int(match[1]), int(match[2]), int(match[3]))


def style_matrix(generator: Generator, start: int, end: int) -> Tensor:
    """How the layers that read the styles start ... end - 1 read w: the rows of A, [C, w_dim], of length 1.

    Raises ValueError: no layer reads one of these styles.
    """
    rows = []
    for layer in target_layers(generator, "all_without_bias"):
        is_affine = re.search(r"\.(affine|modulation)\.weight$", layer.name) and not HEAD.fullmatch(layer.name)
        if is_affine and start <= layer.style_index_true < end:
            rows.append(generator.synthesis.get_parameter(layer.name).detach().double().cpu())
    if not rows:
        raise ValueError(f"no layer but an image head reads the styles {start}-{end}; give a wider range")
    matrix = torch.cat(rows)
    return matrix / matrix.norm(dim=1, keepdim=True)


@dataclass
class Sefa:
    """The factors of one generator, by range of styles."""

    generator: Generator
    source: str = "SeFa: an eigenvector of the layers' style matrices"
    _ranges: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def generator_hash(self) -> str:
        return hash_of(self.generator)

    def at(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Components [K, w_dim] of the layers of these styles, and their eigenvalues [K]."""
        if (start, end) not in self._ranges:
            matrix = style_matrix(self.generator, start, end)
            vectors, values = strongest_first(matrix.T @ matrix)
            self._ranges[start, end] = vectors.float(), values.float()
        return self._ranges[start, end]

    def named(self, text: str) -> Direction:
        """COMPONENT:START-END, which moves the styles by whose layers it was found.

        Raises ValueError: it is not written so, or there is no such component or style.
        """
        component, start, end = component_on_styles(text) or (0, 0, 0)
        if not 0 <= start < end <= self.generator.num_ws:
            raise ValueError(
                f"no direction {text!r}; write COMPONENT:START-END, such as 0:0-4, with styles up to "
                f"{self.generator.num_ws}"
            )
        vectors, values = self.at(start, end)
        if component >= len(vectors):
            raise ValueError(f"component {component} of {len(vectors)}, counted from 0")
        info = {"method": self.source, "component": component, "eigenvalue": float(values[component])}
        name = f"sefa_{component}_styles_{start}_{end}"
        return Direction(name, vectors[component], info, self.generator_hash, (start, end))
