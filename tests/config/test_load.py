"""Strict loading: layers, overrides, and every class of fault, each with its place, its key and its remedy."""

import re
from pathlib import Path

import pytest

from hyperinverter.config.faults import ConfigError
from hyperinverter.config.load import load_config, load_domain, to_yaml
from hyperinverter.config.model_schema import AppConfig, ExportConfig
from hyperinverter.config.report_schema import DemoConfig, ReproduceConfig
from hyperinverter.config.schema import (
    DataConfig,
    DomainConfig,
    EditConfig,
    EvaluateConfig,
    InterpolateConfig,
    Phase1Config,
    Phase2Config,
    StyleGAN2Config,
)
from hyperinverter.utils.errors import UserError


def faults(schema_class: type, path: Path | str | None = None, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as info:
        load_config(schema_class, path, overrides)
    assert isinstance(info.value, ValueError) and isinstance(info.value, UserError)
    return str(info.value).splitlines()


def fault(schema_class: type, *overrides: str) -> str:
    """The single fault that these overrides make."""
    lines = faults(schema_class, None, *overrides)
    assert len(lines) == 1, lines
    return lines[0]


def write(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


# ----------------------------------------------------------------------------------------------------------- layers


def test_command_line_beats_file_beats_defaults(tmp_path: Path):
    path = write(tmp_path, "domain: tiny\noptimizer:\n  lr: 1e-3\n  eps: 1e-7\nschedule: {max_steps: 7}\n")
    config = load_config(
        Phase1Config, path, ["optimizer.lr=3e-4", "data.root=[a.zip, b]", "schedule.validation_images=null"]
    )
    assert (config.optimizer.lr, config.optimizer.eps, config.optimizer.name) == (3e-4, 1e-7, "ranger")
    assert config.data.root == ["a.zip", "b"]
    assert config.schedule.max_steps == 7
    assert config.schedule.validation_images is None
    assert isinstance(config.data, DataConfig)


def test_domain_by_name_by_path_and_with_changes(tmp_path: Path):
    assert load_config(Phase1Config, None, ["domain.generator.w_dim=16", "domain=tiny"]).domain.generator.w_dim == 16
    mine = write(tmp_path, "resolution: 16\n", "cats.yaml")
    assert load_domain(mine).name == "cats"  # not ffhq, the default of the dataclass
    path = write(tmp_path, "domain: ./cats.yaml\n")  # relative to the file that names it
    assert load_config(Phase1Config, path, ["domain.weights.folder=x"]).domain.resolution == 16


def test_naming_a_domain_replaces_what_was_said_before(tmp_path: Path):
    path = write(tmp_path, "domain:\n  hypernetwork: {hidden_size: 3}\n")
    assert load_config(Phase1Config, path, ["domain=tiny"]).domain == load_domain("tiny")


def test_base_file_and_replaced_mappings(tmp_path: Path):
    write(tmp_path, "domain: tiny\nloss_weights: {l2: 1.0, lpips: 2.0}\nseed: 3\n", "base.yaml")
    path = write(tmp_path, "base: base.yaml\nloss_weights: {l2: 0.5}\ndomain: {resolution: 64}\n")
    config = load_config(Phase1Config, path, ["loss_weights.moco=0.1"])
    assert config.loss_weights == {"l2": 0.5, "moco": 0.1}
    assert (config.seed, config.domain.name, config.domain.resolution) == (3, "tiny", 64)


def test_base_that_leads_back_is_refused(tmp_path: Path):
    write(tmp_path, "base: mine.yaml\n", "other.yaml")
    path = write(tmp_path, "base: other.yaml\n")
    assert "leads back" in faults(Phase1Config, path)[0]


def test_a_value_may_quote_another():
    config = load_config(Phase1Config, None, ["domain=tiny", "output=runs/${domain.name}_${seed}"])
    assert config.output == "runs/tiny_2107"
    assert "quotes nope, which is no key here; of a variable" in faults(Phase1Config, None, "output=${nope}")[0]


def test_relative_paths_work_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert load_config(Phase1Config, "configs/phase1/tiny.yaml").domain.name == "tiny"
    (tmp_path / "configs/domains").mkdir(parents=True)
    write(tmp_path / "configs/domains", "resolution: 16\n", "mine.yaml")
    assert load_config(Phase1Config, None, ["domain=mine"]).domain.name == "mine"


def test_texts_stay_as_typed():
    config = load_config(Phase1Config, None, ["output=2024_01", "data.root=*.zip", "resume=007"])
    assert (config.output, config.data.root, config.resume) == ("2024_01", "*.zip", "007")
    assert load_config(Phase1Config, None, ["data.root=null"]).data.root is None


def test_yaml_round_trip_of_awkward_values(tmp_path: Path):
    config = load_config(
        Phase2Config, None, ["output=1e-4", "data.root=['no', '1:30', 'a: b', 'é']", "optimizer.lr=3e-7"]
    )
    assert config.data.root == ["no", "1:30", "a: b", "é"]
    assert load_config(Phase2Config, write(tmp_path, to_yaml(config))) == config


def test_numbers_are_read_as_written(tmp_path: Path):
    path = write(tmp_path, "optimizer: {lr: 1e-4, eps: .5}\nschedule: {max_steps: 10_000}\noutput: 010\n")
    config = load_config(Phase1Config, path)
    assert (config.optimizer.lr, config.optimizer.eps, config.schedule.max_steps) == (1e-4, 0.5, 10_000)
    assert config.output == "010"


def test_empty_file_is_the_defaults(tmp_path: Path):
    assert load_config(Phase2Config, write(tmp_path, "# nothing\n")) == Phase2Config()


# ----------------------------------------------------------------------------------------------------------- faults


def test_all_faults_at_once(tmp_path: Path):
    text = (
        "domain: fases64\ndata:\n  rooot: x\n  flip: yes\nloss_weights: {l2: 1.0, lpip: 0.8}\nschedule:\n"
        "  max_steps: 1e5\n  batch_size: big\nmax_steps: 4\noptimizer: adam\nadversarial: {weight: 0.1, r1_gama: 3}\n"
    )
    lines = faults(Phase2Config, write(tmp_path, text), "domain.w_encoder.widths=[1, 2]", "optimizer.lr=-1", "resume")
    expected = [
        r"mine.yaml:1: domain: no such domain 'fases64'; did you mean faces64\? Known: .*church.*ffhq",
        r"mine.yaml:3: data.rooot: unknown key, did you mean root\?",
        r"mine.yaml:4: data.flip: expected true or false, got 'yes'",
        r"mine.yaml:5: loss_weights.lpip: no such loss 'lpip'; did you mean lpips\?.*identity, l2",
        r"mine.yaml:7: schedule.max_steps: expected a whole number, got 100000.0; write 100000",
        r"mine.yaml:8: schedule.batch_size: expected a whole number, got 'big'",
        r"mine.yaml:9: max_steps: unknown key, did you mean schedule.max_steps\?",
        r"mine.yaml:10: optimizer: is a section, got 'adam'; set its keys, such as optimizer.name",
        r"mine.yaml:11: adversarial.r1_gama: unknown key, did you mean r1_gamma\?",
        r"command line: domain.w_encoder.widths: must have 4 entries.* got 2",
        r"command line: optimizer.lr: must be above 0 and finite, got -1",
        r"command line: 'resume' is neither an option nor key=value",
    ]
    for pattern in expected:
        assert any(re.search(pattern, line) for line in lines), f"missing: {pattern}\n" + "\n".join(lines)
    assert len(lines) == len(expected), "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1\nb: 2\n", r"mine.yaml:\d+: is not valid YAML"),
        ("seed: 1\n\tdevice: cpu\n", r"mine.yaml:2: is not valid YAML"),
        ("- 1\n", "expected lines `key: value`"),
        ("seed: 1\nseed: 2\n", r"mine.yaml:2: seed: is written twice \(first in line 1\)"),
        ("data:\n", "mine.yaml:1: data: is a section, got nothing below it"),
        ("output: [a]\n", r"output: expected text, got \['a'\]"),
        ("output: true\n", "output: expected text, got True"),
        ("seed: 1.5\n", "seed: expected a whole number, got 1.5"),
        ("seed: null\n", "seed: expected a whole number, got None"),
        ("data: {root: {a: 1}}\n", "data.root: expected text or a list of texts or null"),
        ("optimizer: {betas: 0.9}\n", r"optimizer.betas: must be two numbers.* got \[0.9\]"),
        ("optimizer: {betas: x}\n", "optimizer.betas: expected a list of numbers, got 'x'"),
        ("loss_weights: {l2: much}\n", "loss_weights: expected lines `name: value` with numbers"),
        ("base: nowhere.yaml\n", r"mine.yaml:1: base: nowhere.yaml: no such file .*there are .*mine.yaml"),
        ("domain: nowhere/x.yaml\n", "mine.yaml:1: domain: nowhere/x.yaml: no such file"),
        ("seed: !!python/object:os.system 1\n", "is not valid YAML"),
        ("seed: !!int x\n", "is not valid YAML"),
        ("data: &a {root: *a}\n", "is not valid YAML"),
    ],
)
def test_faults_of_a_file(tmp_path: Path, text: str, expected: str):
    lines = faults(Phase1Config, write(tmp_path, text))
    assert len(lines) == 1 and re.search(expected, lines[0]), lines


def test_missing_and_binary_files(tmp_path: Path):
    lines = faults(Phase1Config, "configs/phase1/fac64.yaml")
    assert "no such file" in lines[0] and "faces64.yaml" in lines[0] and "looked in" in lines[0]
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read as text" in faults(Phase1Config, tmp_path / "x.yaml")[0]


def test_faults_in_a_domain_file_name_that_file(tmp_path: Path):
    write(tmp_path, "resolution: 48\ngenerator: {w_dimm: 3}\n", "cats.yaml")
    lines = faults(Phase1Config, None, f"domain={tmp_path / 'cats.yaml'}")
    assert any(re.search(r"cats.yaml:2: domain.generator.w_dimm: unknown key, did you mean w_dim\?", x) for x in lines)
    assert any(
        re.search(r"cats.yaml:1: domain.resolution: must be a power of two.*48, write 32 or 64", x) for x in lines
    )


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("sed=1", r"sed: unknown key, did you mean seed\?"),
        ("optimizer=adam", "optimizer: is a section; set its keys, such as optimizer.name=adam"),
        ("seed.x=1", "seed.x: has nothing below it; write seed=VALUE"),
        ("data.root=[a", "data.root: cannot be read"),
        ("domain=cats", r"domain: no such domain 'cats'; known: church, churches64, faces64"),
        ("=3", "is neither an option nor key=value"),
        ("data.flip=1", "data.flip: expected true or false"),
        ("zebra=1", "zebra: unknown key; known here: domain, output"),
    ],
)
def test_faults_of_the_command_line(override: str, expected: str):
    line = fault(Phase1Config, override)
    assert line.startswith("command line: ") and re.search(expected, line), line


# --------------------------------------------------------------------------------- values and what they disagree with


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ("adversarial.weight=0.1 schedule.max_steps=100", r"adversarial.start_step \(200000\) must be below .*\(100\)"),
        ("adversarial.weight=-1", "adversarial.weight: must be 0 .off. or above"),
        (
            "adversarial.weight=0.1 adversarial.batch_size=6",
            r"batch_size \(6\) must be a multiple of .*group_size \(4\)",
        ),
        ("adversarial.r1_every=0", "to switch it off write r1_gamma: 0"),
        ("adversarial.optimizer.name=sgd", "must be one of adam, ranger, ranger_adabelief, muon; got 'sgd'"),
        ("optimizer.lr=.inf", "optimizer.lr: must be above 0 and finite"),
        ("optimizer.lr=.nan", "optimizer.lr: must be above 0 and finite"),
        ("optimizer.betas=[0.9]", "optimizer.betas: must be two numbers"),
        ("optimizer.betas=[0.9,1.0]", "optimizer.betas: must be two numbers"),
        ("loss_weights.l2=-0.5", "loss_weights.l2: must be 0 .off. or above"),
        ("loss_weights={l2: 0}", "loss_weights: needs one loss with a weight above 0"),
        ("loss_weights={}", "loss_weights: needs one loss with a weight above 0"),
        ("loss_weights.l3=1", r"loss_weights.l3: no such loss 'l3'; known: discriminator_features, identity, l2"),
        ("domain=church", "loss_weights.identity: compares faces, but the domain's kind is scenes; use moco"),
        ("schedule.batch_size=0", "schedule.batch_size: must be 1 or more"),
        ("schedule.log_every=0", "to switch it off write a number above max_steps"),
        ("gradient_clip=0", "gradient_clip: must be above 0"),
        ("precision=fp16", "precision: must be one of fp32, bf16; got 'fp16'"),
        ("device=gpu", "device: must be auto, cpu, cuda"),
        ("output=", "output: must not be empty"),
        ("data.kind=tar", "data.kind: must be one of auto, folder"),
        ("data.kind=generated data.root=x", r"data.root \(x\) is not read when data.kind is generated"),
        ("data.validation_fraction=1", "data.validation_fraction: must be 0 or more and below 1"),
        ("data.on_bad_file=ignore", "must be one of skip, refuse"),
        ("domain.resolution=1000", "domain.resolution: must be a power of two, 8 or more; got 1000, write 512 or 1024"),
        ("domain.resolution=0", "domain.resolution: must be a power of two, 8 or more; got 0, write 8"),
        ("domain.w_encoder.widths=[1,2,3]", "domain.w_encoder.widths: must have 4 entries"),
        ("domain.w_encoder.depths=[1,2,3,0]", "domain.w_encoder.depths: each must be 1 or more"),
        ("domain.w_encoder.strides=[1,2,3,1]", "each stage keeps"),
        ("domain.w_encoder.trunk=vgg", "must be one of ir_se, ir, resnet, efficientnet_lite0; got 'vgg'"),
        ("domain.w_encoder.stem_stride=3", "must be 1 .3x3 stem. or 2"),
        ("domain.layerwise_encoder.input_size=64", r"strides \(.*bring 64 px down to 4 px, below feature_size \(8\)"),
        ("domain.hypernetwork.target_set=all", "must be one of conv_without_bias"),
        ("domain.hypernetwork.weight_layout=raw", "must be one of released, paper"),
        ("domain.kind=cats", "domain.kind: must be one of faces, scenes"),
        ("domain.kind=scenes loss_weights={l2: 1}", r"domain.alignment: ffhq aligns faces, but kind is scenes"),
    ],
)
def test_values_of_training(overrides: str, expected: str):
    line = fault(Phase2Config, *re.split(r" (?=\w+[.=])", overrides))
    assert re.search(expected, line), line


@pytest.mark.parametrize(
    ("schema_class", "override", "expected"),
    [
        (StyleGAN2Config, "schedule.batch_size=6", "must be a multiple of domain.discriminator.mbstd_group_size"),
        (StyleGAN2Config, "path_length_batch_shrink=9", r"path_length_batch_shrink \(9\) must lie between 1 and"),
        (StyleGAN2Config, "path_length_every=-1", "path_length_every: must be 0 or more"),
        (StyleGAN2Config, "style_mixing_probability=2", "must lie between 0 and 1"),
        (StyleGAN2Config, "optimizer.name=ranger", "optimizer.name: must be adam"),
        (StyleGAN2Config, "data.kind=generated", "cannot learn from its own samples"),
        (EvaluateConfig, "metrics=[l2, psnrr]", r"metrics: no such metric 'psnrr'; did you mean psnr\?"),
        (EvaluateConfig, "methods=[ptii]", r"methods: no such method 'ptii'; did you mean pti\?"),
        (EvaluateConfig, "projection.perceptual=vgg", "projection.perceptual: "),
        (EvaluateConfig, "projection.steps=0", "projection.steps: must be 1 or more"),
        (EvaluateConfig, "methods=[]", "methods: must not be empty"),
        (EditConfig, "strengths=[.nan]", "strengths: must lie between"),
        (ReproduceConfig, "refine.learning_rate=.nan", "refine.learning_rate: must be 0 or more and finite, got nan"),
        (InterpolateConfig, "steps=1", "steps: must be 2 or more"),
        (DemoConfig, "adversarial_steps=201", r"adversarial_steps \(201\) must not be above phase2_steps \(200\)"),
        (DemoConfig, "validation_images=1024", r"validation_images \(1024\) must be below training_images \(1024\)"),
        (DemoConfig, "phase1_steps=0", "phase1_steps: must be 1 or more"),
        (DemoConfig, "data.root=photos", "data: unknown key"),  # neither of these reads images
        (ExportConfig, "data.root=photos", "data: unknown key"),
        (AppConfig, "data.root=photos", "data.root: the app's photos are chosen in the browser"),
        (AppConfig, "data.max_images=3", "data.max_images: the app's photos are chosen in the browser"),
        (AppConfig, "face=all align=true", "face: the app shows one face.* write a number"),
    ],
)
def test_values_of_other_commands(schema_class: type, override: str, expected: str):
    line = fault(schema_class, *re.split(r" (?=\w+[.=])", override))
    assert re.search(expected, line), line


def test_aligning_a_domain_without_faces_is_contradictory():
    assert "align" in fault(EditConfig, "domain=church", "align=true")


def test_e2_starts_from_e1_where_their_trunks_are_equal():
    assert "only layerwise_encoder can start" in fault(Phase2Config, "domain.w_encoder.init=w_encoder")
    line = fault(Phase2Config, "domain=faces64", "domain.layerwise_encoder.depths=[1, 1, 1, 1]")
    assert "depths is [1, 1, 1, 1] for E2 and [1, 2, 2, 2] for E1" in line


def test_a_faulty_value_does_not_raise_contradictions_of_its_default():
    """max_steps could not be read, so nothing can be said about start_step against it."""
    lines = faults(
        Phase2Config, None, "adversarial.weight=0.1", "adversarial.start_step=600000", "schedule.max_steps=many"
    )
    assert len(lines) == 1 and "schedule.max_steps" in lines[0]


def test_defaults_are_valid():
    for schema_class in (Phase1Config, Phase2Config, StyleGAN2Config, EvaluateConfig, EditConfig, DomainConfig):
        assert load_config(schema_class, None) == schema_class()


@pytest.mark.parametrize("root", ["data.root=''", "data.root=[photos, '']"])
def test_an_empty_name_is_not_the_folder_one_is_in(root):
    with pytest.raises(ConfigError, match="is an empty name"):
        load_config(EvaluateConfig, None, [root])


@pytest.mark.parametrize(
    "value",
    ["${oc.env:HOME}", "${oc.env:X,default}", "a${oc.env:HOME}b", "${oc.decode:x}", "${oc.select:domain.name}",
     "${${domain.name}}", "${", "${oc.env:${domain.name}}", "${domain.name:}"],
)  # fmt: skip
def test_a_quote_reads_no_environment_and_calls_nothing(value, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/a secret")
    path = tmp_path / "x.yaml"
    path.write_text(f"output: '{value}'\n")
    for given in ((path, []), (None, [f"output={value}"]), (None, [f"data.root=[a, '{value}']"])):
        with pytest.raises(ConfigError, match="only another key can be quoted") as caught:
            load_config(Phase1Config, *given)
        assert "secret" not in str(caught.value)


def test_quotes_do_not_grow(tmp_path):
    assert load_config(Phase1Config, None, ["output=a/${domain.name}/${seed}", "seed=3"]).output == "a/ffhq/3"
    with pytest.raises(ConfigError, match=r"quotes domain\.name, which quotes another key"):
        load_config(Phase1Config, None, ["output=${domain.name}", "domain.name=${device}"])
    with pytest.raises(ConfigError, match="quotes 11 keys"):
        load_config(Phase1Config, None, ["output=" + "${domain.name}" * 11])
    with pytest.raises(ConfigError, match="which quotes another key"):
        load_config(Phase1Config, None, ["output=${output}"])
