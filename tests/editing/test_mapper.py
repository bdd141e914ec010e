"""StyleCLIP's mappers: the published formula, from released checkpoints, wherever directions are taken."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from hyperinverter.app.editor import Editor
from hyperinverter.app.session import FIRST, Session
from hyperinverter.config.model_schema import AppConfig, DirectionConfig
from hyperinverter.config.schema import DataConfig, EditConfig
from hyperinverter.directions import Direction, edit, load_direction, project_out, save_direction
from hyperinverter.editing.commands import edit_images
from hyperinverter.editing.learn_command import learn_directions
from hyperinverter.inverters import Inversion, load
from hyperinverter.inverters.inversion import interpolate
from hyperinverter.published.vectors import Space
from hyperinverter.reports.paper.table2 import hash_of
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.images import load_image

WIDTHS = {"course": range(0, 4), "medium": range(4, 8), "fine": range(8, 18)}


def released(parts=("course", "medium", "fine"), w_dim=16, decoder=None, seed=0):
    """A checkpoint as StyleCLIP's training saves it: mapper, decoder, and the run's options."""
    random = torch.Generator().manual_seed(seed)
    state = {}
    for part in parts:
        prefix = f"mapper.{part}_mapping" if part != "single" else "mapper.mapping"
        for number in range(1, 5):
            state[f"{prefix}.mapping.{number}.weight"] = torch.randn(w_dim, w_dim, generator=random) * 100
            state[f"{prefix}.mapping.{number}.bias"] = torch.randn(w_dim, generator=random) * 20
    state |= {f"decoder.{name}": value for name, value in (decoder or {}).items()}
    return {"state_dict": state, "opts": {"description": "a person with purple hair", "no_fine_mapper": False}}


def by_hand(state, prefix, codes):
    """One part on one photo's codes [L', w_dim], number by number: the published layers, in float64."""
    rows = codes.astype(np.float64)
    normalised = np.empty_like(rows)
    for j in range(rows.shape[1]):  # over the styles
        normalised[:, j] = rows[:, j] / np.sqrt((rows[:, j] ** 2).sum() / len(rows) + 1e-8)
    for number in range(1, 5):
        weight = state[f"{prefix}.mapping.{number}.weight"].double().numpy()
        bias = state[f"{prefix}.mapping.{number}.bias"].double().numpy()
        out = np.empty_like(normalised)
        for i, row in enumerate(normalised):
            value = weight @ row * 0.01 / np.sqrt(weight.shape[1]) + 0.01 * bias
            out[i] = np.where(value > 0, value, 0.2 * value) * np.sqrt(2)
        normalised = out
    return normalised


def test_a_photo_moves_by_a_tenth_of_what_the_mapper_says(tmp_path):
    checkpoint = released()
    torch.save(checkpoint, tmp_path / "purple_hair.pt")
    direction = load_direction(tmp_path / "purple_hair.pt", space=Space(18, 16))
    assert direction.name == "purple_hair" and direction.info["text"] == "a person with purple hair"
    ws = torch.randn(3, 18, 16, generator=torch.Generator().manual_seed(1))
    moved = edit(Inversion(ws), direction, torch.tensor([1.0, 0.0, -2.5])).ws
    for photo, strength in enumerate((1.0, 0.0, -2.5)):
        for part, span in WIDTHS.items():
            rows = ws[photo, list(span)].numpy()
            step = by_hand(checkpoint["state_dict"], f"mapper.{part}_mapping", rows)
            assert np.abs(step).max() > 0.1
            np.testing.assert_allclose(moved[photo, list(span)], rows + strength * 0.1 * step, atol=1e-5)
    within = edit(Inversion(ws), direction, 1.0, styles=(2, 5)).ws
    assert torch.equal(within[:, :2], ws[:, :2]) and torch.equal(within[:, 5:], ws[:, 5:])
    whole = edit(Inversion(ws), direction, 1.0).ws
    assert torch.equal(within[:, 2:5], whole[:, 2:5]), "a range moves as it does in the whole"


def test_parts_that_were_not_trained_leave_their_styles_alone_and_one_part_may_serve_all(tmp_path):
    ws = torch.randn(1, 18, 16)
    torch.save(released(("course", "fine")), tmp_path / "two.pt")
    moved = load_direction(tmp_path / "two.pt").move(ws, torch.ones(1, 1, 1))
    assert torch.equal(moved[:, 4:8], ws[:, 4:8]) and not torch.equal(moved[:, 8:], ws[:, 8:])
    single = released(("single",))
    torch.save(single["state_dict"], tmp_path / "single.pt")  # the weights alone
    moved = load_direction(tmp_path / "single.pt").move(ws, torch.ones(1, 1, 1))
    step = by_hand(single["state_dict"], "mapper.mapping", ws[0].numpy())
    np.testing.assert_allclose(moved[0], ws[0].numpy() + 0.1 * step, atol=1e-5)


@pytest.mark.parametrize("parts", [("course", "medium", "fine"), ("single",)])
def test_it_is_written_as_a_direction_of_ours_and_read_again(tmp_path, parts):
    torch.save(released(parts), tmp_path / "hair.pt")
    direction = replace(load_direction(tmp_path / "hair.pt"), generator_hash="abc", styles=(0, 10))
    save_direction(direction, tmp_path / "again.safetensors")
    again = load_direction(tmp_path / "again.safetensors", generator_hash="abc")
    ws = torch.randn(2, 18, 16)
    assert torch.equal(again.move(ws, torch.ones(1, 1, 1)), direction.move(ws, torch.ones(1, 1, 1)))
    assert again.styles == (0, 10) and again.info["text"] == "a person with purple hair"
    with pytest.raises(UserError, match="learned for generator abc"):
        load_direction(tmp_path / "again.safetensors", generator_hash="other")


def changed(change):
    checkpoint = released()
    change(checkpoint["state_dict"])
    return checkpoint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (released(w_dim=8), "of a W of 8 numbers, this generator's has 16"),
        (changed(lambda s: s.pop("mapper.fine_mapping.mapping.2.bias")), r"layer 2 \(fine\) has weight and bias"),
        (changed(lambda s: s.update({"mapper.fine_mapping.mapping.2.weight": torch.ones(16, 8)})), r"\(16, 8\)"),
        (changed(lambda s: s.update({"mapper.fine_mapping.mapping.4.bias": torch.full([16], torch.nan)})), "finite"),
        (changed(lambda s: s.update({"mapper.mapping.mapping.1.weight": torch.ones(16, 16),
                                     "mapper.mapping.mapping.1.bias": torch.ones(16)})), "do not belong together"),
        ({"state_dict": {"mapper.mapper_0.mapping.1.weight": torch.ones(512, 512)}}, "of StyleSpace; give one"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(tmp_path, content, message):
    torch.save(content, tmp_path / "hair.pt")
    with pytest.raises(UserError, match=message):
        load_direction(tmp_path / "hair.pt", space=Space(18, 16))


def test_a_mapper_of_another_generator_is_told_by_the_decoder_in_its_file(tmp_path, tiny_model, other_tiny_model):
    """The decoder's mapping network, here that of a tiny model in the published names, has another mean."""
    models = [load(folder, "w_encoder") for folder in (tiny_model, other_tiny_model)]
    mapping = models[0].generator.mapping
    layers = {f"style.{i + 1}.{part}": getattr(getattr(mapping, f"fc{i}"), part) for i in range(2) for part in
              ("weight", "bias")}  # fmt: skip
    torch.save(released(decoder=layers), tmp_path / "hair.pt")
    assert models[0].direction(tmp_path / "hair.pt").w_dim == 16
    with pytest.raises(UserError, match="of another generator: the mean of its W is"):
        models[1].direction(tmp_path / "hair.pt")


def test_python_and_blends_take_it(tmp_path, tiny_model):
    torch.save(released(), tmp_path / "hair.pt")
    model = load(tiny_model, "w_encoder")
    photos = model.invert(torch.rand(2, 3, 16, 16) * 2 - 1)
    moved = model.edit(photos, {tmp_path / "hair.pt": 2})
    assert torch.equal(moved.ws, model.edit(photos, {tmp_path / "hair.pt": 2}, unit="w").ws), "1 is 1 in both units"
    assert (moved.images - photos.images).abs().max() > 1e-3
    blend = interpolate(photos[0], moved[0], 3)[1]
    torch.testing.assert_close(blend.ws, (photos.ws[:1] + moved.ws[:1]) / 2)


def test_it_cannot_be_left_out_of_another_direction(tmp_path, tiny_model, tiny_domain):
    torch.save(released(), tmp_path / "hair.pt")
    mapper, other = load_direction(tmp_path / "hair.pt"), Direction("up", torch.randn(16))
    for pair in ((other, [mapper]), (mapper, [other])):
        with pytest.raises(ValueError, match="'hair' moves every photo its own way"):
            project_out(*pair)
    stronger = replace(mapper, parts={"all": [(2 * weight, bias) for weight, bias in mapper.parts["fine"]]})
    assert hash_of(mapper) == hash_of(replace(mapper)) != hash_of(stronger), "their vector is the same"
    groups = {"up": [str(tmp_path), str(tmp_path)]}
    Image.new("RGB", (16, 16)).save(tmp_path / "photo.png")
    config = DirectionConfig(
        domain=tiny_domain, model=str(tiny_model), output=str(tmp_path / "out"), differences=groups
    )
    config.without = {"up": [str(tmp_path / "hair.pt")]}
    with pytest.raises(ValueError, match="'hair' moves every photo its own way"):  # before any photo is encoded
        learn_directions(config)
    assert not (tmp_path / "out").exists()


def test_the_app_has_a_slider_for_one_in_the_model_folder_and_edit_draws_it(tmp_path, tiny_model, tiny_domain):
    folder = shutil.copytree(tiny_model, tmp_path / "micro")
    (folder / "directions").mkdir()
    torch.save(released(), folder / "directions" / "hair.pt")
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    model = load(folder, "w_encoder")
    editor, session = Editor(model, AppConfig(domain=tiny_domain)), Session()
    assert editor.sliders["hair"].std == 1
    editor.open(session, FIRST, (tmp_path / "photo.png").read_bytes(), "photo.png", aligned=False)
    moved = editor.edited(session, editor.settings({"edits": {"hair": 1.5}}, session))
    ws = session.photo().inversion.ws
    expected = edit(Inversion(ws), load_direction(folder / "directions" / "hair.pt"), 1.5).ws
    torch.testing.assert_close(moved.ws, expected)
    config = EditConfig(domain=tiny_domain, model=str(folder), method="w_encoder", output=str(tmp_path / "out"),
                        data=DataConfig(root=str(tmp_path / "photo.png")), edits={"hair": 1.5})  # fmt: skip
    edit_images(config)
    drawn = load_image(tmp_path / "out" / "photo" / "hair+1.5.png", 16)
    torch.testing.assert_close(drawn, model.render(moved)[0].clamp(-1, 1), atol=0.005, rtol=0)
