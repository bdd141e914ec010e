"""A published file where a model belongs leads to the command that converts it; what that leaves out is named."""

import re
import shlex

import pytest
import torch
from as_published import to_rosinality
from script_runner import run_script
from small_stylegan2 import make_generator

from hyperinverter.checkpoint import read_model
from hyperinverter.config.schema import StyleGAN2Config
from hyperinverter.pretrained.files import find_model_folder
from hyperinverter.pretrained.load import load_generator, load_model
from hyperinverter.releases.obtain import obtain_weights
from hyperinverter.training.stylegan2 import start_networks
from hyperinverter.utils.errors import UserError


@pytest.fixture
def published(tmp_path, monkeypatch, tiny_domain):
    """A training checkpoint of rosinality's with the tiny domain's sizes; the models' folder is the current one."""
    sizes = {name: getattr(tiny_domain.generator, name) for name in ("z_dim", "w_dim", "channel_base", "channel_max")}
    layers = tiny_domain.generator.mapping_layers
    checkpoint = to_rosinality(make_generator(**sizes, mapping_layers=layers, resolution=tiny_domain.resolution))
    state = checkpoint["g_ema"]
    more = {"g": {k: v * 0 for k, v in state.items()}, "d": {"convs.0.0.weight": torch.zeros(4, 3, 1, 1)}}
    optim = {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.002}]}
    path = tmp_path / "my files" / "550000.pt"
    path.parent.mkdir()
    torch.save({"g_ema": state, **more, "g_optim": optim, "d_optim": optim, "ada_aug_p": 0.0, "extra": "x"}, path)
    monkeypatch.setenv("HYPERINVERTER_MODELS", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    return path


def command_in(message: str) -> list[str]:
    line = next(line for line in message.splitlines() if "scripts/convert.py" in line)
    return shlex.split(line.strip())[2:]


@pytest.mark.parametrize("given", ["model", "generator", "discriminator", "init_from", "weights"])
def test_the_command_that_a_refusal_names_makes_what_is_then_taken(given, published, tiny_domain, tmp_path, capsys):
    with pytest.raises((UserError, FileNotFoundError)) as error:
        if given == "model":
            load_model(published)
        elif given == "init_from":
            start_networks(StyleGAN2Config(domain=tiny_domain, init_from=str(published)))
        elif given == "weights":
            tiny_domain.weights.generator = str(published)
            read_model(obtain_weights(tiny_domain, "generator"), "generator")
        else:
            find_model_folder(published)
    words = command_in(str(error.value))
    assert words[0] == str(published)
    run_script("convert", words, tmp_path)
    out = capsys.readouterr().out
    for told in (
        "not used: g (the generator as it was trained",
        "d (the discriminator in rosinality's layout, which is not read; training starts a new one)",
        "g_optim, d_optim (an optimiser's state)",
        "ada_aug_p (the training run's augmentation)",
        "extra (another entry of the file)",
        "latent_avg: not in the file, made here: w_avg is the mean",
    ):
        assert told in out
    assert load_generator(tmp_path / words[1], tiny_domain).resolution == tiny_domain.resolution
    assert re.search(r"give (that file|\S+ here in its place)", str(error.value))


def test_a_start_without_a_discriminator_gets_a_new_one(published, tiny_domain, tiny_model, tmp_path):
    run_script("convert", [str(published), "models/mine"], tmp_path)
    for start in ("models/mine", "models/mine/generator.safetensors"):
        G, D, is_fresh = start_networks(StyleGAN2Config(domain=tiny_domain, init_from=start))
        assert is_fresh and D.resolution == G.resolution
    start = StyleGAN2Config(domain=tiny_domain, init_from=str(tiny_model))
    G, D, is_fresh = start_networks(start)
    assert not is_fresh and D.weights_hash
    assert start_networks(StyleGAN2Config(domain=tiny_domain))[2] is False


def test_a_photo_in_a_model_s_place_is_called_one(tmp_path):
    """It was called published weights, with a command to convert it."""
    (tmp_path / "me.JPG").touch()
    with pytest.raises(FileNotFoundError, match=r"me\.JPG: is an image; give the name of a model"):
        find_model_folder(tmp_path / "me.JPG")


def test_a_run_in_a_model_s_place_leads_to_its_model(tiny_model, tmp_path):
    """The remedy was to train a generator."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(tiny_model, target_is_directory=True)
    with pytest.raises(FileNotFoundError, match=r"run: is a trainer's folder; its model is in .*run/model: give that"):
        load_model(tmp_path / "run")


def test_a_part_in_a_model_s_place_leads_to_its_folder(tiny_model):
    with pytest.raises(UserError, match=r"holds a generator, but a w_encoder .* or the folder of a whole model"):
        load_model(tiny_model / "generator.safetensors")


def test_a_safetensors_file_of_others_names_the_converter(tmp_path):
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(2)}, tmp_path / "theirs.safetensors")
    with pytest.raises(UserError, match=r"(?s)not one of this project .*convert.py .*theirs_converted.safetensors"):
        read_model(tmp_path / "theirs.safetensors")
