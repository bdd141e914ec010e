"""The app over HTTP, as a program would ask it."""

import http.client
import json
import os
import re
import signal
import sys
import urllib.error
import urllib.request
from dataclasses import replace
from typing import Any

import pytest
from script_runner import bomb

from hyperinverter.app.editor import Editor
from hyperinverter.config.load import load_config
from hyperinverter.config.model_schema import AppConfig
from hyperinverter.utils.errors import UserError


def ask(url: str, body: bytes | dict | None = None, session: str = "", method: str | None = None) -> tuple[int, bytes]:
    """Status and content of an answer."""
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    request = urllib.request.Request(url, data, {"X-Session": session}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def begin(address: str) -> str:
    return json.loads(ask(f"{address}/api/session", b"")[1])["session"]


def upload(address: str, session: str, data: bytes, name: str = "astronaut.jpg") -> tuple[int, dict[str, Any]]:
    status, content = ask(f"{address}/api/photo?name={name}&align=1", data, session)
    return status, json.loads(content)


def test_a_photo_is_edited_and_reset(address: str, photo: bytes):
    mine = begin(address)
    status, state = upload(address, mine, photo)
    assert status == 200 and state["photos"]["first"]["name"] == "astronaut.jpg"
    picture = f"{address}/api/picture?view=edit"
    _, first = ask(picture, session=mine)
    moved = {"edits": {"smile": 3}}
    _, previewed = ask(f"{address}/api/preview", moved, mine)
    assert ask(picture, session=mine)[1] == first  # a preview is not kept
    _, state = ask(f"{address}/api/change", moved, mine)
    assert json.loads(state)["settings"]["edits"] == {"smile": 3}
    assert ask(picture, session=mine)[1] == previewed != first
    ask(f"{address}/api/change", {"do": "reset"}, mine)
    assert ask(picture, session=mine)[1] == first
    ask(f"{address}/api/change", {"do": "undo"}, mine)
    assert ask(picture, session=mine)[1] == previewed
    for what, starts in (("picture", b"\x89PNG"), ("command", b"python scripts/edit.py"), ("inversion", b"")):
        status, content = ask(f"{address}/api/download?what={what}", session=mine)
        assert status == 200 and content.startswith(starts) and content


def test_a_preview_that_a_larger_picture_follows_is_soon_encoded(editor: Editor, app_config: AppConfig, photo: bytes):
    from hyperinverter.app.web import App, serving

    small = Editor(editor.inverter, replace(app_config, preview_px=32))
    with serving(App(small, app_config)) as address:
        mine = begin(address)
        upload(address, mine, photo)
        assert ask(f"{address}/api/preview", {"edits": {"smile": 3}}, mine)[1].startswith(b"\xff\xd8")  # JPEG
        assert ask(f"{address}/api/picture?view=edit", session=mine)[1].startswith(b"\x89PNG")


def test_one_session_sees_nothing_of_another(address: str, photo: bytes):
    mine, theirs = begin(address), begin(address)
    upload(address, mine, photo)
    status, content = ask(f"{address}/api/picture?view=original", session=theirs)
    assert status == 400 and b"no photo yet" in content
    for session in ("", "guess"):
        assert ask(f"{address}/api/picture?view=original", session=session)[0] == 410
    ask(f"{address}/api/close", b"", mine)
    assert ask(f"{address}/api/picture?view=original", session=mine)[0] == 410


def test_uploads_are_bounded_and_refused_in_plain_words(address: str, app_config: AppConfig):
    mine = begin(address)
    for data, name, status, says in (
        (bomb(), "bomb.png", 400, "200 megapixels, more than the limit"),
        (b"hello", "note.jpg", 400, "not an image"),
        (bytes(int(app_config.max_upload_mb * 1e6) + 1), "large.jpg", 413, "more than 2 MB"),
    ):
        got, content = upload(address, mine, data, name)
        assert got == status and says in content["error"], content
    assert ask(f"{address}/api/about")[0] == 200  # it still serves


def test_a_body_without_a_length_is_not_read_beyond_the_bound(address: str):
    """Chunked, as a browser does not send it."""
    mine, host = begin(address), address.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=30)
    sent = 0

    def endless():
        nonlocal sent
        for _ in range(400):  # 40 MB
            sent += 1
            yield bytes(100_000)

    try:
        connection.request("POST", "/api/photo", endless(), {"X-Session": mine}, encode_chunked=True)
        assert connection.getresponse().status == 413
    except (BrokenPipeError, ConnectionResetError):
        pass
    assert sent < 400


@pytest.mark.parametrize("path", ["/api/preview", "/api/change"])
@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b"[" * 50_000, b'{"edits": 3}', b'{"do": 1}', b'{"do": "go"}',
                                  b'{"do": "go", "at": Infinity, "edits": 3}'])  # fmt: skip
def test_nonsense_is_refused(path: str, body: bytes, address: str, photo: bytes):
    mine = begin(address)
    status, content = ask(address + path, body, mine)
    assert status == 400 and json.loads(content)["error"]


def test_another_sites_page_cannot_ask(address: str):
    """Not under another name for this machine (DNS rebinding), and not without the session's header."""
    host = address.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=30)
    connection.request("GET", "/api/about", headers={"Host": "evil.example"})
    assert connection.getresponse().status == 400
    with urllib.request.urlopen(f"{address}/api/about", timeout=60) as answer:
        assert answer.status == 200
    with pytest.raises(urllib.error.HTTPError, match="400"):  # or all sessions could be taken by requests without it
        urllib.request.urlopen(f"{address}/api/session", b"", timeout=60)


@pytest.mark.skipif(sys.platform != "linux", reason="others do not have 127.0.0.2 of their own")
def test_it_answers_under_the_own_address_that_it_was_given(editor: Editor, app_config: AppConfig):
    from hyperinverter.app.web import App, serving

    with serving(App(editor, replace(app_config, host="127.0.0.2"))) as where:
        assert "127.0.0.2" in where and ask(f"{where}/api/about")[0] == 200


def test_the_page_names_no_other_host(address: str):
    for path in ("/", "/page.css", "/page.js"):
        with urllib.request.urlopen(address + path, timeout=60) as answer:
            text, policy = answer.read().decode(), answer.headers["Content-Security-Policy"]
        assert not re.search(r"https?:|//[\w-]+\.\w", text.replace("// ", "")), path
        assert policy.startswith("default-src 'self'")


def test_it_listens_on_this_machine_alone_unless_told(editor: Editor):
    from hyperinverter.app.web import is_own, listening

    config = load_config(AppConfig, "configs/app/faces64.yaml", ["port=0"])
    with listening(config) as where:
        assert where.getsockname()[0] == "127.0.0.1"
        config.port = where.getsockname()[1]
        with pytest.raises(UserError, match=f"port {config.port} .*port=0 takes a free one"), listening(config):
            pass
    assert is_own("localhost") and is_own("::1") and not is_own("0.0.0.0") and not is_own("192.168.1.2")


def test_ctrl_c_is_its_end_and_no_broken_off_work(
    editor: Editor, app_config: AppConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    uvicorn = pytest.importorskip("uvicorn", reason="the app needs the extra app")
    from hyperinverter.app import web

    started = uvicorn.Server.startup

    async def startup(self: Any, *args: Any, **kwargs: Any) -> None:
        await started(self, *args, **kwargs)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(uvicorn.Server, "startup", startup)
    monkeypatch.setattr(web, "make_editor", lambda _: editor)
    try:
        web.run_app(app_config)
    except KeyboardInterrupt:
        pytest.fail("the command would say that it was stopped, and goes on from a checkpoint")
    assert "(Ctrl-C ends it)" in capsys.readouterr().out


def test_two_people_at_once_both_get_answers(address: str, photo: bytes):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        names = [begin(address) for _ in range(4)]
        states = list(pool.map(lambda name: upload(address, name, photo), names))
        assert [status for status, _ in states] == [200] * 4
        moved = [{"edits": {"smile": strength}} for strength in (-3, -1, 1, 3)]
        pictures = list(pool.map(ask, [f"{address}/api/preview"] * 4, moved, names))
    assert len(set(pictures)) == 4


def test_whoever_comes_when_too_many_wait_is_told(editor: Editor, app_config: AppConfig):
    from hyperinverter.app.web import App

    app = App(editor, app_config)
    app.drawing.most = 0
    with pytest.raises(UserError, match="try again in a moment"):
        app.drawing.submit(print)


@pytest.mark.parametrize("query", ["view=nothing", "size=9999", "view=edit&size=file"])
def test_only_views_and_sizes_that_there_are_can_be_asked_for(query: str, address: str):
    status, content = ask(f"{address}/api/picture?{query}", session=begin(address))
    assert status == 400 and re.search("write|there are", json.loads(content)["error"])
