"""Text as people save it: UTF-8 and UTF-16 with or without a mark, UTF-32 with one; and JSON in it."""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark begins with that one
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LONGEST_MARK = 4

_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # of a character that takes two escapes
MAX_TEXT_BYTES = 16 << 20  # of a caption or annotation


class UnreadableText(ValueError):
    """Bytes that are no text: which file and line, why, and what to do."""


def decode_text(data: bytes, where: str) -> str:
    """The text of a file. Eight-bit encodings look alike, so they are refused rather than guessed."""
    return "".join(decode_pieces([data], where))


def decode_pieces(pieces: Iterable[bytes], where: str) -> Iterator[str]:
    """The same of a file that comes in pieces, none of them empty, as it comes."""
    rest, head = iter(pieces), b""
    while len(head) < _LONGEST_MARK and (piece := next(rest, b"")):
        head += piece
    encoding = next((name for mark, name in _MARKS if head.startswith(mark)), None) or _unmarked(head)
    decoder = codecs.getincrementaldecoder(encoding)()
    lines = 1
    for piece in chain([head], rest, [b""]):
        lines += piece.count(b"\n")
        try:
            yield decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            line = lines - error.object.count(b"\n", error.start)
            raise UnreadableText(
                f"{where}, line {line}: byte 0x{error.object[error.start]:02x} is not "
                f"{encoding.removesuffix('-sig').upper()}; save the file as UTF-8 (`iconv -f WINDOWS-1252 -t UTF-8`, "
                "if it comes from Windows)"
            ) from None


def _unmarked(data: bytes) -> str:
    """Text begins with a letter, a quote or a bracket, of which UTF-16 makes a zero and a byte that is none."""
    zeros = bytes(byte == 0 for byte in data[:2])
    return {b"\0\1": "utf-16-le", b"\1\0": "utf-16-be"}.get(zeros, "utf-8")


def parse_json(text: str) -> Any:
    """JSON that can be stored: numbers that are none are null, half a character is "?". Raises ValueError."""
    try:
        value = json.loads(text, parse_constant=lambda name: None)
        if _HALF.search(text):
            value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    except RecursionError:
        raise ValueError("it is nested without end") from None
    return value
