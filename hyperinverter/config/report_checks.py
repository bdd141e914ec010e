"""What the configs of commands that measure, draw or work on a finished model must fulfil; see `checks.py`."""

import re
from collections.abc import Iterator, Mapping
from itertools import combinations

from hyperinverter.config import model_schema, names, report_schema, rules, schema
from hyperinverter.config.rules import Problem

JUDGES = [name for name in names.CLASSIFIERS if name != "attributes"]  # networks that come trained
MOST_RANKED = 6  # methods beside each other on the page where people rank them


def _benchmark(c: report_schema.BenchmarkConfig) -> Iterator[Problem]:
    b = report_schema
    yield from rules.known(c, "sides", "side", b.INFERENCE_SIDES)
    yield from rules.known(c, "training", "phase", b.TRAINING_PHASES)
    for key, choices in (("slider", b.INFERENCE_SIDES), ("budget", b.TRAINING_SIDES)):
        yield from rules.known(c, key, "side", [name for name in choices if "reference" not in name])
    for phase, sides in c.training.items():
        yield from rules.unknown(f"training.{phase}", "side", sides, b.TRAINING_SIDES)
    for name, sizes in c.sides.items():
        if not sizes or min(sizes) < 1:
            yield Problem((f"sides.{name}",), f"needs batch sizes of 1 or more, got {sizes}")
    if c.trained and c.hidden_sizes not in ([], [c.domain.hypernetwork.hidden_size]):
        yield Problem(("hidden_sizes", "trained"), f"({c.hidden_sizes}): trained weights have one D; write []")
    yield from rules.at_least(c, 1, "hidden_sizes training_batch_size rounds least_rounds")
    yield from rules.at_least(c, 0, "loading")
    yield from rules.positive(c, "seconds")
    if c.least_rounds > max(c.rounds, 1):
        yield Problem(("least_rounds", "rounds"), f"({c.least_rounds}) must not be above rounds ({c.rounds})")


def _evaluate(c: schema.EvaluateConfig) -> Iterator[Problem]:
    yield from rules.not_empty(c, "methods metrics")
    yield from rules.known(c, "methods", "method", names.METHODS)
    yield from rules.fits_methods(c, "methods", c.methods)
    yield from rules.known(c, "metrics", "metric", names.METRICS)
    yield from rules.choice(c, "precision", schema.PRECISIONS)
    yield from rules.choice(c, "metric_filter", schema.METRIC_FILTERS)
    yield from rules.power_of_two(c, "resolution", 8)
    yield from rules.at_least(c, 1, "batch_size time_batch_size time_repeats")
    yield from rules.at_least(c, 2, "kid_subset_size")
    yield from rules.idle_refinement(c)
    yield from rules.at_least(c, 0, "sheet_rows")


def _projection(c: schema.ProjectionConfig) -> Iterator[Problem]:
    yield from rules.at_least(c, 1, "steps")
    yield from rules.at_least(c, 0, "tuning_steps seed")
    yield from rules.choice(c, "perceptual tuning_perceptual", ("auto", *names.PERCEPTUAL))


def _reproduce(c: report_schema.ReproduceConfig) -> Iterator[Problem]:
    parts = (*report_schema.PAPER, *report_schema.BEYOND, report_schema.ALL, *report_schema.REPRODUCED)
    yield from rules.known(c, "parts", "part", parts)
    yield from rules.known(c, "methods blends ranked models", "method", names.METHODS)
    if not 2 <= len(set(c.ranked)) <= MOST_RANKED or len(set(c.ranked)) < len(c.ranked):
        yield Problem(("ranked",), f"needs 2 to {MOST_RANKED} different methods that people rank, got {c.ranked}")
    yield from rules.known(c, "table_metrics metrics", "metric", names.METRICS)
    yield from rules.known(c, "augment", "augmentation", schema.AUGMENTATIONS)
    yield from rules.known(c, "classifiers", "classifier", names.CLASSIFIERS)
    yield from rules.choice(c, "strength_unit", ("w", "std"))
    yield from rules.not_empty(c, "strengths metrics classifiers methods blends refine_steps refine_edit_consistency")
    yield from rules.at_least(c, 2, "generated edited_photos table_photos optimised_photos ranked_photos curve_photos")
    yield from rules.at_least(c, 0, "refine_steps refine_edit_consistency")
    yield from rules.at_least(c, 1, "bounds_photos bounds_steps shown_photos batch_size time_repeats")
    yield from rules.weights(c, "bounds_losses", names.DISTANCES)
    yield from rules.strengths(c, "strengths")
    if not all(strength > 0 for strength in c.strengths):
        yield Problem(("strengths",), f"each must be above 0, it is applied in both ways; got {c.strengths}")


def _ablate(c: report_schema.AblateConfig) -> Iterator[Problem]:
    yield from rules.known(c, "metrics", "metric", names.METRICS)
    yield from rules.not_empty(c, "rows metrics")
    yield from rules.at_least(c, 1, "batch_size")
    yield from rules.at_least(c, 0, "sheet_rows")
    for setting in c.settings:
        if "=" not in setting:
            yield Problem(("settings",), f"{setting!r} is no key=value, such as schedule.max_steps=1000")


def _analyze(c: report_schema.AnalyzeConfig) -> Iterator[Problem]:
    yield from rules.known(c, "figures", "figure", report_schema.FIGURES)
    yield from rules.choice(c, "method", names.METHODS)
    yield from rules.choice(c, "quality", names.METRICS)
    yield from rules.not_empty(c, "figures")
    yield from rules.at_least(c, 1, "batch_size rows pairs")
    yield from rules.at_least(c, 2, "steps")


def _direction(c: model_schema.DirectionConfig) -> Iterator[Problem]:
    if not 0 < c.held_out_fraction < 1:
        yield Problem(("held_out_fraction",), f"must be above 0 and below 1, got {c.held_out_fraction}")
    yield from rules.choice(c, "estimate", ("normal", "shrunk", "pattern"))
    yield from rules.file_names(c, "attributes differences predictors")
    for name, roots in c.differences.items():
        if len(roots) != 2:
            yield Problem((f"differences.{name}",), f"must be [FROM, TO], two photos or folders, got {roots}")
    for name, judge in c.predictors.items():
        yield from rules.unknown(f"predictors.{name}", "predictor", [judge.removeprefix("-")], JUDGES)
    made: dict[str, Mapping[str, object]] = {
        "attributes": c.attributes if c.labels else {},  # without labels those of the config file are left out
        "differences": c.differences,
        "predictors": c.predictors,
    }
    for (one, names_of_one), (other, names_of_other) in combinations(made.items(), 2):
        for name in names_of_one.keys() & names_of_other.keys():
            yield Problem((other, one), f"both make a direction {name}; rename one")
    if not 0 < c.ends <= 0.5:
        yield Problem(("ends",), f"must be above 0 and at most 0.5, got {c.ends}")
    yield from rules.at_least(c, 20, "samples")
    yield from rules.positive(c, "truncation_psi")
    for name, others in c.without.items():
        if not any(name in directions for directions in (c.attributes, *made.values())):
            yield Problem((f"without.{name}",), "is no direction of attributes, predictors or differences")
        if not others or name in others:
            yield Problem((f"without.{name}",), f"must name other directions, got {others}")


def _export(c: model_schema.ExportConfig) -> Iterator[Problem]:
    yield from rules.positive(c, "tolerance largest max_mb")
    yield from rules.known(c, "as_they_are", "part", model_schema.EXPORTED)
    yield from rules.at_least(c, 1, "test_images")


def _ganspace(c: model_schema.GanspaceConfig) -> Iterator[Problem]:
    yield from rules.at_least(c, 1, "components shown images")
    yield from rules.at_least(c, 2, "samples")
    yield from rules.positive(c, "strength truncation_psi")
    yield from rules.strengths(c, "strength")
    yield from rules.choice(c, "method", ("ganspace", "sefa"))
    yield from rules.file_names(c, "directions")


def _list(c: model_schema.ListConfig) -> Iterator[Problem]:
    yield from rules.known(c, "judges", "judge", JUDGES)
    yield from rules.positive(c, "strength truncation_psi")
    yield from rules.strengths(c, "strength")
    yield from rules.at_least(c, 1, "images")
    yield from rules.at_least(c, 2, "samples")
    yield from rules.power_of_two(c, "resolution", 8)


def _app(c: model_schema.AppConfig) -> Iterator[Problem]:
    for key in ("root", "max_images"):
        if getattr(c.data, key):
            yield Problem(
                (f"data.{key}",), "the app's photos are chosen in the browser: leave it out, and drop them there"
            )
    if c.face == "all":
        yield Problem(("face",), "the app shows one face, and the others by a click: write a number, 1 is the largest")
    yield from rules.not_empty(c, "host")
    if not 0 <= c.port <= 65535:
        yield Problem(("port",), f"must be from 0 (any free one) to 65535, got {c.port}")
    if c.methods:
        yield Problem(("methods",), "the app shows one method: write method=NAME")
    yield from rules.power_of_two(c, "preview_px", 8)
    yield from rules.positive(c, "max_upload_mb session_minutes")
    yield from rules.at_least(c, 1, "max_sessions max_waiting")


def which_face(c: schema.AlignConfig | schema.InvertConfig | model_schema.VideoConfig) -> Iterator[Problem]:
    if c.face != "all" and not (isinstance(c.face, int) and c.face >= 1):
        yield Problem(("face",), f"must be 1 for the largest face, 2 for the next, and so on, or all; got {c.face!r}")


def edits(c: schema.EditConfig | model_schema.VideoConfig) -> Iterator[Problem]:
    yield from rules.strengths(c, "edits")
    if c.styles is not None and not re.fullmatch(r"\d{1,3}-\d{1,3}", c.styles):
        yield Problem(("styles",), f"must be START-END, such as 0-4, got {c.styles!r}")
    yield from rules.choice(c, "strength_unit", ("w", "std"))


def _video(c: model_schema.VideoConfig) -> Iterator[Problem]:
    yield from which_face(c)
    yield from edits(c)
    yield from rules.not_empty(c, "edits")
    yield from rules.not_negative(c, "smooth_crop_ms smooth_codes_ms")


def _refine(c: schema.RefineConfig) -> Iterator[Problem]:
    yield from rules.at_least(c, 0, "steps learning_rate w_learning_rate l2 perceptual identity edit_consistency")
    yield from rules.between_0_and_1(c, "early")


REPORT_CHECKS = rules.by_section(
    *(_evaluate, _projection, _refine, _ablate, _analyze, _benchmark, _reproduce),
    *(_ganspace, _direction, _export, _app, _video, _list),
)
