"""What edit and invert take beside photos: saved Inversions, and models of another domain than the settings'."""

import shutil
from dataclasses import replace

import pytest
from test_editing_commands import config, model, photos  # noqa: F401 (fixtures)

from hyperinverter.config.load import load_config
from hyperinverter.config.schema import EditConfig
from hyperinverter.editing.commands import edit_images, interpolate_images, invert_images
from hyperinverter.inverters import load
from hyperinverter.releases.direction_files import check_directions
from hyperinverter.utils.errors import UserError


def test_a_model_of_another_domain_brings_its_own_directions(config, photos, model, tmp_path, monkeypatch):  # noqa: F811
    """model=ffhq_mobile knew no eye_openness where the settings were those of faces64."""
    name = load(model).domain.name
    (tmp_path / "configs/domains").mkdir(parents=True)
    text = f"name: {name}\ndirections: {{grin: directions/smile.safetensors}}\n"
    (tmp_path / f"configs/domains/{name}.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    settings = config(photos / "a.png", edits={"grin": 1.0})
    settings.domain = replace(settings.domain, name="church")
    check_directions(settings)
    assert edit_images(settings)["edits"] == {"grin": 1.0}
    with pytest.raises(FileNotFoundError, match="no direction 'frown'"):
        check_directions(replace(settings, edits={"frown": 1.0}))


def test_settings_of_another_domain_name_the_file_that_fits():
    """domain=churches64 asked for faces64's smile, which nobody had named."""
    path = "configs/edit/faces64.yaml"
    with pytest.raises(FileNotFoundError, match=r"; --config configs/edit/churches64\.yaml has those of this model"):
        check_directions(load_config(EditConfig, path, ["domain=churches64"]))
    with pytest.raises(FileNotFoundError) as info:
        check_directions(load_config(EditConfig, path, ["directions=[smlie]"]))
    assert "--config" not in str(info.value), "that one is misspelt"


def test_a_folder_that_invert_wrote_stands_for_its_inversions(config, photos, tmp_path, capsys):  # noqa: F811
    """Its reconstructions were inverted again, and its sheet with them."""
    invert_images(config(photos))
    saved = (tmp_path / "out").rename(tmp_path / "saved")
    result = edit_images(config(saved))
    files = [str(saved / f"{name}.safetensors") for name in ("a", "b", "sub_a")]
    assert [each["source"] for each in result["images"]] == files
    with pytest.raises(UserError, match=r"saved: a saved .* is of one method"):
        edit_images(config(saved, methods=["w_encoder", "hyperinverter"]))
    assert "3 Inversions that invert saved there" in capsys.readouterr().out
    one = edit_images(config(saved, data={"max_images": 1}, align=True, paste_back=True))
    assert len(one["images"]) == 1 and "nothing is pasted back" in next(iter(one["face_notes"].values()))
    shutil.copy(photos / "b.png", saved / "new.png")
    assert len(edit_images(config(saved))["images"]) == 5, "with a photo among them it is a folder of pictures"


def test_a_folder_that_invert_wrote_twice_stands_for_all_its_inversions(config, photos, tmp_path):  # noqa: F811
    """Photo after photo into the usual output: reconstructions and sheet were inverted, as the last run named one."""
    for name in ("b.png", "a.png"):
        invert_images(config(photos / name))
    saved = (tmp_path / "out").rename(tmp_path / "saved")
    result = edit_images(config(saved))
    assert [each["source"] for each in result["images"]] == [str(saved / f"{name}.safetensors") for name in "ab"]


def test_of_a_folder_of_several_methods_one_is_to_be_named(config, photos, tmp_path):  # noqa: F811
    """The reconstructions of all of them, and the sheets, were inverted again."""
    invert_images(config(photos / "a.png", methods=["w_encoder", "hyperinverter"]))
    saved = (tmp_path / "out").rename(tmp_path / "saved")
    with pytest.raises(UserError, match=r"saved: .*several methods there; give one: .*saved/hyperinverter, .*/w_enc"):
        edit_images(config(saved))
    assert len(edit_images(config(saved / "w_encoder", method="w_encoder"))["images"]) == 1
    shutil.copy(photos / "b.png", saved / "new.png")
    assert len(edit_images(config(saved))["images"]) == 6, "with a photo among them it is a folder of pictures"


def test_no_command_writes_over_a_photo_it_was_given(config, photos, tmp_path):  # noqa: F811
    """edit replaced input/input.png by its crop where output was the folder around it."""
    of_edit = ("input/input.png", "smile_+2/smile_+2.png", "smile/smile.gif", "sheet_smile.png")
    of_interpolate = ("strip.png", "codes_only.gif", "frames/codes_and_weights_001.png")
    for name in (*of_edit, *of_interpolate):
        photo = tmp_path / "out" / name
        photo.parent.mkdir(parents=True, exist_ok=True)
        before = shutil.copy(photos / "a.png", photo).read_bytes()
        command = edit_images if name in of_edit else interpolate_images
        with pytest.raises(UserError, match="is one of the images to work on"):
            command(config(photo, photos / "b.png"))
        assert photo.read_bytes() == before
