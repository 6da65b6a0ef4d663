"""What a file is, from its first bytes and never from its name.

FFmpeg guesses a container by asking every demuxer, and some demuxers (HLS, concat, SDP) open other files and
URLs named inside the file. Here the format is decided first, from a short list that cannot do so.
"""

from pathlib import Path

from skyreels.media.errors import MediaError

#: container name -> FFmpeg demuxer that is forced when opening it
DEMUXERS = {
    "mp4": "mp4",
    "matroska": "matroska",
    "avi": "avi",
    "mpegts": "mpegts",
    "mpegps": "mpeg",
    "flv": "flv",
    "asf": "asf",
    "ogg": "ogg",
    "wav": "wav",
    "flac": "flac",
    "mp3": "mp3",
    "aac": "aac",
    "aiff": "aiff",
}
IMAGES = frozenset({"jpeg", "png", "webp", "gif", "bmp", "tiff"})

#: what a file of these containers begins with, and one that was appended to it
HEADS = {
    "matroska": b"\x1a\x45\xdf\xa3",
    "flv": b"FLV\x01",
    "asf": b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
    "mp4": b"ftyp",
}

_HEAD_BYTES = 4096
_PREFIXES = (
    (b"\x1a\x45\xdf\xa3", "matroska"),
    (b"FLV\x01", "flv"),
    (b"OggS", "ogg"),
    (b"fLaC", "flac"),
    (b"\x00\x00\x01\xba", "mpegps"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
)
_RIFF_KINDS = {b"AVI ": "avi", b"WAVE": "wav", b"WEBP": "webp"}
_MP4_FIRST_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp"})
_STILL_BRANDS = frozenset({b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis"})
_TS_PACKET = 188
_TEXT_BYTES = frozenset(range(0x20, 0x7F)) | frozenset(b"\t\r\n\f")


def sniff(path: str | Path) -> str:
    """Name of the container (a key of `DEMUXERS`) or image format (in `IMAGES`) that the bytes of `path` show.

    Raises `MediaError` with reason `unreadable`, `empty_file`, `playlist_refused` (text that lists other media:
    HLS, ffconcat, m3u, SDP, DASH, ...) or `unknown_container`.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            if head.startswith(b"ID3"):
                file.seek(_id3_bytes(head))
                head = file.read(_HEAD_BYTES) or head
                return _sniff_elementary_audio(head) or "mp3"
    except OSError as error:
        raise MediaError("unreadable", "Check that the path exists and may be read.", str(error)) from error
    if not head:
        raise MediaError("empty_file", "Fetch the file again: it holds no bytes.", path.name)
    found = _sniff_head(head)
    if found:
        return found
    if _is_text(head):
        raise MediaError(
            "playlist_refused",
            "Send the media itself, not a text file that points at it.",
            f"{path.name} starts with {head[:24]!r}",
        )
    raise MediaError(
        "unknown_container",
        f"Convert it to one of: {', '.join(sorted([*DEMUXERS, *IMAGES]))}.",
        f"{path.name} starts with {head[:16].hex(' ')}",
    )


def _sniff_head(head: bytes) -> str | None:
    for prefix, name in _PREFIXES:
        if head.startswith(prefix):
            return name
    if head[:4] in (b"RIFF", b"RF64"):
        return _RIFF_KINDS.get(head[8:12])
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    if head[4:8] in _MP4_FIRST_BOXES:
        return None if head[4:8] == b"ftyp" and head[8:12] in _STILL_BRANDS else "mp4"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in (12, 40, 52, 56, 108, 124):
        return "bmp"
    if _is_transport_stream(head):
        return "mpegts"
    return _sniff_elementary_audio(head)


def _is_transport_stream(head: bytes) -> bool:
    """Sync bytes one packet apart; Blu-ray's m2ts puts a 4-byte time code before each packet."""
    plain, timed = head[::_TS_PACKET][:5], head[4 :: _TS_PACKET + 4][:5]
    return any(len(syncs) >= 2 and set(syncs) == {0x47} for syncs in (plain, timed))


def _sniff_elementary_audio(head: bytes) -> str | None:
    """ADTS and MPEG audio have no magic, only an 11- or 12-bit sync word followed by fields with reserved values."""
    if head.startswith(b"fLaC"):
        return "flac"
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    layer = head[1] >> 1 & 3
    if layer == 0:
        return "aac" if head[1] & 0xF0 == 0xF0 and head[2] >> 2 & 15 < 13 else None
    version, bitrate, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if layer == 3:  # layer I is extinct, and its sync word is the byte order mark of UTF-16
        return None
    return "mp3" if version != 1 and bitrate not in (0, 15) and rate != 3 else None


def _id3_bytes(head: bytes) -> int:
    """Length of a leading ID3v2 tag: ten bytes and a size of four 7-bit digits (id3.org, ID3v2.4 section 3.1)."""
    size = 0
    for digit in head[6:10]:
        size = size << 7 | digit & 0x7F
    return 10 + size


def _is_text(head: bytes) -> bool:
    body = head.removeprefix(b"\xef\xbb\xbf")
    if body[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return True
    lines_like = sum(byte in _TEXT_BYTES for byte in body[:512])
    return lines_like >= 0.9 * len(body[:512])
