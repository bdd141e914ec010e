"""The released networks as functions of their published parameters, so that no change to ours reaches them.

What ours is timed against; nothing here is used by the method. The operations do what those of StyleGAN2-ADA
(arXiv:2006.06676) do without their compiled CUDA plugins (bias, activation and gain one after the other; zeros inserted
and padded before a depthwise filter; a modulated weight per image in one grouped convolution), and are written from
their description, without reading them.

`Weights` is a dict of published names, whose prefix the functions take. Letters: N images, L styles, R pixels,
C, I and O channels, D hidden size, k kernel side, T filter taps.

Source: the names and shapes of the released checkpoints; HyperInverter (arXiv:2112.00719), section 3, and its release
(VinAIResearch/HyperInverter, 3966220) as described in its own README.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperinverter.config.schema import EncoderConfig, LayerwiseEncoderConfig
from hyperinverter.models.hypernetwork import LEAK

LRELU_SLOPE, LRELU_GAIN = 0.2, math.sqrt(2.0)
EPS = 1e-8


def bias_act(x: Tensor, b: Tensor | None, act: str = "linear", gain: float = 1.0) -> Tensor:
    """Bias, activation (linear or lrelu with its gain) and `gain`, one pass over memory each."""
    if b is not None:
        x = x + b.reshape(1, -1, *[1] * (x.ndim - 2))
    if act == "lrelu":
        x = F.leaky_relu(x, LRELU_SLOPE)
        gain = gain * LRELU_GAIN
    return x if gain == 1 else x * gain


def upfirdn2d(
    x: Tensor, f: Tensor, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0), gain: float = 1.0
) -> Tensor:
    """Insert zeros, pad, filter every channel, decimate.

    Args:
        x: [N, C, H, W].
        f: filter [T, T], applied as a true convolution.
        up: every pixel becomes up x up, of which one is not zero.
        down: every down-th pixel is kept.
        pad: zeros before and after, on both axes, pixels.
        gain: multiplies the filter.
    """
    n, c, h, w = x.shape
    if up > 1:
        x = F.pad(x.reshape(n, c, h, 1, w, 1), (0, up - 1, 0, 0, 0, up - 1)).reshape(n, c, h * up, w * up)
    if pad != (0, 0):
        x = F.pad(x, (*pad, *pad))
    kernel = (f * gain).flip(0, 1).to(x.dtype)[None, None].repeat(c, 1, 1, 1)
    x = F.conv2d(x, kernel, groups=c)
    return x[:, :, ::down, ::down] if down > 1 else x


def upsample2d(image: Tensor, f: Tensor) -> Tensor:
    """Double the size of an image; the mean is kept."""
    taps = f.shape[0]
    return upfirdn2d(image, f, up=2, pad=((taps + 1) // 2, (taps - 2) // 2), gain=4.0)


def conv2d_resample(
    x: Tensor, weight: Tensor, f: Tensor | None = None, up: int = 1, down: int = 1, groups: int = 1
) -> Tensor:
    """A convolution that keeps, doubles or halves the size: the filter is a pass of its own.

    Args:
        weight: [groups O, I, k, k]; correlated, but a true convolution where `up` is 2 (published).
        f: filter of `up` and `down`.
    """
    k = weight.shape[-1]
    taps = 0 if f is None else f.shape[0]
    if up == 2:
        each = weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2)  # [groups, I, O, k, k]
        x = F.conv_transpose2d(x, each.reshape(-1, *each.shape[2:]), stride=2, groups=groups)
        pad = (k // 2 + (taps + 1) // 2 - (k - 1), k // 2 + (taps - 2) // 2 - (k - 2))
        return upfirdn2d(x, f, pad=pad, gain=4.0)
    if down == 2:
        pad = (k // 2 + (taps - 1) // 2, k // 2 + (taps - 2) // 2)
        if k == 1:
            return F.conv2d(upfirdn2d(x, f, down=2, pad=pad), weight, groups=groups)
        return F.conv2d(upfirdn2d(x, f, pad=pad), weight, stride=2, groups=groups)
    return F.conv2d(x, weight, padding=k // 2, groups=groups)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    demodulate: bool,
    up: int = 1,
    f: Tensor | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """One weight per image, all in one grouped convolution ("fused").

    Args:
        x: [N, I, H, W].
        weight: [O, I, k, k].
        styles: [N, I].
        noise: added to the result, broadcast to it.
    """
    n, _, h, w = x.shape
    each = weight[None] * styles[:, None, :, None, None]  # [N, O, I, k, k]
    if demodulate:
        each = each * torch.rsqrt(each.square().sum(dim=(2, 3, 4)) + EPS)[:, :, None, None, None]
    y = conv2d_resample(x.reshape(1, -1, h, w), each.reshape(-1, *weight.shape[1:]), f, up, groups=n)
    y = y.reshape(n, -1, *y.shape[2:])
    return y if noise is None else y.add_(noise)


def fully_connected(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x W^T / sqrt(in) + b, scaled at run time; [N, in] -> [N, out]."""
    return F.linear(x, weight * (1 / math.sqrt(weight.shape[1])), bias)


Weights = Mapping[str, Tensor]
COARSE, MIDDLE = 3, 7  # published: styles 0-2 read the coarsest map, 3-6 the middle one


def synthesis(g: Weights, ws: Tensor, resolution: int, residuals: Weights | None = None) -> Tensor:
    """Draw images with one set of weights.

    Args:
        g: parameters of a synthesis network, "b8.conv0.weight" and so on.
        ws: [N, L, w_dim].
        residuals: added to parameters of these names before anything else; without a batch dimension.
    Returns:
        [N, 3, R, R].
    """
    residuals = residuals or {}

    def weight(name: str) -> Tensor:
        return g[name] + residuals[name] if name in residuals else g[name]

    def layer(name: str, x: Tensor, w: Tensor, up: int) -> Tensor:
        styles = fully_connected(w, weight(f"{name}.affine.weight"), g[f"{name}.affine.bias"])
        noise = None
        if f"{name}.noise_const" in g:
            noise = g[f"{name}.noise_const"] * g[f"{name}.noise_strength"]
        f = g[f"{name}.resample_filter"]
        x = modulated_conv2d(x, weight(f"{name}.weight"), styles, demodulate=True, up=up, f=f, noise=noise)
        return bias_act(x, g[f"{name}.bias"], "lrelu")

    x = g["b4.const"][None].repeat(len(ws), 1, 1, 1)
    image, style, res = None, iter(ws.unbind(dim=1)), 4
    w = next(style)
    while res <= resolution:
        block = f"b{res}"
        if res > 4:
            x = layer(f"{block}.conv0", x, w, up=2)  # the style of the block before's torgb
            w = next(style)
        x = layer(f"{block}.conv1", x, w, up=1)
        w = next(style)
        if image is not None:
            image = upsample2d(image, g[f"{block}.resample_filter"])
        torgb = weight(f"{block}.torgb.weight")
        styles = fully_connected(w, weight(f"{block}.torgb.affine.weight"), g[f"{block}.torgb.affine.bias"])
        rgb = modulated_conv2d(x, torgb, styles * (1 / torgb.shape[1] ** 0.5), demodulate=False)
        rgb = bias_act(rgb, g[f"{block}.torgb.bias"])
        image = rgb if image is None else image.add_(rgb)
        res *= 2
    return image


def resize(images: Tensor, size: int) -> Tensor:
    """To the encoders' input, without antialiasing."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)


def trunk(e: Weights, images: Tensor, config: EncoderConfig, training: bool) -> list[Tensor]:
    """Images [N, 3, S, S] at the input size -> the maps after the four stages."""

    def norm(name: str, x: Tensor) -> Tensor:
        mean, var = e[f"{name}.running_mean"], e[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, e[f"{name}.weight"], e[f"{name}.bias"], training, 0.1, 1e-5)

    def conv(name: str, x: Tensor, stride: int = 1, padding: int = 1) -> Tensor:
        return F.conv2d(x, e[f"{name}.weight"], None, stride, padding)

    def ir_unit(name: str, x: Tensor, stride: int) -> Tensor:
        shortcut = x
        if f"{name}.shortcut_layer.0.weight" in e:
            shortcut = norm(f"{name}.shortcut_layer.1", conv(f"{name}.shortcut_layer.0", x, stride, 0))
        elif stride > 1:
            shortcut = F.max_pool2d(x, 1, stride)
        y = conv(f"{name}.res_layer.1", norm(f"{name}.res_layer.0", x))
        y = conv(f"{name}.res_layer.3", F.prelu(y, e[f"{name}.res_layer.2.weight"]), stride)
        y = norm(f"{name}.res_layer.4", y)
        if f"{name}.res_layer.5.fc1.weight" in e:
            gate = conv(f"{name}.res_layer.5.fc1", F.adaptive_avg_pool2d(y, 1), 1, 0).relu()
            y = y * torch.sigmoid(conv(f"{name}.res_layer.5.fc2", gate, 1, 0))
        return y + shortcut

    def basic_block(name: str, x: Tensor, stride: int) -> Tensor:
        shortcut = x
        if f"{name}.downsample.0.weight" in e:
            shortcut = norm(f"{name}.downsample.1", conv(f"{name}.downsample.0", x, stride, 0))
        y = F.relu(norm(f"{name}.bn1", conv(f"{name}.conv1", x, stride)))
        return F.relu(norm(f"{name}.bn2", conv(f"{name}.conv2", y)) + shortcut)

    is_resnet = config.trunk == "resnet"
    stem = ("conv1", "bn1", "relu") if is_resnet else ("input_layer.0", "input_layer.1", "input_layer.2")
    side = e[f"{stem[0]}.weight"].shape[-1]
    x = norm(stem[1], conv(stem[0], images, config.stem_stride, side // 2))
    x = F.prelu(x, e[f"{stem[2]}.weight"])
    unit, maps, number = basic_block if is_resnet else ir_unit, [], 0
    for depth, stride in zip(config.depths, config.strides, strict=True):
        for position in range(depth):
            x = unit(f"body.{number}", x, stride if position == 0 else 1)
            number += 1
        maps.append(x)
    return maps


def w_encoder(e: Weights, images: Tensor, config: EncoderConfig) -> Tensor:
    """E1: images at the input size -> offset of w, [N, w_dim]."""
    last = trunk(e, images, config, training=False)[-1]
    return fully_connected(F.adaptive_avg_pool2d(last, 1).flatten(1), e["linear.weight"], e["linear.bias"])


def layerwise_encoder(e: Weights, images: Tensor, config: LayerwiseEncoderConfig, training: bool) -> Tensor:
    """E2: images at the input size -> [N, L, C, 8, 8]."""
    _, c1, c2, c3 = trunk(e, images, config, training)

    def joined(x: Tensor, lateral: str, finer: Tensor) -> Tensor:
        if x.shape[2:] != finer.shape[2:]:
            x = F.interpolate(x, size=finer.shape[2:], mode="bilinear", align_corners=True)
        return x + F.conv2d(finer, e[f"{lateral}.weight"], e[f"{lateral}.bias"])

    p2 = joined(c3, "latlayer1", c2)
    p1 = joined(p2, "latlayer2", c1)
    codes = []
    while f"styles.{len(codes)}.convs.0.weight" in e:
        style = len(codes)
        x = c3 if style < COARSE else p2 if style < MIDDLE else p1
        stride = 2 if x.shape[-1] > config.feature_size else 1
        name, number = f"styles.{style}.convs", 0
        while f"{name}.{number}.weight" in e:
            x = F.conv2d(x, e[f"{name}.{number}.weight"], e[f"{name}.{number}.bias"], stride, 1)
            x = F.leaky_relu(x, 0.01)
            number += 2
        codes.append(x)
    return torch.stack(codes, dim=1)


def weight_regressor(r: Weights, h_w: Tensor, h: Tensor, shape: tuple[int, ...], signed: bool = False) -> Tensor:
    """One hypernetwork: features of Phase I image and input [N, C, 8, 8] -> residual [N, *shape].

    Signed tokens are ours; they cost what the released ones do.
    """
    x = F.conv2d(torch.cat([h_w, h], dim=1), r["fusion.0.weight"], r["fusion.0.bias"])
    x = F.relu(F.instance_norm(x))
    number = 0
    while f"feature_extractor.{number}.weight" in r:
        kernel = r[f"feature_extractor.{number}.weight"]
        x = F.conv2d(x, kernel, r[f"feature_extractor.{number}.bias"], 1 if kernel.shape[-1] == 3 else 2, 1)
        number += 2
        if not signed:
            x = F.relu(x)
        elif f"feature_extractor.{number}.weight" in r:
            x = F.leaky_relu(x, LEAK)
    token, hidden = x.flatten(1), r["w2"].shape[0]
    rows = (token @ r["w1"] + r["b1"]).view(len(token), -1, hidden)  # [N, I, D]
    return (torch.matmul(rows, r["w2"]) + r["b2"]).view(len(token), *shape)


def discriminator(d: Weights, images: Tensor, resolution: int, group_size: int | None) -> Tensor:
    """Images [N, 3, R, R] -> logits [N, 1]; residual architecture."""

    def layer(name: str, x: Tensor, act: str = "lrelu", down: int = 1, gain: float = 1.0) -> Tensor:
        weight = d[f"{name}.weight"]
        weight = weight * (1 / (weight[0].numel() ** 0.5))
        f = d.get(f"{name}.resample_filter")
        return bias_act(conv2d_resample(x, weight, f, down=down), d.get(f"{name}.bias"), act, gain)

    def linear(name: str, x: Tensor) -> Tensor:
        return fully_connected(x, d[f"{name}.weight"], d[f"{name}.bias"])

    x, res, half = layer(f"b{resolution}.fromrgb", images), resolution, 0.5**0.5
    while res > 4:
        skip = layer(f"b{res}.skip", x, "linear", 2, half)
        x = skip.add_(layer(f"b{res}.conv1", layer(f"b{res}.conv0", x), down=2, gain=half))
        res //= 2
    n, c = x.shape[:2]
    group = n if group_size is None else min(group_size, n)
    y = x.reshape(group, -1, 1, c, *x.shape[2:])
    y = ((y - y.mean(dim=0)).square().mean(dim=0) + 1e-8).sqrt().mean(dim=(2, 3, 4)).reshape(-1, 1, 1, 1)
    x = torch.cat([x, y.repeat(group, 1, *x.shape[2:])], dim=1)
    x = layer("b4.conv", x).flatten(1)
    return linear("b4.out", bias_act(linear("b4.fc", x), None, "lrelu"))
