"""What lies around the weights in a published checkpoint: other entries, other networks, words in front of names.

DataParallel, torch.compile and FSDP put a word into every name; a class that owns the network puts its own in front.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from hyperinverter.published.reading import NetworkStub
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.state_dicts import shortened

# entry of a checkpoint -> why it is not used
UNUSED = {
    "opts": "the training run's options; what matters is read off the tensors",
    "latent_avg": "the generator's own w_avg is used",
    "encoder_optimizer": "an optimiser's state",
    "discriminator_optimizer": "an optimiser's state",
    "optimizer": "an optimiser's state",
    "discriminator_optimizer_state_dict": "an optimiser's state",
    "discriminator_state_dict": "a discriminator, which only training needs",
    "loss_dict": "the training run's losses",
    "best_val_loss": "the training run's losses",
}
# entry of a generator's checkpoint -> why it is not used
UNUSED_BESIDE = {
    "g": "the generator as it was trained; its average g_ema is used",
    "G": "the generator as it was trained; its average G_ema is used",
    "generator": "the generator as it was trained; its average is used",
    "d": "the discriminator in rosinality's layout, which is not read; training starts a new one",
    "D": "the discriminator, which only training needs",
    "discriminator": "the discriminator, which only training needs",
    "g_optim": "an optimiser's state",
    "d_optim": "an optimiser's state",
    "args": "the training run's options",
    "training_set_kwargs": "the training run's options",
    "augment_pipe": "the training run's augmentation",
    "ada_aug_p": "the training run's augmentation",
}
MADE = "not in the file, made here: "  # how the reason begins of what is no part that was left out
OTHER_ENTRY = "another entry of the file"
PLAIN = (bool, int, float, str, type(None))
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# with which the names of networks begin that are read here; any other word in front of all names is an owner's
OWN = re.compile(
    r"synthesis|mapping|blocks|style(s|_mlp|_mapping|_convs?1?)?|conv(s|1|_blocks)?|to_rgbs?1?|noises|b\d+|input|input_layer|body|encoder|"
    r"decoder|hypernet|w_encoder|w_bar_encoder|encoder_[qk]|queue(_ptr)?|weight_regressors|b\d+_\w+|w[12]|features|net|"
    r"lins?\d*|layer\d|layers|latlayer\d|bn1|fc|linear|output_layer(_\d)?|final_(conv|linear)|fusion|feature_extractor|"
    r"refinement_blocks|shared_weight_hypernet|facenet|G_mapping|G_synthesis|progression|\d+"
)
# names under which a checkpoint of several networks keeps its generator, the best one first
GENERATORS = ("g_ema", "G_ema", "generator_ema", "generator_smooth", "netG_ema", "net_g_ema", "ema",
              "generator", "netG", "net_g", "G", "g")  # fmt: skip
NETWORKS = {*GENERATORS, "synthesis", "mapping", "encoder", "decoder", "discriminator"}
DEEPEST = 3  # of mappings of names in one another: checkpoint, state_dict, networks
# a name that only these files have -> what it is, and what to give
FOREIGN = {
    r"synthesis\.(L\d+_\d+_\d+\.weight|input\.freqs)": "a StyleGAN3 generator, another architecture",
    r"style_conv1\.modulated_conv\.weight|style_mlp\.\d+\.weight": "a StyleGAN2 in BasicSR's names",
    r"G_synthesis\..*|conv_blocks\.\d+\.conv_block\..*": "a StyleGAN2 in the names of adriansahlman/stylegan2_pytorch",
    r"blocks\.\d+\.to_style1\.weight": "a network of lucidrains/stylegan2-pytorch, another architecture",
    r"synthesis\.layer\d+\.weight": "a StyleGAN in genforce's names",
    r"style_mapping\.\d+\..*": "a StyleGAN2 in mmgeneration's names",
    r"progression\.\d+\..*": "a StyleGAN of the first generation, another architecture",
}
GET_ANOTHER = "give a StyleGAN2 as NVIDIA's .pkl or rosinality's .pt"
STEMS = ("input_layer.0.weight", "conv1.weight")  # of an IR or IR-SE trunk, of a ResNet trunk
INPUTS = ("synthesis.b4.const", "input.input", "decoder.input.input")  # [..., H, W], square where images are


def beside(names: Iterable[str]) -> dict[str, str]:
    """Entries beside a generator, each with why it is not used."""
    return {name: UNUSED_BESIDE.get(name, UNUSED.get(name, OTHER_ENTRY)) for name in names}


def unused_keys(ignored: Mapping[str, str]) -> list[str]:
    """For messages: what of a file is not used and what was made in place of what it lacks.

    Names of one reason stand together, those below one prefix as one.
    """
    reasons: dict[str, dict[str, int]] = {}
    for name, why in ignored.items():
        first, dot, _ = name.partition(".")
        group = f"{first}.*" if dot else name
        counts = reasons.setdefault(why, {})
        counts[group] = counts.get(group, 0) + 1
    unused = [f"{shortened(list(counts))} ({why})" for why, counts in reasons.items() if not why.startswith(MADE)]
    made = [f"{', '.join(counts)}: {why}" for why, counts in reasons.items() if why.startswith(MADE)]
    return [*(["not used: " + "; ".join(unused)] if unused else []), *made]


def unwrap(content: Any, what: str, source: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weights of a checkpoint `{"state_dict": ..., ...}`, or of a state dict, with or without such entries beside.

    Returns:
        The state dict, and for each other entry of the checkpoint why it is not used.
    Raises:
        UserError: it is neither, or it holds an entry that is not known.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{source}: not {what}: it holds a {type(content).__name__}, expected a state dict")
    if "state_dict" not in content:
        ignored = {name: why for name, why in UNUSED.items() if name in content}
        return _named({name: value for name, value in content.items() if name not in ignored}, what, source), ignored
    if not isinstance(content["state_dict"], Mapping):
        result = type(content["state_dict"]).__name__
        raise UserError(f"{source}: not {what}: its state_dict is a {result}, expected names with tensors")
    ignored, unknown = {}, []
    for entry, value in content.items():
        if entry == "state_dict":
            continue
        if entry in UNUSED:
            ignored[entry] = UNUSED[entry]
        elif isinstance(value, PLAIN):
            ignored[entry] = "a note of the training run"
        else:
            unknown.append(entry)
    if unknown:
        raise UserError(f"{source}: not {what}: its entries {shortened(unknown)} are not known")
    return _named(content["state_dict"], what, source), ignored


def _named(state: Mapping[Any, Any], what: str, source: str) -> dict[str, Any]:
    """The state dict, in which every key is a name."""
    if odd := [key for key in state if not isinstance(key, str)]:
        raise UserError(f"{source}: not {what}: {shortened(odd)} stands for a name among its keys, expected text alone")
    return dict(state)


def prefix_of(state: Iterable[str], candidates: Iterable[str], marks: Iterable[str]) -> str | None:
    """The first of the prefixes under which one of the marking keys lies; None if there is none."""
    names = set(state)
    marks = list(marks)
    return next((prefix for prefix in candidates if any(prefix + mark in names for mark in marks)), None)


def plain_names(content: Any, depth: int = 0) -> Any:
    """A file's content with the names of every state dict in it freed from wrappers and owners.

    A state dict of several owners, of which one is a generator, becomes a checkpoint with an entry for each; the
    generator's is `state_dict`. `depth`: of mappings around it.
    """
    if not isinstance(content, Mapping) or depth == DEEPEST or not all(isinstance(key, str) for key in content):
        return content
    if any(isinstance(value, Mapping) for value in content.values()):
        entries = {name: plain_names(value, depth + 1) for name, value in content.items()}
        inner = entries.get("state_dict")
        if isinstance(inner, dict) and isinstance(inner.get("state_dict"), dict):  # of several owners
            entries = {**entries, **inner}
        return entries
    return _freed(dict(content)) if any(isinstance(value, Tensor) for value in content.values()) else content


def _freed(state: dict[str, Any]) -> dict[str, Any]:
    """One state dict; names that would become equal stay as they are."""
    free = {".".join(part for part in name.split(".") if part not in WRAPPERS): value for name, value in state.items()}
    if len(free) < len(state):
        return state
    while True:
        owners = {name.partition(".")[0] for name in free if "." in name}
        below = {name.split(".")[1] for name in free if name.startswith("net.")}  # "net" begins LPIPS's names too
        known = {"discriminator", "net"} if below & NETWORKS else {"discriminator"}
        if not owners or any(OWN.fullmatch(owner) for owner in owners - known):
            return free
        generators = [name for name in GENERATORS if name in owners]
        if len(owners) > 1 and not generators:
            return free
        chosen = generators[0] if generators else next(iter(owners))
        beside = {name: value for name, value in free.items() if "." not in name}
        own = {name.partition(".")[2]: value for name, value in free.items() if name.startswith(f"{chosen}.")}
        if own.keys() & beside.keys():
            return free
        if len(owners) > 1:
            others = {
                owner: {k: v for k, v in free.items() if k.startswith(f"{owner}.")} for owner in owners - {chosen}
            }
            return {"state_dict": _freed(own), **others, **beside}
        free = own | beside


def flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Path and value of everything in nested mappings."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def foreign(content: Any) -> str | None:
    """What a file is that nothing here reads, and what to give instead; None: not known.

    `content`: as `plain_names` gives it.
    """
    if isinstance(content, Tensor) and content.ndim == 3 and content.is_floating_point():
        return f"latent codes {list(content.shape)}, one row per style, and not weights"
    if isinstance(content, NetworkStub):
        content = content.state
    if not isinstance(content, Mapping):
        return None
    if isinstance(content.get("eigvec"), Tensor):
        return "SeFa's factors, directions of W: edit.py takes one as directions=[FILE#0]"
    if any(name in content for name in ("act_comp", "act_mean")):
        return "a cache of GANSpace without components of the latent space (lat_comp); edit.py takes one that has them"
    for state in _mappings(content):
        names = [name for name in state if isinstance(name, str)]
        for pattern, message in FOREIGN.items():
            if any(re.fullmatch(rf"(.+\.)?({pattern})", name) for name in names):
                return f"{message}; {GET_ANOTHER}"
        for name in INPUTS:
            shape = tuple(getattr(state.get(name), "shape", ()))
            if len(shape) >= 3 and shape[-1] != shape[-2]:
                return f"a generator of images that are not square ({shape[-1]}:{shape[-2]}); only square ones are read"
    return None


def _mappings(content: Any, depth: int = 0) -> Iterator[Mapping[Any, Any]]:
    """The mapping, those in it, and the tensors of networks in it."""
    content = content.state if isinstance(content, NetworkStub) else content
    if isinstance(content, Mapping) and depth <= DEEPEST:
        yield content
        for value in content.values():
            yield from _mappings(value, depth + 1)
