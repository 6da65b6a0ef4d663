"""Media for `benchmarks/curation.py`: rendered, or put together from what was rendered; same seeds, same files."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from shutil import copyfile

import av
import cv2

from pipelines.synthesis.sampler import sample_film
from pipelines.synthesis.studio import write_film

_FPS = Fraction(24)


def render_films(folder: Path, count: int, size: tuple[int, int], seconds: float, shots: int) -> list[Path]:
    """`count` films of textured, moving scenes with sound. Films that are there already are kept."""
    cv2.setNumThreads(1)
    paths = []
    for seed in range(1, count + 1):
        path = folder / f"film-{size[1]}p-{seconds:g}s-{seed:02d}.mp4"
        if not path.exists():
            film = sample_film(seed, size=size, fps=_FPS, seconds=seconds, shots=shots, style="natural")
            write_film(film, folder, path.stem)
        paths.append(path)
    return paths


def small_clips(folder: Path, count: int, films: int = 8) -> list[Path]:
    """`count` sources of one 5 s shot at 640x360: copies of a few films under names of their own."""
    rendered = render_films(folder / "rendered", films, (640, 360), 5.0, shots=1)
    clips = folder / "clips"
    clips.mkdir(parents=True, exist_ok=True)
    paths = [clips / f"clip-{index:03d}.mp4" for index in range(count)]
    for index, path in enumerate(paths):
        copyfile(rendered[index % films], path)
    return paths


def long_video(folder: Path, minutes: int) -> Path:
    """`minutes` of H.264 and AAC at 320x180: one rendered minute, its packets repeated with later times."""
    path = folder / f"long-{minutes}min.mp4"
    if path.exists():
        return path
    minute = render_films(folder, 1, (320, 180), 60.0, shots=12)[0]
    with av.open(str(path), "w") as target:
        for repeat in range(minutes):
            with av.open(str(minute)) as source:
                if repeat == 0:
                    streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
                target.mux(_shifted(source, streams, repeat * 60))
    return path


def _shifted(source: av.container.InputContainer, streams: dict, seconds: int) -> Iterator[av.Packet]:
    """Every packet of `source`, `seconds` later, bound for the target's streams."""
    for packet in source.demux():
        priming = packet.stream.type == "audio" and packet.dts is not None and packet.dts < 0
        if packet.dts is None or (priming and seconds > 0):  # the empty packet that ends a stream; the encoder's delay
            continue
        offset = round(seconds / packet.time_base)
        packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
        packet.stream = streams[packet.stream.index]
        yield packet
