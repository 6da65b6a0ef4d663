"""What lies behind the end of a file that its demuxer sees: recordings that were joined byte by byte."""

from pathlib import Path

from skyreels.media.sniff import HEADS

_FAR = 64 * 2**20  # bytes behind the last packet that are searched; an index is smaller
_BLOCK = 2**20


def unread_bytes(path: Path, kind: str, read_to: int) -> int:
    """Bytes from the next header of the same container on, behind all that was read; 0 where there is none.

    Demuxers of transport and program streams read on; those of the other containers stop at the first end.
    """
    head = HEADS.get(kind)
    if head is None or read_to <= 0:
        return 0
    with path.open("rb") as file:
        file.seek(read_to)
        at, kept = read_to, b""
        while at - read_to < _FAR and (block := file.read(_BLOCK)):
            found = (kept + block).find(head)
            if found >= 0:
                return path.stat().st_size - (at - len(kept) + found)
            at, kept = at + len(block), (kept + block)[-len(head) + 1 :]
    return 0
