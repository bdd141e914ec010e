"""What edit and invert take beside photos: saved Inversions, and models of another domain than the settings'."""

from dataclasses import replace

import pytest
from test_editing_commands import config, model, photos  # noqa: F401 (fixtures)

from hyperinverter.config.load import load_config
from hyperinverter.config.schema import EditConfig
from hyperinverter.editing.commands import edit_images
from hyperinverter.inverters import load
from hyperinverter.releases.direction_files import check_directions


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
