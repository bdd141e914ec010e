"""Feature transformers of all hypernetworks as one: equal layers of different target weights are one batched product.

A generator has 20 to 52 hypernetworks whose transformers are equally large and so small that a GPU would wait for the
CPU to start them one after the other. Source: ours; what is computed is `WeightRegressor.token` (HyperInverter,
arXiv:2112.00719, section 3.2). Letters: T target layers, N images, L styles, C channels, D hidden size.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn


class TokenStack:
    """Copies of the transformers' weights, stacked (4 MB a layer in float32); out of date when one of them changes.

    Args:
        transformers: per target layer the modules (fusion, feature_extractor) of its `WeightRegressor`, all of one
            size.
        style_indices: which style's features each of them reads.
    """

    def __init__(self, transformers: Sequence[tuple[nn.Sequential, nn.Sequential]], style_indices: Sequence[int]):
        fusions = [cast(nn.Conv2d, fusion[0]) for fusion, _ in transformers]
        # [T, 2C, fusion channels]; instance norm takes the bias away
        self.fusion = torch.stack([fusion.weight[:, :, 0, 0].t() for fusion in fusions])
        self.eps = cast(nn.InstanceNorm2d, transformers[0][0][1]).eps
        self.layers: list[tuple[Tensor, Tensor, int, int] | nn.Module] = []  # convolutions and what follows them
        for equal in zip(*(extractor for _, extractor in transformers), strict=True):
            convolutions = [each for each in equal if isinstance(each, nn.Conv2d)]
            if convolutions:
                # [T, k k in, out], kernel positions first, as `_patches` orders them
                weight = torch.stack([each.weight.permute(2, 3, 1, 0).flatten(0, 2) for each in convolutions])
                bias = torch.stack([cast(Tensor, each.bias) for each in convolutions])[:, None]
                self.layers.append((weight, bias, convolutions[0].stride[0], convolutions[0].kernel_size[0]))
            else:
                self.layers.append(equal[0])
        self.style_indices = torch.tensor(style_indices, device=self.fusion.device)

    @torch.no_grad()
    def __call__(self, features: Tensor) -> Tensor:
        """Features [N, L, C, size, size], the Phase I image's channels first -> tokens [T, N, D]."""
        n, _, channels, size, _ = features.shape
        chosen = features.flatten(3).permute(1, 0, 3, 2).index_select(0, self.style_indices)  # [T, N, size², C]
        x = torch.bmm(chosen.reshape(len(chosen), -1, channels), self.fusion)
        x = x.unflatten(1, (n, size * size))
        full = x if x.dtype == torch.float64 else x.float()
        variance, mean = torch.var_mean(full, dim=2, correction=0, keepdim=True)  # over the pixels of one image
        x = ((full - mean) * torch.rsqrt(variance + self.eps)).relu_().to(x.dtype)
        x = x.unflatten(2, (size, size))  # [T, N, size, size, C]
        for layer in self.layers:
            if isinstance(layer, nn.Module):
                x = layer(x)
                continue
            weight, bias, stride, kernel = layer
            patches = _patches(x, kernel, stride)
            side = patches.shape[2]
            x = torch.baddbmm(bias, patches.flatten(4).flatten(1, 3), weight).unflatten(1, (n, side, side))
        return x.flatten(2)


def _patches(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Neighbourhoods of a map with a border of zeros, [T, N, H, W, C] -> [T, N, H', W', kernel, kernel, C]."""
    x = nn.functional.pad(x, (0, 0, 1, 1, 1, 1))
    return x.unfold(2, kernel, stride).unfold(3, kernel, stride).movedim(4, 6)
