"""The app on faces64, once for all of its tests, and one whose port a browser can open."""

import io
from collections.abc import Iterator

import pytest
from script_runner import astronaut

from hyperinverter.app.editor import Editor, make_editor
from hyperinverter.app.session import FIRST, Session
from hyperinverter.config.load import load_config
from hyperinverter.config.model_schema import AppConfig

SETTINGS = ["device=cpu", "port=0", "max_upload_mb=2", "max_sessions=40", "max_waiting=8"]


@pytest.fixture(scope="session")
def app_config() -> AppConfig:
    return load_config(AppConfig, "configs/app/faces64.yaml", SETTINGS)


@pytest.fixture(scope="session")
def editor(app_config: AppConfig) -> Editor:
    return make_editor(app_config)


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A JPEG of a face that is not in the crop."""
    buffer = io.BytesIO()
    astronaut().save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.fixture
def session(editor: Editor, opened: Session) -> Session:
    """One with a photo, in its first state."""
    fresh = Session()
    fresh.put(FIRST, opened.photo())
    return fresh


@pytest.fixture(scope="session")
def opened(editor: Editor, photo: bytes) -> Session:
    session = Session()
    editor.open(session, FIRST, photo, "astronaut.jpg", aligned=True)
    return session


@pytest.fixture(scope="session")
def address(editor: Editor, app_config: AppConfig) -> Iterator[str]:
    """Where the app answers, in a thread of this process."""
    pytest.importorskip("uvicorn", reason="the app needs the extra app")
    from hyperinverter.app.web import App, serving

    with serving(App(editor, app_config)) as where:
        yield where
