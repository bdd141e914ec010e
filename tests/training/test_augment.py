"""Adaptive augmentation: what it changes and leaves alone, how p follows D, and that runs resume with it."""

import math
from pathlib import Path

import pytest
import torch

from hyperinverter.checkpoint import load_training_state
from hyperinverter.config.faults import ConfigError
from hyperinverter.config.load import load_config
from hyperinverter.config.schema import Phase2Config, StyleGAN2Config
from hyperinverter.training.augment import MAX_P, Augmentation, RandomChanges

from .conftest import TRAIN, stats
from .forks import assert_same

ALL = ["translate", "scale", "rotate", "color", "tilt", "tone", "blend"]
CPU = torch.device("cpu")


def augmentation(kinds: list[str], p: float) -> Augmentation:
    made = Augmentation(kinds, 0.6, 1.0, CPU)
    made.state["p"].fill_(p)
    return made


def smooth_images(count: int, pixels: int = 32) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.nn.functional.interpolate(torch.rand(count, 3, 4, 4) * 2 - 1, pixels, mode="bicubic")


@pytest.mark.parametrize("kinds", [[kind] for kind in ALL] + [ALL])
def test_nothing_changes_at_p_0_and_most_images_at_a_high_p(kinds):
    images = smooth_images(64)
    torch.testing.assert_close(augmentation(kinds, 0.0)(images), images, atol=1e-5, rtol=0)
    changed = augmentation(kinds, 0.5)(images)
    assert changed.shape == images.shape and torch.isfinite(changed).all()
    moved = (changed - images).abs().amax((1, 2, 3)) > 1e-3
    assert 0.2 < moved.float().mean() <= 1.0
    if len(kinds) == 1:  # a change leaves a part of the images alone: that is why it does not reach the samples
        assert (~moved).any()


def test_no_kind_is_no_work():
    images = smooth_images(2)
    assert Augmentation([], 0.6, 1.0, CPU)(images) is images


def test_translation_moves_whole_pixels():
    images = smooth_images(32)
    changed = augmentation(["translate"], 1.0)(images)
    inner, found = images[:, :, 8:24, 8:24], 0
    for image, part in zip(changed, inner, strict=True):
        shifts = [(y, x) for y in range(-4, 5) for x in range(-4, 5)]
        found += any(torch.allclose(image[:, 8 + y : 24 + y, 8 + x : 24 + x], part, atol=1e-4) for y, x in shifts)
    assert found == 32


def test_what_moves_in_from_outside_is_the_image_mirrored():
    """Of an image of one colour everything stays: nothing black comes in, which D would see."""
    images = torch.full([16, 3, 16, 16], 0.7)
    torch.testing.assert_close(augmentation(["translate", "scale", "rotate"], 1.0)(images), images)


def test_colours_move_and_places_stay():
    image = smooth_images(1)
    grey = image.mean(1, keepdim=True).expand(-1, 3, -1, -1).repeat(16, 1, 1, 1)
    changed = augmentation(["color"], 1.0)(grey)
    # hue and saturation turn about the grey axis: grey stays grey, however bright
    assert (changed - changed.mean(1, keepdim=True)).abs().max() < 1e-4
    assert not torch.allclose(changed, grey, atol=1e-2)


def test_changes_are_as_strong_as_published():
    """Karras et al. 2020, appendix B: scale 2^N(0, 0.2), turns and hues all round, shifts up to an eighth, brightness
    N(0, 0.2), contrast 2^N(0, 0.5), saturation 2^N(0, 1); read off the drawn matrices."""
    torch.manual_seed(0)
    scale = augmentation(["scale"], 1.0)._geometry(20_000, 64, CPU)
    assert torch.equal(scale[:, 0, 0], scale[:, 1, 1]) and scale[:, 0, 0].log2().std() == pytest.approx(0.2, rel=0.03)
    turn = augmentation(["rotate"], 1.0)._geometry(20_000, 64, CPU)
    angle = torch.atan2(turn[:, 1, 0], turn[:, 0, 0])
    assert angle.std() == pytest.approx(math.pi / math.sqrt(3), rel=0.03)  # even from -pi to pi
    shift = augmentation(["translate"], 1.0)._geometry(20_000, 64, CPU)[:, :2, 2] * 32  # pixels
    torch.testing.assert_close(shift, shift.round())
    assert shift.abs().amax(0).tolist() == [8, 8]

    colours = augmentation(["color"], 1.0)._colours(20_000, CPU)
    matrix, offset = colours[:, :3, :3], colours[:, :3, 3]
    contrast = matrix.sum(2).mean(1)  # of grey
    assert contrast.log2().std() == pytest.approx(0.5, rel=0.03)
    assert (offset.mean(1) / contrast).std() == pytest.approx(0.2, rel=0.03)  # brightness goes first
    tilt = augmentation(["tilt"], 1.0)._geometry(20_000, 64, CPU)
    assert torch.atan2(tilt[:, 1, 0], tilt[:, 0, 0]).abs().max() == pytest.approx(math.radians(15), rel=0.01)
    tone = augmentation(["tone"], 1.0)._colours(20_000, CPU, "tone")[:, :3, :3]
    assert tone.sum(2).mean(1).log2().std() == pytest.approx(0.2, rel=0.03)
    saturation = (torch.linalg.det(matrix) / contrast**3).sqrt()  # two directions are stretched, grey is not
    assert saturation.log2().std() == pytest.approx(1.0, rel=0.03)
    cosine = (matrix.diagonal(dim1=1, dim2=2).sum(1) / contrast - 1) / (2 * saturation)
    assert cosine.mean() == pytest.approx(0, abs=0.02) and cosine.square().mean() == pytest.approx(0.5, rel=0.03)


def test_blending_puts_the_next_image_on_one_side_of_a_line():
    torch.manual_seed(0)
    levels = torch.linspace(-0.9, 0.9, 64)[:, None, None, None]
    changed = augmentation(["blend"], 1.0)(levels.expand(-1, 3, 32, 32))
    share = (changed - levels) / (levels.roll(1, 0) - levels)  # of the next image, at every place
    assert share.min() >= -1e-5 and share.max() <= 1 + 1e-5
    whole = ((share < 1e-4) | (share > 1 - 1e-4)).float().mean((1, 2, 3))  # but for the line itself
    assert whole.min() > 0.8 and 0.3 < share.mean() < 0.7 and share.mean((1, 2, 3)).std() > 0.1


def test_the_sign_follows_by_a_tenth():
    made = Augmentation(ALL, 0.6, 1.0, CPU)
    for expected in (0.64, 0.676, 0.7084):
        made.adjust(torch.tensor(1.0), 16)
        assert made.state["sign"] == pytest.approx(expected)


def test_gradients_pass_through():
    images = smooth_images(4).requires_grad_(True)
    augmentation(ALL, 1.0)(images).square().sum().backward()
    assert images.grad.abs().sum((1, 2, 3)).min() > 0


def test_p_follows_how_sure_the_discriminator_is():
    made = Augmentation(ALL, 0.6, 1.0, CPU)
    for _ in range(50):
        made.adjust(torch.tensor(1.0), 16)
    assert made.state["p"] == pytest.approx(min(50 * 16 / 1000, MAX_P)) and made.state["sign"] > 0.9
    for _ in range(200):
        made.adjust(torch.tensor(1.0), 16)
    assert made.state["p"] == pytest.approx(MAX_P)
    for _ in range(300):
        made.adjust(torch.tensor(-1.0), 16)
    assert made.state["p"] == 0


def test_a_run_with_augmentation_resumes_bit_for_bit(make_config):
    settings = {"augment": ALL, "augment_kimg": 0.02, "augment_target": -1.0}
    whole = make_config("stylegan2", "whole", **settings, schedule={"log_every": 2})
    TRAIN["stylegan2"](whole)
    assert any(line.get("train/augment_p", 0) > 0 for line in stats(Path(whole.output)))
    part = make_config("stylegan2", "part", **settings, schedule={"log_every": 2, "max_steps": 4})
    TRAIN["stylegan2"](part)
    TRAIN["stylegan2"](make_config("stylegan2", "part", **settings, schedule={"log_every": 2}))
    states = [load_training_state(Path(config.output) / "checkpoints") for config in (whole, part)]
    for state in states:
        state["config"].pop("output")
    assert_same(*states)
    assert states[0]["augment"]["p"] > 0 and stats(Path(whole.output)) == stats(Path(part.output))


def test_mistakes_in_settings_are_told():
    with pytest.raises(ConfigError) as error:
        load_config(StyleGAN2Config, None, ["augment=[colour]", "augment_target=2", "augment_kimg=0"])
    told = str(error.value)
    assert "did you mean color" in told and "augment_target" in told and "augment_kimg" in told
    with pytest.raises(ConfigError) as error:
        load_config(Phase2Config, None, ["augment=[colour]", "augment_p=2"])
    assert "did you mean color" in str(error.value) and "augment_p" in str(error.value)


@pytest.mark.parametrize("phase", ["phase1", "phase2"])
def test_encoders_learn_from_changed_photos_and_resume_bit_for_bit(phase, make_config, monkeypatch):
    seen = []
    plain = RandomChanges.photos
    monkeypatch.setattr(RandomChanges, "photos", lambda *of: seen.append((of[1], plain(*of))) or seen[-1][1])
    settings, schedule = {"augment": ALL, "augment_p": 0.7}, {"max_steps": 4, "log_every": 1}
    whole = make_config(phase, "whole", **settings, schedule=schedule)
    TRAIN[phase](whole)
    assert any(not torch.equal(*pair) for pair in seen) and all(pair[1].abs().max() <= 1 for pair in seen)
    part = make_config(phase, "part", **settings, schedule={**schedule, "max_steps": 2})
    TRAIN[phase](part)
    TRAIN[phase](make_config(phase, "part", **settings, schedule=schedule))
    states = [load_training_state(Path(config.output) / "checkpoints") for config in (whole, part)]
    for state in states:
        state["config"].pop("output")
    assert_same(*states)
    assert torch.equal(seen[0][1], seen[len(seen) // 2][1])  # the same changes in both runs
    unchanged = make_config(phase, "unchanged", schedule={"max_steps": 1})
    TRAIN[phase](unchanged)
    assert torch.equal(*seen[-1])  # and none where none is asked for


def test_half_precision_moves_nothing_to_other_places():
    """Under autocast grids and colours were computed in bfloat16: places were off by pixels, colours too."""
    images, outputs = smooth_images(8), []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            outputs.append(augmentation(ALL, 0.8)(images))
    assert torch.equal(*outputs)
    assert augmentation(ALL, 0.8)(images.bfloat16()).dtype == torch.bfloat16


def test_drawing_fetches_no_number(monkeypatch):
    """On a GPU each would wait for it."""
    made = augmentation(ALL, 0.5)
    for name in ("__float__", "__int__", "__bool__", "item", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, lambda *_, name=name: pytest.fail(f"{name} of a tensor"))
    made.adjust(made(smooth_images(4)).mean().sign(), 4)
