"""A contact sheet: what a model makes of prompts, frame by frame with the sound below, beside the words.

    python -m pipelines.evaluation.report.sheet --model model/shipped/tiny --output docs/images/contact-sheet.png

The prompts are the first of the development seeds in combinations that training never saw; none is picked.
"""

import argparse
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from model.generator import Generator
from pipelines.evaluation.clips import Clip
from pipelines.evaluation.films import DEVELOPMENT_SEED, examples
from pipelines.evaluation.make import format_of

SHOWN = 6  # frames of a clip
SCALE = 2
WORDS = 240  # pixels left of the frames
WAVE = 20  # pixels below them
INK, PAPER = (32, 32, 32), (255, 255, 255)


def contact_sheet(clips: Sequence[tuple[str, Clip]]) -> Image.Image:
    """A row for every (prompt, clip)."""
    rows = [_row(prompt, clip) for prompt, clip in clips]
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), PAPER)
    for number, row in enumerate(rows):
        sheet.paste(row, (0, number * row.height))
    return sheet


def _row(prompt: str, clip: Clip) -> Image.Image:
    assert clip.frames is not None
    places = np.linspace(0, len(clip.frames) - 1, SHOWN).round().astype(int)
    frames = [Image.fromarray(clip.frames[place]) for place in places]
    width, height = (SCALE * side for side in frames[0].size)
    row = Image.new("RGB", (WORDS + SHOWN * (width + 4), height + WAVE + 8), PAPER)
    for number, frame in enumerate(frames):
        row.paste(frame.resize((width, height), Image.Resampling.NEAREST), (WORDS + number * (width + 4), 4))
    draw = ImageDraw.Draw(row)
    draw.multiline_text((8, 12), textwrap.fill(prompt, 30), INK, ImageFont.load_default(14), spacing=4)
    if clip.audio is not None:
        _draw_wave(draw, clip.audio.mean(0), (WORDS, height + 4, row.width - 4, height + 4 + WAVE))
    return row


def _draw_wave(draw: ImageDraw.ImageDraw, sound: np.ndarray, box: tuple[int, int, int, int]) -> None:
    """The loudest sample of every column, full height at half of full scale."""
    left, top, right, bottom = box
    middle, half = (top + bottom) / 2, (bottom - top) / 2
    for x, part in zip(range(left, right), np.array_split(np.abs(sound), right - left), strict=True):
        loud = min(1.0, 2 * float(part.max(initial=0.0))) * half
        draw.line((x, middle - loud, x, middle + loud), (70, 110, 170))


def _made(model: Path, count: int) -> Iterator[tuple[str, Clip]]:
    generator = Generator.from_pretrained(str(model))
    for seed, example in enumerate(examples(DEVELOPMENT_SEED, count, format_of(generator))):
        made = generator.render(generator.prepare(example.truth.prompt, seed=seed))
        audio = None if made.audio is None else made.audio.float().numpy()
        yield example.truth.prompt, Clip(made.frames, made.clip.fps, audio)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.evaluation.report.sheet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, required=True, help="folder of a model")
    parser.add_argument("--output", type=Path, required=True, help="a .png")
    parser.add_argument("--count", type=int, default=8, help="prompts (default: %(default)s)")
    arguments = parser.parse_args(argv)
    contact_sheet(list(_made(arguments.model, arguments.count))).save(arguments.output, optimize=True)
    print(f"sheet     {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
