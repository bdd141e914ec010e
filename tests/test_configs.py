"""Every YAML in configs loads, validates, survives a round trip, and opens with its command and expected result."""

import re
from functools import cache
from pathlib import Path

import pytest

from hyperinverter.config.encoder_schema import Phase3Config, TrainEncoderConfig
from hyperinverter.config.load import list_domains, load_config, load_domain, to_yaml
from hyperinverter.config.model_schema import (
    AppConfig,
    DirectionConfig,
    ExportConfig,
    GanspaceConfig,
    ListConfig,
    VideoConfig,
)
from hyperinverter.config.report_schema import AblateConfig, AnalyzeConfig, BenchmarkConfig, DemoConfig, ReproduceConfig
from hyperinverter.config.schema import (
    AlignConfig,
    EarlyHeadConfig,
    EditConfig,
    EvaluateConfig,
    InvertConfig,
    Phase1Config,
    Phase2Config,
    StyleGAN2Config,
)

CONFIGS = Path(__file__).parents[1] / "configs"
SCHEMAS = {
    "stylegan2": StyleGAN2Config,
    "early_head": EarlyHeadConfig,
    "encoder": TrainEncoderConfig,
    "phase1": Phase1Config,
    "phase2": Phase2Config,
    "phase3": Phase3Config,
    "evaluate": EvaluateConfig,
    "edit": EditConfig,
    "app": AppConfig,
    "video": VideoConfig,
    "list": ListConfig,
    "align": AlignConfig,
    "invert": InvertConfig,
    "directions": DirectionConfig,
    "export": ExportConfig,
    "demo": DemoConfig,
    "benchmark": BenchmarkConfig,
    "reproduce": ReproduceConfig,
    "analyze": AnalyzeConfig,
    "ablate": AblateConfig,
    "ganspace": GanspaceConfig,
}


def schema_of(name: str) -> type:
    """phase1/ffhq.yaml and demo/phase1.yaml are both Phase1Config."""
    path = Path(name)
    return SCHEMAS.get(path.stem) or SCHEMAS[path.parts[0]]


@cache
def loaded(name: str):
    """A config that no test changes."""
    return load_config(schema_of(name), CONFIGS / name)


FILES = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml"))
RUNS = [name for name in FILES if not name.startswith("domains/")]


@pytest.mark.parametrize("name", RUNS)
def test_config_loads_and_survives_a_round_trip(name: str, tmp_path: Path):
    schema_class = schema_of(name)
    config = loaded(name)
    named = [part for part in Path(name).with_suffix("").parts if part in list_domains()]
    assert config.domain.name == (named[0] if named else "faces64")  # the demo builds on the embedded domain
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert load_config(schema_class, tmp_path / "config.yaml") == config


@pytest.mark.parametrize("name", RUNS)
def test_head_names_command_and_expected_result(name: str):
    head = (CONFIGS / name).read_text().split("\n\n")[0]
    script = re.search(r"python (scripts/\w+\.py) --config (\S+)", head)
    assert script and "Expected" in head, f"{name}: its head comment must give the command and the expected result"
    assert script[2] == f"configs/{name}", f"{name}: its head comment names another config"


@pytest.mark.parametrize("name", ["ffhq", "church", "faces64", "churches64", "tiny"])
def test_domain_has_all_its_configs(name: str):
    domain = load_domain(name)
    assert domain.name == name and name in list_domains()
    for folder in ("phase1", "phase2", "encoder", "evaluate", "edit"):
        assert f"{folder}/{name}.yaml" in FILES


def test_outputs_differ():
    outputs = [loaded(name).output for name in RUNS]
    assert len(set(outputs)) == len(outputs)


@pytest.mark.parametrize(
    "name", [name for name in RUNS if name.count("/") == 1 and not name.startswith(("demo/", "benchmark/"))]
)
def test_runs_of_an_own_domain_are_named_after_it(name: str, tmp_path: Path):
    text = loaded(name).domain
    (tmp_path / "otters.yaml").write_text(to_yaml(text).replace(f"name: {text.name}", "name: otters"))
    config = load_config(schema_of(name), CONFIGS / name, [f"domain={tmp_path / 'otters.yaml'}"])
    kind = config.method if name.startswith("encoder/") else Path(name).parent
    assert config.output == f"outputs/{kind}_otters"


@pytest.mark.parametrize("name", [name for name in RUNS if name.startswith(("reproduce/", "benchmark/"))])
def test_nothing_is_published_unless_told(name: str):
    assert loaded(name).publish is None


def test_papers_hyper_parameters():
    """Section 4.1 of the paper, to the digit."""
    for name, similarity, weight, gan in (
        ("ffhq", "identity", 0.1, (0.005, 10.0)),
        ("church", "moco", 0.5, (0.15, 100.0)),
    ):
        one = load_config(Phase1Config, CONFIGS / f"phase1/{name}.yaml")
        two = load_config(Phase2Config, CONFIGS / f"phase2/{name}.yaml")
        assert one.loss_weights == two.loss_weights == {"l2": 1.0, "lpips": 0.8, similarity: weight}
        assert (one.optimizer.name, one.optimizer.lr, two.optimizer.name, two.optimizer.lr) == (
            "ranger",
            1e-4,
            "adam",
            1e-4,
        )
        adversarial = two.adversarial
        assert (adversarial.weight, adversarial.r1_gamma) == gan
        assert (adversarial.start_step, two.schedule.batch_size, adversarial.batch_size) == (200_000, 8, 4)
        assert two.domain.hypernetwork.hidden_size == 256


@pytest.mark.parametrize("name", ["ffhq", "church", "faces64", "churches64", "ffhq_mobile"])
def test_other_encoders_are_trained_at_phase_ones_terms(name: str):
    """Data, losses, optimiser and batch; published rates and weights of e4e where Phase I has the paper's."""
    one, other = loaded(f"phase1/{name}.yaml"), loaded(f"encoder/{name}.yaml")
    assert (other.data, other.loss_weights, other.optimizer) == (one.data, one.loss_weights, one.optimizer)
    assert other.schedule.batch_size == one.schedule.batch_size
    if name in ("ffhq", "church"):
        critic = other.latent_discriminator
        assert (other.progressive_start, other.progressive_every, other.delta_weight) == (20_000, 2_000, 2e-4)
        assert (critic.weight, critic.optimizer.lr, critic.r1_gamma, critic.r1_every) == (0.1, 2e-5, 10.0, 16)
        assert (critic.pool_size, other.n_iters, other.head_width, other.w_norm_weight) == (50, 5, None, 0.0)
    steps = other.progressive_start + other.progressive_every * 22
    assert steps < other.schedule.max_steps  # all differences learn, of ffhq_mobile's 23 styles too


@pytest.mark.parametrize(
    ("domain", "same"),
    [("faces64", "d64"), ("churches64", "d64"), ("ffhq", "d256"), ("church", "d256"), ("ffhq_mobile", "")],
)
def test_ablations_change_one_thing(domain: str, same: str):
    """The row called `same` is the base."""
    base = load_config(Phase2Config, CONFIGS / f"phase2/{domain}.yaml")
    paths = sorted((CONFIGS / f"phase2/ablations/{domain}").glob("*.yaml"))
    ablate = load_config(AblateConfig, CONFIGS / f"ablate/{domain}.yaml")
    rows = {Path(row).name for row in ablate.rows.values()}
    assert rows <= {path.name for path in paths} | {f"{domain}.yaml"} and len(rows) == len(ablate.rows) == 6
    for path in ablate.rows.values():
        load_config(Phase2Config, CONFIGS.parent / path, ablate.settings)  # the budget's keys are a Phase II's
    for path in paths:
        config = load_config(Phase2Config, path)
        ours, theirs = vars(config.domain.hypernetwork), vars(base.domain.hypernetwork)
        changed = {key for key in ours if ours[key] != theirs[key]}
        by_matrices = ours["mapper"] != theirs["mapper"]  # scales of channels have no D
        if not ours["use_w_image_features"]:
            changed -= {"passes"}  # later ones look at an image too
        assert len(changed) == (0 if path.stem == same else 2 if by_matrices else 1), path.name
        config.domain, config.output = base.domain, base.output
        assert config == base, f"{path.name} differs from its base in more than the hypernetwork"
