"""Networks from ONNX files: what they are shown and what is read, by hand, and files that are something else."""

from pathlib import Path

import pytest
import torch

from hyperinverter.extractors.onnx_faces import EmotionHappy, FaceResAge, FrFeature, FsaNetYaw
from hyperinverter.utils.errors import UserError

pytest.importorskip("onnxruntime", reason="the extra `faces` is not installed")


def number(value: int) -> bytes:
    """A protobuf varint."""
    return bytes([value]) if value < 128 else bytes([value % 128 + 128]) + number(value // 128)


def entry(tag: int, content: int | str | bytes) -> bytes:
    """A protobuf field."""
    if isinstance(content, int):
        return number(8 * tag) + number(content)
    content = content.encode() if isinstance(content, str) else content
    return number(8 * tag + 2) + number(len(content)) + content


def value(name: str, sides: tuple[int, ...]) -> bytes:
    dims = b"".join(entry(1, entry(1, side)) for side in sides)
    return entry(1, name) + entry(2, entry(1, entry(1, 1) + entry(2, dims)))  # of float32


def write_network(
    path: Path, steps: list[tuple[str, dict[str, list[int]]]], takes: tuple[int, ...], gives: int
) -> Path:
    """An ONNX file of operators after one another, without weights."""
    nodes = b""
    for i, (operator, attributes) in enumerate(steps):
        names = ("input" if i == 0 else f"x{i}", "output" if i == len(steps) - 1 else f"x{i + 1}")
        lists = b"".join(
            entry(5, entry(1, key) + b"".join(entry(8, item) for item in items) + entry(20, 7))
            for key, items in attributes.items()
        )
        nodes += entry(1, entry(1, names[0]) + entry(2, names[1]) + entry(4, operator) + lists)
    graph = nodes + entry(2, "graph") + entry(11, value("input", takes)) + entry(12, value("output", (1, gives)))
    path.write_bytes(entry(1, 8) + entry(7, graph) + entry(8, entry(1, "") + entry(2, 13)))
    return path


CHANNEL_MEANS = [("GlobalAveragePool", {}), ("Flatten", {})]
COLOURS = torch.tensor([0.2, -0.4, 0.6])  # R, G, B in [-1, 1]


def flat_images(pixels: int) -> torch.Tensor:
    return torch.stack([COLOURS, -COLOURS])[:, :, None, None].expand(-1, -1, pixels, pixels)


def test_yaw_is_the_mean_of_two_networks_that_see_blue_green_red(tmp_path):
    one = write_network(tmp_path / "one.onnx", CHANNEL_MEANS, (1, 3, 64, 64), 3)
    other = write_network(tmp_path / "two.onnx", [*CHANNEL_MEANS, ("Neg", {}), ("Exp", {})], (1, 3, 64, 64), 3)
    network = FsaNetYaw(one, other)
    blue = torch.tensor([[0.6], [-0.6]]) * 127.5 / 128
    found = network.features(flat_images(40))
    torch.testing.assert_close(found, (blue + (-blue).exp()) / 2, atol=1e-5, rtol=0)
    torch.testing.assert_close(network.distance(found, found.flip(0)), (found[0] - found[1]).abs().expand(2))


def test_grey_of_the_expression_network(tmp_path):
    # the rows of a grey image, averaged down to the seven expressions' places
    rows = [("AveragePool", {"kernel_shape": [58, 1], "strides": [1, 1]}), ("Flatten", {})]
    path = write_network(tmp_path / "rows.onnx", rows, (1, 64, 64, 1), 7 * 64)
    with pytest.raises(UserError, match=r"gives \[\[1, 448\]\]; expected images \[64, 64, 1\] and 7 numbers"):
        EmotionHappy(path)
    grey = EmotionHappy.shown(None, (flat_images(64) + 1) * 127.5)
    expected = 0.299 * 0.2 - 0.587 * 0.4 + 0.114 * 0.6
    assert grey.shape == (2, 64, 64, 1) and grey[0].mean().item() == pytest.approx(expected, abs=1e-5)
    assert EmotionHappy.read(None, torch.eye(7)[3:4]).item() == 1


def test_age_is_the_mean_of_its_distribution():
    chances = torch.zeros(2, 100)
    chances[0, 0], chances[1, 29], chances[1, 39] = 1, 0.5, 0.5
    assert FaceResAge.read(FaceResAge, chances)[:, 0].tolist() == [1, 35]


def test_what_networks_see_does_not_depend_on_the_resolution(tmp_path):
    path = write_network(tmp_path / "n.onnx", CHANNEL_MEANS, (1, 3, 64, 64), 3)
    network = FsaNetYaw(path)
    torch.manual_seed(0)
    images = torch.nn.functional.interpolate(torch.rand(2, 3, 8, 8) * 2 - 1, 64, mode="bilinear")
    large = torch.nn.functional.interpolate(images, 256, mode="bilinear")
    torch.testing.assert_close(network.features(large), network.features(images), atol=0.01, rtol=0)
    with pytest.raises(ValueError, match="at least 32 px, got 16 px"):
        network.features(torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize("content", [b"", b"<html>quota exceeded</html>", b"\x08\x08" + bytes(300)])
def test_rubbish_is_refused_in_one_line(content, tmp_path):
    path = tmp_path / "fr_feature.onnx"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"fr_feature\.onnx: .*fetch it again") as error:
        FrFeature(path)
    assert "\n" not in str(error.value)


def test_a_cut_file_and_another_network_are_refused(tmp_path):
    path = write_network(tmp_path / "n.onnx", CHANNEL_MEANS, (1, 3, 64, 64), 3)
    with pytest.raises(UserError, match=r"takes \[\[1, 3, 64, 64\]\].*expected images \[3, 112, 112\] and 512 numbers"):
        FrFeature(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"n\.onnx"):
        FsaNetYaw(path)


def test_an_operator_that_is_none_of_onnx_is_refused(tmp_path):
    path = write_network(tmp_path / "n.onnx", [("RunShell", {}), ("Flatten", {})], (1, 3, 64, 64), 3)
    with pytest.raises(UserError, match="RunShell"):
        FsaNetYaw(path)
