"""Still pictures through curation against the plain loop that makes the same files, both in CPU seconds, in one run.

    python -m benchmarks.scale_pictures [--pictures 512] [--short-side 360] [--folder FOLDER]

ours   planned parts through `extract_in_process` (probe, one decode, every score, hash, the cut, shard, tables,
       commit; the sandboxed child counts) and then the descriptor of every picture, as the embedding layer asks for it.
plain  per picture: read, decode, resize, encode at the recipe's quality, add to a tar. The files are the same bytes.

Pictures are rendered at 640x480 with sensor noise, which makes JPEGs of the size of photographs. The child and all
imports are up before the clock starts, as in a worker that has taken its first part.
"""

import argparse
import io
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import psutil

from benchmarks.scale_figures import Figure
from pipelines.curation.annotators import EmbeddingWorker
from pipelines.curation.pool.cut import fitted
from pipelines.curation.pool.extract import extract_in_process
from pipelines.curation.pool.plan import Plan, make_parts
from pipelines.curation.pool.read import read_pool
from pipelines.curation.recipe import Recipe, load_recipe
from pipelines.curation.records import Source
from pipelines.curation.sources.find import find_sources
from pipelines.dataset.tables import Row, members_of
from pipelines.synthesis.render import frames
from pipelines.synthesis.sampler import sample_film
from pipelines.synthesis.stage import build
from skyreels.media.image import encode_image, read_image, write_image
from skyreels.shards import read_member
from skyreels.storage import Storage

SIZE = (640, 480)
_NOISE = 3.0  # levels
_QUALITY = 90
_FILMS = 8


@dataclass(frozen=True)
class PictureCost:
    """CPU seconds for that many pictures of 640x480."""

    pictures: int
    ours_s: float
    plain_s: float

    @property
    def per_second(self) -> float:
        return self.pictures / self.ours_s

    @property
    def ratio(self) -> float:
        return self.ours_s / self.plain_s


def measure_pictures(pictures: int = 512, short_side: int = 360, folder: Path | None = None) -> PictureCost:
    """The cost of curating `pictures` rendered pictures, or those in `folder`, cut to `short_side` pixels."""
    cv2.setNumThreads(1)
    recipe = load_recipe("images-256", (f"extract.cut.max_short_side={short_side}",))
    with tempfile.TemporaryDirectory(prefix="skyreels-pictures-") as temporary:
        place = Path(temporary)
        if folder is None:
            folder = _rendered(place / "pictures", pictures)
        sources = find_sources([str(folder)])
        _curate(sources[:16], recipe, Storage(str(place / "warm")))
        _plain(sources[:16], recipe, place / "warm.tar")
        with _cpu_seconds() as ours:
            clips = _curate(sources, recipe, Storage(str(place / "pool")))
        with _cpu_seconds() as plain:
            _plain(sources, recipe, place / "plain.tar")
        files = [read_member(Storage(str(place / "pool")), members_of(clip)["jpg"]) for clip in clips]
        if sorted(files) != sorted(_contents(place / "plain.tar")):
            raise SystemExit("the plain loop made other files: the two must do the same work")
    return PictureCost(len(sources), ours[0], plain[0])


def measure(folder: Path) -> Iterator[Figure]:
    """The section `pictures`: cut to 360 lines, and at their own size."""
    for short_side in (360, SIZE[1]):
        found = measure_pictures(short_side=short_side, folder=_rendered(folder / "pictures", 512))
        detail = f"{found.ours_s / found.pictures * 1e3:.1f} ms against {found.plain_s / found.pictures * 1e3:.1f}"
        what = f"pictures of 640x480 cut to {short_side} lines"
        yield Figure(f"{what}, CPU over a plain loop", found.ratio, most=2.5, detail=detail)
        yield Figure(what, found.per_second, least=40, unit="/s/core")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=512)
    parser.add_argument("--short-side", type=int, default=360, help="of what is written (default %(default)s)")
    parser.add_argument("--folder", type=Path, help="pictures of one's own")
    arguments = parser.parse_args()
    found = measure_pictures(arguments.pictures, arguments.short_side, arguments.folder)
    sys.stdout.write(
        f"{found.pictures} pictures: {found.per_second:.0f} pictures/s/core (target >= 40), "
        f"{found.ratio:.2f} times the plain loop (target <= 2.5); "
        f"{found.ours_s / found.pictures * 1e3:.1f} and {found.plain_s / found.pictures * 1e3:.1f} ms each\n"
    )


def _rendered(folder: Path, count: int) -> Path:
    """Pieces of a few rendered pictures, each with noise of its own; made where they are not there."""
    if folder.exists():
        return folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    large = (SIZE[0] * 5 // 4, SIZE[1] * 5 // 4)
    seen = [
        next(frames(build(sample_film(seed, size=large, seconds=1.0, shots=1, style="natural"))))
        for seed in range(_FILMS)
    ]
    for index in range(count):
        x, y = (int(rng.integers(0, whole - part)) for whole, part in zip(large, SIZE, strict=True))
        piece = seen[index % _FILMS][y : y + SIZE[1], x : x + SIZE[0]]
        noisy = np.clip(piece + rng.normal(0, _NOISE, piece.shape), 0, 255).astype(np.uint8)
        write_image(folder / f"picture-{index:05d}.jpg", noisy, quality=_QUALITY)
    return folder


def _curate(sources: list[Source], recipe: Recipe, pool: Storage) -> list[Row]:
    """Into a pool, with the descriptor of every picture; the clips that were cut."""
    plan = Plan(tuple(make_parts(sources, recipe.extract)))
    for _ in extract_in_process(plan.parts, recipe.extract, pool):
        pass
    clips = read_pool(pool, plan).clips.to_pylist()
    answers = EmbeddingWorker(recipe.embedding, pool)(clips)
    if len(answers) != len(sources) or any(answer["error"] for answer in answers):
        raise SystemExit("not every picture was curated")
    return clips


def _plain(sources: list[Source], recipe: Recipe, path: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for index, source in enumerate(sources):
            rgb = read_image(source.uri)
            size = fitted(rgb.shape[1], rgb.shape[0], recipe.extract.cut)
            if size != (rgb.shape[1], rgb.shape[0]):
                rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
            data = encode_image(rgb, "JPEG", quality=recipe.extract.cut.image_quality)
            header = tarfile.TarInfo(f"{index:09d}.jpg")
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))


def _contents(path: Path) -> list[bytes]:
    with tarfile.open(path) as tar:
        return [tar.extractfile(member).read() for member in tar]


@contextmanager
def _cpu_seconds() -> Iterator[list[float]]:
    """A list that holds, after the block, the CPU seconds of this process and its children, ended ones too."""
    spent: list[float] = []
    before = _used_s()
    yield spent
    spent.append(_used_s() - before)


def _used_s() -> float:
    ended, now = os.times(), [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return time.process_time() + ended.children_user + ended.children_system + sum(t.user + t.system for t in now)


if __name__ == "__main__":
    main()
