"""`hyperinverter COMMAND`: the scripts' twins, --help with every key, and suggestions for wrong names."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest

from hyperinverter import __version__
from hyperinverter.config import commands
from hyperinverter.config.commands import COMMANDS, main
from hyperinverter.config.hints import all_keys, hint_of, meanings
from hyperinverter.config.load import load_config

SCRIPTS = sorted((Path(__file__).parents[2] / "scripts").glob("*.py"))


def sections(schema_class: type) -> dict[type, None]:
    hints = get_type_hints(schema_class)
    inside = [hints[field.name] for field in fields(schema_class) if is_dataclass(hints[field.name])]
    return {schema_class: None} | {cls: None for section in inside for cls in sections(section)}


def end(*words: str) -> int | None:
    with pytest.raises(SystemExit) as info:
        main(words)
    return info.value.code


def test_every_command_has_a_script_of_its_name_that_only_calls_it():
    names = [name.replace(" ", "_").replace("-", "_") for name in COMMANDS]
    assert sorted(names) == [path.stem for path in SCRIPTS]
    for name, command in zip(names, COMMANDS, strict=True):
        text = next(path for path in SCRIPTS if path.stem == name).read_text()
        assert f'run_command("{command}")' in text and text.count("\n") < 12, name


def test_every_key_has_a_meaning():
    without = {
        f"{cls.__name__}.{name}"
        for command in COMMANDS.values()
        for cls in sections(command.schema)
        for name, text in meanings(cls).items()
        if not text and not is_dataclass(get_type_hints(cls)[name])
    }
    assert not without, f"write a comment beside {', '.join(sorted(without))}: --help shows it"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_every_key_with_type_and_default(name: str, capsys: pytest.CaptureFixture[str]):
    main([*name.split(), "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: hyperinverter {name} ") and "--dry-run" in shown and "None" not in shown
    schema_class = COMMANDS[name].schema
    for key in all_keys(schema_class):
        if not is_dataclass(hint_of(schema_class, key)):
            assert f"\n  {key} (" in shown, key
    if hasattr(schema_class, "output") and COMMANDS[name].config:
        assert f"\n  output (text) = {load_config(schema_class, COMMANDS[name].config).output}\n" in shown


def test_help_shows_the_values_of_the_named_domain(capsys: pytest.CaptureFixture[str]):
    main(["train", "phase1", "--help", "domain=tiny"])
    shown = capsys.readouterr().out
    assert "  output (text) = outputs/phase1_tiny\n" in shown
    assert "  loss_weights (name: number) = {l2: 1.0" in shown and "some of l2, lpips, identity" in shown


def test_the_overview_lists_all_commands(capsys: pytest.CaptureFixture[str]):
    assert end("--help") == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in COMMANDS) and max(map(len, shown.splitlines())) < 105
    assert end() == 2
    assert end("--version") == 0 and capsys.readouterr().out.endswith(f"hyperinverter {__version__}\n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["invrt"], "no such command: invrt; did you mean invert?"),
        (["phase1"], "no such command: phase1; did you mean train phase1?"),
        (["list"], "no such command: list; did you mean list-directions?"),
        (["train"], "which trainer? Write one of: train stylegan2, train phase1"),
        (["train", "phase9"], "no such command: train phase9; did you mean train phase3?"),
    ],
)
def test_a_wrong_command_names_the_nearest(words: list[str], told: str, capsys: pytest.CaptureFixture[str]):
    assert end(*words) == 2
    assert told in capsys.readouterr().err


def test_names_may_be_written_as_the_scripts_are(monkeypatch: pytest.MonkeyPatch):
    called = []
    monkeypatch.setattr(commands, "run", lambda command, words, program: called.append((program, list(words))))
    main(["learn_direction", "photos", "labels=x"])
    main(["train", "early_head", "seed=1"])
    main(["train_phase1", "photos"])
    assert called == [
        ("hyperinverter learn-direction", ["photos", "labels=x"]),
        ("hyperinverter train early-head", ["seed=1"]),
        ("hyperinverter train phase1", ["photos"]),
    ]
