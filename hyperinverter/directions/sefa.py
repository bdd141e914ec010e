"""SeFa: directions from a generator's own weights, without samples, photos or labels.

Source: SeFa (Shen and Zhou, "Closed-Form Factorization of Latent Semantics in GANs", CVPR 2021, arXiv:2007.06600),
section 3.2, as the authors' code does it: what changes a layer's styles most are the eigenvectors of A^T A, where the
rows of A are the unit vectors along which single channels of the chosen layers read w. Image heads do not count.
Letters: L styles, C channels of all chosen layers, K = w_dim components.
"""

import re
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hyperinverter.directions.direction import Direction
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.models.target_layers import target_layers
from hyperinverter.pretrained.load import hash_of

HEAD = re.compile(r"(.*\.)?(torgb|to_img)\..*")


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


def factors(generator: Generator, start: int, end: int) -> tuple[Tensor, Tensor]:
    """Components [K, w_dim], unit vectors, the strongest first, and their eigenvalues [K].

    A component's sign is free; here its largest entry is positive, so that every machine gives the same.
    """
    matrix = style_matrix(generator, start, end)
    values, vectors = torch.linalg.eigh(matrix.T @ matrix)  # rising; columns are the components
    vectors = vectors.flip(1).T
    largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    return (vectors * largest.sign()).float(), values.flip(0).clamp(min=0).float()


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
        """`factors`, computed once."""
        if (start, end) not in self._ranges:
            self._ranges[start, end] = factors(self.generator, start, end)
        return self._ranges[start, end]

    def named(self, text: str) -> Direction:
        """COMPONENT:START-END, which moves the styles by whose layers it was found.

        Raises ValueError: it is not written so, or there is no such component or style.
        """
        found = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})-([0-9]{1,9})", text)
        component, start, end = map(int, found.groups()) if found else (0, 0, 0)
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
