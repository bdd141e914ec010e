"""What a file of published weights is, by its content: its kind, and the facts that `convert.py --inspect` shows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from hyperinverter.checkpoint import MODEL_FORMAT
from hyperinverter.models.hypernetwork import Hypernetwork
from hyperinverter.models.mobile_stylegan import MobileGenerator
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.published import KINDS, from_published
from hyperinverter.published.container import MADE, flat, foreign, plain_names
from hyperinverter.published.reading import IrNetwork, NetworkStub, PublishedFile
from hyperinverter.published.vectors import Space, as_direction, is_pca, pca_of
from hyperinverter.releases.catalog import VECTORS
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.state_dicts import outline

INNER = ("state_dict", "g_ema", "g", "G_ema", "G", "D")  # entries that hold the weights
LIKELY = ("psp", "e4e")  # kinds whose tensors are alike
ENCODER_TYPES = {  # `opts.encoder_type` of the published training scripts
    "GradualStyleEncoder": "psp",
    "BackboneEncoderUsingLastLayerIntoWPlus": "psp",
    "Encoder4Editing": "e4e",
}
E4E_OPTIONS = ("progressive_steps", "w_discriminator_lambda", "delta_norm_lambda")  # only e4e's training knows these
# options of the parts of a HyperInverter release
PART_OPTIONS = {
    "w_encoder": ("input_size", "strides"),
    "layerwise_encoder": ("input_size", "strides", "feature_size", "n_styles", "output_size", "encoder_type"),
    "hypernetwork": ("hidden_dim", "target_shape_name", "weight_layout", "style_index"),
}
KNOWN = (*KINDS, *VECTORS)
Rows = list[tuple[str, str]]


def recognise(content: Any) -> tuple[str, ...]:
    """The kinds that a file's content may be; several where the tensors do not distinguish them, none if any.

    A kind is only a first guess from a few names; its reader then accounts for every key.
    """
    content = plain_names(content)
    if is_pca(content):
        return ("pca",)
    if isinstance(content, Tensor) and content.is_floating_point() and content.squeeze().ndim in (1, 2):
        return ("direction",)
    stubs = content if isinstance(content, Mapping) else {"": content}
    networks = {name: value for name, value in stubs.items() if isinstance(value, NetworkStub)}
    if networks:
        names = {name if name in ("G_ema", "G", "D") else stub.class_name for name, stub in networks.items()}
        is_generator = any(name.startswith("G") for name in names)
        return ("stylegan2_ada_generator",) if is_generator else ("stylegan2_ada_discriminator",)
    if any(isinstance(value, IrNetwork) for value in stubs.values()):
        return ("mobile_stylegan_generator",)
    if not isinstance(content, Mapping):
        return ()
    if any(name in content for name in ("AlexNet_0", "VGG16_0")):
        return ("lpips",)
    inner = next((content[name] for name in INNER if isinstance(content.get(name), Mapping)), content)
    state = {str(key): value for key, value in inner.items() if isinstance(value, Tensor)}
    return _by_names(state, content)


def _by_names(state: Mapping[str, Tensor], content: Mapping[str, Any]) -> tuple[str, ...]:
    def below(prefix: str) -> bool:
        return any(key.startswith(prefix) for key in state)

    if below("hypernet.weight_regressors."):
        return ("hyperinverter",) if below("w_bar_encoder.") else ("hypernetwork",)
    if below("hypernet."):
        return ("hyperstyle",)
    if below("weight_regressors.") or "b4_conv1_weight.w1" in state or {"w1", "b1", "w2", "b2"} <= set(state):
        return ("hypernetwork",)
    if below("encoder_q."):
        return ("moco",)
    for prefix in ("encoder.", "w_encoder.", "w_bar_encoder.", ""):
        stem = next((state[prefix + n] for n in ("input_layer.0.weight", "conv1.weight") if prefix + n in state), None)
        if stem is not None:
            return _encoder(
                {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}, stem, content
            )
    if "conv1.conv.modulation.weight" in state or "decoder.conv1.conv.modulation.weight" in state:
        return ("rosinality_generator",)
    if "synthesis.b4.const" in state:
        return ("stylegan2_ada_generator",)
    if "b4.out.weight" in state:
        return ("stylegan2_ada_discriminator",)
    if any(key in state for key in ("features.0.weight", "net.slice1.0.weight", "net.layers.0.weight")):
        return ("lpips",)
    return ()


def _encoder(state: Mapping[str, Tensor], stem: Tensor, content: Mapping[str, Any]) -> tuple[str, ...]:
    """Networks that begin with an IR or ResNet trunk."""
    if "output_layer.3.weight" in state:
        return ("arcface",) if "output_layer.4.weight" in state else ("curricularface",)
    if "layer4.0.conv3.weight" in state:
        return ("moco",)
    if stem.shape[1] == 6:
        return ("restyle",)
    if "linear.weight" in state:
        return ("psp",) if "output_layer_2.0.weight" in state else ("w_encoder",)
    if "styles.0.linear.weight" not in state:
        return ("layerwise_encoder",) if "styles.0.convs.0.weight" in state else ()
    opts = content.get("opts")
    opts = opts if isinstance(opts, Mapping) else {}
    if "discriminator_state_dict" in content or any(name in opts for name in E4E_OPTIONS):
        return ("e4e",)
    named = ENCODER_TYPES.get(str(opts.get("encoder_type")))
    if named or "latlayer1.weight" not in state:
        return (named or "psp",)
    return LIKELY


def kind_of(file: PublishedFile, kind: str | None = None, hint: str | None = None) -> str:
    """The kind of a file.

    Args:
        kind: what the user said; wins.
        hint: what the catalog says of a file of this name; decides only between kinds whose tensors are alike.
    Raises:
        UserError: it is none of KNOWN, or one of several; says what to give.
    """
    if kind is not None:
        if kind not in KNOWN:
            raise UserError(f"kind is {kind!r}; write one of {', '.join(KNOWN)}")
        return kind
    if file.metadata.get("format") == MODEL_FORMAT:
        raise UserError(f"{file.path}: is converted already, it holds a {file.metadata.get('kind')} of this project")
    result = recognise(file.content)
    if len(result) == 1:
        return result[0]
    if hint in result:
        return hint
    if result:
        raise UserError(f"{file.path}: may be {' or '.join(result)}, whose tensors are alike; give kind={result[0]}")
    if other := foreign(plain_names(file.content)):
        raise UserError(f"{file.path}: it is {other}")
    raise UserError(
        f"{file.path}: its kind is not recognised (it holds {outline(file.content)}); give kind=, one of "
        f"{', '.join(KNOWN)}"
    )


def rows_of(file: PublishedFile, kind: str, options: Mapping[str, Any]) -> Rows:
    """What `--inspect` says about a file: label and text, most important first."""
    rows: Rows = [("kind", kind)]
    if kind in VECTORS:
        return rows + _rows_of_vectors(file, kind)
    content = file.content if isinstance(file.content, Mapping) else {}
    reports = []
    for name, network in networks_of(file, kind, options).items():
        count = sum(parameter.numel() for parameter in network.parameters())
        rows += [(f"{name}: {label}", text) for label, text in _sizes(network)]
        rows.append((f"{name}: parameters", f"{count:,}"))
        reports.append(network.published.ignored)
    for label in ("global_step", "step", "best_val_loss"):
        if isinstance(content.get(label), int | float):
            rows.append((label, f"{content[label]:,}"))
    if isinstance(average := content.get("latent_avg"), Tensor):
        rows.append(("latent_avg", f"present, {'x'.join(map(str, average.shape)) or 'one number'}"))
    opts = content.get("opts")
    if isinstance(opts, Mapping):
        shown = ("dataset_type", "encoder_type", "hidden_dim", "target_shape_name", "output_size", "max_steps")
        rows.append(("its options", ", ".join(f"{n}={opts[n]}" for n in shown if n in opts) or f"{len(opts)} of them"))
    reasons = Counter(unused_by_all(reports).values())
    return rows + [("note" if why.startswith(MADE) else "not used", f"{n} x {why}") for why, n in reasons.most_common()]


def unused_by_all(reports: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What none of a file's networks uses, with the reason, from what each of them ignored."""
    return {key: why for key, why in reports[0].items() if all(key in other for other in reports)} if reports else {}


def _rows_of_vectors(file: PublishedFile, kind: str) -> Rows:
    try:
        if kind == "direction":
            vector = as_direction(file.content, Space())
            return [("numbers", " x ".join(map(str, vector.squeeze().shape))), ("length", f"{vector.norm():.4g}")]
        mean, components, stds = pca_of(file.content, Space())
    except ValueError as error:
        raise UserError(f"{file.path}: {error}") from error
    return [("components", f"{len(components)} of {len(mean)} numbers"), ("widest", f"{stds[0]:.4g}")]


def networks_of(file: PublishedFile, kind: str, options: Mapping[str, Any]) -> dict[str, nn.Module]:
    """The networks of a file that need nothing else, by name; of a HyperInverter release its three parts.

    `options`: for its reader. Of a HyperInverter release each goes to the parts that know it; a mapping under a part's
    name is for that part alone.
    """
    if kind == "hyperinverter":
        known = {name for names in PART_OPTIONS.values() for name in names}
        if unknown := [name for name in options if name not in known and name not in PART_OPTIONS]:
            raise UserError(f"{file.path}: unknown option {', '.join(unknown)}; it takes: {', '.join(sorted(known))}")
        content = plain_names(file.content)
        state = content.get("state_dict", content)
        result = {}
        for part, names in PART_OPTIONS.items():
            if part != "w_encoder" or any(key.startswith("w_encoder.") for key in state):
                given = {name: value for name, value in options.items() if name in names}
                result[part] = from_published(file, part, **{**options.get(part, {}), **given})
        return result
    if kind == "stylegan2_ada_generator":
        result = {"generator": from_published(file, kind, **options)}
        if isinstance(file.content, Mapping) and isinstance(file.content.get("D"), NetworkStub):
            result["discriminator"] = from_published(file, "stylegan2_ada_discriminator")
        return result
    names = {
        "rosinality_generator": "generator",
        "mobile_stylegan_generator": "generator",
        "stylegan2_ada_discriminator": "discriminator",
    }
    network = from_published(file, kind, **options)
    decoder = getattr(network, "decoder", None)
    if isinstance(decoder, Generator) and not hasattr(decoder, "published"):
        decoder.published = network.published
    return {names.get(kind, kind): network} | ({"generator": decoder} if isinstance(decoder, Generator) else {})


def _sizes(network: nn.Module) -> Rows:
    """Sizes of a network that matter to a user."""
    if isinstance(network, Hypernetwork):
        return [
            ("resolution", f"{network.published.config['resolution']} px"),
            ("D", str(network.hidden_size)),
            ("target layers", f"{len(network.targets)} ({network.published.config['hypernetwork']['target_set']})"),
        ]
    if isinstance(network, Generator | MobileGenerator):
        mean = getattr(network.mapping, "w_avg", None)
        return [
            ("resolution", f"{network.resolution} px"),
            ("styles", f"{network.num_ws} of {network.w_dim} numbers"),
            ("channels", f"min({network.config['channel_base']} / px, {network.config['channel_max']})"),
            ("w_avg", "absent" if mean is None else "present" if mean.any() else "present, all zero"),
        ]
    rows = []
    for path, value in flat(network.published.config):
        name = path.rpartition("/")[2]
        if isinstance(value, int | float | str) or (isinstance(value, list) and len(value) <= 4):
            rows.append((name, f"{value} px" if name == "resolution" else str(value)))
    return rows
