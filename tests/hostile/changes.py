"""Changes at random to files of any kind, inside the containers that checksums or lengths would otherwise protect."""

import gzip
import io
import json
import random
import re
import warnings
import zipfile
from collections.abc import Sequence

NUMBERS = (0, 1, 2, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
WORDS = (b"../../../../evil", b"/tmp/evil", b"..", b"/", b"\\", b"\0", b"\x1b[2J", b"${oc.env:HOME}", b"&a *a", b"NaN",
         b"-1", b"1e999", b"9" * 5000, b"[" * 2000, b"{" * 2000, b"os\nsystem\n", b"null", b"\xff\xfe",
         b"%s" * 9, b'"')  # fmt: skip


def changed(data: bytes, dice: random.Random, others: Sequence[bytes]) -> bytes:
    """A file with some bytes, numbers or pieces changed; of an archive the content of a member, packed again."""
    if dice.random() < 0.5 and (inner := _inside(data, dice, others)) is not None:
        return inner
    out = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 4, 10))):
        if not out:
            break
        at = dice.randrange(len(out)) if dice.random() < 0.6 else dice.randrange(min(len(out), 200))
        kind = dice.randrange(9)
        if kind == 0:
            out[at] = dice.randrange(256)
        elif kind == 1:
            out[at] ^= 1 << dice.randrange(8)
        elif kind == 2:
            del out[at : at + dice.choice((1, 2, 4, 16, 300))]
        elif kind == 3:
            out[at:at] = out[at : at + dice.randrange(1, 60)]
        elif kind in (4, 5):
            size = dice.choice((1, 2, 4, 8))
            number = (dice.choice(NUMBERS) + dice.choice((0, 0, 1, -1))) % 2 ** (8 * size)
            out[at : at + size] = number.to_bytes(size, dice.choice(("little", "big")))
        elif kind == 6:
            out[at : at + dice.choice((0, 4))] = dice.choice(WORDS)
        elif kind == 7:
            del out[at:]
        else:
            other = dice.choice(others)
            begin = dice.randrange(max(len(other), 1))
            out[at:at] = other[begin : begin + dice.randrange(1, 400)]
    return bytes(out)


def _inside(data: bytes, dice: random.Random, others: Sequence[bytes]) -> bytes | None:
    """The same container, whole, around changed content; None where it is none."""
    if data[:2] == b"PK":
        return _zip_inside(data, dice, others)
    if data[:2] == b"\x1f\x8b":
        return gzip.compress(changed(gzip.decompress(data), dice, others))
    length = int.from_bytes(data[:8], "little")
    if data[8:9] == b"{" and 8 + length <= len(data):  # .safetensors: its head, of the right length
        head = data[8 : 8 + length]
        if dice.random() < 0.5:
            head = _json_changed(head, dice)
        else:
            head = changed(head, dice, others)
        return len(head).to_bytes(8, "little") + head + data[8 + length :]
    if data and data.isascii() and b"\0" not in data:
        return _text_changed(data.decode("ascii"), dice).encode("latin-1")
    return None


def _text_changed(text: str, dice: random.Random) -> str:
    """A word or mark replaced by another of the text or an odd one, or lines doubled and moved; still text."""
    parts = re.findall(r"[\w.]+|[^\w.\n]|\n", text)
    for _ in range(dice.choice((1, 1, 2, 4))):
        at = dice.randrange(len(parts))
        kind = dice.randrange(4)
        if kind == 0:
            parts[at] = dice.choice(parts)
        elif kind == 1:
            parts[at] = dice.choice([word.decode("latin-1") for word in WORDS if word.isascii()])
        elif kind == 2:
            del parts[at : at + dice.choice((1, 3))]
        else:
            parts[at:at] = parts[at : at + dice.randrange(1, 30)] * dice.choice((1, 1, 50))
        if not parts:
            break
    return "".join(parts)


def _zip_inside(data: bytes, dice: random.Random, others: Sequence[bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w") as new, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        members = old.infolist()
        chosen = dice.choice(members).filename
        for member in members:
            name, content = member.filename, old.read(member)
            if name == chosen:
                if dice.random() < 0.3:
                    word = dice.choice(WORDS).decode("latin-1")
                    name = dice.choice((word, f"{word}/{name}", f"{name}{word}", dice.choice(members).filename))
                else:
                    content = changed(content, dice, others)
            info = zipfile.ZipInfo(name)
            info.compress_type = member.compress_type
            new.writestr(info, content)
    return stream.getvalue()


def _json_changed(text: bytes, dice: random.Random) -> bytes:
    """One value in nested JSON replaced by an odd one; text that is JSON itself is gone into."""
    odd = (None, "", "x", -1, 0, 1, 2, 3.5, 10**9, 2**62, 1e300, True, [], [[]], {}, {"a": {}}, [0, 2**40], "[" * 3000,
           "../../evil", "${oc.env:HOME}", "F64", "BOOL", "hyperinverter")  # fmt: skip
    tree = json.loads(text)

    def walk(value: object, depth: int) -> object:
        if isinstance(value, str) and value[:1] in "{[" and value and dice.random() < 0.7:
            return json.dumps(walk(json.loads(value), depth + 1))
        if depth and dice.random() < 0.3:
            return dice.choice(odd)
        if isinstance(value, dict) and value:
            key = dice.choice(list(value))
            if dice.random() < 0.1:
                return {k: v for k, v in value.items() if k != key}
            return {**value, key: walk(value[key], depth + 1)}
        if isinstance(value, list) and value:
            at = dice.randrange(len(value))
            return [*value[:at], walk(value[at], depth + 1), *value[at + 1 :]]
        return dice.choice(odd)

    return json.dumps(walk(tree, 0)).encode()
