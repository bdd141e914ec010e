"""Generators of gray images and with classes: convert takes them, every other command says so at the door."""

import importlib
from pathlib import Path

import pytest

from hyperinverter.config.faults import ConfigError
from hyperinverter.config.load import load_config, load_domain
from hyperinverter.config.report_schema import ReproduceConfig
from hyperinverter.config.schema import CommandConfig

COMMANDS = [
    cls
    for module in ("schema", "report_schema", "model_schema")
    for cls in vars(importlib.import_module(f"hyperinverter.config.{module}")).values()
    if isinstance(cls, type) and issubclass(cls, CommandConfig)
]


def told(command: type, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as info:
        load_config(command, None, overrides)
    return str(info.value).splitlines()


@pytest.mark.parametrize("command", dict.fromkeys([*COMMANDS, ReproduceConfig]), ids=lambda command: command.__name__)
@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("generator", "img_channels", 1),
        ("generator", "c_dim", 3),
        ("discriminator", "c_dim", 10),
        ("generator", "img_channels", 4),
    ],
)
def test_gray_images_and_classes_are_refused_by_every_command(command: type, part: str, key: str, value: int):
    found = told(command, "domain=tiny", f"domain.{part}.{key}={value}")
    assert any(f"domain.{part}.{key}: is {value}, but commands serve" in line for line in found)


def test_conversion_takes_domains_of_gray_images_and_classes(tmp_path: Path):
    text = "resolution: 16\ngenerator: {img_channels: 1, c_dim: 3}\ndiscriminator: {img_channels: 1, c_dim: 3}\n"
    file = tmp_path / "gray.yaml"
    file.write_text(text)
    assert load_domain(file).generator.c_dim == 3
