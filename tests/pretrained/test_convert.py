"""Released files become a model folder that computes the same; what does not belong together is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import test_published_hyperstyle as hyperstyle
import torch
from as_published import to_rosinality
from file_server import QUOTA_PAGE
from released_files import E1, NAME, PKL, WHOLE, below, church_domain, church_model, write_domain, write_releases
from script_runner import run_script

import hyperinverter
from hyperinverter.checkpoint import read_model
from hyperinverter.config.schema import GeneratorConfig
from hyperinverter.models.face_network import FaceNetwork
from hyperinverter.models.stylegan2 import Generator
from hyperinverter.models.wplus import WPlusConfig, build_model
from hyperinverter.pretrained.load import load_discriminator, load_generator, load_model
from hyperinverter.published import from_published
from hyperinverter.releases.convert import convert_files, inspect_file
from hyperinverter.utils.errors import UserError

WRITTEN = ["discriminator", "generator", "hyperinverter", "w_encoder"]


@pytest.fixture
def domain():
    return church_domain()


def parts(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.safetensors"))


def same_images(model, folder: Path) -> bool:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1
    with torch.no_grad():
        return torch.equal(model(images).reconstruction, load_model(folder).network(images).reconstruction)


# ------------------------------------------------------------------------------------------- model folders


def test_three_files_in_any_order_become_a_model_that_computes_the_same(church, files, domain, tmp_path):
    written = convert_files([files / WHOLE, files / E1, files / PKL], tmp_path / "m", domain=domain)
    assert parts(tmp_path / "m") == WRITTEN and len(written) == 4
    assert same_images(church[0], tmp_path / "m")
    found = load_model(tmp_path / "m").domain
    assert (found.name, found.kind, found.alignment, found.resolution) == (NAME, "scenes", "none", 32)
    logits = load_discriminator(tmp_path / "m")(torch.zeros(4, 3, 32, 32))
    assert torch.equal(logits, church[1](torch.zeros(4, 3, 32, 32)))


def test_a_release_carries_its_own_w_encoder(church, files, domain, tmp_path):
    convert_files([files / PKL, files / WHOLE], tmp_path, domain=domain)
    assert parts(tmp_path) == WRITTEN and same_images(church[0], tmp_path)


def test_phase_two_may_come_later(church, files, domain, tmp_path):
    convert_files([files / PKL, files / E1], tmp_path, domain=domain)
    assert load_model(tmp_path, with_hyperinverter=False).w_encoder is not None
    convert_files([files / WHOLE], tmp_path, domain=domain)
    assert same_images(church[0], tmp_path)
    before = read_model(tmp_path / "generator.safetensors").hash
    convert_files([files / PKL], tmp_path, domain=domain)  # once more changes nothing
    assert read_model(tmp_path / "generator.safetensors").hash == before


def test_what_is_written_says_where_it_came_from(files, domain, tmp_path):
    named = tmp_path / "stylegan2-church-config-f.pkl"  # a name that the catalog knows
    named.write_bytes((files / PKL).read_bytes())
    convert_files([named], tmp_path / "m", domain=domain)
    info = read_model(tmp_path / "m/generator.safetensors").info
    assert info["source"]["file"] == named.name and len(info["source"]["sha256"]) == 64
    assert info["source"]["catalog"] == "stylegan2_church" and "NVIDIA" in info["licence"]
    convert_files([files / PKL], tmp_path / "other", domain=domain)
    assert read_model(tmp_path / "other/generator.safetensors").info["licence"] is None


def test_half_precision_is_for_phase_two_alone(files, domain, tmp_path):
    for folder, half in (("full", False), ("half", True)):
        convert_files([files / PKL, files / WHOLE], tmp_path / folder, domain=domain, half=half)
    folders = tmp_path / "full", tmp_path / "half"
    sizes = {part: [(folder / f"{part}.safetensors").stat().st_size for folder in folders] for part in WRITTEN}
    assert (
        sizes["generator"][0] == sizes["generator"][1] and sizes["hyperinverter"][0] > 1.5 * sizes["hyperinverter"][1]
    )
    load_model(tmp_path / "half")


def test_parts_that_do_not_belong_together_are_refused(files, domain, tmp_path):
    other = write_releases(tmp_path / "other", *church_model(seed=1))
    convert_files([files / PKL, files / E1], tmp_path / "m", domain=domain)
    with pytest.raises(UserError, match="holds another generator"):
        convert_files([other / PKL], tmp_path / "m", domain=domain)
    with pytest.raises(UserError, match="carries another W encoder"):
        convert_files([other / WHOLE], tmp_path / "m", domain=domain)
    with pytest.raises(UserError, match="is another W encoder"):
        convert_files([other / E1], tmp_path / "m", domain=domain)
    with pytest.raises(UserError, match="holds no generator"):
        convert_files([files / WHOLE], tmp_path / "empty", domain=domain)
    larger = write_releases(tmp_path / "larger", *church_model(resolution=64))
    with pytest.raises(UserError, match=r"does not fit its generator|is for 64 px"):
        convert_files([files / PKL, larger / WHOLE], tmp_path / "mixed")
    assert parts(tmp_path / "m") == ["discriminator", "generator", "w_encoder"], "nothing else was written"


def test_a_release_without_its_w_encoder_asks_for_it(files, domain, tmp_path):
    content = torch.load(files / WHOLE, weights_only=True)
    content["state_dict"] = {k: v for k, v in content["state_dict"].items() if not k.startswith("w_encoder.")}
    torch.save(content, tmp_path / "bare.pt")
    with pytest.raises(UserError, match="carries no W encoder"):
        convert_files([files / PKL, tmp_path / "bare.pt"], tmp_path / "m", domain=domain)
    convert_files([files / E1, tmp_path / "bare.pt", files / PKL], tmp_path / "m", domain=domain)
    assert load_model(tmp_path / "m").network is not None


# ------------------------------------------------------------------------------------------- single files, other kinds


def test_one_file_becomes_one_file(church, files, domain, tmp_path):
    convert_files([files / PKL], tmp_path / "g.safetensors")
    assert torch.equal(load_generator(tmp_path / "g.safetensors").mapping.w_avg, church[0].generator.mapping.w_avg)
    assert parts(tmp_path) == ["g"]
    with pytest.raises(UserError, match="is one file, but 2 were given"):
        convert_files([files / PKL, files / E1], tmp_path / "x.safetensors")
    convert_files([files / WHOLE], tmp_path / "alone" / "h.safetensors", domain=domain)
    file = read_model(tmp_path / "alone" / "h.safetensors", "hyperinverter")
    assert file.requires == {} and file.config["resolution"] == 32 and parts(tmp_path / "alone") == ["h"]


def wide_generator(seed: int = 0) -> Generator:
    """Channels of rosinality's rule at 8 px."""
    torch.manual_seed(seed)
    return Generator(resolution=8, z_dim=16, w_dim=16, mapping_layers=2, channel_base=4096, channel_max=32)


def psp_checkpoint(generator: Generator) -> dict:
    trunk = {"stem_width": 4, "widths": [4, 6, 8, 10], "depths": [1, 1, 1, 1]}
    torch.manual_seed(5)
    config = WPlusConfig.from_json({"encoder_type": "BackboneEncoderUsingLastLayerIntoWPlus", "num_styles": 4,
                                    "w_dim": 16, "trunk": trunk, "average_rows": 4})  # fmt: skip
    encoder = below("encoder.", build_model(config).encoder.state_dict())
    decoder = below("decoder.", to_rosinality(generator)["g_ema"])
    return {"state_dict": encoder | decoder, "latent_avg": torch.zeros(4, 16), "opts": {"output_size": 8}}


def test_a_method_of_others_brings_its_generator(tmp_path):
    generator = wide_generator()
    torch.save(psp_checkpoint(generator), tmp_path / "psp.pt")
    convert_files([tmp_path / "psp.pt"], tmp_path / "m")
    assert parts(tmp_path / "m") == ["generator", "psp"]
    inverter = hyperinverter.load(tmp_path / "m", method="psp")
    loaded = from_published(tmp_path / "psp.pt", "psp")
    images = torch.rand(1, 3, 8, 8) * 2 - 1
    assert torch.equal(inverter.invert(images).ws, loaded(images))
    torch.save(psp_checkpoint(wide_generator(seed=1)), tmp_path / "other.pt")
    with pytest.raises(UserError, match="was trained with another generator"):
        convert_files([tmp_path / "other.pt"], tmp_path / "m")
    torch.save(to_rosinality(generator), tmp_path / "g.pt")
    convert_files([tmp_path / "psp.pt", tmp_path / "g.pt"], tmp_path / "both")
    assert parts(tmp_path / "both") == ["generator", "psp"]


def test_hyperstyle_takes_its_encoder_along(tmp_path):
    model, generator = hyperstyle.small()
    torch.save(hyperstyle.released(model, generator), tmp_path / "hyperstyle.pt")
    encoder = hyperstyle.w_encoder(model) | {"discriminator_state_dict": {}, "best_val_loss": torch.tensor(1.0)}
    torch.save(encoder, tmp_path / "faces_w_encoder.pt")
    domain = replace(church_domain(), w_encoder=replace(hyperstyle.TRUNK, trunk="ir_se"))  # tells strides
    domain.generator = GeneratorConfig(z_dim=16, w_dim=16, mapping_layers=2, channel_base=256, channel_max=16)
    paths = [tmp_path / "hyperstyle.pt", tmp_path / "faces_w_encoder.pt"]
    convert_files(paths, tmp_path / "m", domain=domain, options=hyperstyle.GIVEN)
    assert parts(tmp_path / "m") == ["generator", "hyperstyle"], "its encoder is no E1 of the folder"
    inversion = hyperinverter.load(tmp_path / "m", method="hyperstyle").invert(hyperstyle.images())
    torch.testing.assert_close(inversion.ws, model(hyperstyle.images()).ws)
    with pytest.raises(UserError, match="comes without its W encoder"):
        convert_files(paths[:1], tmp_path / "alone", domain=domain, options=hyperstyle.GIVEN)
    assert not (tmp_path / "alone").exists()


def test_feature_networks_are_converted_under_names_that_are_read_again(tmp_path):
    torch.manual_seed(0)
    sizes = {"depths": (1, 1, 1, 1), "widths": (4, 6, 8, 10), "stem_width": 4}
    network = FaceNetwork(**sizes, squeeze_excitation=True, has_affine_embedding=True).eval()
    torch.save(network.state_dict(), tmp_path / "model_ir_se50.pth")
    convert_files([tmp_path / "model_ir_se50.pth"], tmp_path / "arcface.safetensors")
    again = from_published(tmp_path / "arcface.safetensors", "arcface")
    faces = torch.rand(1, 3, 112, 112)
    with torch.no_grad():
        assert torch.equal(again(faces), network(faces))


# ------------------------------------------------------------------------------------------- faults by name


def test_wrong_resolution_hash_page_and_cut_are_each_named(files, domain, tmp_path):
    out = tmp_path / "m"
    domain.resolution = 64
    with pytest.raises(UserError, match=r"is for 32 px, domain micro_church has 64 px"):
        convert_files([files / PKL], out, domain=domain)
    with pytest.raises(UserError, match=r"SHA-256 is \w{64}, expected 00ff: it is damaged or another file"):
        convert_files([files / PKL], out, sha256="00FF")
    (tmp_path / "page.pkl").write_bytes(QUOTA_PAGE)
    with pytest.raises(UserError, match=r"(?i)page"):
        convert_files([tmp_path / "page.pkl"], out)
    for name in (PKL, WHOLE):
        whole = (files / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match="cut short"):
            convert_files([tmp_path / name], out)
    with pytest.raises(FileNotFoundError):
        convert_files([tmp_path / "absent.pt"], out)
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="its kind is not recognised"):
        convert_files([tmp_path / "other.pt"], out)
    assert not out.exists()


def test_a_file_to_read_is_no_place_to_write_to(files, tmp_path):
    """A forgotten last word made a folder of the name of a released file."""
    for out in (files / E1, tmp_path / "generator.pt", tmp_path / "generator.pkl"):
        with pytest.raises(UserError, match="no place to write to; the last word names a"):
            convert_files([files / PKL], out)
    assert not list(tmp_path.iterdir())


def test_generator_sizes_are_held_against_the_domain(files, domain, tmp_path):
    domain.generator.w_dim = 16
    with pytest.raises(UserError, match=r"other sizes than domain micro_church \(w_dim 12, domain 16\)"):
        convert_files([files / PKL], tmp_path / "m", domain=domain)


# ------------------------------------------------------------------------------------------- inspection, the command


def test_inspection_tells_what_a_file_is_and_writes_nothing(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = dict(inspect_file(files / WHOLE))
    assert told["kind"] == "hyperinverter" and told["container"] == "torch" and len(told["SHA-256"]) == 64
    assert told["hypernetwork: resolution"] == "32 px" and told["hypernetwork: D"] == "4"
    assert told["hypernetwork: target layers"] == "11 (conv_without_bias)"
    assert told["global_step"] == "410,000" and "church_encode" in told["its options"]
    unused = [text for label, text in inspect_file(files / WHOLE) if label == "not used"]
    assert any("a discriminator" in text for text in unused) and not any("E2" in text for text in unused)
    told = dict(inspect_file(files / PKL))
    assert told["kind"] == "stylegan2_ada_generator" and told["generator: w_avg"] == "present"
    assert told["generator: styles"] == "8 of 12 numbers" and "discriminator: parameters" in told
    told = dict(inspect_file(files / E1))
    assert told["kind"] == "w_encoder" and told["latent_avg"] == "present, 8x12"
    assert not list(tmp_path.iterdir())


def test_inspection_of_our_own_files(tiny_model):
    told = dict(inspect_file(tiny_model / "hyperinverter.safetensors"))
    assert told["kind"] == "hyperinverter of this project" and "belongs to w_encoder" in told
    with pytest.raises(UserError, match="is converted already"):
        convert_files([tiny_model / "generator.safetensors"], tiny_model.parent / "never")


def test_the_command_inspects_plans_and_converts(files, tmp_path, capsys, monkeypatch):
    write_domain(tmp_path)
    run_script("convert", ["--inspect", str(files / WHOLE), str(files / PKL)], tmp_path)
    shown = capsys.readouterr().out
    assert "hypernetwork: D" in shown and "stylegan2_ada_generator" in shown
    words = [str(files / PKL), str(files / WHOLE), "m", "--domain", NAME]
    run_script("convert", [*words, "--dry-run"], tmp_path)
    assert "would be written to m" in capsys.readouterr().out and not (tmp_path / "m").exists()
    run_script("convert", words, tmp_path)
    assert parts(tmp_path / "m") == WRITTEN
    assert json.loads(json.dumps(read_model(tmp_path / "m/w_encoder.safetensors").config))["domain"] == NAME


@pytest.mark.parametrize("room", [50, 20_000])
def test_a_full_disk_is_told_with_the_file(room, files, tmp_path, capsys, largest_file):
    write_domain(tmp_path)
    largest_file(room)
    with pytest.raises(AssertionError, match="stopped with code 2"):
        run_script("convert", [str(files / PKL), str(files / WHOLE), "m", "--domain", NAME], tmp_path)
    told = capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]
    assert told.startswith("error: m/") and "File too large; " in told and "make room" in told
    assert all(path.stat().st_size < room for path in (tmp_path / "m").rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["one.pkl"], "IN OUT"),
        ([PKL, "output=out"], "the last word without = is what is written: FILE OUT"),
        (["--inspect"], "--inspect IN"),
        (["absent.pkl", "out"], "no such file"),
        ([PKL, "out", "--kind", "stylegan"], "write one of"),
        ([PKL, "out", "--kind", "moco"], "MoCo"),
        ([PKL, "out", "--sha256", "abc"], "expected abc"),
        ([PKL, "out", "options.colour=blue"], "colour"),
        ([PKL, "out", "--domain", "ffhq"], "is for 32 px, domain ffhq has 1024 px"),
    ],
)
def test_mistakes_of_the_command_are_plain(words, told, files, tmp_path, capsys):
    with pytest.raises(AssertionError, match="stopped with code 2"):
        run_script("convert", [str(files / PKL) if word == PKL else word for word in words], tmp_path)
    assert told in capsys.readouterr().err
