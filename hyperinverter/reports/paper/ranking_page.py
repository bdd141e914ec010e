"""The page on which people rank methods blindly: one HTML file with its pictures, used by keyboard or pointer.

Nothing in the file says which method made a picture: pictures have codes, and what a code means lies in another file.
Questions and pictures are shuffled anew for every participant, in the browser; nothing is sent anywhere, the last
button saves the votes as a file.
"""

import base64
import html
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from hyperinverter.reports.html_page import filled
from hyperinverter.utils.files import write_text

PAGE = Path(__file__).with_suffix(".html")
MOST_PX = 512  # side of a picture on the page


@dataclass(frozen=True)
class Question:
    """One photo and what the methods made of it.

    Attributes:
        photo: the input, as `encoded` gives it.
        pictures: code -> what a method made, as `encoded` gives it.
    """

    id: str
    task: str
    text: str
    photo: str
    pictures: dict[str, str]


def encoded(picture: Image.Image) -> str:
    """A picture as a data address, at most MOST_PX wide."""
    small = picture.copy()
    small.thumbnail((MOST_PX, MOST_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def write_page(path: Path, page_id: str, title: str, questions: Sequence[Question]) -> None:
    """Write the page; `page_id` stands in the votes it saves."""
    data = json.dumps({"page": page_id, "questions": [asdict(question) for question in questions]})
    safe = data.replace("<", "\\u003c")  # no text of it ends the script
    write_text(path, filled(PAGE, TITLE=html.escape(title), DATA=safe))
