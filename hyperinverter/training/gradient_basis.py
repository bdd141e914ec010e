"""Hypernetworks that start in the directions in which the losses pull the generator's weights.

Beyond the paper, whose mapper starts at random: a token then changes a layer along random directions, which show as
noise and take long to unlearn. Here the losses' gradients with respect to the residuals are taken for some training
photos at their Phase I image. Their principal components become the mapper's two matrices (higher-order SVD: De
Lathauwer et al., SIAM J. Matrix Anal. Appl. 2000), so that a token of rms 1 is a step as a photo's losses ask for it.
Every layer steps by the same part of its own weights (as LARS: You et al., 2017, arXiv:1708.03888), the part that
lowers the loss most. Tokens start at 0, and so Phase II starts exactly at Phase I.
Letters: P photos, N images, D hidden size, O/I/k as in `hypernetwork`.
"""

from typing import cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from hyperinverter.data.loader import Batches
from hyperinverter.losses import TotalLoss
from hyperinverter.models.hyperinverter import HyperInverterNetwork
from hyperinverter.models.hypernetwork import WeightRegressor

# At least, or all there are; for a long token twice its numbers. Their gradients are kept, 2 bytes a number.
PHOTOS = 128
BATCH = 4
SIZES = (1e-4, 2e-4, 4e-4, 7e-4, 1e-3, 1.4e-3, 2e-3, 4e-3, 1e-2, 3e-2)  # of a step, as a part of each layer's weights
SPARE = 8  # columns more than asked for make the randomised SVD exact enough
HALF_RANGE = 1000.0  # gradients of norm 1 times this are far from float16's smallest numbers


def start_from_gradients(model: HyperInverterNetwork, losses: TotalLoss, data: Batches) -> str:
    """Set the mapper and the last convolution of every weight regressor; returns a sentence for the log.

    Every process computes the same; the training's random numbers stay as they were.

    Args:
        model: before its first step, with `hypernetwork.init: gradients`.
        losses: what Phase II minimises, without its adversarial part.
        data: training photos; the first ones are taken, not mirrored.
    """
    hypernetwork, training = model.hypernetwork, model.training
    model.eval()
    weights = dict(model.generator.synthesis.named_parameters())
    count = min(len(data), max(PHOTOS, 2 * hypernetwork.hidden_size))
    gradients, images, ws = _gradients(model, losses, data, count)
    with torch.no_grad(), torch.random.fork_rng(devices=[images.device] if images.device.type == "cuda" else []):
        torch.manual_seed(0)
        tokens = {}
        for name in hypernetwork.targets:
            tokens[name] = set_mapper(hypernetwork.regressor(name), gradients.pop(name), weights[name])[: len(images)]
        tried = {size: _loss(model, losses, images, ws, tokens, size) for size in (0.0, *SIZES)}
        best = min(SIZES, key=tried.__getitem__)
        for name in hypernetwork.targets:
            _start_at_zero(hypernetwork.regressor(name), best)
    model.train(training)
    return (
        f"mappers start from the gradients of {count} photos: a step of {best:g} of each layer takes the loss of "
        f"{len(images)} of them from {tried[0.0]:.4f} to {tried[best]:.4f}"
    )


def _gradients(
    model: HyperInverterNetwork, losses: TotalLoss, data: Batches, count: int
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Target name -> [P, I, O*k*k], each photo's gradient at norm HALF_RANGE, on the CPU; first images and their ws."""
    result: dict[str, list[Tensor]] = {name: [] for name in model.hypernetwork.targets}
    first: tuple[Tensor, Tensor] | None = None
    device = next(model.hypernetwork.parameters()).device
    with tqdm(total=count, desc="gradients of photos", unit="photo", leave=False, mininterval=1) as bar:
        for batch, _ in data.in_order(BATCH, count):
            images = batch.to(device)
            ws = model.encode(images)[:, None].repeat(1, model.generator.num_ws, 1)
            first = first or (images, ws)
            residuals = {
                name: torch.zeros(len(images), *target.shape, device=device, requires_grad=True)
                for name, target in model.hypernetwork.targets.items()
            }
            loss, _ = losses(model.synthesise(ws, residuals).float(), images)
            gradients = torch.autograd.grad(loss, list(residuals.values()))
            squares = (gradient.flatten(1).square().sum(dim=1) for gradient in gradients)
            norm = cast(Tensor, sum(squares)).sqrt()  # [N]
            for name, gradient in zip(residuals, gradients, strict=True):
                rows = model.hypernetwork.regressor(name).as_rows(gradient) / norm.clamp(min=1e-30)[:, None, None]
                result[name].append((rows * HALF_RANGE).half().cpu())
            bar.update(len(images))
    assert first is not None, "no photo"
    images, ws = first
    return {name: torch.cat(parts) for name, parts in result.items()}, images, ws


def set_mapper(target: WeightRegressor, gradients: Tensor, weight: Tensor) -> Tensor:
    """Fill w1 and w2 from gradients [P, I, O*k*k]; the photos' tokens [P, D], of rms 1 over photos.

    These tokens make residuals along the negative gradients, as far as D numbers hold them, whose rms over the photos
    is that of the layer's weights. Rows of w1 without a component (fewer photos than D) stay random, of the others'
    size.
    """
    hidden_size, rows = target.w1.shape[0], gradients.to(target.w1.device).float()
    flat = rows.flatten(0, 1)  # [P*I, O*k*k]
    columns = torch.svd_lowrank(flat, min(hidden_size + SPARE, *flat.shape), niter=3)[2][:, :hidden_size]
    coordinates = rows @ columns  # [P, I, d]
    left, spread, right = torch.linalg.svd(coordinates.flatten(1), full_matrices=False)
    left, spread, right = left[:, :hidden_size], spread[:hidden_size], right[:hidden_size]
    size = (spread.square().sum() / len(rows)).sqrt().clamp(min=1e-30)  # rms over the photos of the part that is held
    basis = right * (spread / len(rows) ** 0.5 / size * weight.numel() ** 0.5)[:, None]
    assert target.scale is not None, "hypernetwork.init is another one"
    target.scale.copy_(weight.square().mean().sqrt())
    target.w1.mul_(basis.std() / target.w1.std())
    target.w1[: len(basis)] = 0
    target.w1.view(hidden_size, -1, hidden_size)[: len(basis), :, : columns.shape[1]] = -basis.view(
        len(basis), -1, columns.shape[1]
    )
    target.w2.mul_(columns.shape[0] ** -0.5 / target.w2.std())
    target.w2[: columns.shape[1]] = columns.t()
    target.b1.zero_()
    target.b2.zero_()
    tokens = torch.zeros(len(rows), hidden_size, device=rows.device)
    tokens[:, : left.shape[1]] = left * len(rows) ** 0.5
    return tokens


def _loss(
    model: HyperInverterNetwork, losses: TotalLoss, images: Tensor, ws: Tensor, tokens: dict[str, Tensor], size: float
) -> float:
    residuals = model.hypernetwork.decode({name: token * size for name, token in tokens.items()})
    value = float(losses(model.synthesise(ws, residuals).float(), images)[0])
    return value if value == value else float("inf")


def _start_at_zero(target: WeightRegressor, size: float) -> None:
    """A token of rms 1 is a step of `size`; both matrices of the mapper are equally large; tokens start at 0."""
    target.w1.mul_(size)
    balance = (target.w1.norm() / target.w2.norm()).sqrt()
    target.w1.div_(balance)
    target.w2.mul_(balance)
    last = [layer for layer in target.feature_extractor if isinstance(layer, nn.Conv2d)][-1]
    last.weight.zero_()
    cast(Tensor, last.bias).zero_()
