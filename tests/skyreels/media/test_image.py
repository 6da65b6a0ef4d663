import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from skyreels.media.errors import MediaError
from skyreels.media.image import probe_image, read_image, write_image
from skyreels.media.limits import MediaLimits

CORNERS = np.zeros((20, 40, 3), np.uint8)
CORNERS[:10, :20], CORNERS[:10, 20:], CORNERS[10:, :20] = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, CORNERS),
        (2, CORNERS[:, ::-1]),
        (3, CORNERS[::-1, ::-1]),
        (4, CORNERS[::-1]),
        (5, CORNERS.transpose(1, 0, 2)),
        (6, np.rot90(CORNERS, -1)),
        (7, np.rot90(CORNERS, 2).transpose(1, 0, 2)),
        (8, np.rot90(CORNERS, 1)),
    ],
)
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_exif_turns_the_picture(tmp_path, kind, orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "webp" else {"quality": 100, "subsampling": 0} if kind == "jpeg" else {}
    Image.fromarray(CORNERS).save(tmp_path / "a", kind, exif=exif, **options)
    found = probe_image(tmp_path / "a")
    assert (found.height, found.width) == upright.shape[:2]
    assert np.abs(read_image(tmp_path / "a").astype(int) - upright).max() <= 3


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "I;16", "1"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    white = {"L": 255, "LA": (255, 255), "P": 0, "RGBA": (255,) * 4, "CMYK": (0, 0, 0, 0), "I;16": 65535, "1": 1}[mode]
    picture = Image.new(mode, (8, 8), white)
    if mode == "P":
        picture.putpalette([255, 255, 255])
    picture.save(tmp_path / "a", "TIFF" if mode == "CMYK" else "PNG")
    rgb = read_image(tmp_path / "a")
    assert (rgb.dtype, rgb.shape) == (np.uint8, (8, 8, 3))
    assert rgb.min() == 255


def test_sixteen_bit_grey_keeps_its_scale(tmp_path):
    ramp = np.linspace(0, 65535, 32, dtype=np.uint16)[None].repeat(4, 0)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    assert np.abs(read_image(tmp_path / "a.png")[0, :, 1] - ramp[0] / 257).max() <= 1


def test_transparency_lies_over_black(tmp_path):
    Image.new("RGBA", (4, 4), (200, 100, 50, 0)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").max() == 0


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_written_pictures_are_the_same_bytes_again(tmp_path, suffix):
    picture = np.random.default_rng(0).integers(0, 255, (33, 47, 3), np.uint8).repeat(2, 0).repeat(2, 1)
    for name in "ab":
        write_image(tmp_path / (name + suffix), picture)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    back = read_image(tmp_path / f"a{suffix}").astype(int)
    assert np.abs(back - picture).mean() <= (0 if suffix == ".png" else 6)


def test_a_bomb_is_refused_by_its_header(tmp_path):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 12000, 12000, 8, 2, 0, 0, 0)
    png = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )
    (tmp_path / "bomb.png").write_bytes(png)
    for read in (probe_image, read_image):
        with pytest.raises(MediaError) as caught:
            read(tmp_path / "bomb.png")
        assert caught.value.reason == "too_many_pixels"
    Image.new("RGB", (100, 100)).save(tmp_path / "large.png")
    with pytest.raises(MediaError, match="too_many_pixels"):
        probe_image(tmp_path / "large.png", MediaLimits(max_pixels=9999))


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif", "tiff", "bmp"])
def test_a_truncated_picture_is_named(tmp_path, kind):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a", kind)
    data = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaError) as caught:
        read_image(tmp_path / "a")
    assert caught.value.reason in {"truncated", "unreadable"}


def test_a_video_is_not_a_picture(tmp_path, studio):
    path = studio.video(tmp_path / "a.jpg", [studio.numbered(0)] * 3, container="mp4")
    with pytest.raises(MediaError, match="not_an_image"):
        read_image(path)
