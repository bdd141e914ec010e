"""What a picture's file says of its origin: that a network drew or edited it, in standard metadata.

The property is IPTC's digital source type (Photo Metadata Standard, NewsCodes `digitalsourcetype`), which search
engines and photo libraries read, in an XMP packet (ISO 16684-1). GIF files have no place for one that all read: they
carry the same as a comment, and so do MP4 files. Metadata is lost where a picture is copied as pixels only, so that its
absence proves nothing.
"""

import contextlib
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

import hyperinverter

DRAWN = "trainedAlgorithmicMedia"  # all of it by a network: an inversion, an edit, a blend
COMPOSITE = "compositeWithTrainedAlgorithmicMedia"  # a photo with an edited face in it, or beside it
TYPES = {  # IPTC's names of what else cameras and programs write
    DRAWN: "created using generative AI",
    COMPOSITE: "edited using generative AI",
    "digitalCapture": "a digital photo",
    "computationalCapture": "a photo computed from several",
    "negativeFilm": "from a film negative",
    "positiveFilm": "from a film positive",
    "print": "from a print",
    "humanEdits": "a photo with edits by people",
    "minorHumanEdits": "a photo with slight edits by people",
    "algorithmicallyEnhanced": "a photo enhanced by a program",
    "digitalCreation": "drawn by a person with a program",
    "dataDrivenMedia": "drawn from data",
    "algorithmicMedia": "drawn by a program without training",
    "virtualRecording": "a recording of a virtual event",
    "compositeSynthetic": "composed, with synthetic parts",
    "compositeCapture": "composed of photos",
    "composite": "composed of parts",
}
PLACE = "http://cv.iptc.org/newscodes/digitalsourcetype/"
TOOL = f"HyperInverter {hyperinverter.__version__}"
XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" Iptc4xmpExt:DigitalSourceType="{place}{kind}" xmp:CreatorTool="{tool}"/>
</rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""
MOST_TEXT = 1 << 20  # characters of a packet that are looked through

_left_out = False  # by `stated`


@contextlib.contextmanager
def stated(wanted: bool) -> Iterator[None]:
    """Whether files that are written within, by any thread, say it: a command's key `provenance`."""
    global _left_out
    before, _left_out = _left_out, not wanted
    try:
        yield
    finally:
        _left_out = before


@dataclass(frozen=True)
class Origin:
    """What a file says.

    Attributes:
        kind: IPTC's name of the digital source type; None where it says none.
        tool: the program that wrote it, as far as it says so.
        is_signed: whether it carries Content Credentials (C2PA); they are not checked here.
    """

    kind: str | None
    tool: str | None
    is_signed: bool = False


def said(kind: str, image_format: str | None) -> dict[str, Any]:
    """Options of Pillow's `save` that write it.

    Args:
        kind: DRAWN or COMPOSITE.
        image_format: Pillow's name; others than PNG, JPEG, WEBP and GIF have no place for it.
    Returns:
        {} also where it is to be left out.
    """
    if _left_out:
        return {}
    packet = XMP.format(place=PLACE, kind=kind, tool=TOOL)
    if image_format == "PNG":
        text = PngInfo()
        text.add_itxt("XML:com.adobe.xmp", packet)
        return {"pnginfo": text}
    if image_format in ("JPEG", "WEBP"):
        return {"xmp": packet.encode()}
    return {"comment": comment(kind).encode()} if image_format == "GIF" else {}


def comment(kind: str) -> str:
    """The same as a line of text; empty where it is left out."""
    return "" if _left_out else f"DigitalSourceType={PLACE}{kind} CreatorTool={TOOL}"


def origin_in(image: Image.Image, data: bytes = b"") -> Origin:
    """What an image file says.

    Args:
        image: as `Image.open` gave it.
        data: the file's bytes, which are looked through for Content Credentials.
    """
    held = [image.info.get(key) for key in ("xmp", "comment", "XML:com.adobe.xmp")]
    texts = [each.decode("utf-8", "replace") if isinstance(each, bytes) else str(each) for each in held if each]
    return _origin(" ".join(text[:MOST_TEXT] for text in texts), is_signed=b"jumb" in data and b"c2pa" in data)


def origin_of_film(path: Path) -> Origin:
    """What a film's file says; PyAV must be there."""
    import av

    with av.open(str(path), format="mp4") as film:  # other formats name further files, which would be opened
        return _origin(str(film.metadata.get("comment", ""))[:MOST_TEXT], is_signed=False)


def _origin(text: str, is_signed: bool) -> Origin:
    kind = re.search(r"digitalsourcetype/([A-Za-z]{1,60})", text)
    tool = re.search(r"CreatorTool(?:=\"|='|>|=)\s*([^<\"']{1,80})", text)
    return Origin(kind[1] if kind else None, html.unescape(tool[1]).strip() if tool else None, is_signed)
