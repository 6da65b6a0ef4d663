"""Still pictures: probed before they are unpacked, read upright, written so that a rerun gives the same bytes."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from skyreels.media.container import check_file_bytes
from skyreels.media.errors import MediaError
from skyreels.media.facts import ImageInfo
from skyreels.media.limits import DEFAULT_LIMITS, MediaLimits
from skyreels.media.sniff import IMAGES, sniff

_EXIF_ORIENTATION = 0x0112


def probe_image(path: str | Path, limits: MediaLimits = DEFAULT_LIMITS) -> ImageInfo:
    """Size and kind of the picture at `path` without unpacking its pixels."""
    with _opened(Path(path), limits) as image:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
        width, height = image.size
        if orientation in (5, 6, 7, 8):
            width, height = height, width
        kind = (image.format or "unknown").lower()
        return ImageInfo(format=kind, width=width, height=height, mode=image.mode, exif_orientation=orientation)


def read_image(path: str | Path, limits: MediaLimits = DEFAULT_LIMITS) -> np.ndarray:
    """(H, W, 3) uint8 sRGB of the picture at `path`, EXIF orientation applied, transparency laid over black."""
    with _opened(Path(path), limits) as image:
        try:
            upright = ImageOps.exif_transpose(image)
            if "A" in upright.mode or "transparency" in upright.info:
                rgba = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "black"), rgba)
            return np.asarray(upright.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise MediaError("truncated", "Fetch the picture again: its pixels end early.", str(error)) from error


def write_image(path: str | Path, picture: np.ndarray, *, quality: int = 92) -> None:
    """Write (H, W, 3) or (H, W) uint8 as PNG or JPEG, by the suffix of `path`, without metadata."""
    suffix = Path(path).suffix.lower()
    kind = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(suffix)
    if kind is None:
        raise ValueError(f"write_image({path}): the suffix must be .png, .jpg or .jpeg")
    buffer = io.BytesIO()
    options = {"quality": quality, "subsampling": 0} if kind == "JPEG" else {"compress_level": 6}
    Image.fromarray(picture).save(buffer, kind, **options)
    Path(path).write_bytes(buffer.getvalue())


@contextmanager
def _opened(path: Path, limits: MediaLimits) -> Iterator[Image.Image]:
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
    except (Image.DecompressionBombError, UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        reason = "too_many_pixels" if isinstance(error, Image.DecompressionBombError) else "unreadable"
        raise MediaError(reason, "Open it in an image editor and save it again, smaller.", str(error)) from error
    with image:
        if image.size[0] * image.size[1] > limits.max_pixels:
            raise MediaError(
                "too_many_pixels",
                f"Scale it below {limits.max_pixels} pixels.",
                f"{path.name} is {image.size[0]}x{image.size[1]}",
            )
        yield image
