"""`python -m pipelines.synthesis`: fill a folder with labelled films."""

import argparse
import textwrap
from collections.abc import Iterator, Sequence
from fractions import Fraction

import cv2

from pipelines.synthesis.pairs import render_pairs
from pipelines.synthesis.plain import render_plain, render_plain_pairs
from pipelines.synthesis.world import CYCLE, GROUND_TRUTH_FILES, WorldFile, render_world
from skyreels.progress import Progress


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    cv2.setNumThreads(1)
    if arguments.plain or arguments.plain_pairs:
        _write_plain(arguments)
        return
    if arguments.pairs:
        _write_pairs(arguments)
        return

    def progress(entries: list[WorldFile]) -> Iterator[WorldFile]:
        with Progress("rendering", len(entries), "files") as bar:
            for entry in entries:
                yield entry
                bar.update(1, entry.kind)

    rows = render_world(
        arguments.output,
        arguments.films,
        arguments.seed,
        size=arguments.size,
        fps=arguments.fps,
        seconds=arguments.seconds,
        progress=progress,
    )
    clean = sum(row["clean"] for row in rows)
    faulty = sum(row["fault"] is not None for row in rows)
    print(
        f"{len(rows)} files in {arguments.output}: {clean} clean, {faulty} with a planted fault; truth.jsonl tells all"
    )


def _write_plain(arguments: argparse.Namespace) -> None:
    for count, what, rendered in (
        (arguments.plain, "films", render_plain),
        (arguments.plain_pairs, "pairs", render_plain_pairs),
    ):
        if count:
            with Progress("rendering", count, what) as bar:
                for _ in rendered(arguments.output, count, arguments.seed):
                    bar.update(1)
            print(f"{count} plain {what} in {arguments.output}, each with its annotation")


def _write_pairs(arguments: argparse.Namespace) -> None:
    shape = {"size": arguments.size, "fps": arguments.fps, "seconds": arguments.seconds}
    pairs = render_pairs(arguments.output, arguments.pairs, arguments.seed, **shape)
    with Progress("rendering", arguments.pairs, "pairs") as bar:
        for pair in pairs:
            bar.update(1, pair.kind)
    print(f"{arguments.pairs} edit pairs in {arguments.output}: NAME.edit.json tells what changes and where")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.synthesis",
        description="Render a labelled world of films, sounds and pictures: the same seed gives the same bytes.",
        epilog=textwrap.dedent(
            f"""\
            Every file has an annotation beside it (NAME.json: shots, cuts, boxes, audio events, captions), and
            truth.jsonl has one row per file: kind, clean, fault, cuts, duplicate_of, av_offset, audio_class.

            Kinds, in the order they come round ({len(CYCLE)} per turn):
            {textwrap.fill(", ".join(dict.fromkeys(CYCLE)), 100, subsequent_indent=" " * 12, break_on_hyphens=False)}

            Voices are espeak-ng's where it is installed (apt install espeak-ng), else a formant synthesiser's; the
            annotation says which (voice_source), and the bytes differ between the two.

            Examples:
              python -m pipelines.synthesis --output world                       # {GROUND_TRUTH_FILES} files, two turns
              python -m pipelines.synthesis --output big --films 1000 --seed 7 --size 640x360 --seconds 8
              python -m pipelines.synthesis --output pairs --pairs 40            # before, after, masks, instruction
              python -m pipelines.synthesis --output plain --plain 4500          # one subject, one sound, little else
            """
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to fill; made if absent")
    parser.add_argument(
        "--films", type=int, default=GROUND_TRUTH_FILES, metavar="N", help="files (default %(default)s)"
    )
    parser.add_argument(
        "--pairs", type=int, metavar="N", help="make N edit pairs instead: the same film before and after"
    )
    parser.add_argument(
        "--plain", type=int, metavar="N", help="make N short films that a small model can learn instead (128x128)"
    )
    parser.add_argument("--plain-pairs", type=int, metavar="N", help="make N edit pairs of such films instead")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="what to draw (default %(default)s)")
    parser.add_argument("--size", type=_size, default=(256, 256), metavar="WxH", help="pixels, even (default 256x256)")
    parser.add_argument("--fps", type=Fraction, default=Fraction(24), help="frames per second, as 24 or 30000/1001")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a one-shot film (default %(default)s)")
    return parser


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit()) or int(width) % 2 or int(height) % 2 or not int(width) * int(height):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write WIDTHxHEIGHT in even pixels, as 256x256")
    return int(width), int(height)


if __name__ == "__main__":
    main()
