"""Encoders into W+: how codes come from heads, how images reach them, and what the published sizes are."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hyperinverter.config.schema import EncoderConfig
from hyperinverter.models.wplus import ENCODERS, WPlusConfig, build_model
from hyperinverter.models.wplus.encoders import Encoder4Editing, MapToStyle, ProgressiveBackboneEncoder
from hyperinverter.models.wplus.model import pooled, prepared
from hyperinverter.utils.state_dicts import skip_init

TRUNK = EncoderConfig(input_size=32, stem_width=4, widths=[4, 8, 8, 8], depths=[1] * 4, strides=[2, 2, 1, 1])
IR_SE50 = EncoderConfig()
RESNET34 = EncoderConfig(trunk="resnet", depths=[3, 4, 6, 3], strides=[1, 2, 2, 2], stem_stride=2)


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(
    ("encoder_type", "trunk", "channels", "num_styles", "millions"),
    [  # as recorded for the published classes
        ("GradualStyleEncoder", IR_SE50, 3, 18, 267.161076),
        ("Encoder4Editing", IR_SE50, 3, 14, 209.475060),
        ("BackboneEncoderUsingLastLayerIntoWPlus", IR_SE50, 3, 14, 47.499253),
        ("BackboneEncoder", IR_SE50, 6, 14, 166.802612),
        ("ProgressiveBackboneEncoder", IR_SE50, 6, 18, 205.610164),
        ("ProgressiveBackboneEncoder", RESNET34, 6, 14, 157.137636),
        ("GradualStyleEncoder", RESNET34, 6, 14, 199.811812),
    ],
)
def test_published_sizes_have_the_published_number_of_weights(encoder_type, trunk, channels, num_styles, millions):
    """The recorded counts include what BatchNorm keeps."""
    with skip_init():
        encoder = build_model(WPlusConfig(encoder_type, num_styles, 512, channels, trunk)).encoder
    assert sum(value.numel() for value in encoder.state_dict().values()) == round(millions * 1e6)


@pytest.mark.parametrize("encoder_class", [Encoder4Editing, ProgressiveBackboneEncoder])
@torch.no_grad()
def test_a_progressive_encoder_adds_differences_up_to_its_stage(encoder_class):
    encoder = encoder_class(TRUNK, num_styles=8, w_dim=8).eval()
    x = images(2, 3, 32, 32)
    heads = torch.stack(encoder.offsets(x, 7), dim=1)  # [N, L, w_dim]
    for stage in (0, 3, 7, None, 18):
        encoder.progressive_stage = stage
        last = 7 if stage is None else min(stage, 7)
        expected = heads[:, :1].repeat(1, 8, 1)
        expected[:, 1 : last + 1] += heads[:, 1 : last + 1]
        torch.testing.assert_close(encoder(x), expected)
    encoder.progressive_stage = -1
    with pytest.raises(ValueError, match=r"progressive_stage is -1; expected 0 .* to 7"):
        encoder(x)


@pytest.mark.parametrize("shape", [(16, 16), (12, 16), (7, 7), (1, 1)])
def test_a_head_ends_at_one_pixel_whatever_the_map(shape):
    head = MapToStyle(3, 5, max(shape))
    assert head(torch.zeros(2, 3, *shape)).shape == (2, 5)
    assert len(head.convs) // 2 == {16: 4, 7: 3, 1: 1}[max(shape)]


def test_every_encoder_takes_any_number_of_channels_and_says_so():
    for name in ENCODERS:
        model = build_model(WPlusConfig(name, 4, 8, 5, TRUNK)).eval()
        assert model(images(1, 5, 40, 40)).shape == (1, 4, 8)
        with pytest.raises(ValueError, match=r"got shape \[1, 3, 32, 32\], expected \[N, 5, H, W\]"):
            model(images(1, 3, 32, 32))
    with pytest.raises(ValueError, match="encoder_type is 'FPN'; write one of Gradual"):
        build_model(WPlusConfig("FPN", 4))


def test_images_are_resized_as_the_published_photos_were():
    """PIL's bilinear filter with antialiasing, but for its rounding to 8 bits; the W encoder E1 has no antialiasing."""
    pixels = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    resized = np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR))
    given = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0) / 127.5 - 1
    found = (prepared(given, (32, 32))[0].permute(1, 2, 0) + 1) * 127.5
    assert (found.numpy() - resized).__abs__().max() < 1.01
    same = images(1, 3, 32, 32)
    assert prepared(same, (32, 32)) is same


def test_wide_models_take_the_middle_rows_of_square_images_and_whole_wide_ones():
    rows = torch.arange(64.0).view(1, 1, 64, 1).expand(1, 3, 64, 64)
    assert torch.equal(pooled(rows, (24, 32))[0, 0, :, 0], rows[0, 0, 8:56, 0].view(24, 2).mean(1))
    wide = images(1, 3, 48, 64)
    torch.testing.assert_close(pooled(wide, (24, 32)), torch.nn.functional.avg_pool2d(wide, 2))
    model = build_model(WPlusConfig("BackboneEncoder", 4, 8, trunk=TRUNK, wide=True)).eval()
    assert model.encoder.input_shape == (24, 32)
    torch.testing.assert_close(model(rows / 64), model(rows[:, :, 8:56] / 64))


def test_an_encoder_of_one_code_starts_from_the_first_row_of_the_average():
    config = WPlusConfig("BackboneEncoderUsingLastLayerIntoW", 3, 2, trunk=TRUNK, average_rows=3)
    model = build_model(config)
    model.latent_avg.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    assert model.around_average(torch.tensor([[0.5, 0.5]])).tolist() == [[[1.5, 2.5]] * 3]


def test_restyle_adds_every_change_to_the_codes_so_far(monkeypatch):
    config = WPlusConfig("BackboneEncoder", 3, 2, input_channels=6, trunk=TRUNK, n_iters=3)
    model = build_model(config)
    monkeypatch.setattr(model.encoder, "forward", lambda images: torch.full([len(images), 3, 2], 0.5))
    monkeypatch.setattr(model, "render", lambda ws, px=None: torch.zeros(len(ws), 3, 16, 16))
    found = model.steps(torch.zeros(1, 3, 16, 16), average_image=torch.zeros(3, *model.encoder.input_shape))
    assert [float(codes[0, 0, 0]) for codes in found] == [0.5, 1.0, 1.5]
