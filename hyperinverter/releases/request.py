"""One HTTP request: past redirects and Google Drive's confirmation to a response that holds the file, or a refusal.

`requests` does the work (TLS, redirects, proxies, cookies): it is what the field uses and is well kept. pooch neither
resumes nor knows Drive's pages, gdown knows only Drive and keeps no hashes, and either would bring requests as well.

Drive answers with HTML (status 200) where it will not hand out a file at once: files too large for its virus scan need
a confirmation, files that were fetched too often wait for the next day, files no longer shared ask for a login.
"""

import contextlib
import re
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

from hyperinverter.utils.errors import UserError, reason_of
from hyperinverter.utils.text import whole_number

CHUNK = 1 << 16  # bytes; what a broken connection loses is less than this
TIMEOUT_S = (20.0, 60.0)  # to connect, between two pieces
MAYBE_LATER = (408, 425, 429, 500, 502, 503, 504)  # statuses worth another try
HTML_STARTS = (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--", b"<script", b"<body", b"<title")
LONGEST_PAGE = 512 * 1024  # bytes of a page that are read
WANTS_LOGIN = ("you need access", "request access", "sign in to continue", "you need permission")
GOOGLE = re.compile(r"(?:^|\.)(?:google|googleusercontent)\.com$")


class RequestRefused(UserError):
    """The server does not hand out this file; another copy may."""


class Interrupted(Exception):
    """Worth another try. `from_start`: what is here of the file is of no use any more."""

    def __init__(self, reason: str, wait_s: float | None = None, from_start: bool = False) -> None:
        super().__init__(reason)
        self.wait_s, self.from_start = wait_s, from_start


@contextlib.contextmanager
def opened(session: Any, url: str, headers: dict[str, str]) -> Iterator[Any]:
    """A response of status 200, 206 (a part) or 416 (no such part) that is not a web page.

    Args:
        session: a `requests.Session`; keeps the cookies between Drive's page and the file.
        headers: more request headers; `Authorization` is not sent on to other hosts.
    Raises:
        RequestRefused: a web page came, the file is not there, or the server forbids it; says what to do.
        Interrupted: the server cannot be reached or asks to come later.
    """
    address, confirmed, sent = url, False, headers
    while True:
        with _get(session, address, sent) as response:
            if not response.headers.get("Content-Type", "").lower().startswith(("text/html", "application/xhtml")):
                check_status(response, url)
                yield response
                return
            if "Range" in sent and response.status_code in (206, 416):  # a part of a page
                sent = {name: value for name, value in sent.items() if name not in ("Range", "If-Range")}
                continue
            page = WebPage(_start_of(response))
            further = confirmed_address(page, response.url) if response.ok and not confirmed else None
            if further is None:
                if not response.ok and refusal(page, response.url) is None:
                    check_status(response, url)
                raise RequestRefused(page_message(page, response.url, url))
            address, confirmed, sent = further, True, headers


def pieces(response: Any) -> Iterator[bytes]:
    """The body, CHUNK bytes at a time; a connection that breaks is an interruption.

    A server may pack the body although nobody asked for it: then this unpacks it, since requests does not notice when
    a packed body ends too early.
    """
    import urllib3

    packing = response.headers.get("Content-Encoding", "identity").strip().lower()
    if packing not in ("identity", "", "gzip", "x-gzip"):
        raise RequestRefused(f"{response.url}: the server packs the file ({packing[:20]}), unasked; give another copy")
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS) if "gzip" in packing else None
    goes_on = f"{response.url}: the server packs the file, unasked, and goes on behind its end; give another copy"
    try:
        for piece in response.raw.stream(CHUNK, decode_content=False):
            if unpacker is not None and unpacker.eof:  # the rest would pile up in memory, unseen
                raise RequestRefused(goes_on)
            while unpacker is not None and piece:
                yield unpacker.decompress(piece, CHUNK)
                piece = unpacker.unconsumed_tail
            if piece:
                yield piece
    except urllib3.exceptions.HTTPError as error:
        raise Interrupted(f"the connection broke off ({_short(error)})") from error
    except (OSError, zlib.error) as error:
        raise Interrupted(f"the body arrived damaged ({_short(error)})") from error
    if unpacker is not None and unpacker.unused_data:
        raise RequestRefused(goes_on)
    if unpacker is not None and not unpacker.eof:
        raise Interrupted("the packed body ended too early", from_start=True)


def total_bytes(response: Any, start: int) -> int | None:
    """Length of the whole file; None where the server does not say.

    Args:
        response: of status 200, or 206 when `start` is above 0.
        start: the first byte that was asked for.
    """
    if response.headers.get("Content-Encoding", "identity") != "identity":
        return None  # the stated length is of the compressed body
    if start:
        match = re.fullmatch(r"bytes ([^-]*)-[^/]*/(.*)", response.headers.get("Content-Range", "").strip())
        total = match and whole_number(match[2])
        if not match or whole_number(match[1]) != start or (total is None and match[2] != "*"):
            raise Interrupted("the server resumed at another place than asked for: from the start", from_start=True)
        return total
    return whole_number(response.headers.get("Content-Length", "").strip())


def stated_sha256(response: Any) -> str | None:
    """The Hugging Face hub names the hash of large files in a header of its redirect."""
    for step in [*response.history, response]:
        match = re.fullmatch(r'(?:W/)?"?([0-9a-f]{64})"?', step.headers.get("X-Linked-ETag", ""))
        if match:
            return match[1]
    return None


def page_message(page: "WebPage", final_url: str, url: str) -> str:
    """Why a web page is not the file that `url` promised, and what to do."""
    title = f" titled {page.title!r}" if page.title else ""
    unknown = f"a web page{title} came instead of the file", "open the address in a browser to see what it wants"
    what, remedy = refusal(page, final_url) or unknown
    return f"{url}: {what}; {remedy}"


def check_status(response: Any, url: str) -> None:
    status = response.status_code
    if status in (200, 206, 416):
        return
    if status in MAYBE_LATER:
        after = response.headers.get("Retry-After", "")
        raise Interrupted(f"the server answers {status} {response.reason}", whole_number(after))
    reasons = {
        401: "wants a login (401); for a closed repository on the Hugging Face hub set HF_TOKEN",
        403: "forbids it (403)",
        404: "has no such file (404)",
        410: "has the file no more (410)",
    }
    raise RequestRefused(
        f"{url}: the server {reasons.get(status, f'answers {status} {response.reason}')}; give another copy"
    )


def _get(session: Any, url: str, headers: dict[str, str]) -> Any:
    import requests

    # compressed bodies have no known length and cannot be resumed
    sent = {"User-Agent": "hyperinverter", "Accept-Encoding": "identity", **headers}
    host = urlsplit(url).netloc
    try:
        response = session.get(url, headers=sent, stream=True, timeout=TIMEOUT_S)
    except requests.exceptions.SSLError as error:
        raise RequestRefused(
            f"{url}: the server's certificate was not accepted ({_short(error)}); behind a proxy that opens TLS, name "
            f"its certificates in REQUESTS_CA_BUNDLE"
        ) from error
    except (requests.ConnectionError, requests.Timeout) as error:
        raise Interrupted(f"{host} cannot be reached ({_short(error)})") from error
    except requests.TooManyRedirects as error:
        raise RequestRefused(f"{url}: the server redirects in a circle; give another copy") from error
    except (requests.RequestException, ValueError) as error:
        raise RequestRefused(
            f"{url}: cannot be fetched ({_short(error)}); give an address http://... or https://..."
        ) from error
    addresses = [*(step.url for step in response.history), response.url]
    if any(a.startswith("https:") and not b.startswith("https:") for a, b in pairwise(addresses)):
        response.close()
        raise RequestRefused(f"{url}: redirects to an address without encryption ({response.url}); give another copy")
    return response


def _start_of(response: Any) -> bytes:
    content = b""
    for piece in pieces(response):
        content += piece
        if len(content) >= LONGEST_PAGE:
            break
    return content


def _short(error: Exception) -> str:
    """The innermost reason of an error of requests, one line."""
    reason: Any = error
    while True:
        inner = getattr(reason, "reason", None) or (reason.args[0] if reason.args else None)
        if not isinstance(inner, BaseException):
            break
        reason = inner
    return reason_of(reason)


class WebPage(HTMLParser):
    """The parts of a page that tell what it is: title, text, links, forms as (action, hidden fields)."""

    def __init__(self, content: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.title = self.text = self._inside = ""
        self.links: list[str] = []
        self.forms: list[tuple[str, dict[str, str]]] = []
        self.feed(content[:LONGEST_PAGE].decode("utf-8", errors="replace"))
        self.title, self.text = " ".join(self.title.split()), " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag in ("title", "script", "style"):
            self._inside = tag
        elif tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "form":
            self.forms.append((values.get("action", ""), {}))
        elif tag == "input" and values.get("type") == "hidden" and self.forms:
            self.forms[-1][1][values.get("name", "")] = values.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "title":
            self.title += data
        elif not self._inside:
            self.text += data + " "


def looks_like_html(start: bytes) -> bool:
    """Whether a file that begins with these bytes is a web page."""
    return start.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(HTML_STARTS)


def confirmed_address(page: WebPage, url: str) -> str | None:
    """The address behind Drive's "download anyway" button, None where the page has none.

    Today it is a form with hidden fields (id, export, confirm, uuid); it was a link with `confirm=` before. It has to
    lead to the same host or to Google's, so that no page can send a download elsewhere.
    """
    result = []
    for action, hidden in page.forms:
        if "confirm" in hidden or "download" in urlsplit(action).path:
            parts = urlsplit(urljoin(url, action))
            query = urlencode({**dict(parse_qsl(parts.query)), **hidden})
            result.append(parts._replace(query=query).geturl())
    result += [urljoin(url, link) for link in page.links if "confirm=" in urlsplit(link).query]
    for address in result:
        host = urlsplit(address).hostname or ""
        if host == urlsplit(url).hostname or GOOGLE.search(host):
            return address
    return None


def refusal(page: WebPage, final_url: str) -> tuple[str, str] | None:
    """What Drive's page says and what to do about it, for a message; None for a page of another kind."""
    text = f"{page.title} {page.text}".lower()
    host = urlsplit(final_url).hostname or ""
    if "quota" in text or "too many users have viewed or downloaded" in text:
        return (
            "Google Drive's download quota for this file is used up",
            "try again in a day, or fetch it in a browser that is logged in to Google (if it refuses there too, make a "
            "copy in your own Drive and fetch that)",
        )
    if host.startswith("accounts.google.") or any(words in text for words in WANTS_LOGIN):
        return (
            "Google asks for a login: the file is not shared with everybody any more",
            "ask its publisher, or give another copy",
        )
    if "virus" in text:
        return (
            "Google Drive did not scan the file for viruses and asked for a confirmation in a way not known here",
            "fetch it in a browser",
        )
    return None
