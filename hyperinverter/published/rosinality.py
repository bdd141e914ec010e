"""The StyleGAN2 of rosinality/stylegan2-pytorch as this project's generator.

It is NVIDIA's network in the skip architecture under other names and shapes; pSp, e4e, ReStyle and HyperStyle carry it
as `decoder.*`. Up-sampling convolutions are true convolutions (transposed, the kernel unflipped) on both sides, so that
no weight is flipped. Its filters are stored times 4, the gain of up-sampling, which is applied at run time here. Its
weights are scaled by 1 / sqrt(I k²) at run time, which demodulation takes out again.

Source of names and shapes: `model.py` of rosinality/stylegan2-pytorch; `latent_avg`: pSp's `models/psp.py`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from hyperinverter.models.stylegan2 import Generator
from hyperinverter.models.stylegan2.layers import channel_rule
from hyperinverter.ops.upfirdn2d import setup_filter
from hyperinverter.published.container import MADE, beside
from hyperinverter.published.from_published import Published
from hyperinverter.published.keys import Keys, options
from hyperinverter.published.nvidia import build
from hyperinverter.published.nvidia_tensors import DRAWN, drawn_noise, taps, taps_of
from hyperinverter.utils.errors import UserError

FILTER_GAIN = 4.0  # of up-sampling by 2 in both directions
MEAN_LATENTS = 10_000  # mapped to estimate w_avg, where the published code would draw some too
# End of this project's name -> shape of the published tensor, None where this project has a dimension.
SHAPES = {
    "noise_const": (1, 1, None, None),
    "noise_strength": (1,),
    "b4.const": (1, None, None, None),
    "torgb.bias": (1, None, 1, 1),
    "conv0.weight": (1, None, None, None, None),
    "conv1.weight": (1, None, None, None, None),
    "torgb.weight": (1, None, None, None, None),
}


def read_generator(content: Any, source: str, given: dict[str, Any]) -> tuple[Generator, Published]:
    """A rosinality generator, or the decoder of pSp, e4e, ReStyle or HyperStyle.

    Size, style_dim, n_mlp, channels and blur kernel are read off the tensors.

    Args:
        content: `{"g_ema": ..., "latent_avg": ...}` (or "g"), `{"state_dict": {"decoder.…": ...}, "latent_avg": ...}`,
            or a state dict with or without the prefix `decoder.`.
        given: lr_mlp (0.01) as published, and latent_avg ([w] or [L, w] with equal rows) where the file has none;
            without either, w_avg is estimated from mapped latents, as the published scripts do. May be repeated: size
            or output_size, style_dim, n_mlp, n_styles, channel_multiplier, blur_kernel.
    """
    known = ("size", "output_size", "n_styles", "style_dim", "n_mlp", "channel_multiplier", "blur_kernel", "latent_avg")
    declared = options(given, {**dict.fromkeys(known), "lr_mlp": 0.01}, "rosinality_generator")
    state, latent_avg, ignored = _unwrap(content, source)
    keys = Keys(state, "a rosinality StyleGAN2 generator", source)

    widths = _widths(keys)
    resolution = max(widths)
    style_dim = keys.take("conv1.conv.modulation.weight", (None, None)).shape[1]
    n_mlp = len([key for key in keys.state if key.startswith("style.") and key.endswith(".weight")])
    filters = _filters(keys, declared["blur_kernel"])
    keys.agree(declared, size=resolution, output_size=resolution, n_styles=2 * len(widths))
    keys.agree(declared, style_dim=style_dim, n_mlp=n_mlp)
    if declared["channel_multiplier"] is not None:
        published = {res: 512 if res <= 32 else 16384 * declared["channel_multiplier"] // res for res in widths}
        name = f"channel_multiplier={declared['channel_multiplier']}, so channels"
        keys.agree({name: published}, **{name: widths})
    with keys.refusing():
        channel_base, channel_max = channel_rule(widths)

    names = dict(_names(len(widths), n_mlp))
    noises = drawn_noise(ours for ours, theirs in names.items() if theirs.startswith("noises.") and theirs not in keys)
    weights = noises | {ours: _taken(keys, ours, theirs) for ours, theirs in names.items() if ours not in noises}
    ignored |= {"noises": DRAWN} if noises else {}
    latent_avg = declared["latent_avg"] if declared["latent_avg"] is not None else latent_avg
    w_avg = torch.zeros(style_dim) if latent_avg is None else _single(latent_avg, style_dim, keys)
    config = {
        "resolution": resolution,
        "z_dim": style_dim,
        "w_dim": style_dim,
        "channel_base": channel_base,
        "channel_max": channel_max,
        "mapping_layers": n_mlp,
        "img_channels": weights["synthesis.b4.torgb.weight"].shape[0],
        "mapping_lr_multiplier": declared["lr_mlp"],
        "resample_filter": filters.pop("taps"),
    }
    ignored |= keys.finish()
    network = build(keys, Generator, config, {**weights, **filters, "mapping.w_avg": w_avg})
    if latent_avg is None:
        _estimate_mean(network)
        ignored["latent_avg"] = f"{MADE}w_avg is the mean of {MEAN_LATENTS} mapped latents (seed 0)"
    return network, Published(network.config, ignored)


def _names(blocks: int, n_mlp: int) -> Iterator[tuple[str, str]]:
    """This project's name and the published one of every weight and noise."""
    for i in range(n_mlp):
        for part in ("weight", "bias"):
            yield f"mapping.fc{i}.{part}", f"style.{i + 1}.{part}"
    yield "synthesis.b4.const", "input.input"
    layers = [("b4.conv1", "conv1", 0)]
    drawn = [("b4.torgb", "to_rgb1")]
    for j in range(blocks - 1):
        block = f"b{8 * 2**j}"
        layers += [(f"{block}.conv0", f"convs.{2 * j}", 2 * j + 1), (f"{block}.conv1", f"convs.{2 * j + 1}", 2 * j + 2)]
        drawn += [(f"{block}.torgb", f"to_rgbs.{j}")]
    for ours, theirs, number in layers:
        yield f"synthesis.{ours}.noise_strength", f"{theirs}.noise.weight"
        yield f"synthesis.{ours}.noise_const", f"noises.noise_{number}"
        yield f"synthesis.{ours}.bias", f"{theirs}.activate.bias"
    for ours, theirs in drawn:
        yield f"synthesis.{ours}.bias", f"{theirs}.bias"
    for ours, theirs, *_ in (*layers, *drawn):
        yield f"synthesis.{ours}.weight", f"{theirs}.conv.weight"
        yield f"synthesis.{ours}.affine.weight", f"{theirs}.conv.modulation.weight"
        yield f"synthesis.{ours}.affine.bias", f"{theirs}.conv.modulation.bias"


def _filter_names(blocks: int) -> Iterator[tuple[str, str]]:
    """This project's name and the published one of every filter that up-samples."""
    for j in range(blocks - 1):
        yield f"synthesis.b{8 * 2**j}.conv0.resample_filter", f"convs.{2 * j}.conv.blur.kernel"
        yield f"synthesis.b{8 * 2**j}.resample_filter", f"to_rgbs.{j}.upsample.kernel"


def _unwrap(content: Any, source: str) -> tuple[dict[str, Any], Any, dict[str, str]]:
    """The generator's state dict without prefix, latent_avg or None, and what else there was with the reason."""
    if not isinstance(content, Mapping):
        raise UserError(f"{source}: not a rosinality generator: it holds a {type(content).__name__}, no state dict")
    entry = next((name for name in ("g_ema", "g", "state_dict") if isinstance(content.get(name), Mapping)), None)
    state = content if entry is None else content[entry]
    ignored = {} if entry is None else beside(name for name in content if name != entry)
    ignored.pop("latent_avg", None)
    latent_avg = content.get("latent_avg")
    prefix = "decoder." if any(str(key).startswith("decoder.") for key in state) else ""
    inner = {}
    for key, value in state.items():
        if str(key).startswith(prefix) and key != "latent_avg":
            inner[str(key).removeprefix(prefix)] = value
        elif key != "latent_avg":
            ignored[str(key)] = "no part of the generator"
    return inner, latent_avg if latent_avg is not None else state.get("latent_avg"), ignored


def _widths(keys: Keys) -> dict[int, int]:
    """Resolution of a block in pixels -> its channels."""
    widths = {4: keys.take("conv1.conv.weight", SHAPES["conv1.weight"]).shape[1]}
    for j in range(sum(key.startswith("to_rgbs.") and key.endswith(".conv.weight") for key in keys.state)):
        weight = keys.take(f"convs.{2 * j + 1}.conv.weight", SHAPES["conv1.weight"])
        widths[8 * 2**j] = weight.shape[1]
    if len(widths) == 1:
        raise keys.fault("it has no to_rgbs.0, so it draws 4 px; expected 8 px or more")
    return widths


def _filters(keys: Keys, blur_kernel: Any) -> dict[str, Any]:
    """The up-sampling filters by this project's names, and as "taps" what they are all made of."""
    declared = None if blur_kernel is None else taps(blur_kernel)
    pairs = [pair for pair in _filter_names(len(_widths(keys))) if pair[1] in keys]
    result: dict[str, Any] = {}
    for ours, theirs in pairs:
        result[ours] = keys.take(theirs, (None, None)) / FILTER_GAIN
        made_of = taps_of(result[ours], keys, theirs)
        if result.setdefault("taps", made_of) != made_of:
            raise keys.fault(
                f"{theirs} is made of {made_of}, {pairs[0][1]} of {result['taps']}; expected equal kernels"
            )
    if declared and "taps" in result and not torch.allclose(setup_filter(declared), setup_filter(result["taps"])):
        keys.agree({"blur_kernel": declared}, blur_kernel=result["taps"])
    return {"taps": declared or [1.0, 3.0, 3.0, 1.0], **result}


def _taken(keys: Keys, ours: str, theirs: str) -> Tensor:
    """A published tensor in this project's shape."""
    shape = _shape(ours)
    value = keys.take(theirs, shape)
    if shape is None:
        return value
    return value.reshape([size for size, expected in zip(value.shape, shape, strict=True) if expected is None])


def _shape(ours: str) -> tuple[int | None, ...] | None:
    return next((shape for end, shape in SHAPES.items() if ours.endswith(f".{end}")), None)


@torch.no_grad()
def _estimate_mean(generator: Generator) -> None:
    """Set w_avg to the mean w of seeded latents."""
    random = torch.Generator().manual_seed(0)
    total = torch.zeros(generator.w_dim)
    for _ in range(10):
        z = torch.randn(MEAN_LATENTS // 10, generator.z_dim, generator=random)
        total += generator.mapping(z)[:, 0].sum(dim=0)
    generator.mapping.w_avg.copy_(total / MEAN_LATENTS)


def _single(latent_avg: Any, style_dim: int, keys: Keys) -> Tensor:
    """latent_avg [w], [1, w] or [L, w] as one w."""
    rows = torch.as_tensor(latent_avg).detach().cpu()
    if rows.ndim == 0 or rows.shape[-1] != style_dim or rows.numel() == 0:
        raise keys.fault(f"latent_avg has shape {tuple(rows.shape)}, expected [{style_dim}] or [styles, {style_dim}]")
    rows = rows.reshape(-1, style_dim)
    if not torch.allclose(rows, rows[:1].expand_as(rows), equal_nan=True):
        raise keys.fault("the rows of latent_avg differ, and a generator has one w_avg; give latent_avg=[w] to choose")
    return rows[0]
