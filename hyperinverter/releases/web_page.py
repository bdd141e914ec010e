"""A web page that came in place of a file: Google Drive's confirmations and refusals, distinguished and named.

Drive answers with HTML (status 200) where it will not hand out a file at once: files too large for its virus scan need
a confirmation, files that were fetched too often wait for the next day, files no longer shared ask for a login.
"""

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

HTML_STARTS = (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--", b"<script", b"<body", b"<title")
LONGEST_PAGE = 512 * 1024  # bytes of a page that are read
WANTS_LOGIN = ("you need access", "request access", "sign in to continue", "you need permission")
GOOGLE = re.compile(r"(?:^|\.)(?:google|googleusercontent)\.com$")


@dataclass
class WebPage:
    """The parts of a page that tell what it is."""

    title: str = ""
    text: str = ""
    links: list[str] = field(default_factory=list)
    forms: list[tuple[str, dict[str, str]]] = field(default_factory=list)  # (action, hidden fields)


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.page = WebPage()
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag in ("title", "script", "style"):
            self._inside = tag
        elif tag == "a" and "href" in values:
            self.page.links.append(values["href"])
        elif tag == "form":
            self.page.forms.append((values.get("action", ""), {}))
        elif tag == "input" and values.get("type") == "hidden" and self.page.forms:
            self.page.forms[-1][1][values.get("name", "")] = values.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "title":
            self.page.title += data
        elif not self._inside:
            self.page.text += data + " "


def looks_like_html(start: bytes) -> bool:
    """Whether a file that begins with these bytes is a web page."""
    return start.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(HTML_STARTS)


def read_page(content: bytes) -> WebPage:
    parser = _Parser()
    parser.feed(content[:LONGEST_PAGE].decode("utf-8", errors="replace"))
    page = parser.page
    page.title, page.text = " ".join(page.title.split()), " ".join(page.text.split())
    return page


def confirmed_address(page: WebPage, url: str) -> str | None:
    """The address behind Drive's "download anyway" button, None where the page has none.

    Today it is a form with hidden fields (id, export, confirm, uuid); it was a link with `confirm=` before. It has to
    lead to the same host or to Google's, so that no page can send a download elsewhere.
    """
    result = []
    for action, hidden in page.forms:
        if "confirm" in hidden or "download" in urlsplit(action).path:
            address = urlsplit(urljoin(url, action))
            query = urlencode({**dict(parse_qsl(address.query)), **hidden})
            result.append(address._replace(query=query).geturl())
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
