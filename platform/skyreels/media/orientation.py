"""How a stored picture is turned before it is shown."""

import math
from typing import NamedTuple

import numpy as np


class Orientation(NamedTuple):
    """Rotate clockwise by `rotation` degrees (0, 90, 180, 270), then mirror left to right if `mirrored`."""

    rotation: int = 0
    mirrored: bool = False

    @property
    def swaps_sides(self) -> bool:
        return self.rotation in (90, 270)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) after turning; turning back swaps the same way."""
        return (height, width) if self.swaps_sides else (width, height)

    def stored_rectangle(
        self, rectangle: tuple[int, int, int, int], stored_size: tuple[int, int]
    ) -> tuple[int, int, int, int]:
        """(x, y, width, height) in the stored picture of a rectangle given in the upright one."""
        x, y, width, height = rectangle
        upright_width, upright_height = self.size(*stored_size)
        if self.mirrored:
            x = upright_width - x - width
        if self.rotation == 90:
            return y, upright_width - x - width, height, width
        if self.rotation == 180:
            return upright_width - x - width, upright_height - y - height, width, height
        if self.rotation == 270:
            return upright_height - y - height, x, height, width
        return x, y, width, height

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """`picture` (H, W, ...) turned; a view, not a copy."""
        turned = np.rot90(picture, k=-self.rotation // 90) if self.rotation else picture
        return turned[:, ::-1] if self.mirrored else turned


def orientation_of(matrix: np.ndarray | None) -> Orientation:
    """Orientation for an ISO 14496-12 display matrix (9 int32: a b u c d v x y w, row vectors), rounded to 90 degrees.

    A point (p, q), y down, goes to (a p + c q, b p + d q): a clockwise turn by t has a = d = cos t, b = -c = sin t,
    and a mirror negates a and c.
    """
    if matrix is None:
        return Orientation()
    a, b, c, d = (float(matrix[i]) for i in (0, 1, 3, 4))
    mirrored = a * d - b * c < 0
    clockwise = math.degrees(math.atan2(b, -a if mirrored else a))
    return Orientation(round(clockwise / 90) * 90 % 360, mirrored)
