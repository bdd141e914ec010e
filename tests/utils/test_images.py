"""Tensors <-> files, grids, contact sheets, difference maps, animations."""

import numpy as np
import pytest
import torch
from PIL import Image

from hyperinverter.utils.checks import check_images, check_pairs
from hyperinverter.utils.device import seed_everything
from hyperinverter.utils.images import (
    contact_sheet,
    difference_map,
    from_uint8,
    load_image,
    save_gif,
    save_image,
    to_pil,
    to_uint8,
)


def test_uint8_round_trip_is_exact_and_rounds():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(from_uint8(levels)), levels)
    assert to_uint8(torch.tensor([-3.0, -1.0, 0.7 / 127.5 - 1, 1.0, 5.0])).tolist() == [0, 0, 1, 255, 255]
    assert to_uint8(torch.zeros(1, dtype=torch.bfloat16)).tolist() == [128]
    with pytest.raises(ValueError, match="NaN"):
        to_uint8(torch.tensor([float("nan")]))
    with pytest.raises(ValueError, match="floating-point"):
        to_uint8(levels)


def test_saved_image_loads_back(tmp_path):
    image = from_uint8(torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8))
    assert torch.equal(load_image(save_image(image, tmp_path / "deep" / "a.png"), 16), image)
    assert to_pil(image[None]).size == (16, 16)
    assert save_image(image, tmp_path / "a.jpg").stat().st_size > 0
    assert not list(tmp_path.glob(".*"))  # no temporary file left
    with pytest.raises(ValueError, match=r"must end in one of \.png"):
        save_image(image, tmp_path / "a.xyz")
    with pytest.raises(ValueError, match=r"one image \[3, H, W\], got shape \[2, 3, 4, 4\]"):
        to_pil(torch.zeros(2, 3, 4, 4))


def test_floats_in_0_to_255_are_refused_and_what_a_network_draws_is_not(tmp_path):
    """They came out white, without a word; `invert` refuses them."""
    drawn = torch.linspace(-1.8, 1.8, 48).reshape(3, 4, 4)
    with pytest.raises(ValueError, match=r"lies in \[0, 255\]; expected \[-1, 1\]: divide by 127.5"):
        save_image((drawn + 1.8) / 3.6 * 255, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
    for image in (drawn, drawn * 10, (drawn + 1.8) / 3.6, drawn.gt(0).to(torch.uint8) * 255):
        save_image(image, tmp_path / "a.png")


def test_failed_write_leaves_the_old_file(tmp_path):
    path = save_image(torch.zeros(3, 4, 4), tmp_path / "a.png")
    before = path.read_bytes()
    with pytest.raises(ValueError):
        save_image(torch.zeros(5, 4, 4), path)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_difference_map_has_one_scale():
    a = torch.zeros(1, 3, 1, 3)
    b = a.clone()
    b[..., 1], b[..., 2] = 0.25, -2.0
    colours = to_uint8(difference_map(a, b, maximum=0.5))[0, :, 0].T.tolist()
    assert colours == [[0, 0, 96], [0, 224, 224], [224, 0, 0]]
    assert difference_map(a[0], b[0]).shape == (3, 1, 3)
    with pytest.raises(ValueError, match="one shape"):
        difference_map(a, b[..., :2])


def test_captions_have_the_letters_of_names():
    """A letter that the font lacks is drawn as its box for missing ones."""
    cell = [[torch.zeros(3, 96, 96)]]
    drawn = [
        np.asarray(contact_sheet(cell, None, None, captions=[name])) for name in ("Mü", "Mö", "Mж", "Mλ", "M\ufffe")
    ]
    assert all(not np.array_equal(one, other) for i, one in enumerate(drawn) for other in drawn[:i])


def test_contact_sheet(tmp_path):
    red = torch.tensor([1.0, -1.0, -1.0])[:, None, None].expand(3, 32, 32)
    rows = [[red, red[None], "no face found here"], [Image.new("RGB", (200, 100), "blue"), None, red]]
    sheet = contact_sheet(
        rows, ["input", "Phase I", "Phase II\nlonger heading"], tmp_path / "s.png", captions=["a", "b"]
    )
    assert Image.open(tmp_path / "s.png").size == sheet.size
    assert sheet.width > 3 * 200 and sheet.height > 2 * 200  # cells as large as the largest image
    pixels = np.asarray(sheet).reshape(-1, 3)
    assert (pixels == [255, 0, 0]).all(1).sum() > 0.9 * 3 * 200 * 200
    widths = [
        contact_sheet(rows, None, None, captions=[text, "a"]).width
        for text in ("long one", "long one\nlong", "long onelong")
    ]
    assert widths[0] == widths[1] < widths[2]  # as wide as the longest line
    with pytest.raises(ValueError, match="expected 3 headings, one per column, got 1"):
        contact_sheet(rows, ["input"], None)
    with pytest.raises(ValueError, match="expected 2 captions"):
        contact_sheet(rows, None, None, captions=["a"])
    with pytest.raises(ValueError, match="at least one row"):
        contact_sheet([], None, None)


def test_gif_plays_there_and_back(tmp_path):
    frames = [torch.full((3, 8, 8), value) for value in (-1.0, 0.0, 1.0)]
    with Image.open(save_gif(frames, tmp_path / "a.gif", frame_ms=100)) as animation:
        assert animation.n_frames == 4 and animation.info["duration"] == 100 and animation.info["loop"] == 0
    with pytest.raises(ValueError, match="at least one frame"):
        save_gif([], tmp_path / "b.gif")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 3, 8, 8)), "got ndarray: read files with"),
        (torch.zeros(3, 8, 8), r"got one image \[3, 8, 8\]: add the batch dimension"),
        (torch.zeros(1, 8, 8, 3), "channels last"),
        (torch.zeros(1, 1, 8, 8), r"got shape \[1, 1, 8, 8\]"),
        (torch.zeros(0, 3, 8, 8), r"got shape \[0, 3, 8, 8\]"),
        (torch.zeros(1, 3, 8, 6), r"got shape \[1, 3, 8, 6\]"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "got torch.uint8: convert"),
        (torch.zeros(1, 3, 4, 4), r"expected float images \[N, 3, 8, 8\].*resize to 8 px"),
    ],
)
def test_image_door(images, message):
    with pytest.raises(ValueError, match=message):
        check_images(images, 8)


def test_doors_let_good_tensors_through():
    images = torch.zeros(2, 3, 8, 8)
    assert check_images(images) is images and check_images(images, 8) is images
    check_pairs(images, images, "a and b")
    with pytest.raises(ValueError, match=r"a and b must both be \[N, 3, R, R\], got \[2, 3, 8, 8\] and \[1, 3, 8, 8\]"):
        check_pairs(images, images[:1], "a and b")


def test_seeding():
    seed_everything(2107)
    first = (torch.rand(3), np.random.rand(3))
    seed_everything(2107)
    assert torch.equal(first[0], torch.rand(3)) and np.array_equal(first[1], np.random.rand(3))
    with pytest.raises(ValueError, match=r"below 2\*\*32, got -1"):
        seed_everything(-1)
    before = torch.get_num_threads()
    seed_everything(2107, threads=before + 1)
    assert torch.get_num_threads() == before + 1
    seed_everything(2107)  # torch's choice, or the last one, stays
    assert torch.get_num_threads() == before + 1
    torch.set_num_threads(before)
