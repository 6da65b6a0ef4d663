"""make tiny: its settings go with the recipes, and curation keeps its world whole, with the captions it came with."""

import json

import pyarrow.parquet as pq
import pytest

from jobs import curate
from jobs.tiny import settings_for
from model.config import load_preset
from pipelines.synthesis.plain import render_plain
from pipelines.training.curriculum.recipe import STAGES
from pipelines.training.curriculum.resolve import load_stage

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("gpu", [False, True])
def test_every_stage_is_set_and_reads_few_caches(gpu):
    stages = {name: load_stage(name, load_preset("tiny"), ("workers=0", *settings_for(gpu))) for name in STAGES}
    assert all(stage.steps and stage.sizes in ((64,), ()) for stage in stages.values())
    assert len({stage.latents.model_dump_json() for name, stage in stages.items() if name != "codecs"}) == 2
    assert all(stage.flow.shift == 3 for stage in stages.values())
    joint = stages["joint"].mix
    assert sum(joint[task] for task in ("v2a", "a2v", "i2v")) == pytest.approx(0.25, abs=0.05)
    assert joint["t2av"] == max(joint.values())


def test_no_film_is_left_out_and_each_keeps_its_own_captions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    films = set(render_plain("world", 6))
    assert curate.main(["--input", "world", "--output", "data", "--recipe", "plain", "--no-tracking"]) == 0
    rows = pq.read_table("data/datasets/plain/manifest.parquet").to_pylist()
    told = {json.loads((tmp_path / "world" / f"{film}.json").read_text())["captions"]["short"] for film in films}
    assert {row["caption_short"] for row in rows} == told
    assert len(rows) == 6
    assert all(row["frames"] >= 33 and row["has_audio"] for row in rows)
