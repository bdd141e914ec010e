"""Images changed at random, for few photos: what D sees (adaptively), and what the encoders learn from.

With few photos D learns them by heart. Augmenting whatever it sees, real and generated alike, keeps it from that, and
does not reach the samples as long as every change leaves some images alone (probability at most MAX_P). How often is
steered by how sure D is of the training photos. Source: Karras et al., "Training Generative Adversarial Networks with
Limited Data", NeurIPS 2020 (arXiv:2006.06676), sections 2 and 3, appendix B for the strengths. Of its changes these are
left out: flips and quarter turns, unequal scales, moves by parts of a pixel, inverted brightness; and R1 is taken at
the changed photo, which is what D sees. Beyond the paper, the encoders of both phases may learn from changed photos
too, at a probability that stays; "tilt", "tone" and "blend" are weaker changes, after which a face is still upright and
of a face's colours. Letters: N images, R pixels.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperinverter.utils.distributed import average, own_rows, world_size

MAX_P = 0.8  # above it augmentations begin to show in the samples (section 2.2)
COLOR_DRAWS = 4  # of "color": brightness, contrast, hue and saturation are each changed with probability p
SMOOTHING = 0.1  # of the sign statistic, per step
TILT = math.radians(15)  # of "tilt", the largest angle
# of brightness (sd), contrast and saturation (sd in octaves), and the largest turn of hue
STRENGTHS = {"color": (0.2, 0.5, 1.0, math.pi), "tone": (0.1, 0.2, 0.4, math.pi / 12)}


class RandomChanges:
    """Changes images at random.

    Args:
        kinds: of changes, from `config.schema.AUGMENTATIONS`; [] changes nothing.
        p: how likely each change of an image is.
    """

    def __init__(self, kinds: Sequence[str], p: float, device: torch.device) -> None:
        self.kinds = list(kinds)
        grey = torch.full([3, 3], 1 / 3)  # what is grey of a colour: the projection on (1, 1, 1) / sqrt 3
        cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
        self._grey, self._cross, self._eye = (matrix.to(device) for matrix in (grey, cross, torch.eye(3)))
        self.state = {"p": torch.full([], float(p), device=device)}

    def photos(self, images: Tensor) -> Tensor:
        """As a call does, and kept within [-1, 1] as photos are."""
        return self(images).clamp(-1, 1) if self.kinds else images

    def __call__(self, images: Tensor) -> Tensor:
        """Images [N, 3, R, R] in [-1, 1], every one changed in its own way; gradients flow through."""
        if not self.kinds:
            return images
        with torch.autocast(images.device.type, enabled=False):  # half precision would move places by pixels
            return self._changed(images.float()).to(images.dtype)

    def _changed(self, images: Tensor) -> Tensor:
        moves = self._geometry(len(images), images.shape[-1], images.device)
        if moves is not None:
            grid = F.affine_grid(moves[:, :2], list(images.shape), align_corners=False)
            images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
        for kind in STRENGTHS:
            if kind in self.kinds:
                colours = self._colours(len(images), images.device, kind)  # [N, 4, 4]
                images = (colours[:, :3, :3] @ images.flatten(2) + colours[:, :3, 3:]).reshape(images.shape)
        return self._blended(images) if "blend" in self.kinds else images

    # -- what is drawn, for the whole batch of all processes; own rows kept

    def _rand(self, count: int, device: torch.device) -> Tensor:
        return own_rows(torch.rand(count * world_size(), device=device))

    def _randn(self, count: int, device: torch.device) -> Tensor:
        return own_rows(torch.randn(count * world_size(), device=device))

    def _where(self, value: Tensor, neutral: float) -> Tensor:
        """`value` [N] with probability p, else `neutral`."""
        chosen = self._rand(len(value), value.device) < self.state["p"]
        return torch.where(chosen, value, torch.full_like(value, neutral))

    def _geometry(self, n: int, pixels: int, device: torch.device) -> Tensor | None:
        """Matrices [N, 3, 3] from output to input places in [-1, 1], or None where nothing moves."""
        moves = torch.eye(3, device=device).repeat(n, 1, 1)
        zero = torch.zeros(n, device=device)
        if "translate" in self.kinds:  # by whole pixels, up to an eighth: nothing is resampled
            steps = [(2 * self._rand(n, device) - 1).mul(pixels / 8).round() * (2 / pixels) for _ in range(2)]
            is_moved = self._where(zero + 1, 0.0)
            moves = moves @ _matrix([[1, 0, steps[0] * is_moved], [0, 1, steps[1] * is_moved], [0, 0, 1]], zero)
        if "scale" in self.kinds:
            s = self._where(torch.exp2(self._randn(n, device) * 0.2), 1.0)
            moves = moves @ _matrix([[s, 0, 0], [0, s, 0], [0, 0, 1]], zero)
        for kind, most in (("rotate", math.pi), ("tilt", TILT)):
            if kind in self.kinds:
                angle = self._where((2 * self._rand(n, device) - 1) * most, 0.0)
                cos, sin = angle.cos(), angle.sin()
                moves = moves @ _matrix([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], zero)
        return moves if {"translate", "scale", "rotate", "tilt"} & set(self.kinds) else None

    def _blended(self, images: Tensor) -> Tensor:
        """On one side of a random line, which is up to an eighth of the image wide, images turn into their neighbours.

        With several processes neighbours are those of the same process.
        """
        n, pixels, device = len(images), images.shape[-1], images.device
        angle = (2 * self._rand(n, device) - 1) * math.pi
        place, width = self._rand(n, device) - 0.5, 0.02 + 0.23 * self._rand(n, device)  # of half the image's side
        where = torch.linspace(-1, 1, pixels, device=device)
        across = angle.cos()[:, None, None] * where + angle.sin()[:, None, None] * where[:, None]  # [N, R, R]
        other = ((across - place[:, None, None]) / width[:, None, None]).add(0.5).clamp(0, 1)
        return images.lerp(
            images.roll(1, 0), (other * self._where(torch.ones_like(angle), 0.0)[:, None, None])[:, None]
        )

    def _colours(self, n: int, device: torch.device, kind: str = "color") -> Tensor:
        """Affine maps of RGB, [N, 4, 4]: brightness, contrast, hue, saturation; `kind` is one of STRENGTHS."""
        zero = torch.zeros(n, device=device)
        brightness, contrast, saturation, hue = STRENGTHS[kind]
        b = self._where(self._randn(n, device) * brightness, 0.0)
        colours = _matrix([[1, 0, 0, b], [0, 1, 0, b], [0, 0, 1, b], [0, 0, 0, 1]], zero)
        c = self._where(torch.exp2(self._randn(n, device) * contrast), 1.0)
        colours = _matrix([[c, 0, 0, 0], [0, c, 0, 0], [0, 0, c, 0], [0, 0, 0, 1]], zero) @ colours
        angle = self._where((2 * self._rand(n, device) - 1) * hue, 0.0)[:, None, None]
        turned = angle.cos() * self._eye + angle.sin() * self._cross + (1 - angle.cos()) * self._grey  # Rodrigues
        s = self._where(torch.exp2(self._randn(n, device) * saturation), 1.0)[:, None, None]
        mixed = (self._grey + (self._eye - self._grey) * s) @ turned  # [N, 3, 3]
        whole = F.pad(mixed, (0, 1, 0, 1))
        whole[:, 3, 3] = 1
        return whole @ colours


class Augmentation(RandomChanges):
    """What D sees; follows D.

    Args:
        kinds: of changes, from `config.schema.AUGMENTATIONS`; [] changes nothing.
        target: mean sign of D's logits of training photos that p is steered to; the paper's is 0.6.
        kimg: thousands of images in which p may rise from 0 to 1.
    """

    def __init__(self, kinds: Sequence[str], target: float, kimg: float, device: torch.device) -> None:
        super().__init__(kinds, 0.0, device)
        self.target, self.images_per_unit = target, kimg * 1000
        self.state["sign"] = torch.full([], float(target), device=device)

    def adjust(self, signs: Tensor, batch_size: int) -> None:
        """Move p by one step of `batch_size` images. `signs` []: mean sign of this process's logits of photos."""
        sign, p = self.state["sign"], self.state["p"]
        sign.lerp_(average(signs), SMOOTHING)
        p.add_((sign - self.target).sign() * (batch_size / self.images_per_unit)).clamp_(0, MAX_P)


def _matrix(rows: Sequence[Sequence[Tensor | float]], like: Tensor) -> Tensor:
    """Numbers and [N] tensors -> [N, rows, columns]."""
    return torch.stack([torch.stack([like + entry for entry in row], dim=-1) for row in rows], dim=-2)
