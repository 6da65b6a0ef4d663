"""Still pictures: probed before they are unpacked, read upright, written so that a rerun gives the same bytes."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from skyreels.media.container import check_file_bytes, check_pixels
from skyreels.media.errors import MediaError
from skyreels.media.facts import ImageInfo
from skyreels.media.limits import DEFAULT_LIMITS, MediaLimits
from skyreels.media.sniff import IMAGES, sniff

_EXIF_ORIENTATION = 0x0112
# What Pillow's decoders raise for bytes they cannot make sense of.
PILLOW_ERRORS = (
    Image.DecompressionBombError,
    UnidentifiedImageError,
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    struct.error,
    zlib.error,
)


def probe_image(path: str | Path, limits: MediaLimits = DEFAULT_LIMITS) -> ImageInfo:
    """Size and kind of the picture at `path`; pixels are unpacked for PNG alone, which may hold its EXIF after them."""
    with opened(Path(path), limits) as image:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
        width, height = image.size
        if orientation in (5, 6, 7, 8):
            width, height = height, width
        kind = (image.format or "unknown").lower()
        return ImageInfo(format=kind, width=width, height=height, mode=image.mode, exif_orientation=orientation)


def read_image(path: str | Path, limits: MediaLimits = DEFAULT_LIMITS) -> np.ndarray:
    """(H, W, 3) uint8 sRGB of the picture at `path`, EXIF orientation applied, transparency laid over black."""
    with opened(Path(path), limits) as image:
        ImageOps.exif_transpose(image, in_place=True)  # no copy of what stands upright
        upright: Image.Image = image
        if upright.mode.startswith("I;16"):  # Pillow would clip 16-bit grey at 255 instead of scaling it
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        upright = opaque(upright)
        return np.asarray(upright if upright.mode == "RGB" else upright.convert("RGB"))


def opaque(image: Image.Image) -> Image.Image:
    """The picture with its transparency laid over black."""
    if "A" not in image.mode and "transparency" not in image.info:
        return image
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "black"), rgba)


def write_image(path: str | Path, picture: np.ndarray, *, quality: int = 92) -> None:
    """Write (H, W, 3) or (H, W) uint8 as PNG or JPEG, by the suffix of `path`, without metadata."""
    kind = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(Path(path).suffix.lower())
    if kind is None:
        raise ValueError(f"write_image({path}): the suffix must be .png, .jpg or .jpeg")
    Path(path).write_bytes(encode_image(picture, kind, quality=quality))


def encode_image(picture: np.ndarray, kind: str, *, quality: int = 92) -> bytes:
    """(H, W, 3) or (H, W) uint8 as "PNG" or "JPEG"."""
    buffer = io.BytesIO()
    options = {"quality": quality, "subsampling": 0} if kind == "JPEG" else {"compress_level": 6}
    Image.fromarray(picture).save(buffer, kind, **options)
    return buffer.getvalue()


@contextmanager
def opened(path: Path, limits: MediaLimits) -> Iterator[Image.Image]:
    """The picture, header read only, by the one decoder its magic bytes name."""
    kind = sniff(path)
    if kind not in IMAGES:
        raise MediaError("not_an_image", "Probe and decode it as video or sound.", f"{path.name} is {kind}")
    check_file_bytes(path, limits)
    try:
        with warnings.catch_warnings():
            # Pillow only warns about pictures of 90 to 180 megapixels; our own limit is checked below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=[kind.upper()])
        with image:
            check_pixels(*image.size, limits, path)
            yield image
    except PILLOW_ERRORS as error:
        bomb = isinstance(error, Image.DecompressionBombError)
        raise MediaError(
            "too_many_pixels" if bomb else "truncated" if "truncated" in str(error) else "unreadable",
            "Open it in an image editor and save it again." if not bomb else "Scale it down.",
            f"{path.name}: {error}",
        ) from error
