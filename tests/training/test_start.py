"""What the encoders' trunks may start from: the ArcFace port's layout, torchvision's, or an encoder of this project."""

from dataclasses import replace

import pytest
import torch

from hyperinverter.config.schema import EncoderConfig, GeneratorConfig, WeightsConfig
from hyperinverter.models.backbones import Trunk
from hyperinverter.models.encoders import WEncoder
from hyperinverter.training.start import load_trunk, start_hyperinverter, start_w_encoder
from hyperinverter.utils.errors import UserError

SMALL = {"input_size": 16, "stem_width": 8, "widths": [8, 8, 16, 16], "depths": [1, 2, 1, 1]}


def torchvision_names(encoder: WEncoder) -> dict[str, torch.Tensor]:
    """The file torchvision would have written for this trunk: nested block names, a ReLU stem, a classifier."""
    blocks = ["layer1.0", "layer2.0", "layer2.1", "layer3.0", "layer4.0"]
    state = {"fc.weight": torch.zeros(3, 16), "fc.bias": torch.zeros(3)}
    for key, value in encoder.state_dict().items():
        if key.startswith("body."):
            _, number, rest = key.split(".", 2)
            state[f"{blocks[int(number)]}.{rest}"] = value
        elif not key.startswith(("linear.", "relu.")):
            state[key] = value
    return state


def test_torchvision_resnet(tmp_path):
    config = EncoderConfig(trunk="resnet", **SMALL, stem_stride=2, strides=[1, 2, 1, 1])
    source, encoder = WEncoder(config, w_dim=4), WEncoder(config, w_dim=4)
    torch.save(torchvision_names(source), tmp_path / "resnet34-333f7ec4.pth")
    linear = encoder.linear.weight.clone()
    load_trunk(encoder, str(tmp_path / "resnet34-333f7ec4.pth"), "w_encoder")
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in encoder.state_dict().items() if k.startswith("body."))
    assert torch.equal(encoder.conv1.weight, source.conv1.weight)
    assert torch.equal(encoder.relu.weight, torch.full([8], 0.25))
    assert torch.equal(encoder.linear.weight, linear)


def test_arcface_ir_se_is_found_beside_the_models(tmp_path, monkeypatch, tiny_domain):
    domain = tiny_domain.__class__(
        w_encoder=EncoderConfig(**SMALL, init="model_ir_se50.pth"), generator=GeneratorConfig(w_dim=4)
    )
    source = Trunk(domain.w_encoder)
    old_file = {k: v for k, v in source.state_dict().items() if not k.endswith("num_batches_tracked")}
    monkeypatch.setenv("HYPERINVERTER_MODELS", str(tmp_path))
    with pytest.raises(
        UserError, match=r"w_encoder.init: model_ir_se50.pth was not found; put it into pretrained_models"
    ):
        start_w_encoder(domain, None)
    torch.save({**old_file, "output_layer.0.weight": torch.zeros(16)}, tmp_path / "model_ir_se50.pth")
    encoder, told = start_w_encoder(domain, None)
    assert torch.equal(encoder.body[3].res_layer[1].weight, source.body[3].res_layer[1].weight)
    assert "model_ir_se50.pth" in told


def test_another_trunk_is_refused(tmp_path):
    torch.save(Trunk(EncoderConfig(**SMALL)).state_dict(), tmp_path / "other.pth")
    wider = WEncoder(EncoderConfig(**{**SMALL, "depths": [1, 1, 1, 1], "widths": [8, 8, 16, 32]}))
    with pytest.raises(
        UserError, match=r"layerwise_encoder.init: .*other.pth holds another trunk .* write .*init=null"
    ):
        load_trunk(wider, str(tmp_path / "other.pth"), "layerwise_encoder")


def test_e2s_trunk_starts_from_e1s(tiny_domain, tiny_model):
    e2 = replace(tiny_domain.layerwise_encoder, init="w_encoder")
    weights = WeightsConfig(folder=str(tiny_model))
    start = start_hyperinverter(replace(tiny_domain, layerwise_encoder=e2, weights=weights))
    model, origin = start.model, start.origin
    assert f"starts from {tiny_model / 'w_encoder.safetensors'}" in origin
    theirs = model.w_encoder.state_dict()
    copied = [key for key in model.layerwise_encoder.state_dict() if key.startswith(("input_layer.", "body."))]
    assert len(copied) > 20
    for key in copied:
        assert torch.equal(model.layerwise_encoder.state_dict()[key], theirs[key]), key
