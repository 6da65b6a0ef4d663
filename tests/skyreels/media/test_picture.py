import av
import numpy as np
import pytest

from skyreels.media.orientation import Orientation
from skyreels.media.picture import DecodedFrame

BT709 = (0.2126, 0.0722)
BT601 = (0.299, 0.114)
COLOURS = np.array([[250, 20, 20], [20, 230, 30], [30, 40, 240], [200, 200, 30], [128, 128, 128], [255, 255, 255]])


def yuv(rgb, coefficients, *, full=False, bits=8):
    """Y'CbCr code values of R'G'B' in 0..255, by the formula of H.273 section 8.3."""
    kr, kb = coefficients
    red, green, blue = (np.asarray(rgb) / 255).T
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    chroma = np.stack([(blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))])
    if full:
        scaled = np.stack([luma * 255, *(chroma * 255 + 128)])
    else:
        scaled = np.stack([luma * 219 + 16, *(chroma * 224 + 128)]) * 2 ** (bits - 8)
    return np.rint(scaled).astype(np.uint8 if bits == 8 else np.uint16)


def patches(codes, pix_fmt, cell=16):
    """A 4:4:4 picture with one square per column of `codes` (3, N)."""
    planes = np.repeat(np.repeat(codes[:, None, :], cell, axis=1), cell, axis=2)
    picture = av.VideoFrame(planes.shape[2], cell, pix_fmt)
    for plane, values in zip(picture.planes, planes, strict=True):
        rows = np.zeros((cell, plane.line_size // values.itemsize), values.dtype)
        rows[:, : values.shape[1]] = values
        plane.update(rows.tobytes())
    return picture


def decoded(picture, orientation=None):
    orientation = orientation or Orientation()
    size = orientation.size(picture.width, picture.height)
    return DecodedFrame(0.0, True, False, orientation, size, picture)


@pytest.mark.parametrize(
    ("tag", "height", "coefficients", "full"),
    [
        (1, 16, BT709, False),
        (6, 16, BT601, False),
        (2, 16, BT601, False),  # unnamed and small: BT.601
        (2, 720, BT709, False),  # unnamed and HD: BT.709
        (1, 16, BT709, True),
    ],
)
def test_colours_come_out_by_the_formula(tag, height, coefficients, full):
    picture = patches(yuv(COLOURS, coefficients, full=full), "yuvj444p" if full else "yuv444p", cell=height)
    picture.colorspace, picture.color_range = tag, 2 if full else 1
    frame = decoded(picture)
    rgb = frame.rgb()
    centres = rgb[height // 2, height // 2 :: height].astype(int)
    assert np.abs(centres - COLOURS).max() <= 3
    assert np.array_equal(frame.bgr(), rgb[..., ::-1])


@pytest.mark.parametrize(
    ("pix_fmt", "full", "bits"),
    [("yuv444p", False, 8), ("yuvj444p", True, 8), ("yuv444p10le", False, 10), ("yuv444p12le", False, 12)],
)
def test_luma_is_limited_range_bytes_whatever_the_source(pix_fmt, full, bits):
    picture = patches(yuv(COLOURS, BT709, full=full, bits=bits), pix_fmt)
    picture.colorspace, picture.color_range = 1, 2 if full else 1
    luma = decoded(picture).luma()
    assert luma.dtype == np.uint8
    assert luma.shape == (16, 16 * len(COLOURS))
    assert np.abs(luma[8, 8::16].astype(int) - yuv(COLOURS, BT709)[0]).max() <= 1


@pytest.mark.parametrize("pix_fmt", ["rgb24", "gray", "gbrp", "bgr0", "pal8"])
def test_luma_of_pictures_that_are_not_yuv(pix_fmt):
    grey = np.repeat(np.arange(0, 256, 17, dtype=np.uint8)[None, :, None], 16, axis=0).repeat(3, axis=2)
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(grey.repeat(8, axis=1)), format="rgb24")
    luma = decoded(picture.reformat(format=pix_fmt if pix_fmt != "pal8" else "rgb8")).luma()
    expected = np.arange(0, 256, 17) * 219 / 255 + 16
    assert np.abs(luma[8, 4::8] - expected).max() <= (2 if pix_fmt != "pal8" else 24)


def test_luma_is_the_decoders_own_memory():
    picture = patches(yuv(COLOURS, BT709), "yuv444p")
    luma = decoded(picture).luma()
    assert np.shares_memory(luma, np.frombuffer(memoryview(picture.planes[0]), np.uint8))
    del picture
    assert luma.max() > luma.min()


def test_small_pictures_average_what_they_replace():
    fine = np.zeros((64, 64, 3), np.uint8)
    fine[::2] = 255  # stripes that point sampling would turn black or white
    small = decoded(av.VideoFrame.from_ndarray(fine, format="rgb24")).rgb(16, 16)
    assert np.abs(small.astype(int) - 128).max() <= 2


def test_hdr_reference_white_becomes_white():
    nits = np.array([0, 5, 20, 50, 100, 203, 1000])
    ratio = (nits / 10000) ** (2610 / 16384)
    code = ((3424 / 4096 + 2413 / 128 * ratio) / (1 + 2392 / 128 * ratio)) ** (2523 / 32)  # SMPTE ST 2084
    codes = np.stack([np.rint(code * 876 + 64), np.full(7, 512), np.full(7, 512)]).astype(np.uint16)
    picture = patches(codes, "yuv444p10le")
    picture.colorspace, picture.color_range, picture.color_trc, picture.color_primaries = 9, 1, 16, 9
    rgb = decoded(picture).rgb()[8, 8::16].astype(int)
    display = np.clip(nits / 203, 0, 1) ** (1 / 2.4) * 255  # BT.1886
    assert np.abs(rgb - display[:, None]).max() <= 4


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_rectangle_upright_is_the_same_pixels_as_stored(rotation, mirrored):
    orientation = Orientation(rotation, mirrored)
    stored = np.arange(12 * 20).reshape(12, 20)
    upright = orientation.apply(stored)
    x, y, width, height = 2, 3, 5, 4
    sx, sy, sw, sh = orientation.stored_rectangle((x, y, width, height), (20, 12))
    assert np.array_equal(orientation.apply(stored[sy : sy + sh, sx : sx + sw]), upright[y : y + height, x : x + width])
