"""Finding model folders and loading their parts; wrong pairings and missing parts are refused with a remedy."""

import os
import shutil
from dataclasses import replace

import pytest
import torch

import hyperinverter
from hyperinverter import inverters
from hyperinverter.checkpoint import read_model, save_model
from hyperinverter.config.schema import GeneratorConfig, WeightsConfig
from hyperinverter.pretrained.files import PARTS, find_model_folder, find_network_file, weights_file
from hyperinverter.pretrained.load import load_discriminator, load_generator, load_model, load_w_encoder, model_hash
from hyperinverter.utils.errors import UserError


@pytest.fixture
def copied(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "micro")


def resave(path, **changes):
    file = read_model(path)
    values = {"kind": file.kind, "config": file.config, "requires": file.requires} | changes
    return save_model(path, values.pop("state", file.state), **values)


def test_every_part_loads_with_the_weights_of_its_file(tiny_model, tiny_domain):
    generator = load_generator(tiny_model, tiny_domain)
    assert not generator.training and generator.resolution == 16
    file = read_model(tiny_model / "generator.safetensors")
    assert all(torch.equal(value, file.state[name]) for name, value in generator.state_dict().items())
    assert generator.weights_hash == file.hash
    load_discriminator(tiny_model / "discriminator.safetensors")
    e1 = load_w_encoder(tiny_model, generator)
    model = load_model(tiny_model).network
    assert all(torch.equal(value, model.w_encoder.state_dict()[name]) for name, value in e1.state_dict().items())
    state = read_model(tiny_model / "hyperinverter.safetensors").state
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())


def test_names_are_found_in_the_environment_and_the_current_folder(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERINVERTER_MODELS", f"{tmp_path / 'absent'}{os.pathsep}{tiny_model.parent}")
    monkeypatch.chdir(tmp_path)
    assert find_model_folder("micro") == tiny_model
    (tmp_path / "micro").mkdir()  # a folder of photos that happens to have the model's name
    assert find_model_folder("micro") == tiny_model
    (tmp_path / "absent" / "micro").mkdir(parents=True)  # such a one before it in the environment
    assert find_model_folder("micro") == tiny_model
    monkeypatch.delenv("HYPERINVERTER_MODELS")
    shutil.copytree(tiny_model, tmp_path / "pretrained_models" / "micro")
    assert find_model_folder("micro") == tmp_path / "pretrained_models" / "micro"
    assert find_model_folder(tiny_model) == tiny_model


def test_an_unknown_name_lists_models_and_folders(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERINVERTER_MODELS", str(tiny_model.parent))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        load_generator("micr")
    told = (str(tiny_model.parent), str(tmp_path), "micro", "HYPERINVERTER_MODELS")
    assert all(text in str(error.value) for text in told)
    with pytest.raises(FileNotFoundError, match="give the model folder"):
        find_model_folder(tiny_model / "generator.safetensors")


@pytest.mark.parametrize("source", [None, "", " ", ["faces64"]])
def test_what_names_no_model_is_refused_with_what_does(source):
    """None ended in a TypeError of pathlib, and "" was the current folder."""
    with pytest.raises(ValueError, match=r"the model is .*; give its name \(.*faces64.*\) or the path of its folder"):
        hyperinverter.load(source, "w_encoder")
    with pytest.raises(ValueError, match=r"the model is .*; give its name"):
        find_model_folder(source)


def test_network_files_are_found_at_top_level_and_in_nets(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERINVERTER_MODELS", str(tmp_path))
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "some_net.npz").touch()
    assert find_network_file("some_net.npz") == tmp_path / "nets" / "some_net.npz"
    (tmp_path / "some_net.npz").touch()
    assert find_network_file("some_net.npz") == tmp_path / "some_net.npz"
    assert find_network_file("no_such_net.npz") is None


@pytest.mark.parametrize(("part", "script"), [("w_encoder", "train_phase1.py"), ("hyperinverter", "train_phase2.py")])
def test_a_missing_part_names_the_command_that_makes_it(copied, part, script):
    (copied / f"{part}.safetensors").unlink()
    alone = r" \(Phase I alone is there: method=w_encoder.*\)" if part == "hyperinverter" else ""
    made = rf"make it with: python scripts/{script} domain=DOMAIN\.yaml domain\.weights\.folder={copied}$"
    with pytest.raises(FileNotFoundError, match=rf"has no {part}\.safetensors{alone}; {made}"):
        load_model(copied)  # micro has no config of its own: none is named
    named = shutil.copytree(copied, copied.with_name("tiny"))
    with pytest.raises(
        FileNotFoundError, match=rf"{script} --config configs/phase\d/tiny\.yaml domain\.weights\.folder={named}$"
    ):
        load_model(named)


def test_parts_of_two_models_are_refused_with_both_hashes(copied, tiny_model, other_tiny_model):
    for part in ("w_encoder", "hyperinverter"):
        shutil.copy(other_tiny_model / f"{part}.safetensors", copied)
        mine, other = (read_model(m / "generator.safetensors").hash for m in (tiny_model, other_tiny_model))
        with pytest.raises(UserError) as error:
            load_model(copied)
        assert f"{part} was trained for generator {other}, this is generator {mine}" in str(error.value)
        shutil.copy(tiny_model / f"{part}.safetensors", copied)
    with pytest.raises(UserError, match="was trained for generator"):
        load_w_encoder(other_tiny_model, load_generator(tiny_model))
    resave(copied / "w_encoder.safetensors", requires={})
    with pytest.raises(UserError, match="does not say which generator"):
        load_model(copied)


def test_a_domain_of_other_sizes_is_refused_value_by_value(tiny_model, tiny_domain):
    wrong = replace(tiny_domain, resolution=32, generator=replace(tiny_domain.generator, w_dim=24))
    with pytest.raises(UserError, match=r"resolution: file 16, domain 32; generator.w_dim: file 16, domain 24"):
        load_generator(tiny_model, wrong)


def test_a_file_from_before_a_key_existed_is_of_its_default(copied, tiny_domain):
    """Signed tokens have the same tensors: only the config tells that these weights are of the other kind."""
    path = copied / "hyperinverter.safetensors"
    config = read_model(path).config
    older = {key: value for key, value in config["hypernetwork"].items() if key != "token_range"}
    resave(path, config={**config, "hypernetwork": older})
    domain = replace(tiny_domain, weights=WeightsConfig(folder=str(copied)))
    assert load_model(domain).network is not None
    signed = replace(domain, hypernetwork=replace(domain.hypernetwork, token_range="signed"))
    with pytest.raises(UserError, match=r"hypernetwork.token_range: file non_negative, domain signed"):
        load_model(signed)


def test_weights_that_do_not_fit_or_foreign_config_keys_are_refused(copied):
    path = copied / "generator.safetensors"
    state = read_model(path).state
    name = "synthesis.b8.conv0.weight"
    resave(path, state={k: v for k, v in state.items() if k != name} | {"extra": torch.zeros(1)})
    with pytest.raises(UserError, match=rf"1 missing: {name}; 1 not known: extra"):
        load_generator(copied)
    resave(path, state=state | {name: state[name][:1]})
    with pytest.raises(UserError, match=rf"1 of another shape: {name} \(1, 16, 3, 3\) for \(16, 16, 3, 3\)"):
        load_generator(copied)
    config = read_model(path).config
    resave(path, state=state, config=config | {"generator": config["generator"] | {"colour": 1}})
    with pytest.raises(UserError, match="colour, which this version does not know"):
        load_generator(copied)


def test_weights_file_follows_the_domains_weights_section(tiny_model, other_tiny_model, tiny_domain):
    domain = replace(tiny_domain, weights=WeightsConfig(folder=str(tiny_model)))
    assert weights_file(domain, "generator") == tiny_model / "generator.safetensors"
    domain.weights.generator = str(other_tiny_model / "generator.safetensors")
    assert weights_file(domain, "generator") == other_tiny_model / "generator.safetensors"
    with pytest.raises(UserError, match="was trained for generator"):
        load_model(domain)
    domain.weights.generator = "elsewhere.safetensors"
    with pytest.raises(FileNotFoundError, match=r"domain.weights.generator: elsewhere.safetensors"):
        weights_file(domain, "generator")
    with pytest.raises(ValueError, match="write one of generator"):
        weights_file(domain, "encoder")


def test_the_model_hash_covers_every_part(tiny_model, other_tiny_model):
    model, other = load_model(tiny_model), load_model(other_tiny_model)
    assert model.name == "micro" and model.hash != other.hash and len(model.hash) == 16
    assert model.hash == model_hash(**model.hashes)
    assert model.domain.generator == GeneratorConfig(16, 16, 2, 256, 16)
    assert set(load_model(tiny_model, with_hyperinverter=False).hashes) == {"generator", "w_encoder"}
    assert set(PARTS) == {"generator", "discriminator", "w_encoder", "hyperinverter"}


@pytest.mark.parametrize(("key", "value"), [("img_channels", 1), ("img_channels", 4), ("c_dim", 3)])
@pytest.mark.parametrize("method", ["w_encoder", "hyperinverter", "sg2", "pti"])
def test_models_of_gray_images_or_with_classes_are_refused_before_other_files_are_read(
    key, value, method, copied, monkeypatch
):
    path = copied / "generator.safetensors"
    config = read_model(path).config
    config["generator"][key] = value
    resave(path, config=config)
    (copied / "w_encoder.safetensors").write_bytes(b"never read")
    (copied / "hyperinverter.safetensors").unlink()  # how to train it would lead in a circle
    with pytest.raises(
        UserError, match=rf"generator\.safetensors: its generator has {key} {value}, but commands serve"
    ):
        inverters.load(copied, method)


def test_a_discriminator_with_classes_is_refused_where_a_command_takes_it(copied, tiny_domain):
    path = copied / "discriminator.safetensors"
    config = read_model(path).config
    config["discriminator"]["c_dim"] = 3
    resave(path, config=config, requires={"generator": "0"})
    with pytest.raises(UserError, match="its discriminator has c_dim 3"):
        load_discriminator(path, tiny_domain)


@pytest.mark.parametrize(("part", "run"), [("generator", "phase1"), ("w_encoder", "phase1"), ("hyperinverter", None)])
def test_an_own_domain_without_weights_hears_how_they_are_named(part, run, copied, tiny_domain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    domain = replace(tiny_domain, name="otters", weights=WeightsConfig())
    with pytest.raises(FileNotFoundError, match=r"domain\.weights\.folder=FOLDER .*outputs/\w+_otters/model.*domain="):
        weights_file(domain, part)
    (copied / "hyperinverter.safetensors").unlink()
    shutil.copytree(copied, tmp_path / "outputs" / "phase1_otters" / "model")
    there = (
        r"write domain\.weights\.folder=outputs/phase1_otters/model" if run else "train_phase2.py domain=DOMAIN.yaml"
    )
    with pytest.raises(FileNotFoundError, match=there):
        weights_file(domain, part)
