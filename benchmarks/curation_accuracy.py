"""How well curation finds what was planted: render a world with exact ground truth, curate it, compare.

    python benchmarks/curation_accuracy.py                     80 files, about three minutes on two cores
    python benchmarks/curation_accuracy.py --films 144 --seed 5 --keep /tmp/accuracy

Cuts count as found within one frame; fades and dissolves when the spans overlap. A planted fault counts as found
when the file breaks one of the recipe's rules against that fault (letterbox: when the bars are cropped away); any other
file that the recipe rejects is a false alarm. Exits 1 when a figure misses its target.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pipelines.curation.filters import Rule
from pipelines.curation.pipeline import Options, curate
from pipelines.curation.pool.plan import read_plan
from pipelines.curation.pool.read import read_pool
from pipelines.curation.recipe import Recipe, load_recipe
from pipelines.curation.records import Kind
from pipelines.dataset.tables import Row, decode
from pipelines.synthesis.__main__ import main as render
from pipelines.synthesis.world import GROUND_TRUTH_FILES
from skyreels.storage import Storage

FPS = 24
DUPLICATE = {"exact", "perceptual", "semantic"}
OVERLAY = ("content:visual.watermark_area", "content:visual.text_area", "content:visual.subtitle_fraction")
REASONS: Mapping[str, tuple[str, ...]] = {
    "blur": ("basic:visual.sharpness",),
    "over-exposed": ("basic:visual.blown_fraction",),
    "under-exposed": ("basic:visual.contrast",),
    "static": ("motion:visual.local_change", "motion:visual.motion"),
    "shake": ("motion:visual.shake",),
    "repeated-frames": ("motion:visual.repeated_fraction",),
    "watermark": OVERLAY,
    "text-overlay": OVERLAY,
    "subtitles": OVERLAY,
    "audio-noise": ("audio:audio.snr_db",),
    "audio-clipped": ("audio:audio.clipping_ratio",),
    "audio-silent": ("audio:audio.silence_ratio", "audio:audio.dropout_s", "audio:audio.mean_volume_db"),
    "audio-low-bandwidth": ("audio:audio.bandwidth_hz",),
}
SHIFTED = ("av-late", "av-early")  # judged by the offset that was measured


@dataclass(frozen=True)
class Figure:
    name: str
    value: float
    target: str
    holds: bool
    detail: str = ""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=GROUND_TRUTH_FILES)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--keep", type=Path, help="leave the world and the data here")
    arguments = parser.parse_args(argv)
    with TemporaryDirectory(prefix="skyreels-accuracy-") as folder:
        root = arguments.keep or Path(folder)
        world, output = root / "world", root / "data"
        if not (world / "truth.jsonl").exists():
            render(["--output", str(world), "--films", str(arguments.films), "--seed", str(arguments.seed)])
        recipe = load_recipe(arguments.recipe)
        curate([str(world)], str(output), recipe, Options(quiet=True))
        figures = measure(world, output, recipe)
    print_table(figures)
    return 0 if all(figure.holds for figure in figures) else 1


def measure(world: Path, output: Path, recipe: Recipe) -> list[Figure]:
    """Every figure, from the truth of a world and the tables of its curation."""
    truth = [json.loads(line) for line in (world / "truth.jsonl").read_text().splitlines()]
    found = _Found.read(output, recipe)
    return [
        _cuts(truth, found),
        _transitions(truth, found),
        *_faults(truth, found),
        _false_alarms(truth, found),
        _duplicates(truth, found),
        *_offsets(truth, found),
        _classes(truth, found),
    ]


@dataclass(frozen=True)
class _Found:
    """By file name: the source's row, its clips' rows, and why clips were rejected; and the recipe's rules.

    A clip is rejected for the first rule that it breaks, so whether a fault was found is asked of the rules.
    """

    sources: dict[str, Row]
    clips: dict[str, list[Row]]
    reasons: dict[str, set[str]]
    rules: list[Rule]

    @classmethod
    def read(cls, output: Path, recipe: Recipe) -> "_Found":
        root = Storage(str(output))
        pool = read_pool(root.sub("pool"), read_plan(root.sub("pool"), recipe.extract))
        sources = {row["source_id"]: row for row in pool.sources.to_pylist()}
        name_of = {source_id: Path(row["uri"]).name for source_id, row in sources.items()}
        clips: dict[str, list[Row]] = {name: [] for name in name_of.values()}
        for row in pool.clips.to_pylist():
            clips[name_of[row["source_id"]]].append(row)
        reasons: dict[str, set[str]] = {name: set() for name in name_of.values()}
        rejects = decode(root.read(f"datasets/{recipe.name}/rejects.parquet")).to_pylist()
        for row in rejects:
            if row["stage"] != "segment":
                reasons[name_of[row["source_id"]]].add(row["reason"])
        rules = [rule for rule in recipe.filters.values() if rule is not None]
        return cls({name_of[k]: row for k, row in sources.items()}, clips, reasons, rules)


def _cuts(truth: Sequence[Row], found: _Found) -> Figure:
    hits = planted = claimed = 0
    for row in _films(truth):
        true = [cut["time"] for cut in row["cuts"] if cut["kind"] == "cut"]
        seen = found.sources[row["file"]]["cuts_s"]
        hits += sum(any(abs(a - b) <= 1.01 / FPS for b in seen) for a in true)
        planted, claimed = planted + len(true), claimed + len(seen)
    return _f1("hard cuts F1 (±1 frame)", hits, planted, claimed, 0.95)


def _transitions(truth: Sequence[Row], found: _Found) -> Figure:
    hits = planted = claimed = 0
    for row in _films(truth):
        true = [(c["first_frame"] / FPS, c["end_frame"] / FPS) for c in row["cuts"] if c["kind"] != "cut"]
        seen = [(a, b) for a, b, _ in json.loads(found.sources[row["file"]]["transitions"])]
        hits += sum(any(a < d and c < b for c, d in seen) for a, b in true)
        planted, claimed = planted + len(true), claimed + len(seen)
    return _f1("fades and dissolves F1", hits, planted, claimed, 0.8)


def _faults(truth: Sequence[Row], found: _Found) -> Iterable[Figure]:
    for fault in [*REASONS, "letterbox"]:
        rows = [row for row in truth if row["kind"] == fault]
        missed = [row["file"] for row in rows if not _is_found(fault, row["file"], found)]
        if rows:
            share = 1 - len(missed) / len(rows)
            yield Figure(f"found: {fault}", share, "= 1", not missed, f"{len(rows)} files {' '.join(missed)}")


def _is_found(fault: str, name: str, found: _Found) -> bool:
    if fault == "letterbox":
        return all(clip["crop"] is not None for clip in found.clips[name])
    rules = [rule for rule in found.rules if f"{rule.group}:{rule.score}" in REASONS[fault]]
    return any(
        rule.applies(Kind(clip["kind"]), clip) and rule.broken_by(clip) is not None
        for clip in found.clips[name]
        for rule in rules
    )


def _false_alarms(truth: Sequence[Row], found: _Found) -> Figure:
    """Over every file without a planted fault or a twin."""
    clean = [r["file"] for r in truth if r["kind"] not in (*REASONS, *SHIFTED) and r["duplicate_of"] is None]
    originals = {r["duplicate_of"] for r in truth}  # either of two twins may be the one that goes
    methods = {name: DUPLICATE if name in originals else set() for name in clean}
    wrong = {name: found.reasons[name] - methods[name] for name in clean if found.reasons[name] - methods[name]}
    share = len(wrong) / len(clean)
    detail = f"{len(clean)} files " + " ".join(f"{name}: {', '.join(sorted(why))}" for name, why in wrong.items())
    return Figure("false alarms", share, "<= 0.05", share <= 0.05, detail)


def _duplicates(truth: Sequence[Row], found: _Found) -> Figure:
    """Of each original and its twins, all but one are rejected as duplicates."""
    groups: dict[str, list[str]] = {}
    for row in truth:
        if row["duplicate_of"]:
            groups.setdefault(row["duplicate_of"], [row["duplicate_of"]]).append(row["file"])
    left = {name: [m for m in members if not found.reasons[m] & DUPLICATE] for name, members in groups.items()}
    twins = sum(len(members) - 1 for members in groups.values())
    missed = sum(max(0, len(members) - 1) for members in left.values())
    detail = " ".join(member for members in left.values() for member in members[1:])
    return Figure("found: duplicates", 1 - missed / max(twins, 1), "= 1", missed == 0, f"{twins} twins {detail}")


def _offsets(truth: Sequence[Row], found: _Found) -> Iterable[Figure]:
    rows = [row for row in truth if row["kind"] in ("clean-impacts", "av-late", "av-early")]
    errors = []
    for row in rows:
        for clip in found.clips[row["file"]]:
            measured = clip["sync.offset_frames"]
            errors.append(np.inf if measured is None else abs(measured - row["av_offset"] * FPS))
    worst = max(errors, default=np.inf)
    yield Figure("AV offset, worst error (frames)", float(worst), "<= 1", worst <= 1, f"{len(errors)} impact clips")


def _classes(truth: Sequence[Row], found: _Found) -> Figure:
    names = {"sfx": "sound_effect"}
    rows = [row for row in truth if row["media"] == "audio"]
    right = [
        all(
            clip["audio.class"] == names.get(row["audio_class"], row["audio_class"])
            for clip in found.clips[row["file"]]
        )
        for row in rows
    ]
    share = float(np.mean(right)) if right else 1.0
    return Figure("class of sound files", share, ">= 0.8", share >= 0.8, f"{len(rows)} files")


def _films(truth: Sequence[Row]) -> list[Row]:
    return [row for row in truth if row["media"] == "video"]


def _f1(name: str, hits: int, planted: int, claimed: int, target: float) -> Figure:
    value = 2 * hits / max(planted + claimed, 1)
    return Figure(name, value, f">= {target}", value >= target, f"{hits} of {planted} found, {claimed} claimed")


def print_table(figures: Sequence[Figure]) -> None:
    for figure in figures:
        mark = "ok  " if figure.holds else "MISS"
        print(f"{mark} {figure.name:34s} {figure.value:7.3f}  {figure.target:8s} {figure.detail}")


if __name__ == "__main__":
    sys.exit(main())
