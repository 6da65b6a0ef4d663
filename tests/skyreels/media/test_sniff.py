import io
from contextlib import suppress

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from skyreels.media import container
from skyreels.media.errors import MediaError
from skyreels.media.limits import MediaLimits
from skyreels.media.probe import probe
from skyreels.media.sniff import DEMUXERS, IMAGES, sniff

HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nsibling.mp4\n#EXT-X-ENDLIST\n"
FFCONCAT = "ffconcat version 1.0\nfile sibling.mp4\n"
PLAYLISTS = {
    "hls": HLS.encode(),
    "ffconcat": FFCONCAT.encode(),
    "m3u": b"sibling.mp4\nother.mp4\n",
    "pls": b"[playlist]\nFile1=sibling.mp4\n",
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=video 5004 RTP/AVP 96\n",
    "dash": b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"/>',
    "utf-8 with mark": b"\xef\xbb\xbf" + HLS.encode(),
    "utf-16": HLS.encode("utf-16"),
    "long": HLS.encode() * 1000,
}


@pytest.mark.parametrize(
    ("expected", "muxer", "codec"),
    [
        ("mp4", "mp4", "libx264"),
        ("mp4", "mov", "mpeg4"),
        ("matroska", "matroska", "libx264"),
        ("matroska", "webm", "libvpx-vp9"),
        ("avi", "avi", "mpeg4"),
        ("mpegts", "mpegts", "libx264"),
        ("mpegps", "vob", "mpeg2video"),
        ("flv", "flv", "libx264"),
        ("asf", "asf", "mpeg4"),
    ],
)
def test_video_containers_under_a_wrong_name(tmp_path, studio, expected, muxer, codec):
    path = tmp_path / "clip.jpg"
    studio.video(path, [studio.numbered(i) for i in range(5)], codec=codec, container=muxer)
    assert sniff(path) == expected
    assert probe(path).video.packets == 5


@pytest.mark.parametrize(
    ("expected", "muxer", "codec"),
    [
        ("wav", "wav", "pcm_s16le"),
        ("flac", "flac", "flac"),
        ("mp3", "mp3", "libmp3lame"),
        ("aac", "adts", "aac"),
        ("ogg", "ogg", "libopus"),
        ("aiff", "aiff", "pcm_s16be"),
        ("mp4", "ipod", "aac"),
    ],
)
def test_sound_containers_under_a_wrong_name(tmp_path, studio, expected, muxer, codec):
    path = studio.sound(tmp_path / "sound.mp4", np.zeros((2, 48000), np.float32), 48000, codec=codec, container=muxer)
    assert sniff(path) == expected
    assert probe(path).audio.duration_s == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize("kind", sorted(IMAGES))
def test_pictures_under_a_wrong_name(tmp_path, kind):
    path = tmp_path / "picture.mp4"
    Image.new("RGB", (20, 10), "red").save(path, kind.upper())
    assert sniff(path) == kind


@pytest.mark.parametrize("kind", sorted(PLAYLISTS))
def test_playlists_are_refused(tmp_path, kind):
    (tmp_path / "upload.mp4").write_bytes(PLAYLISTS[kind])
    with pytest.raises(MediaError) as caught:
        probe(tmp_path / "upload.mp4")
    assert caught.value.reason == "playlist_refused"


def test_ffmpeg_left_to_itself_would_open_the_sibling_a_playlist_names(tmp_path, studio):
    studio.video(tmp_path / "sibling.mp4", [studio.numbered(i) for i in range(5)])
    (tmp_path / "upload.mp4").write_text(FFCONCAT)
    with av.open(str(tmp_path / "upload.mp4")) as opened:
        assert opened.streams.video[0].width == 160
    with pytest.raises(MediaError, match="playlist_refused"):
        probe(tmp_path / "upload.mp4")


@pytest.mark.parametrize(("demuxer", "text"), [("concat", FFCONCAT), ("hls", HLS)])
def test_even_a_demuxer_that_follows_names_gets_nothing_opened(tmp_path, studio, monkeypatch, demuxer, text):
    studio.video(tmp_path / "sibling.mp4", [studio.numbered(i) for i in range(5)])
    (tmp_path / "upload.mp4").write_text(text)
    monkeypatch.setattr(container, "sniff", lambda path: demuxer)
    monkeypatch.setitem(DEMUXERS, demuxer, demuxer)
    with pytest.raises(MediaError), container.open_container(tmp_path / "upload.mp4", MediaLimits()) as opened:
        assert not opened.streams.video


def test_empty_missing_and_unknown_files_say_so(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "noise.mp4").write_bytes(bytes(range(128, 256)) * 8)
    for name, reason in (("empty.mp4", "empty_file"), ("noise.mp4", "unknown_container"), ("none.mp4", "unreadable")):
        with pytest.raises(MediaError) as caught:
            sniff(tmp_path / name)
        assert caught.value.reason == reason
    with pytest.raises(MediaError, match="unreadable"):
        sniff(tmp_path)


def test_a_file_that_may_not_be_read_is_unreadable(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(MediaError, match=r"unreadable.*Permission denied"):
        sniff(tmp_path / "private.mp4")


def test_an_id3_tag_hides_neither_mp3_nor_flac(tmp_path, studio):
    sound = np.zeros((1, 8000), np.float32)
    tag = b"ID3\x04\x00\x00\x00\x00\x02\x00" + bytes(256)
    for codec, muxer in (("libmp3lame", "mp3"), ("flac", "flac"), ("aac", "adts")):
        plain = studio.sound(tmp_path / "plain", sound, 16000, codec=codec, container=muxer)
        tagged = tmp_path / "tagged"
        tagged.write_bytes(tag + plain.read_bytes())
        assert sniff(tagged) == {"libmp3lame": "mp3", "flac": "flac", "aac": "aac"}[codec]


@given(st.binary(min_size=1, max_size=600))
def test_any_bytes_are_named_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.bin"
    path.write_bytes(data)
    try:
        outcome = sniff(path)
    except MediaError as error:
        outcome = error.reason
    assert outcome in DEMUXERS.keys() | IMAGES | {"unknown_container", "playlist_refused"}


@given(st.binary(max_size=400))
def test_a_known_start_with_any_rest_never_raises_anything_else(tmp_path_factory, data):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    path = tmp_path_factory.getbasetemp() / "rest.bin"
    for start in (
        b"\x00\x00\x00\x18ftypisom",
        b"\x1a\x45\xdf\xa3",
        b"RIFF\xff\x00\x00\x00WAVE",
        buffer.getvalue()[:40],
    ):
        path.write_bytes(start + data)
        with suppress(MediaError):
            probe(path)
