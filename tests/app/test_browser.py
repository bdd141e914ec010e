"""The app in a real browser: Debian's Chromium, headless. It needs that package and playwright, of the extra dev."""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from script_runner import astronaut, bomb

playwright = pytest.importorskip("playwright.sync_api", reason="driving a browser needs playwright, of the extra dev")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium"),
    pytest.mark.timeout(180),
]
HERE = ("127.0.0.1", "::1", "localhost")

# Other hosts that this process, and so the app in it, was asked to reach.
reached: list[str] = []


def _watch(event: str, words: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(words[1], tuple) and words[1][0] not in HERE:
        reached.append(str(words[1]))
    elif event == "socket.getaddrinfo" and words[0] not in (*HERE, None, b"127.0.0.1"):
        reached.append(str(words[0]))


sys.addaudithook(_watch)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        flags = ["--no-sandbox"] if os.getuid() == 0 else []  # Chromium has no sandbox for root
        launched = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def open_page(browser: Any, address: str) -> Iterator[Any]:
    """open_page() -> a page of a browser of its own, which must ask no other host and report no error."""
    faults: list[str] = []

    def opened() -> Any:
        page = browser.new_context(viewport={"width": 1200, "height": 850}).new_page()
        page.on("request", lambda request: _is_here(request.url, address) or faults.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(address)
        settled(page)
        return page

    before = len(reached)
    yield opened
    assert not faults
    assert reached[before:] == []


@pytest.fixture(scope="module")
def shared(open_page: Any, portrait: Path) -> Any:
    """A page with a photo."""
    page = open_page()
    drop(page, portrait)
    status(page, "astronaut.png: ready")
    return page


@pytest.fixture
def page(shared: Any) -> Any:
    """The same, after a reset."""
    press(shared, "#reset")
    return shared


def _is_here(url: str, address: str) -> bool:
    return url.startswith((address, "blob:", "data:"))


@pytest.fixture(scope="module")
def portrait(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "astronaut.png"
    astronaut().save(path)
    return path


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "mirrored.png"
    astronaut().transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    return path


def status(page: Any, pattern: str) -> None:
    playwright.expect(page.locator("#status")).to_have_text(re.compile(pattern), timeout=60_000)
    settled(page)


def drop(page: Any, path: Path, place: str = "#file") -> None:
    page.set_input_files(place, path)


def shown(page: Any, name: str = "edited") -> str:
    """The picture's pixels, as the browser has them."""
    return page.evaluate(
        """async (name) => {
            const image = document.getElementById(name);
            await image.decode();
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
            canvas.getContext("2d").drawImage(image, 0, 0);
            return canvas.toDataURL();
        }""",
        name,
    )


def settled(page: Any) -> None:
    """All that was asked for is there."""
    page.wait_for_selector("body[aria-busy=false]")


def slide(page: Any, name: str, value: float) -> None:
    """Move a slider and let go of it."""
    page.locator(f"#slider-{name}").evaluate(
        """(slider, value) => {
            slider.value = value;
            slider.dispatchEvent(new Event("input"));
            slider.dispatchEvent(new Event("change"));
        }""",
        value,
    )
    settled(page)


def press(page: Any, what: str) -> None:
    page.click(what)
    settled(page)


def history(page: Any) -> list[str]:
    return page.locator("#history li").all_inner_texts()


def test_slide_undo_reset_and_downloads(page: Any):
    first = shown(page)
    assert shown(page, "before") != first
    slide(page, "smile", 3)
    smiling = shown(page)
    assert smiling != first
    slide(page, "age", -2)
    assert shown(page) not in (first, smiling)
    assert "edits={smile: 3, age: -2}" in page.inner_text("#command")
    press(page, "#undo")
    assert shown(page) == smiling
    press(page, "#reset")
    assert shown(page) == first
    assert history(page)[-2:] == ["smile +3", "reset"]
    with page.expect_download() as download:
        page.click("text=Picture")
    assert download.value.suggested_filename == "astronaut_edited.png"
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")


def test_everything_is_reached_by_the_keyboard(page: Any):
    first, focused, steps = shown(page), set(), len(history(page))
    page.locator("#file").focus()
    for _ in range(30):
        page.keyboard.press("Tab")
        focused.add(page.evaluate("document.activeElement.id || document.activeElement.dataset.what"))
    wanted = {"align", "wipe", "reset", "slider-smile", "slider-blond_hair", "paste", "second", "picture", "command"}
    assert wanted <= focused, wanted - focused
    page.locator("#slider-smile").focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    settled(page)
    assert shown(page) != first
    assert history(page)[steps:] == ["smile +2"]  # one step
    page.keyboard.press("Control+z")
    settled(page)
    assert shown(page) == first


@pytest.mark.parametrize(("width", "height"), [(360, 740), (1200, 850)])
def test_it_fits_the_screen(width: int, height: int, page: Any):
    page.set_viewport_size({"width": width, "height": height})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("#slider-smile").scroll_into_view_if_needed()
    stage, slider = page.locator("#stage").bounding_box(), page.locator("#slider-smile").bounding_box()
    assert stage["y"] >= 0 and stage["y"] + stage["height"] <= height  # the picture is seen while a slider moves
    assert slider["y"] + slider["height"] <= height
    page.locator("#wipe").fill("25")
    stage, line = page.locator("#stage").bounding_box(), page.locator("#line").bounding_box()
    assert abs(line["x"] - stage["x"] - stage["width"] / 4) < 2


def test_whole_photo_and_blend(page: Any, mirrored: Path):
    face = shown(page)
    press(page, "#paste")
    assert page.evaluate("document.getElementById('edited').naturalWidth") == 512
    press(page, "#paste")
    assert shown(page) == face
    drop(page, mirrored, "#second")
    status(page, "mirrored.png: ready")
    page.locator("#blend").focus()
    page.keyboard.press("End")
    settled(page)
    assert shown(page) != face and "_blend.safetensors" in page.inner_text("#command")


def test_two_people_at_once(shared: Any, open_page: Any, portrait: Path, mirrored: Path):
    other = open_page()
    shared.set_input_files("#file", portrait)
    drop(other, mirrored)
    status(other, "mirrored.png: ready")
    settled(shared)
    mine, theirs = shown(shared), shown(other)
    assert mine != theirs
    slide(shared, "glasses", 3)
    assert shown(other) == theirs and shown(shared) != mine
    assert history(other) == ["start"]


def test_a_bomb_a_text_and_a_photo_without_a_face_get_plain_messages(page: Any, open_page: Any, tmp_path: Path):
    (tmp_path / "bomb.png").write_bytes(bomb())
    (tmp_path / "note.jpg").write_text("hello")
    Image.new("RGB", (200, 200), "gray").save(tmp_path / "wall.png")
    (tmp_path / "large.jpg").write_bytes(bytes(2_100_000))
    other = open_page()
    for name, says in (
        ("bomb.png", "200 megapixels, more than the limit"),
        ("note.jpg", "not an image"),
        ("wall.png", "wall.png: no face found"),
        ("large.jpg", "more than 2 MB"),
    ):
        drop(other, tmp_path / name)
        status(other, says)
        assert other.locator("#status.bad").is_visible() and not other.locator("#work").is_visible()
    first = shown(page)
    slide(page, "smile", -3)  # it still serves
    assert shown(page) != first
