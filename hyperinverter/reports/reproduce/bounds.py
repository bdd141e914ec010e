"""What bounds the two phases: how near an image each of their outputs could come, whoever predicted it.

The generator and the mapper from tokens to weights stay as they are; w, or the tokens, of held-out images are
optimised on given losses from where the encoders put them. What is reached so, generator and mapper can do at least;
the encoders, which see an image once and were trained on further losses (adversarial, edit consistency), stay behind.
Letters: N images, R pixels.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from hyperinverter.evaluation.reconstructing import rounded
from hyperinverter.inverters.hyperinverter import HyperInverter
from hyperinverter.losses import TotalLoss
from hyperinverter.metrics.base import PerImageMetric, bootstrap_interval, bootstrap_ratio
from hyperinverter.models.hyperinverter import HyperInverterNetwork

# Adam's first rates, which fall to 0: numbers of W lie about 1 apart between samples, those of tokens are some tenths
W_RATE, TOKEN_RATE = 0.05, 0.1


def measure_bounds(
    inverter: HyperInverter,
    batches: Iterable[Tensor],
    steps: int,
    losses: TotalLoss,
    metrics: Sequence[PerImageMetric],
) -> dict[str, Any]:
    """Predicted and optimised codes over all batches.

    Args:
        batches: images [N, 3, R, R] in [-1, 1] on the inverter's device.
        steps: updates of Adam for each.
        losses: what is minimised; their weighted sum.
        metrics: what is measured of the images, rounded to 8 bits.
    Returns:
        `images`, the protocol, and `metrics`: name -> what was optimised -> mean and interval_95; but for the first
        also `ratio` to the first, and ratio_interval_95.
    """
    result: dict[str, dict[str, list[Tensor]]] = {metric.name: {} for metric in metrics}
    for images in batches:
        for what, rendered in _best_codes(inverter.network, images, steps, losses).items():
            with torch.no_grad():
                for metric in metrics:
                    value = metric.per_image(images, rounded(rendered.float())).cpu()
                    result[metric.name].setdefault(what, []).append(value)
    kept = "" if inverter.network.hypernetwork.lowest_token is None else ", kept at 0 or above"
    values = {name: {what: torch.cat(parts).numpy() for what, parts in each.items()} for name, each in result.items()}
    return {
        "images": len(next(iter(next(iter(values.values())).values()))),
        "steps": steps,
        "losses": losses.weights,
        "optimiser": f"Adam, rates {W_RATE} (w) and {TOKEN_RATE} (tokens{kept}) falling to 0",
        "metrics": {name: _against_the_first(each) for name, each in values.items()},
    }


def _against_the_first(values: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    first, *_ = values.values()
    result = {}
    for what, each in values.items():
        result[what] = {"mean": float(each.mean()), "interval_95": list(bootstrap_interval(each))}
        if each is not first:
            interval = list(bootstrap_ratio(first, each))
            result[what] |= {"ratio": float(each.mean() / first.mean()), "ratio_interval_95": interval}
    return result


def _best_codes(network: HyperInverterNetwork, images: Tensor, steps: int, losses: TotalLoss) -> dict[str, Tensor]:
    """What was optimised -> the images that came of it [N, 3, R, R]."""
    with torch.no_grad():
        predicted = network(images)
    w, styles = predicted.w.clone(), network.generator.num_ws
    tokens = {name: token.clone() for name, token in predicted.tokens.items()}

    def render_w() -> Tensor:
        return network.render(w[:, None].expand(-1, styles, -1))

    def render_tokens() -> Tensor:
        return network.render(predicted.ws, tokens)

    optimise([w], lambda: losses(render_w(), images)[0] * len(images), steps, W_RATE)
    lowest = network.hypernetwork.lowest_token
    optimise(list(tokens.values()), lambda: losses(render_tokens(), images)[0] * len(images), steps, TOKEN_RATE, lowest)
    with torch.no_grad():
        return {
            "w predicted (Phase I)": predicted.w_image,
            "w optimised": render_w(),
            "w and tokens predicted (Phase II)": predicted.reconstruction,
            "w predicted, tokens optimised": render_tokens(),
        }


@torch.enable_grad()
def optimise(
    codes: Sequence[Tensor], loss: Callable[[], Tensor], steps: int, rate: float, lowest: float | None = None
) -> None:
    """Adam on `codes` in place, until `loss()` is small; afterwards they need no gradients.

    Args:
        loss: of what the codes render; a sum over images, so that an image's path does not depend on its batch.
        rate: the first one; it falls linearly to 0.
        lowest: codes are kept from going below it (non-negative tokens end with a ReLU).
    """
    optimizer = torch.optim.Adam([code.requires_grad_() for code in codes], lr=rate)
    for step in tqdm(range(steps), desc="bounds", unit="step", leave=False, mininterval=1.0):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()
        if lowest is not None:
            for code in codes:
                code.data.clamp_(min=lowest)
    for code in codes:
        code.requires_grad_(False)
