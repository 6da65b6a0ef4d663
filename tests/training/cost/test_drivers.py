"""What a plan's hours go into, how samples spread, and what would make it cheaper."""

import re

import pytest

from jobs import plan as job
from model.config import load_preset
from pipelines.training.cost import Samples, cluster_of, plan_stage
from pipelines.training.cost.drivers import drivers, hours
from pipelines.training.cost.levers import CODEC, KEPT, LEVERS, RARE, SPARSE, price
from pipelines.training.cost.workloads import stage_items
from pipelines.training.curriculum.resolve import load_stage


def test_hours_of_all_items_are_those_of_the_plan(planned):
    plan = plan_stage(*planned("video-4"))
    assert sum(each.total for each in hours([plan])) == pytest.approx(plan.device_hours, rel=1e-3)
    said = drivers([plan])
    assert "by stage   video-4 100%" in said
    assert re.search(r"665,000  Seaweed-7B.*this plan is [\d.]+ times that", said)


def test_samples_spread_by_their_shares(stage_of):
    """At 480p twice as many as at 256p, none of 2 to 8 s, and at 15 s as many as at 10 and 12 together."""
    spread = Samples(1e6, 1e6, 0, sizes=((256, 1.0), (480, 2.0)), lengths=((10, 1), (12, 1), (15, 2)))
    items = [item for item in stage_items(stage_of("video-4"), 256, spread) if item.task == "t2v"]
    seen = {(i.bucket.size, i.bucket.seconds): i.steps * i.batch for i in items}
    assert {key for key, count in seen.items() if count} == {(s, t) for s in (256, 480) for t in (10, 12, 15)}
    assert seen[480, 15] == pytest.approx(2 * seen[256, 15]) == pytest.approx(2 * seen[480, 10])
    with pytest.raises(
        ValueError, match=r"video-4: .* has no samples at the shares given: name one of the sizes 256, 480"
    ):
        stage_items(stage_of("video-4"), 256, Samples(1e6, 1e6, 0, sizes=((1080, 1.0),)))


def test_spreading_changes_where_steps_are_and_not_how_many_samples_there_are(stage_of):
    even, spread = (
        stage_items(stage_of("video-4"), 256, Samples(1e6, 1e6, 0, lengths=lengths))
        for lengths in ((), ((5, 1), (15, 9)))
    )
    counts = [sum(item.steps * item.batch for item in items if item.bucket.kind != "pair") for items in (even, spread)]
    assert counts[0] == pytest.approx(counts[1], rel=0.05)


@pytest.fixture(scope="module")
def planner():
    cluster = cluster_of("h200", 512)

    def plans(preset, samples):
        data = Samples(0, 1e6, 0, samples.sizes, samples.lengths)
        return [plan_stage(load_stage("video-6", preset, ("sequence_parallel=8",)), cluster, data)]

    return plans


def test_levers_are_priced_by_planning_again(planner):
    said = price(planner, load_preset("v4"), Samples())
    saved = {name: int(share) for name, share in re.findall(r"^  (.+?)  .*?([+-]\d+)%", said, re.MULTILINE)}
    assert set(saved) == {*(lever.name for lever in LEVERS), "all of them"}
    assert -24 < saved[KEPT.name] < -15  # a quarter of attention, which is four fifths
    assert saved[CODEC.name] < -75  # a quarter of the tokens: a sixteenth of attention, a quarter of the rest
    assert -75 < saved[SPARSE.name] < -40
    assert saved[RARE.name] < -20
    assert saved["all of them"] < min(saved[lever.name] for lever in LEVERS)


def test_shares_are_read_and_refused(capsys):
    parsed = job._parser().parse_args(["--sizes", "256=4,1080=1", "--lengths", "5=0.5"])
    assert (parsed.sizes, parsed.lengths) == (((256, 4.0), (1080, 1.0)), ((5.0, 0.5),))
    for words in ("256", "a=1", "256=-1", "256=0"):
        with pytest.raises(SystemExit):
            job._parser().parse_args(["--sizes", words])
        assert "--sizes" in capsys.readouterr().err
