"""How far a call lies outside what the model was trained on: a remark, or a refusal where it is hopeless."""

from collections.abc import Iterator, Sequence

from model.config import Trained
from model.shapes import ClipShape

NEAR = 1.1  # a clip is whole latents, so it is seldom as long as a length that was trained
HOPELESS = 8.0


def remarks_on(clip: ClipShape, trained: Trained, *, picture: bool = True) -> tuple[str, ...]:
    """A sentence for each of length, frame rate and size that lies outside; `picture` False: sound alone is made.

    What the model's folder does not tell is not checked. Raises ValueError for what is 8 times off: such clips are
    noise, and take long.
    """
    return tuple(
        _told(name, asked, seen, unit)
        for name, asked, seen, unit in _asked(clip, trained, picture)
        if asked * NEAR < seen[0] or asked > NEAR * seen[-1]
    )


def _asked(clip: ClipShape, trained: Trained, picture: bool) -> Iterator[tuple[str, float, Sequence[float], str]]:
    """(name, value, least and most that were seen, unit). One picture has no length and no rate."""
    if trained.seconds and clip.frames > 1:
        yield "seconds", clip.seconds, trained.seconds, "s"
    if trained.fps and picture and clip.frames > 1:
        yield "fps", clip.fps, (trained.fps,), "frames per second"
    if trained.sizes and picture:
        yield "size", min(clip.height, clip.width), trained.sizes, "pixels on the short side"


def _told(name: str, asked: float, seen: Sequence[float], unit: str) -> str:
    least, most = seen[0], seen[-1]
    known = f"{least:g}" if least == most else f"{least:g} to {most:g}"
    told = f"{name}: {asked:g} {unit} are asked for, and the model was trained on {known}"
    if asked * HOPELESS < least or asked > HOPELESS * most:
        raise ValueError(f"{told}: it would make noise; ask for something near that")
    return f"{told}: expect less of it, or ask for something near that"
