"""Names as people's files have them: wrapped, owned by another class, without noise; and what is foreign is named."""

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from as_published import published_arguments, to_published, to_rosinality
from nvidia_file import Stored, nested, nvidia_modules, save_nvidia
from small_stylegan2 import make_discriminator, make_generator
from test_identify import CONTENTS
from torch import Tensor, nn

from hyperinverter.checkpoint import read_model
from hyperinverter.pretrained.files import part_file
from hyperinverter.pretrained.load import load_generator
from hyperinverter.published import from_published
from hyperinverter.published.container import plain_names
from hyperinverter.published.reading import NetworkStub, PublishedFile, read_published
from hyperinverter.releases.convert import convert_files
from hyperinverter.releases.identify import kind_of, recognise
from hyperinverter.utils.errors import UserError

PREFIXES = ("module.", "_orig_mod.", "_orig_mod.module.", "generator.", "module.generator.", "my_model.net_g.",
            "net.G.")  # fmt: skip


def renamed(content: Any, change: Callable[[str], str]) -> Any:
    """The content with the names of all tensors in it changed."""
    if not isinstance(content, dict):
        return content
    return {change(k) if isinstance(v, Tensor) and k != "latent_avg" else k: renamed(v, change) for k, v in
            content.items()}  # fmt: skip


def holds_tensors(content: Any) -> bool:
    inner = content.values() if isinstance(content, dict) else ()
    return any(isinstance(value, Tensor) or holds_tensors(value) for value in inner)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("kind", CONTENTS)
def test_every_kind_is_recognised_under_a_prefix(kind, prefix):
    for content in filter(holds_tensors, CONTENTS[kind]):
        if kind == "pca":
            continue
        assert recognise(renamed(content, lambda name: prefix + name)) == (kind,)


def rosinality() -> tuple[nn.Module, str, dict]:
    generator = make_generator(z_dim=8)
    return generator, "rosinality_generator", to_rosinality(generator)


def nvidia() -> tuple[nn.Module, str, dict]:
    generator = make_generator()
    return generator, "stylegan2_ada_generator", {"G_ema": to_published(generator)}


@pytest.mark.parametrize("change", [
    *(lambda name, prefix=prefix: prefix + name for prefix in PREFIXES),
    lambda name: name.replace("synthesis.", "synthesis._orig_mod.").replace("convs.", "convs.module."),
])  # fmt: skip
@pytest.mark.parametrize("make", [rosinality, nvidia])
@pytest.mark.parametrize("is_bare", [False, True])
def test_prefixed_generators_draw_the_same(make, change, is_bare, tmp_path):
    generator, kind, content = make()
    content = content[next(iter(content))] if is_bare else content
    torch.save(renamed(content, change), tmp_path / "g.pt")
    (written,) = convert_files([tmp_path / "g.pt"], tmp_path / "g.safetensors")
    ws = torch.randn(2, generator.num_ws, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(load_generator(written).synthesis(ws), generator.synthesis(ws))
    assert read_model(written).info["source"]["kind"] == kind


@pytest.mark.parametrize("make", [rosinality, nvidia])
@pytest.mark.parametrize("around", [lambda state: state, lambda state: {"state_dict": state, "epoch": 3}])
def test_of_several_owners_in_one_state_dict_the_averaged_generator_is_read(make, around):
    """As Lightning saves a training: every network of the module below its attribute's name."""
    generator, kind, content = make()
    state = content[next(iter(content))]
    owned = {f"generator.{name}": 0 * value for name, value in state.items()}
    owned |= {f"g_ema.{name}": value for name, value in state.items()}
    owned |= {f"discriminator.{name}": value for name, value in to_published(make_discriminator()).items()}
    read = from_published(around(owned), kind)
    ws = torch.randn(2, generator.num_ws, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(read.synthesis(ws), generator.synthesis(ws))
    assert {"generator", "discriminator"} <= set(read.published.ignored)


def test_names_that_would_become_equal_stay():
    state = {"module.a.weight": torch.zeros(1), "a.weight": torch.ones(1)}
    assert plain_names(state) == state
    assert plain_names({"state": {0: {"step": 1}}, "w": [1]}) == {"state": {0: {"step": 1}}, "w": [1]}


@pytest.mark.parametrize("make", [rosinality, nvidia])
@pytest.mark.parametrize("gone", [r"noise", r"noise_const|noises.noise_[2-9]"])
def test_noise_that_a_file_lacks_is_drawn_alike_every_time(make, gone):
    generator, kind, content = make()
    buffers = re.compile(r"noises\.noise_\d+|.*noise_const") if gone == "noise" else re.compile(f".*({gone})")
    entry = next(iter(content))
    less = {name: value for name, value in content[entry].items() if not buffers.fullmatch(name)}
    assert len(less) < len(content[entry])
    first, again = (from_published({**content, entry: less}, kind) for _ in range(2))
    assert any("drawn from a normal distribution (seed 0)" in why for why in first.published.ignored.values())
    ws = torch.randn(2, generator.num_ws, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(first.synthesis(ws), again.synthesis(ws))
    torch.testing.assert_close(first.synthesis(ws, noise_mode="none"), generator.synthesis(ws, noise_mode="none"))
    noises = [value for name, value in first.named_buffers() if name.endswith("noise_const")]
    assert all(0.5 < value.std() < 1.5 and not torch.equal(value[:4, :4], noises[0]) for value in noises[1:])


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("inside", [None, "G_ema"])
def test_a_whole_network_that_torch_saved_is_read_as_a_pickle_of_it(zipped, inside, tmp_path):
    """As PTI saves its tuned generators: torch.save(G), in both containers of torch."""
    generator = make_generator()
    stored = Stored(nested(to_published(generator)), "Generator", published_arguments(generator))
    content = stored if inside is None else {inside: stored, "w_pivot": torch.zeros(1, 6, 8)}
    with nvidia_modules():
        torch.save(content, tmp_path / "model_ABCDEF_1.pt", _use_new_zipfile_serialization=zipped)
    save_nvidia(tmp_path / "plain.pkl", {"G_ema": stored})
    read, plain = (from_published(tmp_path / n, "stylegan2_ada_generator") for n in ("model_ABCDEF_1.pt", "plain.pkl"))
    assert kind_of(read_published(tmp_path / "model_ABCDEF_1.pt")) == "stylegan2_ada_generator"
    assert read.config == plain.config
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in read.state_dict().items())


def test_a_class_of_another_origin_in_a_torch_file_stays_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "linear.pt")
    with pytest.raises(UserError, match=r"needs torch.nn.modules.linear.Linear.*save only the state_dict"):
        read_published(tmp_path / "linear.pt")


def test_conv_clamp_is_taken_from_the_file_and_asked_of_no_domain(tmp_path, tiny_domain):
    """NVIDIA's own ffhq.pkl has 256; the domain's networks have none."""
    sizes = {name: getattr(tiny_domain.generator, name) for name in ("z_dim", "w_dim", "channel_base", "channel_max")}
    layers = tiny_domain.generator.mapping_layers
    generator = make_generator(**sizes, mapping_layers=layers, resolution=tiny_domain.resolution, conv_clamp=256)
    stored = Stored(nested(to_published(generator)), "Generator", published_arguments(generator))
    save_nvidia(tmp_path / "ffhq.pkl", {"G_ema": stored})
    (written,) = convert_files([tmp_path / "ffhq.pkl"], tmp_path / "g.safetensors", domain=tiny_domain)
    assert load_generator(written, tiny_domain).config["conv_clamp"] == 256


def names(*keys: str) -> dict[str, Tensor]:
    return {key: torch.zeros(4, 4, 3, 3) for key in keys}


@pytest.mark.parametrize(("content", "told"), [
    (names("synthesis.L0_36_512.weight", "mapping.fc0.weight"), "a StyleGAN3 generator, another architecture"),
    ({"G_ema": names("module.synthesis.input.freqs", "module.mapping.fc0.weight")}, "a StyleGAN3 generator"),
    ({"params_ema": names("style_mlp.1.weight", "style_conv1.modulated_conv.weight")}, "in BasicSR's names"),
    ({"state_dict": names("G_mapping.main.0.layer.weight", "G_synthesis.conv_blocks.0.x")}, "adriansahlman"),
    ({"GAN": names("GAN.G.blocks.0.to_style1.weight", "GAN.S.net.0.weight"), "version": "1"}, "lucidrains"),
    ({"generator_smooth": names("synthesis.layer0.weight", "mapping.dense0.weight")}, "in genforce's names"),
    ({"state_dict": names("generator_ema.style_mapping.1.weight", "generator.x.y")}, "in mmgeneration's names"),
    (names("generator.progression.0.conv1.weight", "style.1.weight"), "of the first generation"),
    ({"g_ema": names("conv1.conv.modulation.weight") | {"input.input": torch.zeros(1, 8, 4, 2)}}, "not square .2:4"),
    ({"G_ema": NetworkStub("Generator", {}, {"synthesis.b4.const": torch.zeros(8, 4, 2)})}, "not square .2:4"),
    (names("conv1.conv.x") | {"synthesis.b4.const": torch.zeros(8, 4, 2)}, "not square"),
    (torch.zeros(3, 18, 512), r"latent codes \[3, 18, 512\], one row per style, and not weights"),
    ({"ckpt": "x", "eigvec": torch.zeros(8, 8)}, r"SeFa's factors, .* directions=\[FILE#0\]"),
    ({"act_comp": torch.zeros(8, 1, 4), "act_mean": torch.zeros(4)}, "a cache of GANSpace"),
])  # fmt: skip
def test_what_nothing_here_reads_is_named_for_what_it_is(content, told):
    with pytest.raises(UserError, match=told):
        from_published(content, "stylegan2_ada_generator")
    if "square" not in told:
        with pytest.raises(UserError, match=told):
            kind_of(PublishedFile(Path("x.pt"), "torch", content, ""))


def test_an_unpacked_torch_file_says_how_to_pack_it(tmp_path):
    torch.save(to_rosinality(make_generator(z_dim=8)), tmp_path / "g.pt")
    with zipfile.ZipFile(tmp_path / "g.pt") as archive:
        archive.extractall(tmp_path / "downloads")
    (folder,) = (tmp_path / "downloads").iterdir()
    for given in (folder, tmp_path / "downloads"):
        with pytest.raises(
            UserError, match=r"an unpacked .pt file; pack it again \(cd .* && zip -0 -r g.pt g\)"
        ) as error:
            read_published(given)
    assert f"give {folder.name}.pt" in str(error.value)
    for given in (folder, tmp_path / "downloads"):  # where a model folder belongs
        with pytest.raises(FileNotFoundError, match=r"an unpacked .pt file; pack it again"):
            part_file(given, "generator")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:  # as that command does
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
    (tmp_path / "again.pt").write_bytes(packed.getvalue())
    assert set(read_published(tmp_path / "again.pt").content) == {"g_ema", "latent_avg"}
