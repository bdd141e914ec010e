"""The app's web part: requests in, what `editor` makes of them out. Starlette and uvicorn, of the extra `app`.

A browser names its session in the header X-Session, so that no other site's page can speak for it; with the app bound
to this machine, requests under another host's name are refused too. The page fetches nothing from elsewhere, and its
Content-Security-Policy makes the browser itself refuse to.
"""

import asyncio
import contextlib
import json
import os
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hyperinverter.app.editor import PREVIEW, SCREEN, STEP, Editor, encoded, make_editor
from hyperinverter.app.lane import BusyError, Lane
from hyperinverter.app.session import FIRST, SECOND, EndedError, Session, Sessions, Settings
from hyperinverter.config.model_schema import AppConfig
from hyperinverter.utils.device import seed_everything
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.waiting import another_process_speaks, doing

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
except ImportError as error:
    raise UserError(f"{error.name} is missing, of the extra app: pip install 'hyperinverter[app]'") from error

HERE = Path(__file__).parent
PAGES = {"/": ("page.html", "text/html"), "/page.css": ("page.css", "text/css"),
         "/page.js": ("page.js", "text/javascript")}  # fmt: skip
OWN_NAMES = ["127.0.0.1", "localhost", "[::1]", "::1"]  # that this machine has for itself
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
MOST_TEXT = 100_000  # bytes of a request that is no photo
HEARD_TO = 4  # times the limit, to which a body that is too large is heard before the connection is cut
FORGET_EVERY_S = 20.0  # how often ended sessions are looked for
Answer = Callable[[Request], Awaitable[Response]]


def run_app(config: AppConfig) -> None:
    """Serve until Ctrl-C.

    Raises:
        UserError: the port is taken, or the host is not this machine's.
    """
    seed_everything(config.seed, config.threads)
    with listening(config) as where:
        with doing("loading the model"):
            editor = make_editor(config)
        server = App(editor, config).server()
        host, port = where.getsockname()[:2]
        print(f"{editor.inverter!r}\nopen http://{f'[{host}]' if ':' in host else host}:{port}   (Ctrl-C ends it)")
        if not is_own(config.host):
            print(f"note: whoever reaches {host} can use it, as host={config.host} says")
        with another_process_speaks(), contextlib.suppress(KeyboardInterrupt):  # waiting is no work; Ctrl-C is its end
            server.run(sockets=[where])


@contextlib.contextmanager
def serving(app: "App") -> Iterator[str]:
    """The app in a thread of this process, for tests and measurements; gives its address."""
    with listening(app.config) as where:
        server = app.server()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [where]}, daemon=True)
        thread.start()
        try:
            yield "http://{}:{}".format(*where.getsockname()[:2])
        finally:
            server.should_exit = True
            thread.join()


def is_own(host: str) -> bool:
    """Whether only this machine reaches it."""
    return host == "localhost" or host.startswith("127.") or host == "::1"


@contextlib.contextmanager
def listening(config: AppConfig) -> Iterator[socket.socket]:
    """A socket at the config's host and port."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        where = socket.create_server((config.host, config.port), family=family)
    except OSError as error:
        own = is_own(config.host)
        remedy = "give another one, port=0 takes a free one" if own else "host must be an address of this machine"
        reason = os.strerror(error.errno) if error.errno else error
        raise UserError(f"cannot listen at {config.host}, port {config.port} ({reason}): {remedy}") from error
    with where:
        yield where


class App:
    """Routes, sessions and the two queues: inversions take seconds, and must not hold up other people's sliders."""

    def __init__(self, editor: Editor, config: AppConfig) -> None:
        self.editor, self.config = editor, config
        self.sessions = Sessions(config.session_minutes, config.max_sessions)
        self.inverting = Lane("inverting", config.max_waiting)
        self.drawing = Lane("drawing", config.max_waiting)

    def server(self) -> uvicorn.Server:
        return uvicorn.Server(uvicorn.Config(self.starlette(), log_level="warning", access_log=False))

    def starlette(self) -> Starlette:
        routes = [Route(path, self._page(*page)) for path, page in PAGES.items()]
        answers: list[tuple[str, str, Answer]] = [
            ("GET", "/api/about", self.about),
            ("POST", "/api/session", self.begin),
            ("POST", "/api/close", self.end),
            ("POST", "/api/photo", self.photo),
            ("POST", "/api/face", self.face),
            ("POST", "/api/change", self.change),
            ("POST", "/api/preview", self.preview),
            ("GET", "/api/picture", self.picture),
            ("GET", "/api/download", self.download),
            ("GET", "/api/queue", self.queue),
        ]
        routes += [Route(path, answer, methods=[method]) for method, path, answer in answers]
        names = [*OWN_NAMES, self.config.host] if is_own(self.config.host) else ["*"]
        trusted = Middleware(TrustedHostMiddleware, allowed_hosts=names)
        refusals: dict[Any, Any] = {UserError: _refused, ClientDisconnect: _left}
        return Starlette(routes=routes, middleware=[trusted], exception_handlers=refusals, lifespan=self._life)

    @contextlib.asynccontextmanager
    async def _life(self, _: Starlette) -> AsyncIterator[None]:
        forgetting = asyncio.create_task(self._forget())
        try:
            yield
        finally:
            forgetting.cancel()
            self.inverting.close()
            self.drawing.close()

    async def _forget(self) -> None:
        while True:
            await asyncio.sleep(FORGET_EVERY_S)
            self.sessions.expire()

    def _page(self, file: str, media_type: str) -> Answer:
        async def answer(_: Request) -> Response:
            return Response((HERE / file).read_text(encoding="utf-8"), media_type=media_type, headers=HEADERS)

        return answer

    def _session(self, request: Request) -> Session:
        return self.sessions.get(request.headers.get("X-Session", ""))

    async def _do(self, lane: Lane, work: Callable[..., Any], *words: Any) -> Any:
        return await asyncio.wrap_future(lane.submit(work, *words))

    def _state(self, session: Session) -> Response:
        return JSONResponse(self.editor.state(session), headers=HEADERS)

    async def about(self, _: Request) -> Response:
        """What the page is to offer."""
        inverter, config = self.editor.inverter, self.config
        sliders = [{"name": s.name, "least": s.least, "most": s.most, "sets": s.sets}
                   for s in self.editor.sliders.values()]  # fmt: skip
        content = {
            "domain": inverter.domain.name,
            "method": inverter.title,
            "px": inverter.resolution,
            "sliders": sliders,
            "step": STEP,
            "views": self.editor.views,
            "can_align": self.editor.can_align,
            "align": config.align and self.editor.can_align,
            "face": config.face if isinstance(config.face, int) else 1,
            "max_upload_mb": config.max_upload_mb,
            "session_minutes": config.session_minutes,
        }
        return JSONResponse(content, headers=HEADERS)

    async def begin(self, request: Request) -> Response:
        """A session. Without the header a browser would let any site's page ask, and so take all that there are."""
        if "X-Session" not in request.headers:
            raise UserError("send a header X-Session, which may be empty")
        return JSONResponse({"session": self.sessions.open()}, headers=HEADERS)

    async def end(self, request: Request) -> Response:
        self.sessions.close(request.headers.get("X-Session", ""))
        return JSONResponse({}, headers=HEADERS)

    async def photo(self, request: Request) -> Response:
        """A photo, the whole body; its place and name stand in the query."""
        session, query = self._session(request), request.query_params
        data = await _body(request, self.config.max_upload_mb * 1e6, f"{self.config.max_upload_mb:g} MB")
        where = (session, _slot(query.get("slot")), data, query.get("name", ""))
        await self._do(self.inverting, self.editor.open, *where, query.get("align") == "1", _whole(query.get("face")))
        return self._state(session)

    async def face(self, request: Request) -> Response:
        """Another face of a photo that is there, or the photo as it is."""
        session, query = self._session(request), request.query_params
        how = (_slot(query.get("slot")), query.get("align") == "1", _whole(query.get("face")))
        await self._do(self.inverting, self.editor.choose, session, *how)
        return self._state(session)

    async def change(self, request: Request) -> Response:
        """New settings, or a step in the history."""
        session, given = self._session(request), await _json(request)
        with session.lock:
            what = given.get("do", "set")
            if what == "go":
                session.go(_whole(given.get("at")))
            elif what in ("undo", "redo", "reset"):
                getattr(session, what)()
            elif what == "set":
                session.change(self.editor.settings(given, session))
            else:
                raise UserError(f"do is {str(what)[:40]!r}; write set, undo, redo, reset or go")
        return self._state(session)

    async def preview(self, request: Request) -> Response:
        """The picture at settings that are not kept, small."""
        session = self._session(request)
        settings = self.editor.settings(await _json(request), session)
        return await self._drawn(session, "edit", settings, PREVIEW)

    async def picture(self, request: Request) -> Response:
        """A view at the present settings, as `size` says: screen or preview."""
        session, query = self._session(request), request.query_params
        view, size = query.get("view", "edit"), query.get("size", SCREEN)
        if view not in self.editor.views:
            raise UserError(f"no view {view[:40]!r}; there are: {', '.join(self.editor.views)}")
        if size not in (SCREEN, PREVIEW):
            raise UserError(f"size is {size[:40]!r}; write {SCREEN} or {PREVIEW}")
        return await self._drawn(session, view, session.settings, size)

    async def _drawn(self, session: Session, view: str, settings: Settings, size: str) -> Response:
        passing = size == PREVIEW and self.editor.preview_px < self.editor.inverter.resolution

        def draw() -> tuple[bytes, str]:
            return encoded(self.editor.draw(session, view, settings, size), view, settings, passing)

        data, media_type = await self._do(self.drawing, draw)
        return Response(data, media_type=media_type, headers=HEADERS)

    async def download(self, request: Request) -> Response:
        """The picture in full, the inversion that it is made of, or the command line that makes it again."""
        session, what = self._session(request), request.query_params.get("what")
        makers: dict[str | None, tuple[Callable[..., bytes], str, str]] = {
            "picture": (self.editor.file, "_edited.png", "image/png"),
            "inversion": (self.editor.saved, ".safetensors", "application/octet-stream"),
            "command": (lambda session: f"{self.editor.command(session)}\n".encode(), "_command.txt", "text/plain"),
        }
        if what not in makers:
            raise UserError(f"what is {str(what)[:40]!r}; write one of {', '.join(map(str, makers))}")
        make, ending, media_type = makers[what]
        data = await self._do(self.drawing, make, session)
        name = quote(self.editor.stem(session) + ending)
        named = {"Content-Disposition": f"attachment; filename*=UTF-8''{name}"}
        return Response(data, media_type=media_type, headers={**HEADERS, **named})

    async def queue(self, _: Request) -> Response:
        """How many are before whoever asks now."""
        waiting = {"inverting": self.inverting.waiting, "drawing": self.drawing.waiting}
        return JSONResponse(waiting, headers=HEADERS)


class TooLargeError(UserError):
    """A request of too many bytes."""


STATUS: dict[type, int] = {TooLargeError: 413, EndedError: 410, BusyError: 503}  # of refusals; 400 of the others


async def _refused(_: Request, error: Exception) -> Response:
    """One message, as the commands print it."""
    closing = {"Connection": "close"} if isinstance(error, TooLargeError) else {}
    status = STATUS.get(type(error), 400)
    return JSONResponse({"error": str(error)}, status_code=status, headers={**HEADERS, **closing})


async def _left(_: Request, error: Exception) -> Response:
    """For a browser that hears no answer any more."""
    return Response(status_code=400)


async def _body(request: Request, most: float, limit: str) -> bytes:
    """The body, of which no more than its limit is held; a browser hears of it after it has sent the rest."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > HEARD_TO * most:
            break
        if size <= most:
            parts.append(part)
    if size > most:
        raise TooLargeError(
            f"the file has more than {limit}: make it smaller, or start the app with a larger max_upload_mb"
        )
    return b"".join(parts)


async def _json(request: Request) -> dict[str, Any]:
    try:
        content = json.loads(await _body(request, MOST_TEXT, f"{MOST_TEXT} bytes"))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError("expected a JSON object")
    return content


def _slot(text: str | None) -> str:
    if text not in (None, FIRST, SECOND):
        raise UserError(f"slot is {text[:40]!r}; write {FIRST} or {SECOND}")
    return text or FIRST


def _whole(value: Any) -> int:
    """A number out of a query; 1 where it does not stand."""
    try:
        return 1 if value is None else int(value)
    except (ValueError, TypeError, OverflowError) as error:  # the last of infinity, which JSON here may hold
        raise UserError(f"{str(value)[:40]!r} is no whole number") from error
