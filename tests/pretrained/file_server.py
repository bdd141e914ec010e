"""A web server on this machine for tests of downloads: files with or without Range, and every way to go wrong."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

QUOTA_PAGE = b"""<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body><p>Sorry, you
can't view or download this file at this time.</p><p>Too many users have viewed or downloaded this file
recently.</p></body>"""
SCAN_PAGE = b"""<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>
<p>Google Drive can't scan this file for viruses. <a href="/file">x.pkl</a> (1.2G) is too large.</p>
<form id="download-form" action="%s" method="get"><input type="submit" value="Download anyway"/>
<input type="hidden" name="id" value="abc"><input type="hidden" name="export" value="download">
<input type="hidden" name="confirm" value="t"><input type="hidden" name="uuid" value="1-2-3"></form></body></html>"""
OLD_SCAN_PAGE = b"""<html><head><title>x</title></head><body>can't scan this file for viruses
<a id="uc-download-link" href="/uc?export=download&amp;confirm=Xy1&amp;id=abc">Download anyway</a></body></html>"""
LOGIN_PAGE = (
    b"<html><head><title>Google Drive: Sign-in</title></head><body>You need access. Request access</body></html>"
)


@dataclass
class Answer:
    """What the server does with one path.

    Attributes:
        content: the body.
        status: when not 200 (or 206).
        headers: more of them, over the usual ones.
        ranges: honours Range, and If-Range against the ETag.
        etag: None sends none.
        break_after: bytes of the body after which the connection is cut, one entry per request; None: not at all.
        length: Content-Length to state, where it is not the body's.
        unsized: states no length at all; the end of the connection is the end of the body.
        total: what stands for the whole length in Content-Range, where it is not the body's.
        heeds_etag: False honours Range whatever If-Range says.
    """

    content: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    etag: str | None = '"1"'
    break_after: list[int | None] = field(default_factory=list)
    length: int | None = None
    unsized: bool = False
    total: str | None = None
    heeds_etag: bool = True


@dataclass
class FileServer:
    """`answers`: path with query, or path alone -> Answer, or a list used up one per request (the last one stays)."""

    address: str = ""
    answers: dict[str, Answer | list[Answer]] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)  # path, headers

    def url(self, path: str) -> str:
        return self.address + path

    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.requests]

    def answer(self, path: str) -> Answer:
        found = self.answers.get(path, self.answers.get(urlsplit(path).path, Answer(b"nothing here", 404)))
        if isinstance(found, list):
            return found.pop(0) if len(found) > 1 else found[0]
        return found


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_file: FileServer

    def do_GET(self) -> None:
        server = self.server_file
        server.requests.append((self.path, dict(self.headers.items())))
        answer = server.answer(self.path)
        status, body, headers = answer.status, answer.content, {"Content-Type": "application/octet-stream"}
        if answer.etag:
            headers["ETag"] = answer.etag
        wanted = self.headers.get("Range")
        same = self.headers.get("If-Range", answer.etag) == answer.etag or not answer.heeds_etag
        if wanted and answer.ranges and same and status == 200:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                status, body = 416, b""
            else:
                headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{answer.total or len(body)}"
                status, body = 206, body[start:]
        headers |= answer.headers
        self.send_response(status)
        if "Transfer-Encoding" not in headers and not answer.unsized:
            headers.setdefault("Content-Length", str(len(body) if answer.length is None else answer.length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        cut = answer.break_after.pop(0) if answer.break_after else None
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body if cut is None else body[:cut])
            self.wfile.flush()
        if cut is not None or answer.unsized or answer.length is not None or "Transfer-Encoding" in headers:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def file_server() -> Iterator[FileServer]:
    """Runs until the block ends."""
    server = FileServer()
    handler = type("Handler", (_Handler,), {"server_file": server})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.daemon_threads, running.handle_error = True, lambda *_: None  # a client may hang up
        server.address = f"http://127.0.0.1:{running.server_address[1]}"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            running.shutdown()
            thread.join()
