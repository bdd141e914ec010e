"""Settings of a domain: what its images are, and the sizes of its networks, as typed dataclasses.

`schema.py` has the commands' and gives these names on, so that all settings are imported from there.
"""

from dataclasses import dataclass, field
from typing import Any

TRUNKS = ("ir_se", "ir", "resnet", "efficientnet_lite0")
# the only sizes of that trunk, for its ImageNet weights
EFFICIENTNET_LITE0: dict[str, Any] = {
    "stem_width": 32,
    "stem_stride": 2,
    "widths": [24, 40, 112, 320],
    "depths": [3, 2, 6, 5],
    "strides": [2, 2, 2, 2],
}
TARGET_SETS = ("conv_without_bias", "conv_without_bias_without_torgb", "all_without_bias")
WEIGHT_LAYOUTS = ("released", "paper")
STYLE_INDICES = ("released", "true")
MAPPERS = ("matrices", "channel_scales")
FUSION_NORMS = ("instance", "none")
MOST_PASSES = 8
HYPERNETWORK_INITS = ("released", "signal_preserving", "gradients")
FROM_E1 = "w_encoder"  # of `layerwise_encoder.init`: E2's trunk starts from the domain's own E1
TOKEN_RANGES = ("non_negative", "signed")
DISCRIMINATOR_LOSSES = ("released", "paper")
PRECISIONS = ("fp32", "bf16", "fp16")
ARCHITECTURES = ("orig", "skip", "resnet")
MOBILE = "mobile_stylegan"
GENERATORS = ("stylegan2", *ARCHITECTURES, MOBILE)  # stylegan2 is skip, its usual kind
DECAY_SHAPES = ("linear", "cosine")
AUGMENTATIONS = ("translate", "scale", "rotate", "color", "tilt", "tone", "blend")
METRIC_FILTERS = ("bilinear", "box")
ACTIVATIONS = ("linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish")


@dataclass
class GeneratorConfig:
    """Generator (default: StyleGAN2's config-f). Channels at a resolution = min(channel_base / res, channel_max).

    What follows `architecture` is for published StyleGAN2 weights that were trained otherwise.
    """

    z_dim: int = 512  # numbers of z, from which w is mapped
    w_dim: int = 512  # numbers of w
    mapping_layers: int = 8  # layers from z to w
    channel_base: int = 32768  # channels at a resolution: channel_base / resolution, at most channel_max
    channel_max: int = 512  # most channels of a layer
    architecture: str = "skip"  # one of GENERATORS
    c_dim: int = 0  # size of the condition; 0: none
    img_channels: int = 3  # of an image; commands take 3
    use_noise: bool = True  # whether layers have noise inputs
    activation: str = "lrelu"  # of the synthesis layers, one of ACTIVATIONS
    resample_filter: list[float] = field(default_factory=lambda: [1.0, 3.0, 3.0, 1.0])  # taps
    conv_clamp: float | None = None  # limit of every layer's output; networks trained in half precision have 256
    mapping_embed_features: int | None = None  # of the embedded condition; None: w_dim
    mapping_layer_features: int | None = None  # between the mapping layers; None: w_dim
    mapping_activation: str = "lrelu"  # of the mapping layers, one of ACTIVATIONS
    mapping_lr_multiplier: float = 0.01  # rate of the mapping layers, a part of the others'
    w_avg_beta: float | None = 0.995  # decay of the running mean of w; None: no mean, so no truncation


@dataclass
class DiscriminatorConfig:
    """StyleGAN2 discriminator; `mbstd_group_size` None means the whole batch is one group."""

    channel_base: int = 32768  # channels at a resolution: channel_base / resolution, at most channel_max
    channel_max: int = 512  # most channels of a layer
    mbstd_group_size: int | None = 4  # images whose standard deviation is one number; None: the whole batch
    mbstd_num_channels: int = 1  # 0: no minibatch standard deviation
    architecture: str = "resnet"  # one of ARCHITECTURES
    c_dim: int = 0  # size of the condition; 0: none
    cmap_dim: int | None = None  # of the mapped condition; None: the channels at 4 px
    img_channels: int = 3  # of an image; commands take 3
    activation: str = "lrelu"  # of the blocks, one of ACTIVATIONS
    epilogue_activation: str = "lrelu"  # of the layers at 4 px
    resample_filter: list[float] = field(default_factory=lambda: [1.0, 3.0, 3.0, 1.0])  # taps
    conv_clamp: float | None = None  # limit of every layer's output; networks trained in half precision have 256
    mapping_layers: int = 8  # only with a condition, as the four below
    mapping_embed_features: int | None = None  # None: cmap_dim
    mapping_layer_features: int | None = None  # None: cmap_dim
    mapping_activation: str = "lrelu"  # of the mapped condition, one of ACTIVATIONS
    mapping_lr_multiplier: float = 0.01  # rate of the condition's mapping, a part of the others'


@dataclass
class EncoderConfig:
    """A trunk of four residual stages. The defaults are the published IR-SE50; beside them stand ResNet34's numbers."""

    # ir_se (PReLU units, SE) | ir (without SE) | resnet (BasicBlocks, PReLU stem, no max-pool) | efficientnet_lite0
    trunk: str = "ir_se"
    input_size: int = 256  # px, side of its input
    stem_width: int = 64  # channels of the first convolution
    widths: list[int] = field(default_factory=lambda: [64, 128, 256, 512])  # channels of the four stages
    depths: list[int] = field(default_factory=lambda: [3, 4, 14, 3])  # blocks of each stage; ResNet34: [3, 4, 6, 3]
    # 2: the stage halves the size, 1: it keeps it; ResNet34 (stem strides 2): [1, 2, 2, 2]
    strides: list[int] = field(default_factory=lambda: [2, 2, 2, 2])
    stem_stride: int = 1  # of the first convolution; ResNet34: 2 (7x7); 1 is a 3x3 stem
    antialias: bool = False  # when images are reduced to input_size; published: false
    pool: int = 1  # E1: cells per side that its last map is averaged to before the linear layer; published: 1
    linear_rate: float = 1.0  # E1: how much faster its linear layer learns than others of its rate; published: 1
    # weights file for the trunk (model_ir_se50, torchvision resnet34, ...); None: random; E2: also FROM_E1
    init: str | None = None


@dataclass
class LayerwiseEncoderConfig(EncoderConfig):
    """E2: the same trunk plus FPN and one map2style head per style, each giving [feature_channels, 8, 8]."""

    feature_channels: int = 512  # of the map that each style gets
    feature_size: int = 8  # px, side of that map
    pyramid_channels: int | None = None  # None: as many as the last stage has, which then needs no layer (published)
    unread_heads: bool = True  # published: also heads of styles that no target layer reads, such as the last toRGB's


@dataclass
class HypernetworkConfig:
    hidden_size: int = 256  # D of the paper; a token has this many numbers
    target_set: str = "conv_without_bias"  # one of TARGET_SETS; "with or without toRGB"
    left_out: list[str] = field(default_factory=list)  # of the target set: weights by name or pattern, as layers.6.*
    fusion_channels: int = 512  # of the features of photo and Phase I image together
    transformer_channels: int = 64  # of the convolutions that make a token
    weight_layout: str = "released"  # released (raw view of [I, O*k*k]) | paper (rows are input channels)
    style_index: str = "released"  # released (true index + 1 for conv0/conv1 above 4 px) | true
    # released | signal_preserving (a short run needs it, see models/hypernetwork.py) | gradients (starts from those of
    # the losses for some photos: the shortest start, see training/gradient_basis.py)
    init: str = "released"
    # non_negative (released: ReLU after every convolution) | signed (leaky ones, none at the end: no number of it dies)
    token_range: str = "non_negative"
    # matrices (published: a token to any residual, by two matrices of D columns) | channel_scales (a token has a number
    # per output channel, which its weight is scaled by; D is not used)
    mapper: str = "matrices"
    fusion_norm: str = "instance"  # instance (released) | none: features keep their means and sizes
    use_w_image_features: bool = True  # False: ablation "without features of the Phase I image"
    shared_code: bool = False  # True: ablation "one code for all layers instead of layer-wise"
    # published: 1; in each one more E2 sees what the tokens draw in the place of Phase I's image, and adds to them
    passes: int = 1


@dataclass
class FeatureResidualConfig:
    """Phase III: a residual of one feature map of the generator, beyond the paper; models/feature_residual.py."""

    # whose features it is added to: StyleGAN2's bN.conv1 at N px, MobileStyleGAN's layers.I; None: no Phase III
    layer: str | None = None
    # numbers at each place of the layer's map; together at most 0.17 of the image's, which is its capacity
    channels: int = 8
    width: int = 64  # channels inside its two networks


@dataclass
class WeightsConfig:
    """Where a domain's weights lie. `folder` is a model folder (generator.safetensors, ...); a single file wins."""

    folder: str | None = None  # None: pretrained_models/<domain name>
    generator: str | None = None  # a file in place of the folder's; so with the three below
    discriminator: str | None = None  # the same of D
    w_encoder: str | None = None  # the same of E1; Phase I goes on from it
    hyperinverter: str | None = None  # the same of E2 and hypernetworks; Phase II goes on from it
    feature_residual: str | None = None  # the same of Phase III's two networks; it goes on from it
    psp: str | None = None  # the same of pSp, so that methods which were trained apart can be compared
    e4e: str | None = None  # the same of e4e
    restyle: str | None = None  # the same of ReStyle
    hyperstyle: str | None = None  # the same of HyperStyle


@dataclass
class DomainConfig:
    """One domain: what its images are and the sizes of its networks."""

    name: str = "ffhq"  # of the domain; model folders and outputs are named after it
    kind: str = "faces"  # faces | scenes: decides which identity metrics make sense
    resolution: int = 1024  # px, side of an image
    loss_resolution: int = 256  # every reconstruction loss works at min(resolution, this), by box mean
    alignment: str = "ffhq"  # ffhq | none: how a raw photo becomes an input of this domain
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    w_encoder: EncoderConfig = field(default_factory=EncoderConfig)
    layerwise_encoder: LayerwiseEncoderConfig = field(default_factory=LayerwiseEncoderConfig)
    hypernetwork: HypernetworkConfig = field(default_factory=HypernetworkConfig)
    feature_residual: FeatureResidualConfig = field(default_factory=FeatureResidualConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    directions: dict[str, str] = field(default_factory=dict)  # name -> file, relative to the model folder
