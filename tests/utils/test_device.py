"""Precisions that a processor is slow in are told, once."""

import logging

import pytest

from hyperinverter.config.schema import TrainConfig
from hyperinverter.inverters import load
from hyperinverter.training.common import set_up
from hyperinverter.utils import device

ZEN4 = "flags\t\t: fpu sse2 avx2 avx512f avx512_bf16\n"
SAPPHIRE_RAPIDS = "flags\t\t: fpu avx2 avx512f avx512_bf16 avx512_fp16 amx_bf16 amx_tile amx_int8\n"
ARM = "Features\t: fp asimd bf16 i8mm\n"


@pytest.fixture
def processor(monkeypatch, tmp_path):
    def is_(text: str) -> None:
        device.warn_if_slower.cache_clear()
        (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: some\n" + text)
        monkeypatch.setattr(device, "CPUINFO", tmp_path / "cpuinfo")

    yield is_
    device.warn_if_slower.cache_clear()


@pytest.mark.parametrize(
    ("flags", "precision", "instructions"),
    [
        (ZEN4, "bf16", "amx_bf16"),
        (ZEN4, "fp16", "amx_fp16 or avx512_fp16"),
        (ZEN4, "fp32", None),
        (SAPPHIRE_RAPIDS, "bf16", None),
        (SAPPHIRE_RAPIDS, "fp16", None),
        (ARM, "bf16", None),
    ],
)
def test_a_precision_without_instructions_is_told_once(flags, precision, instructions, processor, caplog):
    processor(flags)
    for _ in range(2):
        device.warn_if_slower("cpu", precision)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == (instructions is not None)
    if instructions:
        assert f"precision={precision} makes this processor slower" in told[0] and instructions in told[0]


def test_a_gpu_and_a_system_without_the_list_are_left_alone(processor, monkeypatch, tmp_path, caplog):
    processor(ZEN4)
    device.warn_if_slower("cuda", "bf16")
    monkeypatch.setattr(device, "CPUINFO", tmp_path / "absent")
    device.warn_if_slower("cpu", "bf16")
    assert not caplog.records


def test_trainers_and_methods_say_it(processor, tiny_model, caplog):
    caplog.set_level(logging.WARNING)
    processor(ZEN4)
    set_up(TrainConfig(device="cpu", precision="bf16"))
    load(tiny_model, "w_encoder", precision="fp16")
    load(tiny_model, "w_encoder", precision="bf16")
    assert [record.getMessage()[:14] for record in caplog.records] == ["precision=bf16", "precision=fp16"]
