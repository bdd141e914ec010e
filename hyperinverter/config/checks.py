"""What a config's values must fulfil beyond their type: ranges, choices, lengths, and agreement between keys.

One function per dataclass of `schema.py`, found by its class; a section is checked by the functions of all its base
classes. Each gives problems with keys relative to its section; `problems` walks a whole config and completes the keys.
"""

import re
from collections.abc import Iterator
from typing import Any

from hyperinverter.config import names, rules
from hyperinverter.config import schema as s
from hyperinverter.config.domain_checks import DOMAIN_CHECKS
from hyperinverter.config.encoder_schema import (
    RESTYLE_OVER,
    TRUNKS_FROM,
    HyperStyleSizes,
    LatentDiscriminatorConfig,
    Phase3Config,
    TrainEncoderConfig,
)
from hyperinverter.config.report_checks import REPORT_CHECKS, edits, which_face
from hyperinverter.config.report_schema import DemoConfig
from hyperinverter.config.rules import Checks, Problem, problems_by
from hyperinverter.utils.checkout import command_of


def problems(config: Any) -> Iterator[Problem]:
    """Every problem of a config dataclass and of the sections inside it, with full dotted keys."""
    return problems_by(CHECKS, config)


def _photos(c: s.PhotosConfig) -> Iterator[Problem]:
    if "" in ([c.root] if isinstance(c.root, str) else c.root or []):  # it would mean the folder one is in
        yield Problem(("root",), "is an empty name; write a folder or file, or '.' for the current folder")
    yield from rules.choice(c, "on_bad_file", ("skip", "refuse"))
    yield from rules.positive(c, "max_megapixels")
    yield from rules.at_least(c, 1, "max_images")


def _files(c: s.FilesConfig) -> Iterator[Problem]:
    generated = ("generated",) if isinstance(c, s.ImagesConfig) else ()
    yield from rules.choice(c, "kind", ("auto", "folder", "zip", "lmdb", *generated))
    yield from rules.at_least(c, 0, "workers")


def _images(c: s.ImagesConfig) -> Iterator[Problem]:
    yield from rules.at_least(c, 1, "num_generated")
    yield from rules.at_least(c, 0, "cache_mib generated_seed")
    yield from rules.not_negative(c, "truncation_psi")
    yield from rules.between_0_and_1(c, "truncation_psi_from")
    if c.kind == "generated" and c.root is not None:
        message = f"({c.root}) is not read when data.kind is generated; write data.kind=auto to use these images"
        yield Problem(("root", "kind"), message)


def _data(c: s.DataConfig) -> Iterator[Problem]:
    if not 0 <= c.validation_fraction < 1:
        yield Problem(("validation_fraction",), f"must be 0 or more and below 1, got {c.validation_fraction}")


def _optimizer(c: s.OptimizerConfig) -> Iterator[Problem]:
    yield from rules.choice(c, "name", names.OPTIMIZERS)
    yield from rules.positive(c, "lr eps")
    if len(c.betas) != 2 or not all(0 <= beta < 1 for beta in c.betas):
        yield Problem(("betas",), f"must be two numbers, 0 or more and below 1, such as [0.9, 0.999]; got {c.betas}")


def _adversarial(c: s.AdversarialConfig) -> Iterator[Problem]:
    yield from rules.not_negative(c, "weight r1_gamma")
    yield from rules.choice(c, "discriminator_loss", s.DISCRIMINATOR_LOSSES)
    yield from rules.at_least(c, 0, "start_step cold_steps")
    yield from rules.at_least(c, 1, "batch_size")
    yield from rules.every(c, "r1_every", "r1_gamma: 0")


def _schedule(c: s.ScheduleConfig) -> Iterator[Problem]:
    yield from rules.at_least(c, 1, "max_steps batch_size keep_checkpoints validation_images")
    yield from rules.every(c, "log_every images_every validate_every save_every", "a number above max_steps")
    yield from rules.choice(c, "lr_decay_shape", s.DECAY_SHAPES)
    yield from rules.between_0_and_1(c, "lr_decay_to")
    yield from rules.at_least(c, 0, "lr_decay_steps")


def _prepare(c: s.PrepareConfig) -> Iterator[Problem]:
    yield from rules.not_empty(c, "output")
    yield from rules.choice(c, "dataset", names.DATASETS)
    lists = {"mapping": c.mapping, "partition": c.partition}
    for key, value in lists.items():
        if (value is None) == (c.dataset == "celeba_hq"):
            what = "CelebA-HQ-to-CelebA-mapping.txt" if key == "mapping" else "list_eval_partition.txt"
            yield Problem((key,), f"is the path of {what} with dataset=celeba_hq, and null with others; got {value!r}")
    if c.test_root is not None and c.dataset == "celeba_hq":
        yield Problem(("test_root",), "must be null with dataset=celeba_hq, whose test images are in data.root")
    if c.test_root is None and c.dataset == "lsun_church":
        yield Problem(("test_root",), "must name LSUN's validation images, church_outdoor_val_lmdb")


def _output(c: s.OutputConfig) -> Iterator[Problem]:
    yield from rules.not_empty(c, "output")
    for part in ("generator", "discriminator"):
        for key, (value, words) in names.SERVED.items():
            if (got := getattr(getattr(c.domain, part), key)) != value:
                message = f"is {got}, but commands serve {words}; only {command_of('convert')} takes others"
                yield Problem((f"domain.{part}.{key}",), message)


def _command(c: s.CommandConfig) -> Iterator[Problem]:
    yield from rules.at_least(c, 0, "seed")
    yield from rules.at_least(c, 1, "threads")
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", c.device):
        yield Problem(("device",), f"must be auto, cpu, cuda, cuda:N or mps; got {c.device!r}")


def _train(c: s.TrainConfig) -> Iterator[Problem]:
    yield from rules.choice(c, "precision", ("fp32", "bf16"))
    yield from rules.positive(c, "gradient_clip")
    yield from rules.at_least(c, 1, "gradient_accumulation")
    yield from _parts("schedule.batch_size", c.schedule.batch_size, c)
    yield from rules.power_of_two(c, "recompute_from_px", 4)
    if c.resume == "":
        yield Problem(("resume",), "must be auto, never or a checkpoint file, got nothing")


def _parts(key: str, batch_size: int, c: s.TrainConfig) -> Iterator[Problem]:
    """A batch is computed in equal parts."""
    if batch_size >= 1 and c.gradient_accumulation > 1 and batch_size % c.gradient_accumulation:
        message = f"({batch_size}) must be a multiple of gradient_accumulation ({c.gradient_accumulation})"
        yield Problem((key, "gradient_accumulation"), message)


def _phase(c: s.PhaseConfig) -> Iterator[Problem]:
    if c.loss_weights or not getattr(c, "w_loss_weight", 0):  # codes alone can be compared too
        yield from rules.weights(c, "loss_weights", names.LOSSES)
    for name in names.FACE_LOSSES:
        if c.loss_weights.get(name, 0) > 0 and c.domain.kind == "scenes":
            message = "compares faces, but the domain's kind is scenes; use moco, or write weight 0"
            yield Problem((f"loss_weights.{name}", "domain.kind"), message)
    yield from rules.known(c, "augment", "augmentation", s.AUGMENTATIONS)
    yield from rules.between_0_and_1(c, "augment_p")


def _phase1(c: s.Phase1Config) -> Iterator[Problem]:
    yield from rules.not_negative(c, "w_loss_weight")
    if c.w_loss_weight > 0 and c.data.kind != "generated":
        message = "needs images whose w is known; write data.kind=generated, or w_loss_weight=0"
        yield Problem(("w_loss_weight", "data.kind"), message)
    if c.w_loss_weight > 0 and (c.data.flip or c.augment):
        message = "a changed image has another w; write data.flip=false and no augment with w_loss_weight"
        yield Problem(("w_loss_weight", "data.flip", "augment"), message)


def _early_head(c: s.EarlyHeadConfig) -> Iterator[Problem]:
    yield from rules.at_least(c, 1, "channels")
    yield from rules.weights(c, "loss_weights", names.LOSSES)
    sizes = [2**i for i in range(3, c.domain.resolution.bit_length() - 2)]
    if c.px is not None and c.px not in sizes:
        yield Problem(("px",), f"must be the size of an inner layer, one of {', '.join(map(str, sizes))}; got {c.px}")
    if (c.data.kind == "generated") == (c.model is not None):
        message = f"must be generated, or of photos (auto) with model=FOLDER, which inverts them; got {c.data.kind!r}"
        yield Problem(("data.kind", "model"), message)


def _phase2(c: s.Phase2Config) -> Iterator[Problem]:
    yield from rules.not_negative(c, "edit_consistency_weight")
    yield from rules.every(c, "edit_consistency_every", "edit_consistency_weight: 0")
    yield from _steps_in_w(c, "edit_consistency")
    most = max(1, int(min(c.domain.resolution, c.domain.loss_resolution)).bit_length() - 1)
    if not 1 <= c.edit_consistency_bands <= most or (c.edit_consistency_bands > 1 and not c.edit_consistency_relative):
        message = f"must be 1, or up to {most} with edit_consistency_relative=true; got {c.edit_consistency_bands}"
        yield Problem(("edit_consistency_bands",), message)
    gan = c.adversarial
    if gan.weight > 0:
        if gan.start_step >= c.schedule.max_steps:
            message = (
                f"({gan.start_step}) must be below schedule.max_steps ({c.schedule.max_steps}); "
                "to train without the adversarial loss write adversarial.weight=0"
            )
            yield Problem(("adversarial.start_step", "schedule.max_steps", "adversarial.weight"), message)
        yield from _parts("adversarial.batch_size", gan.batch_size, c)
        yield from _groups("adversarial.batch_size", gan.batch_size // max(c.gradient_accumulation, 1), c.domain)


def _phase3(c: Phase3Config) -> Iterator[Problem]:
    yield from rules.not_negative(c, "pair_weight cycle_weight")
    yield from rules.every(c, "cycle_every", "cycle_weight: 0")
    yield from _steps_in_w(c, "edit")


def _steps_in_w(c: s.Phase2Config | Phase3Config, prefix: str) -> Iterator[Problem]:
    """Edits in training: how far random ones go, and which part of the images steps along which directions."""
    for key, what in ((f"{prefix}_reach", "all the way to another w"), (f"{prefix}_directed", "all of the images")):
        if not 0 < getattr(c, key) <= 1:
            yield Problem((key,), f"must lie above 0 and up to 1, {what}; got {getattr(c, key)}")
    yield from rules.known(c, f"{prefix}_directions", "direction", list(c.domain.directions))


def _train_encoder(c: TrainEncoderConfig) -> Iterator[Problem]:
    yield from rules.choice(c, "method", names.PUBLISHED_METHODS)
    yield from rules.choice(c, "restyle_over", RESTYLE_OVER)
    yield from rules.choice(c, "trunk_from", TRUNKS_FROM)
    yield from rules.at_least(c, 1, "n_iters head_width progressive_every")
    yield from rules.at_least(c, 0, "progressive_start")
    yield from rules.not_negative(c, "w_norm_weight delta_weight")
    if c.n_iters > names.MOST_ITERATIONS:
        yield Problem(("n_iters",), f"must be {names.MOST_ITERATIONS} or less, got {c.n_iters}")


def _latent_discriminator(c: LatentDiscriminatorConfig) -> Iterator[Problem]:
    yield from rules.not_negative(c, "weight r1_gamma")
    yield from rules.at_least(c, 0, "pool_size")
    yield from rules.every(c, "r1_every", "r1_gamma: 0")


def _groups(key: str, batch_size: int, domain: s.DomainConfig) -> Iterator[Problem]:
    """The discriminator's minibatch statistics split a batch into equal groups."""
    group = domain.discriminator.mbstd_group_size
    if group and batch_size > group and batch_size % group:
        message = f"({batch_size}) must be a multiple of domain.discriminator.mbstd_group_size ({group})"
        yield Problem((key, "domain.discriminator.mbstd_group_size"), message)


def _stylegan2(c: s.StyleGAN2Config) -> Iterator[Problem]:
    yield from rules.not_negative(c, "r1_gamma path_length_weight ema_kimg")
    yield from rules.at_least(c, 0, "r1_every path_length_every")
    yield from rules.between_0_and_1(c, "style_mixing_probability")
    yield from rules.choice(c, "noise_mode", ("random", "none"))
    yield from rules.positive(c, "ema_rampup augment_kimg")
    yield from rules.known(c, "augment", "augmentation", s.AUGMENTATIONS)
    if not -1 <= c.augment_target <= 1:
        yield Problem(("augment_target",), f"must lie between -1 and 1, a mean of signs; got {c.augment_target}")
    yield from _groups("schedule.batch_size", c.schedule.batch_size // max(c.gradient_accumulation, 1), c.domain)
    if not 1 <= c.path_length_batch_shrink <= c.schedule.batch_size:
        message = f"({c.path_length_batch_shrink}) must lie between 1 and schedule.batch_size ({c.schedule.batch_size})"
        yield Problem(("path_length_batch_shrink", "schedule.batch_size"), message)
    for key in ("optimizer", "discriminator_optimizer"):
        if getattr(c, key).name != "adam":
            message = f"must be adam, whose settings lazy regularisation rescales; got {getattr(c, key).name!r}"
            yield Problem((f"{key}.name",), message)
    if c.domain.generator.architecture == s.MOBILE:
        message = f"is {s.MOBILE}, whose generators are distilled, not trained here; get one: download.py ffhq_mobile"
        yield Problem(("domain.generator.architecture",), message)
    if c.data.kind == "generated":
        yield Problem(("data.kind",), "a generator cannot learn from its own samples; write auto and data.root=FOLDER")


def _method(c: s.MethodConfig) -> Iterator[Problem]:
    yield from rules.choice(c, "method", names.METHODS)
    yield from rules.fits_methods(c, "method", [c.method])
    yield from rules.power_of_two(c, "resolution", 8)
    yield from rules.choice(c, "precision", s.PRECISIONS)
    yield from rules.at_least(c, 1, "batch_size")
    yield from rules.idle_refinement(c)


def _invert(c: s.InvertConfig) -> Iterator[Problem]:
    yield from rules.known(c, "methods", "method", names.METHODS)
    yield from rules.fits_methods(c, "methods", c.methods) if c.methods else ()
    yield from which_face(c)
    if c.face != 1 and not c.align:
        yield Problem(("face", "align"), f"is {c.face}, but faces are chosen only with align=true: write that too")
    if c.align and c.domain.alignment == "none":
        message = f"is true, but domain {c.domain.name} has alignment: none; write align=false"
        yield Problem(("align", "domain.alignment"), message)


def _edit(c: s.EditConfig) -> Iterator[Problem]:
    if c.paste_back and not c.align:
        yield Problem(("paste_back", "align"), "puts aligned faces back into their photos; write align=true too")
    yield from rules.not_empty(c, "directions strengths")
    yield from rules.strengths(c, "strengths")
    yield from edits(c)
    if c.sweep == 1 or c.sweep < 0:
        yield Problem(("sweep",), f"must be 0, or 2 or more, got {c.sweep}")


def _demo(c: DemoConfig) -> Iterator[Problem]:
    yield from rules.not_empty(c, "phase1 phase2 evaluate edit")
    yield from rules.at_least(c, 1, "phase1_steps phase2_steps adversarial_steps")
    yield from rules.at_least(c, 1, "training_images validation_images evaluated_images edited_images")
    if c.adversarial_steps > max(c.phase2_steps, 1):
        message = f"({c.adversarial_steps}) must not be above phase2_steps ({c.phase2_steps})"
        yield Problem(("adversarial_steps", "phase2_steps"), message)
    if c.validation_images >= max(c.training_images, 2):
        message = f"({c.validation_images}) must be below training_images ({c.training_images})"
        yield Problem(("validation_images", "training_images"), message)


CHECKS: Checks = {
    **DOMAIN_CHECKS,
    **rules.by_section(
        _photos, _files, _images, _data, _optimizer, _adversarial, _schedule, _prepare, _output, _command
    ),
    **rules.by_section(_train, _phase, _phase1, _early_head, _phase2, _phase3, _stylegan2, _train_encoder),
    **rules.by_section(_latent_discriminator, _method, _invert, _edit, _demo),
    s.AlignConfig: which_face,
    HyperStyleSizes: lambda c: rules.at_least(c, 1, "width shared_width code_size"),
    s.InterpolateConfig: lambda c: rules.at_least(c, 2, "steps"),
    **REPORT_CHECKS,
}
