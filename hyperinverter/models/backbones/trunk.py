"""One trunk class for every encoder: a stem and four residual stages, whose sizes are numbers of an `EncoderConfig`.

Letters: N images, C channels. The defaults of `EncoderConfig` give the published IR-SE50; ResNet34 is depths
[3, 4, 6, 3], strides [1, 2, 2, 2], stem_stride 2.
"""

from itertools import accumulate

import torch.nn.functional as F
from torch import Tensor, nn

from hyperinverter.config.domain_schema import TRUNKS, EncoderConfig

STAGES = 4


class Trunk(nn.Module):
    """Stem and four stages, registered under the published names so that a subclass's keys match released checkpoints.

    Args:
        input_channels: 3 for an image; 6 for an image and its reconstruction; others for label maps or sketches.

    Attributes:
        input_size: side in px that images are resized to.
        input_shape: height and width in px that images are resized to, (input_size, input_size) unless set otherwise.
        widths: channels after each of the four stages.
        stage_sizes: side in px of each stage's map.

    Raises:
        ValueError: unknown trunk kind or impossible numbers; the message names the key.
    """

    def __init__(self, config: EncoderConfig, *, input_channels: int = 3):
        super().__init__()
        _check(config, input_channels)
        sizes = (config.stem_width, config.stem_stride, config.widths, config.depths, config.strides)
        if config.trunk == "efficientnet_lite0":
            from hyperinverter.models.backbones.blocks import efficientnet_modules

            modules = efficientnet_modules(config.strides, input_channels=input_channels)
        elif config.trunk == "resnet":
            from hyperinverter.models.backbones.blocks import resnet_modules

            modules = resnet_modules(*sizes, input_channels=input_channels)
        else:
            from hyperinverter.models.backbones.blocks import irse_modules

            squeeze_excitation = config.trunk == "ir_se"
            modules = irse_modules(*sizes, squeeze_excitation=squeeze_excitation, input_channels=input_channels)
        for name, module in modules.items():
            self.add_module(name, module)
        *self._stem_names, self._body_name = modules
        self.antialias = config.antialias
        self._stage_ends = tuple(accumulate(config.depths))
        self.input_channels = input_channels
        self.input_size = config.input_size
        self.input_shape = (config.input_size, config.input_size)
        self.widths = tuple(config.widths)
        after_stem = _strided(config.input_size, config.stem_stride)
        self.stage_sizes = tuple(accumulate(config.strides, _strided, initial=after_stem))[1:]

    def resize(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] -> the trunk's input size: bilinear, half-pixel centres; published: no antialias."""
        if images.ndim != 4 or images.shape[1] != self.input_channels:
            expected = f"[N, {self.input_channels}, H, W]" + (" (RGB in [-1, 1])" if self.input_channels == 3 else "")
            raise ValueError(f"images: got shape {list(images.shape)}, expected {expected}")
        if images.shape[2:] == self.input_shape:
            return images
        size, antialias = self.input_shape, self.antialias
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=antialias)

    def stem(self, images: Tensor) -> Tensor:
        """Images [N, input_channels, S, S] at the input size -> [N, stem_width, S/stem_stride, S/stem_stride]."""
        x = images
        for name in self._stem_names:
            x = self.get_submodule(name)(x)
        return x

    def stages(self, images: Tensor) -> list[Tensor]:
        """Images of any size -> the maps after the four stages, high to low resolution."""
        x = self.stem(self.resize(images))
        maps = []
        for number, unit in enumerate(self.get_submodule(self._body_name).children(), start=1):
            x = unit(x)
            if number in self._stage_ends:
                maps.append(x)
        return maps


def _strided(size: int, stride: int) -> int:
    """Side of a map after a padded convolution of odd kernel (3 or 7) with this stride."""
    return (size - 1) // stride + 1


def _check(config: EncoderConfig, input_channels: int) -> None:
    faults = [] if input_channels >= 1 else [f"input_channels: got {input_channels}, expected at least 1"]
    if config.trunk not in TRUNKS:
        faults.append(f"trunk: got {config.trunk!r}, expected one of {', '.join(TRUNKS)}")
    for key in ("widths", "depths", "strides"):
        values = getattr(config, key)
        if len(values) != STAGES or min(values) < 1:
            faults.append(f"{key}: got {values}, expected {STAGES} positive integers, one per stage")
    for key in ("input_size", "stem_width", "stem_stride"):
        if getattr(config, key) < 1:
            faults.append(f"{key}: got {getattr(config, key)}, expected at least 1")
    if faults:
        raise ValueError("encoder " + "; ".join(faults))
