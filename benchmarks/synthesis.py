"""Frames per CPU second of the film studio, part by part: `python benchmarks/synthesis.py`.

One core (OpenCV and the encoder run single-threaded). "set up" solves, records and annotates; "draw" makes the
pixels; "file" is the whole of `write_film`, H.264 and AAC included. Targets are for drawing.
"""

import argparse
import tempfile
import time
from fractions import Fraction

import cv2

from pipelines.synthesis.render import frames
from pipelines.synthesis.sampler import sample_film
from pipelines.synthesis.stage import build
from pipelines.synthesis.studio import render, write_film

TARGETS = {64: 200, 256: 60}  # frames per second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 256, 512], help="square frame sizes, in pixels")
    parser.add_argument("--films", type=int, default=4, help="films per size (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a film (default %(default)s)")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    print(f"{'size':>9} {'set up':>8} {'draw':>8} {'file':>8} {'target':>8} {'ratio':>6}   frames per CPU second")
    for side in arguments.sides:
        films = [
            sample_film(seed, size=(side, side), fps=Fraction(24), seconds=arguments.seconds, shots=1 + seed % 2)
            for seed in range(arguments.films)
        ]
        count = sum(film.frames for film in films)
        started = time.process_time()
        for film in films:
            render(film)
        set_up = time.process_time() - started
        sets = [build(film) for film in films]
        started = time.process_time()
        for ready in sets:
            for _ in frames(ready):
                pass
        draw = time.process_time() - started
        with tempfile.TemporaryDirectory() as folder:
            started = time.process_time()
            for number, film in enumerate(films):
                write_film(film, folder, str(number))
            file = time.process_time() - started
        target = TARGETS.get(side)
        verdict = f"{target:8} {count / draw / target:6.1f}" if target else f"{'-':>8} {'-':>6}"
        print(f"{side:4}x{side:<4} {count / set_up:8.0f} {count / draw:8.0f} {count / file:8.0f} {verdict}")


if __name__ == "__main__":
    main()
