"""What a file is by its first bytes, whatever its name says; downloads that are no weights are named for what they are.

Signatures: the formats' own specifications; Google Drive's pages as they are served (English).
"""

import re

from hyperinverter.published.reading.arrays import NPY_MAGIC
from hyperinverter.published.reading.refusal import Foreign, UnreadableFile, shown
from hyperinverter.utils.checkout import command_of

TORCH_MAGIC = 0x1950A86A20F9469CFC6C
TORCH_HEAD = b"\x8a\x0a" + TORCH_MAGIC.to_bytes(10, "little") + b"."  # how its first pickle ends
PAGE_BYTES = 2**18  # as much of a web page as is looked through
LARGEST_SAFETENSORS_HEADER = 100_000_000  # the limit of the safetensors library

UNPACK = "unpack it and give the weights file inside"
GIVE_WEIGHTS = "give the weights file as its authors published it"
PACKED = {
    b"\x1f\x8b": "gzip-compressed",
    b"BZh": "bzip2-compressed",
    b"\xfd7zXZ\0": "xz-compressed",
    b"\x28\xb5\x2f\xfd": "Zstandard-compressed",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"Rar!\x1a\x07": "a RAR archive",
}
OTHER = {
    b"\x89PNG\r\n": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"BM": "a BMP image",
    b"II*\0": "a TIFF image",
    b"MM\0*": "a TIFF image",
    b"%PDF": "a PDF document",
    b"\x89HDF\r\n": "an HDF5 file, as Keras writes",
    b"GGUF": "a GGUF language model",
    b"MATLAB 5.0": "a MATLAB file",
    b"\x7fELF": "a program",
    b"MZ": "a Windows program",
}


def container_of(data: memoryview) -> str:
    """zip | npy | torch_legacy | pickle | safetensors.

    Raises UnreadableFile: it is something else; names it and what to do.
    """
    if not len(data):
        raise UnreadableFile("it is empty (0 bytes)")
    head = bytes(data[:512])
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if head.startswith(NPY_MAGIC):
        return "npy"
    # before pickles: a head of 1152 bytes begins as one of protocol 4 does, which cannot go on with zeros and a brace
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= LARGEST_SAFETENSORS_HEADER:
        return "safetensors"
    if head[0] == 0x80 and TORCH_HEAD in head[:32]:
        return "torch_legacy"
    if head[0] == 0x80 and len(head) > 1 and 2 <= head[1] <= 5:
        return "pickle"
    for signature, what in PACKED.items():
        if head.startswith(signature):
            raise UnreadableFile(f"it is {what}", UNPACK)
    if head[257:262] == b"ustar":
        raise UnreadableFile("it is a tar archive", UNPACK)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        raise Foreign("it is a WebP image, not weights", GIVE_WEIGHTS)
    for signature, what in OTHER.items():
        if head.startswith(signature):
            raise Foreign(f"it is {what}, not weights", GIVE_WEIGHTS)
    _refuse_text(bytes(data[:PAGE_BYTES]), len(data))
    if not any(head):
        raise UnreadableFile("it begins with zeros only, as a download that was reserved but never written")
    raise Foreign(f"it is of no known kind ({len(data)} bytes that begin with {head[:8].hex(' ')})")


def _refuse_text(start: bytes, length: int) -> None:
    """Pages, pointers and error messages that were saved in place of weights."""
    plain = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    lower = plain.lower()
    if lower.startswith(b"version https://git-lfs"):
        size = re.search(rb"^size (\d{1,20})$", plain, re.MULTILINE)
        message = f" to a file of {int(size[1])} bytes" if size else ""
        raise UnreadableFile(f"it is a Git LFS pointer{message}, not the file", "run `git lfs pull` in its repository")
    if re.match(rb"<(!doctype\s+html|html|head|body|title|meta|script|!--)", lower):
        _refuse_page(lower, plain)
    if lower.startswith((b"<?xml", b"<error")):
        code = re.search(rb"<code>([^<]{1,60})", lower)
        message = f" ({shown(code[1].decode('latin-1'))})" if code else ""
        raise UnreadableFile(f"it is an XML answer of a server{message}, not weights")
    text = start[:512].decode("utf-8", "ignore")
    if text and all(letter.isprintable() or letter in "\r\n\t\f" for letter in text):
        raise Foreign(f"it is a text of {length} bytes that begins with {shown(' '.join(text.split())[:60])!r}")


def _refuse_page(lower: bytes, plain: bytes) -> None:
    title = re.search(rb"<title[^>]{0,200}>([^<]{0,200})", plain, re.IGNORECASE)
    name = shown(" ".join(title[1].decode("utf-8", "replace").split())) if title else ""
    drive = b"google drive" in lower or b"drive.google.com" in lower or b"drive.usercontent.google" in lower
    if drive and (b"quota exceeded" in lower or b"too many users have viewed or downloaded" in lower):
        raise UnreadableFile(
            "it is Google Drive's page that says its download quota is exceeded, saved as if it were the file",
            "try again after a day, sign in and copy it to your own Drive, or take it from a mirror",
        )
    if drive and (b"virus" in lower or b"download anyway" in lower):
        raise UnreadableFile(
            "it is Google Drive's page that asks to download without a virus scan, saved as if it were the file",
            f"open the link in a browser and press 'Download anyway', or use {command_of('download')}",
        )
    if drive:
        raise UnreadableFile(f"it is a page of Google Drive ({name or 'no title'}), saved as if it were the file",
                      "open the link in a browser; the file may be private or gone")  # fmt: skip
    raise UnreadableFile(f"it is a web page ({name or 'no title'}), saved as if it were the file")
