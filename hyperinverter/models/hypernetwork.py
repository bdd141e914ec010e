"""Hypernetworks: from the features of input and Phase I image to the residual of every target weight of the generator.

Source: HyperInverter (Dinh et al., CVPR 2022, arXiv:2112.00719), section 3.2 and figure 3, with what the released code
adds (instance norm, weight layout, style index); two-matrix mapper from HyperNetworks (Ha et al., ICLR 2017).
Letters: N images, L styles, C feature channels, O/I/k output channels, input channels and kernel side of a target, D
hidden size. A *token* [N, D] is the output of the feature transformer; a residual is exactly affine in it.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from hyperinverter.config.domain_checks import DOMAIN_CHECKS
from hyperinverter.config.domain_schema import HypernetworkConfig
from hyperinverter.models.residuals import ChannelScales
from hyperinverter.models.target_layers import TargetLayer
from hyperinverter.models.token_stack import TokenStack

LEAK = 0.2  # slope below zero inside the transformer of signed tokens, StyleGAN2's
# Of a residual whose token has rms 1, under the init `signal_preserving`. Padding takes a part of the signal, so that
# tokens start at 0.2 to 0.4 and residuals at 0.01 to 0.02; the stored weights they are added to are about 1.
UPDATE_UNIT = 5  # of the factors of later passes: at a rate of 1e-3 they reach 1 within some 200 steps
START_RMS = 0.05


class WeightRegressor(nn.Module):
    """Hypernetwork of one target weight: fuse, transform to a token, map the token to the residual.

    Args:
        shape: of the target, (O, I, k, k) or (O, I).
        feature_channels: C of E2's features.
        feature_size: side of E2's features in px; a power of two from 8.
        options: fields of `config.domain_schema.HypernetworkConfig`. What its comments do not say of them:
        weight_layout: how the mapper's [I, O*k*k] becomes [O, I, k, k]. `released` reinterprets the flat numbers, which
            is what released weights need; `paper` makes each row one input channel.
        use_w_image_features: False leaves the Phase I image out of the fusion (ablation, table 3 row 3).
        init: `released` or `signal_preserving`. Under the released one every convolution of the transformer lets a
            sixth of the variance through (torch's default) while its bias does not shrink, so that tokens start
            ten or more times larger than they differ between images, and a short run learns one residual for all
            images. `signal_preserving` draws them as He et al., ICCV 2015, with biases 0, and scales the mapper so
            that residuals start near zero (START_RMS). `gradients` leaves the mapper to
            `training/gradient_basis.py`, and multiplies residuals by a number of the layer's size, `scale`.
        mapper: `matrices`, as published, or `channel_scales`: the token has a number per channel of the weight, see
            `ChannelScales`. Ours, after StyleSpace (Wu et al., CVPR 2021, arXiv:2011.12799), whose numbers scale
            input channels. No weights but the transformer's; tokens start at 0.
        scaled_dim: of `channel_scales`, see `TargetLayer`.
        fusion_norm: `instance`, as released: takes each channel's mean and size out of the features; `none` keeps them.
        token_range: `non_negative`, as released: a ReLU follows every convolution of the transformer, the last one
            too. Of the numbers of a token so trained a fifth to three fifths were 0 for every face (faces64, D = 64).
            `signed` has leaky ones and none at the end, so that every number keeps its gradient.
        passes: above 1 there are factors for what later passes add to a token, `update` in UPDATE_UNIT, which start
            at 0; a convolution of its own would add half as many weights again.
    """

    scale: Tensor | None

    def __init__(
        self,
        shape: Sequence[int],
        *,
        feature_channels: int = 512,
        feature_size: int = 8,
        scaled_dim: int = 1,
        **options: Any,
    ):
        super().__init__()
        config = HypernetworkConfig(**options)
        hidden_size, width = config.hidden_size, config.transformer_channels
        self.shape = tuple(shape)
        self.weight_layout = config.weight_layout
        self.out_channels, self.in_channels = self.shape[:2]
        self.scales_channels = config.mapper == "channel_scales"
        self.scaled_dim = scaled_dim
        self.token_size = self.shape[scaled_dim] if self.scales_channels else hidden_size
        if not self.scales_channels:
            columns = math.prod(self.shape) // self.in_channels  # O * k * k
            self.w1 = nn.Parameter(torch.empty(hidden_size, self.in_channels * hidden_size))
            self.b1 = nn.Parameter(torch.zeros(self.in_channels * hidden_size))
            self.w2 = nn.Parameter(torch.empty(hidden_size, columns))
            self.b2 = nn.Parameter(torch.zeros(columns))
            # Published: Kaiming with fan_in taken from dim 1, the larger side; so residuals start near zero.
            nn.init.kaiming_normal_(self.w1)
            nn.init.kaiming_normal_(self.w2)
        # Instance norm cancels the convolution's bias, which stays because released checkpoints hold it.
        self.fusion = nn.Sequential(
            nn.Conv2d(feature_channels * (2 if config.use_w_image_features else 1), config.fusion_channels, 1),
            nn.InstanceNorm2d(config.fusion_channels) if config.fusion_norm == "instance" else nn.Identity(),
            nn.ReLU(),
        )
        halvings = int(math.log2(feature_size))
        is_signed = config.token_range == "signed"
        inside = (lambda: nn.LeakyReLU(LEAK)) if is_signed else nn.ReLU
        layers: list[nn.Module] = [nn.Conv2d(config.fusion_channels, width, 3, 1, 1), inside()]
        for _ in range(1, halvings):  # 8 -> 4 -> 2 px
            layers += [nn.Conv2d(width, width, 4, 2, 1), inside()]
        last = nn.Conv2d(width, self.token_size, 4, 2, 1)  # 1 px
        layers += [last]
        self.feature_extractor = nn.Sequential(*layers, *([] if is_signed else [nn.ReLU()]))
        if config.init != "released":
            self._preserve_signal()
        if self.scales_channels:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(cast(Tensor, last.bias))
        self.update = nn.Parameter(torch.zeros(last.out_channels)) if config.passes > 1 else None
        self.register_buffer("scale", torch.ones(()) if config.init == "gradients" else None)

    @torch.no_grad()
    def _preserve_signal(self) -> None:
        slope = next((layer.negative_slope for layer in self.feature_extractor if isinstance(layer, nn.LeakyReLU)), 0.0)
        for layer in self.feature_extractor:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, a=slope)
                nn.init.zeros_(cast(Tensor, layer.bias))
        if self.scales_channels:
            return
        # token of rms 1 -> rows of rms sqrt(D) std(w1) -> residual of rms D std(w1) std(w2)
        hidden_size, columns = self.w1.shape
        nn.init.normal_(self.w2, std=START_RMS / (hidden_size * math.sqrt(2 / columns)))

    def token(self, features: Tensor, update: bool = False) -> Tensor:
        """Concatenated features [N, 2C, size, size], the drawn image's first -> token [N, D], or the update of one."""
        token = self.feature_extractor(self.fusion(features)).flatten(1)
        return token * self.update_factors() if update else token

    def update_factors(self) -> Tensor:
        """[D]."""
        assert self.update is not None, "built for one pass"
        return UPDATE_UNIT * self.update

    def decode(self, token: Tensor) -> Tensor | ChannelScales:
        """Token [N, D] -> residual [N, *shape] in units of the stored weight; affine in the token."""
        if self.scales_channels:
            return ChannelScales.of(token, self.scaled_dim)
        hidden_size = self.w1.shape[0]
        rows = torch.addmm(self.b1, token, self.w1).reshape(-1, hidden_size)  # [N*I, D]
        mapped = torch.addmm(self.b2, rows, self.w2)  # [N*I, O*k*k]
        if self.scale is not None:
            mapped = mapped * self.scale
        if self.weight_layout == "released":
            return mapped.reshape(-1, *self.shape)
        by_input = mapped.reshape(-1, self.in_channels, self.out_channels, *self.shape[2:])
        return by_input.transpose(1, 2)

    def as_rows(self, residual: Tensor) -> Tensor:
        """Residual [N, *shape] -> [N, I, O*k*k], as the mapper writes it before `scale`."""
        rows = residual if self.weight_layout == "released" else residual.transpose(1, 2)
        return rows.reshape(len(residual), self.in_channels, -1)

    def forward(self, h_w: Tensor | None, h: Tensor) -> Tensor | ChannelScales:
        """Features of the Phase I image (None where it is left out) and of the input [N, C, size, size] -> residual."""
        return self.decode(self.token(h if h_w is None else torch.cat([h_w, h], dim=1)))


class Hypernetwork(nn.Module):
    """One `WeightRegressor` per target layer; nothing is shared between them.

    Args:
        targets: what to predict, from `target_layers`.
        num_ws: L, styles of the generator, hence feature maps per image.
        feature_channels, feature_size: see `WeightRegressor`.
        options: fields of `config.domain_schema.HypernetworkConfig`; what makes a layer's own network says
            `WeightRegressor`, and of the others:
        style_index: which style's features a layer reads, see `TargetLayer`: `released` or `true`.
        shared_code: every layer reads one and the same feature map instead of its own style's (ablation "w/o
            layer-wise", table 3 row 4). The paper does not say which; here it is the last style's (num_ws - 1), whose
            head stands on the finest map of the pyramid and so sees all three levels. E2 keeps its other heads, which
            then receive no gradient.
        passes: how often E2 looks, see `HyperInverterNetwork.invert`; all but the first share their weights.

    Raises:
        ValueError: impossible numbers or a target that needs a style the generator has not.
    """

    def __init__(
        self,
        targets: Sequence[TargetLayer],
        num_ws: int,
        feature_channels: int = 512,
        *,
        feature_size: int = 8,
        **options: Any,
    ):
        super().__init__()
        config = HypernetworkConfig(**options)
        if problem := next(iter(DOMAIN_CHECKS[HypernetworkConfig](config)), None):
            raise ValueError(f"{problem.keys[0]} {problem.message}")
        if feature_size < 8 or feature_size & (feature_size - 1):
            raise ValueError(f"feature_size: got {feature_size}, expected a power of two from 8")
        self.targets = {target.name: target for target in targets}
        self._stack: tuple[list, TokenStack] | None = None  # a cache of `tokens`, no part of the state
        self.num_ws = num_ws
        self.feature_channels = feature_channels
        self.feature_size = feature_size
        self.hidden_size = config.hidden_size
        self.lowest_token = 0.0 if config.token_range == "non_negative" else None  # no number of a token lies below
        self.use_w_image_features = config.use_w_image_features
        self.passes = config.passes
        self.style_indices = {
            target.name: num_ws - 1 if config.shared_code else getattr(target, f"style_index_{config.style_index}")
            for target in targets
        }
        for name, index in self.style_indices.items():
            if not 0 <= index < num_ws:
                raise ValueError(f"{name}: needs the features of style {index}, but num_ws is {num_ws}")
        self.weight_regressors = nn.ModuleDict(
            {
                regressor_name(target.name): WeightRegressor(
                    target.shape,
                    feature_channels=feature_channels,
                    feature_size=feature_size,
                    scaled_dim=target.scaled_dim,
                    **options,
                )
                for target in targets
            }
        )
        self.token_sizes = {name: self.regressor(name).token_size for name in self.targets}
        # what a stack of all transformers can compute
        self.stackable = config.fusion_norm == "instance" and len(set(self.token_sizes.values())) == 1

    def tokens(self, h: Tensor, h_w: Tensor | None, before: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Predict one token per target layer: what the generator must change to turn the Phase I image into the input.

        Args:
            h: E2 features of the input image, [N, L, C, size, size].
            h_w: E2 features of the Phase I image, same shape; None only without `use_w_image_features`. In a later
                pass, of what `before` draws.
            before: tokens of the pass before; None in the first.
        Returns:
            Layer name -> token [N, D], dimensionless; `decode` turns it into a residual.
        Raises:
            ValueError: shapes that this hypernetwork was not built for.
        Source: section 3.2 and figure 3.
        """
        features = self._fusion_input(h, h_w)  # [N, L, 2C, size, size]
        update = before is not None
        if self.stackable and features.device.type != "cpu" and not torch.is_grad_enabled():
            tokens = dict(zip(self.targets, self._token_stack()(features).unbind(), strict=True))
            if update:
                tokens = {name: token * self.regressor(name).update_factors() for name, token in tokens.items()}
        else:
            tokens = {n: self.regressor(n).token(features[:, i], update) for n, i in self.style_indices.items()}
        if before is None:
            return tokens
        sums = {name: before[name] + token for name, token in tokens.items()}
        return sums if self.lowest_token is None else {name: t.clamp(min=self.lowest_token) for name, t in sums.items()}

    def decode(self, tokens: dict[str, Tensor]) -> dict[str, Tensor | ChannelScales]:
        """Map tokens [N, D] to residuals [N, O, I, k, k], in units of the stored (unequalised) weight.

        Exactly affine: decoding a mixture of two token sets gives the same mixture of their residuals, which is why a
        saved inversion holds tokens.

        Raises:
            ValueError: a layer is missing, unknown, or its token has the wrong shape.
        """
        if tokens.keys() != self.targets.keys():
            missing = sorted(self.targets.keys() - tokens.keys())
            unknown = sorted(tokens.keys() - self.targets.keys())
            raise ValueError(
                f"tokens: missing {missing or 'none'}, unknown {unknown or 'none'}; "
                "they belong to a hypernetwork with other target layers"
            )
        for name, token in tokens.items():
            if token.ndim != 2 or token.shape[1] != self.token_sizes[name]:
                size = self.token_sizes[name]
                raise ValueError(f"tokens[{name}]: got shape {list(token.shape)}, expected [N, {size}]")
        return {name: self.regressor(name).decode(token) for name, token in tokens.items()}

    def forward(self, h: Tensor, h_w: Tensor | None) -> dict[str, Tensor | ChannelScales]:
        """Features, as in `tokens` -> layer name -> residual [N, O, I, k, k]."""
        return self.decode(self.tokens(h, h_w))

    def regressor(self, name: str) -> WeightRegressor:
        """Of a target layer."""
        return cast(WeightRegressor, self.weight_regressors[regressor_name(name)])

    def _token_stack(self) -> TokenStack:
        """All transformers as one; made anew when one of their weights has changed.

        Not for a CPU, which starts them at no cost: there it is as fast for one image and slower for several.
        """
        regressors = [self.regressor(name) for name in self.targets]
        transformers = [(regressor.fusion, regressor.feature_extractor) for regressor in regressors]
        weights = [weight for pair in transformers for module in pair for weight in module.parameters()]
        state = [(id(weight), weight._version, weight.device, weight.dtype) for weight in weights]
        if self._stack is None or self._stack[0] != state:
            self._stack = state, TokenStack(transformers, list(self.style_indices.values()))
        return self._stack[1]

    def _fusion_input(self, h: Tensor, h_w: Tensor | None) -> Tensor:
        expected = (self.num_ws, self.feature_channels, self.feature_size, self.feature_size)
        if h.ndim != 5 or h.shape[1:] != expected:
            raise ValueError(f"h: got shape {list(h.shape)}, expected [N, {', '.join(map(str, expected))}]")
        if not self.use_w_image_features:
            return h
        if h_w is None or h_w.shape != h.shape:
            got = None if h_w is None else list(h_w.shape)
            raise ValueError(f"h_w: got {got}, expected the features of the Phase I images, shape {list(h.shape)}")
        return torch.cat([h_w, h], dim=2)  # this order is in released weights


def regressor_name(target_name: str) -> str:
    """`b8.conv0.weight` -> `b8_conv0_weight`, the published module name (module names cannot hold dots)."""
    return target_name.replace(".", "_")
