"""Validation losses as means over images, which step was best, and the pictures that go with them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hyperinverter.config.schema import ScheduleConfig
from hyperinverter.data import Batches, validation_batches
from hyperinverter.extractors.resize import at_most
from hyperinverter.utils.distributed import gather_numbered, world_size


@dataclass
class Best:
    """The lowest validation loss since training began (or since `forget`), and the step that had it."""

    loss: float | None = None
    step: int | None = None

    def improves(self, loss: float, step: int) -> bool:
        """Remember this step if its loss is the lowest; NaN never is."""
        if math.isnan(loss) or (self.loss is not None and loss >= self.loss):
            return False
        self.loss, self.step = loss, step
        return True

    def forget(self) -> None:
        """Start anew, because losses from here on are not comparable with those before."""
        self.loss = self.step = None


@torch.no_grad()
def validate(
    losses: Callable[[Tensor, list[str]], dict[str, Tensor]],
    data: Batches,
    schedule: ScheduleConfig,
    device: torch.device,
) -> dict[str, float]:
    """Mean of each loss over the validation images (a smaller last batch counts by its images, not as a batch).

    Several processes share the batches, and all get the numbers that one would get.

    Args:
        losses: images [N,3,R,R] and their names -> loss -> mean over these images []; networks are in eval mode.
    Returns:
        Empty when there are no validation images.
    """
    own: list[tuple[int, int, dict[str, Tensor]]] = []
    for number, images, names in data.own_in_order(schedule.batch_size, schedule.validation_images):
        own.append((number, len(images), losses(images.to(device), names)))
    fetched = [(number, n, {name: float(value) for name, value in values.items()}) for number, n, values in own]
    result = gather_numbered(fetched)
    if not result:
        return {}
    count = sum(n for _, n, _ in result)
    return {name: sum(n * values[name] for _, n, values in result) / count for name in result[0][2]}


def sample_images(data: Batches, fallback: Batches, count: int, device: torch.device) -> Tensor:
    """The images every grid of a run shows: the first validation images, or training images when there are none."""
    for images, _ in validation_batches(data, count, count):
        return images.to(device)
    images, _ = fallback.get(0, count * world_size())  # of which this process holds `count`
    return images.to(device)


def side_by_side(*columns: Tensor) -> Tensor:
    """[N,3,R,R] each -> [N*columns,3,R,R], the columns of one image next to each other; larger ones are reduced."""
    size = min(column.shape[-1] for column in columns)
    return torch.stack([at_most(column.float(), size) for column in columns], dim=1).flatten(0, 1)
