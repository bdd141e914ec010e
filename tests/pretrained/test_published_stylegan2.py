"""StyleGAN2 as published by NVIDIA: recorded outputs, what is inferred, what is refused."""

from typing import Any

import pytest
import recorded
import torch
from as_published import to_published
from small_stylegan2 import broken, make_discriminator, make_generator, stub_of
from torch import Tensor

from hyperinverter.published import from_published
from hyperinverter.published.reading import NetworkStub
from hyperinverter.utils.errors import UserError

NVIDIA_G, NVIDIA_D = "stylegan2_ada_generator", "stylegan2_ada_discriminator"


@pytest.mark.parametrize("name", recorded.names("nv_g.*"))
def test_generators_give_the_recorded_numbers(name: str) -> None:
    """Everything that was recorded: mapping, truncation, blocks, images with and without noise, the gradient."""
    case = recorded.Case(name)
    config = case.info["config"]
    generator = from_published(case.state(), NVIDIA_G, **config["init_kwargs"])
    assert generator.num_ws == config["num_ws"]
    features: dict[str, Tensor] = {}
    for block_name, block in generator.synthesis.named_children():
        block.register_forward_hook(lambda _, __, out, key=f"block_{block_name}_x": features.update({key: out[0]}))
    z, ws = case.input("z"), case.input("ws").requires_grad_()
    c = case.input("c") if config["init_kwargs"]["c_dim"] else None
    psi, cutoff = config["truncation_psi"], config["truncation_cutoff"]

    image = generator.synthesis(ws, noise_mode="const")
    results = {"img_ws_const": image, "img_ws_const_unfused": image, **features}
    results["grad_ws"] = torch.autograd.grad((image * case.input("probe")).sum(), ws)[0]
    with torch.no_grad():
        results["w_psi1"] = generator.mapping(z, c=c)[:, 0]
        results["w_psi"] = generator.mapping(z, psi, c=c)[:, 0]
        results["w_psi_cutoff"] = generator.mapping(z, psi, cutoff, c=c)
        results["img_ws_none"] = generator.synthesis(ws, noise_mode="none")
        results["img_z_psi1_const"] = generator(z, c=c)
        results["img_z_psi_const"] = generator(z, psi, c=c)
    for key in case.info["tensors"]:
        case.compare(key, results[key])


@pytest.mark.parametrize("name", recorded.names("nv_d.*"))
def test_discriminators_give_the_recorded_numbers(name: str) -> None:
    """Logits, input gradients, and R1 with its derivatives to the image and to every parameter."""
    case = recorded.Case(name)
    config = case.info["config"]
    discriminator = from_published(case.state(), NVIDIA_D, **config["init_kwargs"])
    images = case.input("img").requires_grad_()
    c = case.input("c") if config["init_kwargs"]["c_dim"] else None
    logits = discriminator(images, c)
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    r1 = gradient.square().sum(dim=(1, 2, 3))
    parameters = [discriminator.get_parameter(key) for key in config["param_order"]]
    second = torch.autograd.grad(r1.mean(), [images, *parameters], allow_unused=True)
    norms = [torch.zeros(()) if gradient is None else gradient.norm() for gradient in second[1:]]
    results = {
        "logits": logits,
        "grad_logits_sum_wrt_img": gradient,
        "r1_per_sample": r1,
        "r1_mean": r1.mean(),
        "grad_r1_mean_wrt_img": second[0],
        "grad_r1_mean_param_l2": torch.stack(norms),
    }
    for key in case.info["tensors"]:
        case.compare(key, results[key])


GENERATOR_VARIANTS = [
    {"architecture": "orig", "conv_clamp": 0.8},
    {"architecture": "resnet", "use_noise": False, "img_channels": 4},
    {"c_dim": 5, "mapping_embed_features": 7, "mapping_layer_features": 9, "mapping_lr_multiplier": 0.1},
    {"activation": "swish", "mapping_activation": "relu", "resample_filter": [1, 2, 1]},
    {"mapping_layers": 0, "z_dim": 8, "w_avg_beta": None},
    {"architecture": "resnet", "resample_filter": [1.0, 1.0]},
    {"resample_filter": [float(t) for t in (1, 2, 3, 4, 5, 6, 6, 5, 4, 3, 2, 1)]},
]
DISCRIMINATOR_VARIANTS = [
    {"architecture": "skip", "conv_clamp": 0.8, "mbstd_group_size": None},
    {"architecture": "orig", "img_channels": 1, "mbstd_num_channels": 4, "mbstd_group_size": 2},
    {"c_dim": 5, "cmap_dim": 7, "mapping_embed_features": 3, "mapping_layers": 2, "mapping_lr_multiplier": 0.1},
    {"c_dim": 5, "mapping_layers": 0, "mbstd_num_channels": 0},
    {"activation": "tanh", "epilogue_activation": "softplus", "resample_filter": [1, 4, 6, 4, 1]},
]


@pytest.mark.parametrize("variant", GENERATOR_VARIANTS)
def test_a_pickles_generator_is_rebuilt_from_its_arguments_and_tensors(variant: dict[str, Any]) -> None:
    generator = make_generator(**variant)
    others = {"G": stub_of(make_generator()), "D": stub_of(make_discriminator()), "training_set_kwargs": {"path": "x"}}
    again = from_published({**others, "G_ema": stub_of(generator)}, NVIDIA_G)
    assert again.config == generator.config == again.published.config
    assert set(again.published.ignored) == set(others)
    z = torch.randn(2, generator.z_dim)
    c = torch.randn(2, 5) if generator.c_dim else None
    assert torch.equal(again(z, c=c), generator(z, c=c))


@pytest.mark.parametrize("variant", DISCRIMINATOR_VARIANTS)
def test_a_pickles_discriminator_is_rebuilt_from_its_arguments_and_tensors(variant: dict[str, Any]) -> None:
    discriminator = make_discriminator(**variant)
    again = from_published({"G_ema": stub_of(make_generator()), "D": stub_of(discriminator)}, NVIDIA_D)
    assert again.config == discriminator.config == again.published.config
    images = torch.randn(4, discriminator.img_channels, 16, 16)
    c = torch.randn(4, 5) if discriminator.c_dim else None
    assert torch.equal(again(images, c), discriminator(images, c))


def test_arguments_that_tensors_do_not_tell_are_options_nested_or_flat() -> None:
    generator = make_generator(conv_clamp=0.5, mapping_lr_multiplier=0.1, mapping_activation="relu", w_avg_beta=0.9)
    state = to_published(generator)
    inside = {"activation": "relu", "lr_multiplier": 0.1, "w_avg_beta": 0.9}
    nested = from_published(state, NVIDIA_G, mapping_kwargs=inside, synthesis_kwargs={"conv_clamp": 0.5})
    flat = from_published(
        state, NVIDIA_G, conv_clamp=0.5, lr_multiplier=0.1, w_avg_beta=0.9, mapping_kwargs={"activation": "relu"}
    )
    assert nested.config == flat.config == generator.config
    discriminator = make_discriminator(mbstd_group_size=2, conv_clamp=3.0)
    for given in ({"mbstd_group_size": 2}, {"epilogue_kwargs": {"mbstd_group_size": 2}}):
        again = from_published(to_published(discriminator), NVIDIA_D, conv_clamp=3.0, **given)
        assert again.config == discriminator.config


def test_what_the_tensors_tell_may_be_repeated_and_must_agree() -> None:
    state = to_published(make_generator())
    same = {"img_resolution": 16, "z_dim": 6, "w_dim": 8, "num_ws": 6, "num_layers": 3, "channel_base": 128}
    from_published(state, NVIDIA_G, **same, architecture="skip", resample_filter=[1, 3, 3, 1], num_fp16_res=4)
    for name in same:
        with pytest.raises(UserError, match=name):
            from_published(state, NVIDIA_G, **{name: 2 * same[name]})
    with pytest.raises(UserError, match="resample_filter"):
        from_published(state, NVIDIA_G, resample_filter=[1, 1])
    with pytest.raises(UserError, match=r"conv_clamp=1 was given, but the file says 256"):
        from_published(stub_of(make_generator(conv_clamp=256)), NVIDIA_G, conv_clamp=1)
    with pytest.raises(ValueError, match=r"unknown option truncation; it takes: .*conv_clamp"):
        from_published(state, NVIDIA_G, truncation=1)
    with pytest.raises(ValueError, match=r"unknown argument mapping_kwargs\.layers"):
        from_published(state, NVIDIA_G, mapping_kwargs={"layers": 8})


def test_a_file_of_stylegan3_has_its_own_defaults() -> None:
    """Its StyleGAN2 takes the synthesis arguments flat; an absent conv_clamp means 256 there, None in the ADA code."""
    generator = make_generator()
    sizes = {"z_dim": 6, "c_dim": 0, "w_dim": 8, "img_resolution": 16, "img_channels": 3}
    flat = {
        **sizes,
        "mapping_kwargs": {"num_layers": 3},
        "channel_base": 128,
        "fused_modconv_default": "inference_only",
    }
    nested = {**sizes, "mapping_kwargs": {"num_layers": 3}, "synthesis_kwargs": {"channel_base": 128}}
    discriminator = NetworkStub("Discriminator", {**sizes, "channel_base": 128}, to_published(make_discriminator()))
    discriminator.init_kwargs = {k: v for k, v in discriminator.init_kwargs.items() if k not in ("z_dim", "w_dim")}
    for arguments, clamp, beta in ((flat, 256, 0.998), (nested, None, 0.995)):
        content = {"G_ema": NetworkStub("Generator", arguments, to_published(generator)), "D": discriminator}
        again = from_published(content, NVIDIA_G)
        assert (again.config["conv_clamp"], again.config["w_avg_beta"]) == (clamp, beta)
        assert from_published(content, NVIDIA_D).config["conv_clamp"] == clamp


def test_a_converted_tensorflow_discriminator() -> None:
    """`legacy.py` writes the arguments of a mapping network that is not there, and the whole batch as one group."""
    mapping = {
        "num_layers": 0,
        "embed_features": None,
        "layer_features": None,
        "activation": "lrelu",
        "lr_multiplier": 0.1,
    }
    converted = {
        **{"c_dim": 0, "img_resolution": 16, "img_channels": 3, "architecture": "resnet", "channel_base": 128},
        **{"channel_max": 16, "num_fp16_res": 0, "conv_clamp": None, "cmap_dim": None, "mapping_kwargs": mapping},
        "block_kwargs": {"activation": "lrelu", "resample_filter": [1, 3, 3, 1], "freeze_layers": 0},
        "epilogue_kwargs": {"mbstd_group_size": None, "mbstd_num_channels": 1, "activation": "lrelu"},
    }
    stub = NetworkStub("Discriminator", converted, to_published(make_discriminator()))
    again = from_published(stub, NVIDIA_D)
    assert again.config["mbstd_group_size"] is None
    assert set(again.published.ignored) == {"num_fp16_res", "block_kwargs.freeze_layers"}


def test_constant_noise_is_the_files() -> None:
    generator = make_generator()
    again = from_published(to_published(generator), NVIDIA_G)
    assert torch.equal(again.synthesis.b16.conv0.noise_const, generator.synthesis.b16.conv0.noise_const)


def test_a_state_dict_without_filters_has_the_usual_one_or_the_given_one() -> None:
    for taps in ([1.0, 3.0, 3.0, 1.0], [1.0, 1.0]):
        generator = make_generator(resample_filter=taps)
        state = {k: v for k, v in to_published(generator).items() if not k.endswith("resample_filter")}
        again = from_published(state, NVIDIA_G, resample_filter=taps)
        assert torch.equal(again(torch.ones(1, 6)), generator(torch.ones(1, 6)))


def test_damaged_and_foreign_generators_are_refused_by_name() -> None:
    state = to_published(make_generator())
    for content, message in [
        (broken(state, synthesis__b8__conv0__bias=None), r"1 missing: synthesis\.b8\.conv0\.bias"),
        (broken(state, extra__weight=torch.zeros(1)), r"1 not known: extra\.weight"),
        (broken(state, synthesis__b8__conv0__bias=torch.zeros(3)), r"b8\.conv0\.bias \(3,\) for \(16,\)"),
        (broken(state, synthesis__b4__const=torch.full((16, 4, 4), torch.nan)), "with NaN or infinity"),
        (broken(state, synthesis__b8__conv1__weight=None), r"resolutions \[4, 16\], expected 4, 8"),
        (
            broken(state, synthesis__b8__conv1__weight=torch.zeros(5, 16, 3, 3)),
            "no channel_base and channel_max .* 5 at 8",
        ),
        (broken(state, mapping__w_avg=None), "no mapping.w_avg; if it was trained without one, give w_avg_beta=None"),
        (broken(state, synthesis__input__freqs=torch.zeros(1)), "it is a StyleGAN3 generator"),
        (broken(state, mapping__w_avg="text"), "mapping.w_avg is a str, expected a tensor"),
        (to_published(make_discriminator()), "resolutions none"),
        (stub_of(make_generator(), epsilon=1), "the arguments it was built with: unknown argument epsilon"),
        (stub_of(make_generator(), w_dim=512), "w_dim=512 was given, but the tensors say 8"),
        (stub_of(make_generator(), synthesis_kwargs={"activation": "gelu"}), "activation must be one of .*'gelu'"),
        (stub_of(make_generator(), synthesis_kwargs={"conv_clamp": "high"}), "conv_clamp|'<' not supported"),
        ({"D": stub_of(make_discriminator())}, "expected G_ema or G, or a state dict; it holds D"),
        ({"D": stub_of(make_discriminator()), "\x1b[2J": 1}, r"it holds D, \\x1b\[2J"),
        (7, "it holds a int"),
        ({}, "resolutions none"),
    ]:
        with pytest.raises(UserError, match=f"not a StyleGAN2-ADA generator.*{message}|{message}"):
            from_published(content, NVIDIA_G)


def test_a_network_larger_than_its_file_is_refused_before_memory_is_taken() -> None:
    """A tensor of a few numbers can declare that the others are huge."""
    state = to_published(make_generator())
    wide = {f"synthesis.b{res}.conv1.weight": torch.zeros(2_000_000, 1, 1, 1) for res in (4, 8, 16)}
    with pytest.raises(
        UserError, match=r"a network of its sizes has [0-9,]+ numbers and it holds [0-9,]+; it is incomplete"
    ):
        from_published({**state, **wide}, NVIDIA_G)
