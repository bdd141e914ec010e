"""What bounds the two phases: how near an image each of their outputs could come, whoever predicted it.

The generator and the mapper from tokens to weights stay as they are; w, or the tokens, of held-out images are
optimised on L2 from where the encoders put them. What is reached so, generator and mapper can do at least; the
encoders, which see an image once and were trained on other losses too, stay behind it. Letters: N images, R pixels.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from hyperinverter.evaluation.reconstruction import rounded
from hyperinverter.inverters.hyperinverter import HyperInverterInverter
from hyperinverter.metrics.base import bootstrap_interval, bootstrap_ratio
from hyperinverter.models.hyperinverter import HyperInverter

# Adam's first rates, which fall to 0: numbers of W lie about 1 apart between samples, those of tokens are some tenths
W_RATE, TOKEN_RATE = 0.05, 0.1


def measure_bounds(inverter: HyperInverterInverter, batches: Iterable[Tensor], steps: int) -> dict[str, Any]:
    """L2 of predicted and of optimised codes over all batches.

    Args:
        batches: images [N, 3, R, R] in [-1, 1] on the inverter's device.
        steps: updates of Adam for each, on L2 alone.
    Returns:
        `images`, the protocol, and `l2`: what was optimised -> mean and interval_95, of 8-bit images, squared, range
        [-1, 1]; but for the first also `ratio` to the first, and ratio_interval_95.
    """
    found: dict[str, list[Tensor]] = {}
    for images in batches:
        for what, rendered in _best_codes(inverter.network, images, steps).items():
            found.setdefault(what, []).append(_l2(rounded(rendered.float()), images).cpu())
    values = {what: torch.cat(parts).numpy() for what, parts in found.items()}
    first, *_ = values
    l2 = {}
    for what, each in values.items():
        l2[what] = {"mean": float(each.mean()), "interval_95": list(bootstrap_interval(each))}
        if what != first:
            interval = list(bootstrap_ratio(values[first], each))
            l2[what] |= {"ratio": float(each.mean() / values[first].mean()), "ratio_interval_95": interval}
    return {
        "images": len(values[first]),
        "steps": steps,
        "optimiser": f"Adam on L2 alone, rates {W_RATE} (w) and {TOKEN_RATE} (tokens, kept at 0 or above) falling to 0",
        "l2_is": "squared, range [-1,1], images rounded to 8 bits",
        "l2": l2,
    }


def _best_codes(network: HyperInverter, images: Tensor, steps: int) -> dict[str, Tensor]:
    """What was optimised -> the images that came of it [N, 3, R, R]."""
    with torch.no_grad():
        predicted = network(images)
    w, styles = predicted.w.clone(), network.generator.num_ws
    tokens = {name: token.clone() for name, token in predicted.tokens.items()}

    def render_w() -> Tensor:
        return network.render(w[:, None].expand(-1, styles, -1))

    def render_tokens() -> Tensor:
        return network.render(predicted.ws, tokens)

    optimise([w], render_w, images, steps, W_RATE)
    optimise(list(tokens.values()), render_tokens, images, steps, TOKEN_RATE, lowest=0.0)
    with torch.no_grad():
        return {
            "w predicted (Phase I)": predicted.w_image,
            "w optimised": render_w(),
            "w and tokens predicted (Phase II)": predicted.reconstruction,
            "w predicted, tokens optimised": render_tokens(),
        }


@torch.enable_grad()
def optimise(
    codes: Sequence[Tensor],
    render: Callable[[], Tensor],
    images: Tensor,
    steps: int,
    rate: float,
    lowest: float | None = None,
) -> None:
    """Adam on `codes` in place, until `render()` resembles `images` in L2; afterwards they need no gradients.

    Args:
        rate: the first one; it falls linearly to 0.
        lowest: codes are kept from going below it (a predicted token ends with a ReLU).
    """
    optimizer = torch.optim.Adam([code.requires_grad_() for code in codes], lr=rate)
    for step in tqdm(range(steps), desc="bounds", unit="step", leave=False, disable=None):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        optimizer.zero_grad(set_to_none=True)
        _l2(render(), images).sum().backward()  # a sum: an image's path does not depend on the batch
        optimizer.step()
        if lowest is not None:
            for code in codes:
                code.data.clamp_(min=lowest)
    for code in codes:
        code.requires_grad_(False)


def _l2(rendered: Tensor, images: Tensor) -> Tensor:
    """Per image [N]."""
    return (rendered.float() - images).square().mean(dim=(1, 2, 3))
