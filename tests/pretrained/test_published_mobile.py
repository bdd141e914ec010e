"""MobileStyleGAN's generator out of its package: a small one there and back, the published one, and spoilt graphs."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from packages import WHEEL_MEMBERS, Ir, generator_members, published, write_wheel
from script_runner import ROOT

from hyperinverter.models.mobile_stylegan import MobileGenerator, mean_w
from hyperinverter.published import from_published
from hyperinverter.published.reading import read_published
from hyperinverter.releases.catalog import download_folder, entry
from hyperinverter.releases.convert import inspect_file
from hyperinverter.utils.errors import UserError

KIND = "mobile_stylegan_generator"
GOLDEN = ROOT.parent / "shared/golden/mobile_generator.npz"


def small_generator(seed: int = 0) -> MobileGenerator:
    torch.manual_seed(seed)
    sizes = {"channel_base": 512, "channel_max": 16, "z_dim": 6, "w_dim": 8, "mapping_layers": 2}
    generator = MobileGenerator(resolution=64, **sizes)
    for name, value in generator.state_dict().items():
        value.copy_(torch.randn_like(value) * (100 if name.startswith("mapping") else 0.5))
    return generator.eval()


def read(folder: Path, members: dict[str, bytes]) -> MobileGenerator:
    return from_published(read_published(write_wheel(folder, "random_face", "0", members), WHEEL_MEMBERS), KIND)


@torch.no_grad()
def test_a_generator_comes_back_as_it_was(tmp_path):
    expected = small_generator()
    found = read(tmp_path, generator_members(expected))
    assert found.config == expected.config and found.published.ignored == {}
    expected.mapping.w_avg.copy_(mean_w(expected.mapping))
    z = torch.randn(2, 6)
    torch.testing.assert_close(found(z, truncation_psi=0.7), expected(z, truncation_psi=0.7), rtol=1e-4, atol=1e-4)
    for name, value in expected.synthesis.state_dict().items():
        assert torch.equal(found.synthesis.state_dict()[name], value), name
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in found.parameters())


def test_what_it_is_can_be_shown_by_its_name(tmp_path):
    path = write_wheel(tmp_path, "random_face", "0", generator_members(small_generator()))
    path = path.rename(tmp_path / entry("mobile_stylegan_ffhq").file)
    told = dict(inspect_file(path))
    assert told["kind"] == KIND and told["generator: resolution"] == "64 px"


def spoilt(**changes):
    """The small generator's files with parts of a graph replaced: MappingNetwork=(old, new) or SynthesisNetwork=."""

    def members() -> dict[str, bytes]:
        files = generator_members(small_generator())
        for part, (old, new) in changes.items():
            name = f"random_face/data/{part}.xml"
            text = files[name].decode()
            assert old in text, old
            files[name] = text.replace(old, new, 1).encode()
        return files

    return members


def without(name: str):
    """A constant is called otherwise."""
    return spoilt(SynthesisNetwork=(f'name="{name}"', 'name="stranger"'))


def with_wide_layer() -> dict[str, bytes]:
    """Sizes that would make a generator of many GB out of a file of a few KB: 4 million channels in one layer."""
    mapping, synthesis = published(small_generator())
    members = mapping.files("random_face/data/MappingNetwork")
    text, count = synthesis.xml().decode(), 2**22
    for shape in ('shape="1, 16, 1, 1"', 'shape="1, 8, 1, 1"'):
        text = text.replace(f"{shape} offset", f'shape="1, {count}, 1, 1" offset')
    text = re.sub(rf'(shape="1, {count}, 1, 1" offset=")\d+(" size=")\d+', rf"\g<1>0\g<2>{4 * count}", text)
    numbers = synthesis.numbers + np.random.default_rng(0).random(count, dtype=np.float32).tobytes()
    return members | {"random_face/data/SynthesisNetwork.xml": text.encode(),
                      "random_face/data/SynthesisNetwork.bin": numbers}  # fmt: skip


def with_nan() -> dict[str, bytes]:
    generator = small_generator()
    generator.synthesis.conv1.bias.data[3] = float("nan")
    return generator_members(generator)


def unnamed() -> dict[str, bytes]:
    ir = Ir("Other")
    ir.constant(np.ones(3, np.float32))
    return {name: content for stem in ("Mapping", "Synthesis")
            for name, content in ir.files(f"random_face/data/{stem}Network").items()}  # fmt: skip


def endless() -> dict[str, bytes]:
    """A graph that leads back into itself."""
    files = generator_members(small_generator())
    ir = Ir("MappingNetwork")
    first = ir.add("MatMul")
    second = ir.add("MatMul", first, ir.constant(np.ones((2, 2), np.float32)))
    added = ir.constant(np.ones(2, np.float32))
    for product in (first, second):
        ir.add("Add", product, added)
    ir.add("Result", second)
    ir.edges.append(f'<edge from-layer="{second}" to-layer="{first}" to-port="0"/>')
    ir.edges.append(f'<edge from-layer="{added}" to-layer="{first}" to-port="1"/>')
    return files | ir.files("random_face/data/MappingNetwork")


HOSTILE = {
    "no input": (without("m.input.input"), "it has no constant m.input.input"),
    "no modulation": (without("m.conv1.conv.modulation.weight"), "no m.conv1.conv.modulation.weight"),
    "no modulation bias": (without("m.layers.1.conv1.conv.modulation.bias"), "no constant m.layers.1.conv1.conv.mod"),
    "no upsampling": (without("m.layers.1.up.modulation.weight"), "missing: synthesis.layers.1.up.modulation.weight"),
    "no bias": (without("m.layers.1.conv2.bias"), "'stranger'"),
    "bias of another": (spoilt(SynthesisNetwork=("m.layers.1.conv2.bias", "m.layers.1.conv1.bias")), "conv1 twice"),
    "no convolution": (spoilt(SynthesisNetwork=('type="Convolution"', 'type="Other"')), "no synthesis.conv1.bias"),
    "no depthwise": (spoilt(SynthesisNetwork=("GroupConvolution", "Other")), "missing: synthesis.layers.0.conv1"),
    "no output": (spoilt(MappingNetwork=('type="Result"', 'type="Other"')), "0 fully connected layers"),
    "no bias in the mapping": (spoilt(MappingNetwork=('type="Add"', 'type="Other"')), "nothing is added to"),
    "endless": (endless, "leads back into itself"),
    "wide layer": (with_wide_layer, "of another shape"),
    "NaN": (with_nan, "with NaN or infinity"),
    "other graphs": (unnamed, "it has no graph MappingNetwork"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_spoilt_graph_ends_in_one_message(tmp_path, name):
    members, told = HOSTILE[name]
    with pytest.raises(UserError, match=re.escape(told)) as error:
        read(tmp_path, members())
    assert str(error.value).isprintable() and len(str(error.value)) < 700


def test_networks_under_each_others_file_names_still_say_which_they_are(tmp_path):
    files = generator_members(small_generator())
    other = {"Mapping": "Synthesis", "Synthesis": "Mapping"}
    members = {name: files[re.sub("Mapping|Synthesis", lambda found: other[found[0]], name)] for name in files}
    torch.testing.assert_close(read(tmp_path, members).synthesis.input, small_generator().synthesis.input)


def test_a_wheel_without_the_graphs_is_another_package(tmp_path):
    with pytest.raises(UserError, match=r"it holds no random_face/data/MappingNetwork\.xml"):
        read(tmp_path, {"random_face/__init__.py": b""})
    with pytest.raises(UserError, match="not MobileStyleGAN's generator"):
        from_published({"synthesis.input": torch.zeros(1)}, KIND)


@pytest.mark.slow
@torch.no_grad()
def test_the_published_generator_draws_the_recorded_images():
    path = entry("mobile_stylegan_ffhq").find()
    if path is None or not GOLDEN.is_file():
        pytest.skip(f"needs {download_folder() / entry('mobile_stylegan_ffhq').relative} and {GOLDEN}")
    generator, golden = from_published(read_published(path, WHEEL_MEMBERS), KIND), np.load(GOLDEN)
    for seed in (11, 12):
        recorded = {key.removesuffix(f"_{seed}"): torch.from_numpy(golden[key]) for key in golden.files}
        ws = generator.mapping(recorded["z"].float())
        torch.testing.assert_close(ws[:, 0], recorded["w"], rtol=0, atol=1e-4)
        image = generator.synthesis(ws)
        crop, border = image[:, :, 480:544, 480:544], image[:, :, :32, :32]
        for found, name in ((crop, "image_crop"), (border, "image_border")):
            torch.testing.assert_close(found, recorded[name], rtol=0, atol=2e-4)
        mean8 = torch.nn.functional.avg_pool2d(image, 8)
        torch.testing.assert_close(mean8, recorded["image_mean8"], rtol=0, atol=2e-4)
