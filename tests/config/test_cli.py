"""The command line of a script: options, words, dry run, and errors as plain text with exit code 2."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from script_runner import run_script
from tqdm import tqdm

from hyperinverter.config import cli
from hyperinverter.config.commands import COMMANDS
from hyperinverter.config.faults import ConfigError
from hyperinverter.config.load import load_config
from hyperinverter.config.schema import EditConfig, Phase1Config
from hyperinverter.utils.errors import UserError

ROOT = Path(__file__).parents[2]
TINY = "configs/phase1/tiny.yaml"
CALLS: list[Any] = []


def test_all_missing_photos_are_named_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    command = COMMANDS["reproduce"]
    with pytest.raises(SystemExit):
        cli.run(command, ["table1", "photos=nowhere", "shown=neither", f"output={tmp_path}"])
    told = capsys.readouterr().err
    assert "nowhere (looked from" in told and "neither (looked from" in told


@pytest.mark.parametrize("name", COMMANDS)
def test_the_function_of_a_command_is_there(name: str):
    assert callable(cli._import(COMMANDS[name].action))


def action(config: Any) -> None:
    CALLS.append(config)


def refuse(_: Any) -> None:
    raise UserError("the disk is full; free 3 GiB")


def stumble(_: Any) -> None:
    raise ValueError("a fault in the code")


def trip_over_a_file(_: Any) -> None:
    (Path(__file__) / "run").mkdir()


def stop(_: Any) -> None:
    raise KeyboardInterrupt


def run(*words: str, do: str = "action", schema_class: type = Phase1Config, **options: Any) -> Any:
    CALLS.clear()
    command = cli.Command(schema_class, f"{__name__}:{do}", options.pop("config", TINY), "What it does.", **options)
    cli.run(command, words)
    return CALLS[0] if CALLS else None


def exit_code(*words: str, **options: Any) -> int:
    with pytest.raises(SystemExit) as info:
        run(*words, **options)
    return info.value.code


def test_settings_anywhere_between_options():
    config = run("seed=3", "--config", TINY, "output=a=b", "data.root=null")
    assert (config.seed, config.output, config.domain.name) == (3, "a=b", "tiny")


@pytest.mark.parametrize(
    ("words", "domain", "output"),
    [
        (["domain=ffhq"], "ffhq", "outputs/phase1_ffhq"),
        (["--domain", "ffhq"], "ffhq", "outputs/phase1_ffhq"),
        (["domain=ffhq", "domain=church"], "church", "outputs/phase1_church"),
        (["--config", "here.yaml", "domain=ffhq"], "ffhq", "of/here"),
        (["domain=configs/domains/ffhq.yaml"], "ffhq", "runs/mine"),
        (["domain=otters"], "otters", "runs/mine"),
        (["--config", "church"], "church", "outputs/phase1_church"),
        (["--config=church.yaml"], "church", "outputs/phase1_church"),
        (["--config", "configs/phase1/church"], "church", "outputs/phase1_church"),
        (["--config", "here.yaml"], "tiny", "of/here"),
        (["--config", "here"], "tiny", "of/here"),
    ],
)
def test_a_domain_brings_its_config_and_configs_have_names(
    words: list[str], domain: str, output: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """domain=ffhq kept the settings of the default config; a path and an own domain without a config still do."""
    monkeypatch.chdir(tmp_path)
    for file, text in {
        "configs/phase1/mine.yaml": "domain: tiny\noutput: runs/mine\n",
        "configs/domains/otters.yaml": (ROOT / "configs/domains/tiny.yaml").read_text().replace("tiny", "otters"),
        "here.yaml": "domain: tiny\noutput: of/here\n",
    }.items():
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(text)
    config = run(*words, "schedule.batch_size=3", config="configs/phase1/mine.yaml")
    assert (config.domain.name, config.output, config.schedule.batch_size) == (domain, output, 3)


def test_a_config_that_is_not_there_names_those_that_are(capsys: pytest.CaptureFixture[str]):
    assert exit_code("--config", "fhq") == 2
    told = capsys.readouterr().err
    assert "--config: no such config 'fhq'; did you mean ffhq? Known: church, churches64, faces64, ffhq, " in told
    assert exit_code("--config", "configs/phase1/nowhere") == 2
    assert "configs/phase1/nowhere.yaml: no such file" in capsys.readouterr().err


def test_words_without_equals_are_the_inputs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    options = {"schema_class": EditConfig, "config": "configs/edit/tiny.yaml", "inputs": "data.root"}
    monkeypatch.chdir(tmp_path)
    names = ["a b.jpg", "./x=y.png", "it's.png", "c.zip"]
    for name in names:
        Path(name).touch()
    config = run("a b.jpg", "seed=3", "./x=y.png", "it's.png", "--traceback", "c.zip", **options)
    assert config.data.root == names and config.seed == 3
    assert run("it's.png", **options).data.root == "it's.png"
    assert run(**options, needs_images=False).data.root is None


def test_a_file_whose_name_looks_like_a_setting_or_an_option(monkeypatch, tmp_path: Path, capsys):
    options = {"schema_class": EditConfig, "config": "configs/edit/tiny.yaml", "inputs": "data.root"}
    monkeypatch.chdir(tmp_path)
    for name in ("me=you.jpg", "-me.jpg", "align"):
        Path(name).touch()
    assert run("me=you.jpg", "align", **options).data.root == ["me=you.jpg", "align"]
    assert exit_code("you=me.jpg", **options) == 2 and "you: unknown key" in capsys.readouterr().err
    assert exit_code("-me.jpg", **options) == 2 and "is written ./-me.jpg" in capsys.readouterr().err
    Path("align").unlink()
    assert exit_code("me=you.jpg", "align", **options) == 2 and "needs a value: align=true" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("smile=2", "did you mean compile? An edit is written 'edits={smile: 2}'"),
        ("alin=true", "did you mean align?\n"),
        ("edits={smile:2}", "write 'edits={NAME: VALUE}', with a space behind each colon"),
        ("refine=true", "such as refine.steps=VALUE"),
        ("refine=20", "such as refine.steps=20"),
    ],
)
def test_what_is_typed_as_in_python_is_shown_as_a_setting(word: str, told: str, capsys: pytest.CaptureFixture[str]):
    assert exit_code(word, schema_class=EditConfig, config="configs/edit/tiny.yaml") == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["--seed", "3"], "seed", 3),
        (["--seed=3"], "seed", 3),
        (["--data.max-images", "4"], "data.max_images", 4),
        (["--data.max_images=4"], "data.max_images", 4),
        (["--strengths", "-3,0,3"], "strengths", [-3, 0, 3]),
        (["--domain", "tiny"], "domain.name", "tiny"),
        (["--align"], "align", True),
        (["--align", "true"], "align", True),
        (["--align", "false"], "align", False),
        (["--align=false"], "align", False),
        (["--no-such-thing=1"], "no_such_thing", None),
    ],
)
def test_settings_may_be_written_as_options(words: list[str], key: str, value: Any, capsys: pytest.CaptureFixture[str]):
    options = {"schema_class": EditConfig, "config": "configs/edit/faces64.yaml", "inputs": "data.root"}
    if value is None:
        assert exit_code(*words, **options) == 2 and f"{key}: unknown key" in capsys.readouterr().err
        return
    config = run(*words, str(ROOT), **options)  # the photos after them are still photos
    assert config.data.root == str(ROOT)
    for name in key.split("."):
        config = getattr(config, name)
    assert config == value


def test_entries_of_mappings_and_missing_values(capsys: pytest.CaptureFixture[str]):
    assert run("--loss_weights.l2", "0.5").loss_weights["l2"] == 0.5
    assert exit_code("--seed") == 2 and "--seed needs a value" in capsys.readouterr().err
    assert exit_code("--output", "--dry-run") == 2 and "--output needs a value" in capsys.readouterr().err


def test_a_photo_that_is_not_there_is_named_before_anything_is_imported(capsys: pytest.CaptureFixture[str]):
    options = {"schema_class": EditConfig, "config": "configs/edit/faces64.yaml", "inputs": "data.root"}
    assert exit_code("nowhere.jpg", do="no_such_function", **options) == 2
    assert "there is no file or folder nowhere.jpg" in capsys.readouterr().err
    run("nowhere.jpg", "--print-config", **options)  # which reads nothing
    assert "root: nowhere.jpg" in capsys.readouterr().out


def test_a_last_word_that_is_not_there_may_be_meant_for_the_output(capsys: pytest.CaptureFixture[str]):
    options = {"schema_class": EditConfig, "config": "configs/edit/faces64.yaml", "inputs": "data.root"}
    hint = "; a folder to write into is given as output=FOLDER\n"
    assert exit_code(str(ROOT), "out.zip", **options) == 2 and capsys.readouterr().err.endswith(hint)
    assert exit_code("nowhere.jpg", str(ROOT), **options) == 2 and "output=" not in capsys.readouterr().err


def test_print_config_is_yaml_that_loads(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert run("--print-config", "seed=5") is None
    (tmp_path / "shown.yaml").write_text(capsys.readouterr().out)
    assert run("--config", str(tmp_path / "shown.yaml")) == run("seed=5")


def test_faults_are_plain_text(capsys: pytest.CaptureFixture[str]):
    assert exit_code("sed=1", "device=gpu") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: 2 settings to mend:\n  command line: sed: unknown key, did you mean seed?")
    assert "Traceback" not in error and not CALLS


def test_unknown_options_say_how_settings_are_written(capsys: pytest.CaptureFixture[str]):
    assert exit_code("-s", "1") == 2
    assert "settings are written key=value or --key value" in capsys.readouterr().err
    assert exit_code("--max-stpes", "1") == 2  # of another section
    assert "max_stpes: unknown key, did you mean schedule.max_steps?" in capsys.readouterr().err


def test_users_mistakes_are_plain_and_faults_in_the_code_are_not(capsys: pytest.CaptureFixture[str]):
    assert exit_code(do="refuse") == 2
    assert capsys.readouterr().err == "error: the disk is full; free 3 GiB\n"
    assert exit_code(do="trip_over_a_file") == 2  # output names a file, no permission, disk full
    assert "Not a directory" in capsys.readouterr().err
    with pytest.raises(UserError):
        run("--traceback", do="refuse")
    with pytest.raises(ValueError, match="a fault in the code"):  # not raised by the package: a bug, with its traceback
        run(do="stumble")


def test_an_error_begins_a_line_of_its_own(capsys: pytest.CaptureFixture[str]):
    """It stood behind the bar of a loop that it had ended: `67%|###| 2/3error: ...`."""
    bar = tqdm(total=3, leave=False, mininterval=0)
    bar.update()
    with pytest.raises(SystemExit):
        cli.stop("no room")
    shown = capsys.readouterr().err
    assert "1/3" in shown and shown.replace("\r", "\n").splitlines()[-1] == "error: no room"


def test_freed_memory_stays_with_a_command_that_begins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    kept: list[bool] = []
    monkeypatch.setattr(cli, "keep_freed_memory", lambda: kept.append(True))
    for words, expected in ((["--print-config"], False), ([], True)):
        run(*words, f"output={tmp_path}")
        assert bool(kept) == expected


def test_output_is_checked_before_the_command_begins(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    assert exit_code(f"output={tmp_path / 'notes.txt'}/run", do="refuse") == 2
    assert "notes.txt is not a folder; give another output=FOLDER" in capsys.readouterr().err


def test_output_may_begin_with_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Shells leave the ~ of output=~/runs alone; a folder of that name in the current one is not what was meant."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run("output=~/runs").output == str(tmp_path / "runs")


def test_a_closed_pipe_ends_quietly(tmp_path: Path):
    script = f"{sys.executable} {ROOT / 'scripts/train_phase2.py'} --print-config"
    command = f"set -o pipefail; {script} | true; echo code $?"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "code 141\n" and not done.stderr, done


@pytest.mark.parametrize(
    ("name", "then"),
    [
        ("invert", "the same command begins anew"),
        ("edit", "the same command begins anew"),
        ("align", "the same command goes on where this one stopped"),
        ("train phase1", "the same command goes on from the last checkpoint, if there is one"),
    ],
)
def test_control_c_ends_quietly_and_says_what_the_same_command_then_does(
    name: str, then: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    """`invert` and `edit` promised to go on from a checkpoint, and began anew."""
    command = replace(COMMANDS[name], action=f"{__name__}:stop")
    (tmp_path / "photo.png").touch()
    with pytest.raises(SystemExit) as info:
        cli.run(command, [str(tmp_path), f"output={tmp_path / 'out'}"])
    assert info.value.code == 130 and capsys.readouterr().err == f"\nstopped; {then}\n"


def fill_nothing(config: Any) -> None:
    (Path(config.output) / "inside").mkdir(parents=True)
    (Path(config.output) / "inside").rmdir()
    raise UserError("no photo could be used")


def test_a_command_that_wrote_nothing_leaves_no_folder(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    for output in ("new/deeper", "mine", "mine/new"):
        assert exit_code(f"output={tmp_path / output}", do="fill_nothing") == 2
        assert list(tmp_path.rglob("*")) == [tmp_path / "mine"], "what was there before stays"


def test_faults_and_the_list_of_downloads_come_without_torch(tmp_path: Path):
    """From any folder, at once: torch takes seconds to import. tests/test_scripts.py asks the same of --help."""
    code = (
        "import sys\n"
        "from hyperinverter.config.commands import main\n"
        "main(['download', '--list'])\n"  # nothing of it needs torch
        "for words in (['edit'], ['edit', 'empty'], ['edit', 'one', 'directions=smiel'], ['align'],\n"
        "              ['edit', 'one', 'directions=smile', 'model=./mine'],\n"
        "              ['evaluate', 'data.kind=auto'], ['train', 'phase1', 'empty', 'data.kind=auto']):\n"
        "    try:\n"
        "        main(words)\n"
        "    except SystemExit as end:\n"
        "        assert end.code == 2, words\n"
        "try:\n"
        "    main(['train', 'phase2', 'domain=x'])\n"
        "finally:\n"
        "    assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    (tmp_path / "one/photo.png").touch()
    (tmp_path / "mine/directions").mkdir(parents=True)
    (tmp_path / "mine/directions/older.npy").touch()
    refused = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 2 and "no such domain 'x'" in refused.stderr, refused.stderr
    assert "stylegan2_ffhq" in refused.stdout
    elsewhere = "mine/directions/smile.safetensors: no such direction file; there are: older."
    told = "no images were given", "no images in empty", "no direction 'smiel'", elsewhere
    assert [refused.stderr.count(text) for text in told] == [3, 2, 1, 1], refused.stderr


def test_dry_run_shows_config_and_parameter_counts_without_data(tmp_path: Path, capsys):
    """1024 px, no weights, no images: the plan still comes, with the published size of the generator."""
    run_script("train_phase2", ["--dry-run", "--config", "configs/phase2/ffhq.yaml"], tmp_path)
    shown = capsys.readouterr().out
    assert "start_step: 200000" in shown and "30,370,060" in shown and "642,351,195" in shown
    assert not list(tmp_path.iterdir()), "a dry run writes nothing"


def test_a_face_is_a_number_or_all_and_chosen_only_where_faces_are_looked_for():
    for face in (2, "all"):
        assert load_config(EditConfig, None, [f"face={face}", "align=true"]).face == face
        with pytest.raises(ConfigError, match=f"face: is {face}, but faces are chosen only with align=true"):
            load_config(EditConfig, None, [f"face={face}"])
    with pytest.raises(ConfigError, match="face: must be 1 for the largest"):
        load_config(EditConfig, None, ["face=0", "align=true"])
