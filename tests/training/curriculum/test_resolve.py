"""Recipes at every preset's size: what a stage runs with, which cache it reads, how many steps it takes."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import yaml

from model.config import PRESETS as FILES
from model.config import Trained, load_preset
from model.shapes import ClipShape
from pipelines.curation.recipe import load_recipe as load_curation
from pipelines.dataset.reader import Clip
from pipelines.training.curriculum.recipe import STAGES, load_recipe
from pipelines.training.curriculum.resolve import check_cached, load_stage, sampler_for, steps_for
from pipelines.training.data.sampler import SamplerError
from pipelines.training.latents.index import LatentError
from pipelines.training.latents.spec import Bucket, place
from pipelines.training.stages.train import trained_on
from skyreels.config import ConfigError

PRESETS = ("tiny", "small", "base", "v4")
CACHED = [name for name in STAGES if name != "codecs"]


@pytest.fixture(scope="module")
def stages():
    return {name: {stage: load_stage(stage, load_preset(name)) for stage in STAGES} for name in PRESETS}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_recipe_resolves(stages, preset):
    for name, stage in stages[preset].items():
        assert stage.name == name
        assert name == "codecs" or sum(stage.mix.values()) == pytest.approx(1)
        assert stage.engine(100).steps == 100
        assert stage.recipe.slots % (stage.recipe.workers // stage.recipe.sequence_parallel) == 0
        assert stage.preset.transformer.heads % stage.recipe.sequence_parallel == 0


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("stage", CACHED)
def test_a_stage_takes_what_its_cache_holds_for_it(stages, preset, stage):
    found = stages[preset][stage]
    spec = found.latents
    assert set(found.sizes) <= set(spec.sizes)
    assert set(found.lengths) <= set(spec.seconds)
    assert spec.seconds == tuple(sorted(set(spec.seconds)))
    assert {form for form, share in found.settings.captions.items() if share} <= set(spec.captions)
    assert spec.audio or "audio" not in found.streams
    assert all(side % spec.multiple == 0 or preset == "v4" for side in found.sizes)


def test_at_the_papers_size_the_numbers_are_the_papers(stages):
    """1080 is no multiple of 16: a side of that name is 1088 pixels long."""
    for name, stage in stages["v4"].items():
        assert stage.sizes == tuple(sorted(load_recipe(name, load_preset("v4")).sizes))
        assert stage.steps is None
    assert stages["v4"]["video-5"].lengths == (3, 5, 8, 10, 12, 15)
    assert stages["v4"]["joint"].lengths == (5, 8, 10, 12, 15)
    assert Bucket.parse("video-1080p-16x9-5s", stages["v4"]["joint"].latents).height == 1088


def test_presets_change_sizes_and_budgets_alone(stages):
    """What is learned stays: tasks, captions, dropout, what a stage starts from, sparse schedule."""
    for name in STAGES:
        mixes = [stages[preset][name].mix for preset in PRESETS]
        assert mixes.count(mixes[0]) == len(PRESETS)
        for one in ("captions", "dropout", "starts_from", "streams", "fps", "epochs", "freeze", "kind"):
            values = [getattr(stages[preset][name].recipe, one) for preset in PRESETS]
            assert values.count(values[0]) == len(PRESETS), (name, one)


def test_tiny_clips_are_seventeen_frames_of_few_caches(stages):
    tiny = stages["tiny"]
    for name in CACHED:
        shape = ClipShape.from_seconds(tiny[name].lengths[0], 16, 64, 64, tiny[name].preset.video)
        assert tiny[name].lengths == (1,)
        assert shape.latent_frames == 5
    caches = {stage: tiny[stage].latents for stage in CACHED}
    assert len({spec.model_dump_json() for spec in caches.values()}) == 3
    assert caches["video-4"] == caches["audio"] == caches["joint"] == caches["sft-2"]
    assert all(stage.steps for stage in tiny.values())


def test_a_cache_holds_what_any_of_its_stages_needs(stages):
    video = stages["v4"]["video-2"].latents
    assert video == stages["v4"]["video-3"].latents
    assert set(video.kinds) == {"image", "video", "pair"}
    assert (video.stills, video.extensions, video.regions) == (True, 2, 1)
    assert video.references == ()
    assert not video.audio
    assert stages["v4"]["video-6"].latents.references == ("image", "video")
    assert stages["v4"]["sft-1"].latents.references == ("image", "video", "audio")
    assert stages["v4"]["sft-1"].latents.captions == ("structured",)
    assert stages["v4"]["audio"].latents.kinds == ("audio",)
    assert stages["v4"]["keyframes"].latents.refined is not None
    assert stages["v4"]["joint"].latents.refined is None
    assert stages["v4"]["refiner"].latents == stages["v4"]["keyframes"].latents
    assert stages["v4"]["refiner"].latents.regions == 1


def test_a_stage_leaves_alone_what_other_stages_of_its_cache_need(stages):
    second, third = stages["v4"]["video-2"], stages["v4"]["video-3"]
    long = Bucket.parse("video-256p-16x9-15s", third.latents)
    assert third.takes(long)
    assert not second.takes(long)
    assert second.takes(Bucket.parse("image-256p-1x1", second.latents))
    assert stages["tiny"]["audio"].takes(Bucket.parse("video-64p-1x1-1s", stages["tiny"]["audio"].latents))


def test_overrides_hold_for_the_whole_cache_or_for_one_stage():
    tiny = load_preset("tiny")
    both = ["latents=own", "sizes=[256]"]
    assert load_stage("sft-1", tiny, both).latents == load_stage("sft-2", tiny, both).latents
    assert load_stage("sft-1", tiny, both).latents.sizes == (32,)
    one = load_stage("sft-1", tiny, ["sft-1.latents=own", "sft-1.sizes=[256]"])
    assert one.latents.sizes == (32,)
    assert load_stage("sft-2", tiny, ["sft-1.latents=own"]).latents.name == "clips"


def test_the_networks_of_stages(stages):
    branches = {name: stages["tiny"][name].branches for name in CACHED}
    assert {branches[f"video-{number}"] for number in range(1, 7)} == {"video"}
    assert branches["audio"] == "audio"
    assert {branches[name] for name in ("joint", "sft-1", "sft-2", "keyframes")} == {"joint"}
    assert branches["refiner"] == "refiner"


def test_sparsity_rises_to_what_the_preset_samples_with(stages):
    schedule = stages["v4"]["refiner"].sparsity
    assert [schedule.at(step) for step in (0, 29, 30, 60)] == pytest.approx([0, 0, 0.03, 0.06])
    assert schedule.at(10**6) == load_preset("v4").refiner.sparsity
    tiny = stages["tiny"]["refiner"]
    assert tiny.sparsity.at(tiny.steps - 1) == load_preset("tiny").refiner.sparsity
    assert stages["v4"]["joint"].sparsity is None


def test_warm_up_takes_no_more_than_a_tenth_of_a_short_run(stages):
    stage = stages["v4"]["video-1"]
    assert stage.engine(1_000_000).schedule.warmup_steps == 1000
    assert stage.engine(50).schedule.warmup_steps == 5


def test_flow_is_the_presets_unless_the_recipe_says_otherwise(stages):
    assert stages["v4"]["joint"].flow.shift == load_preset("v4").section("flow")["shift"]
    changed = load_stage("joint", load_preset("v4"), ["flow.shift=6", "flow.distribution=uniform"])
    assert (changed.flow.shift, changed.flow.distribution) == (6, "uniform")


@pytest.fixture
def of_sound_alone(tmp_path):
    """A preset whose transformer makes no picture."""
    values = yaml.safe_load((FILES / "tiny.yaml").read_text())
    values["transformer"]["video_channels"] = 0
    path = tmp_path / "deaf.yaml"
    path.write_text(yaml.safe_dump(values))
    return load_preset(path)


def test_tasks_that_need_a_stream_the_stage_lacks_are_left_out_where_the_recipe_allows(caplog):
    tiny = load_preset("tiny")
    with caplog.at_level(logging.WARNING):
        silent = load_stage("lora", tiny, ["streams=[video]"])
    assert caplog.messages == ["lora trains picture alone: without t2av, t2a"]
    both = load_stage("lora", tiny).mix
    assert set(both) == {"t2av", "i2v", "t2v", "t2a", "t2i"}
    assert set(silent.mix) == {"i2v", "t2v", "t2i"}
    assert sum(silent.mix.values()) == pytest.approx(1)
    assert silent.mix["t2v"] / silent.mix["i2v"] == pytest.approx((both["t2av"] + both["t2v"]) / both["i2v"])
    assert set(silent.latents.kinds) == {"image", "video"}
    assert load_stage("lora", tiny, ["streams=[audio]"]).mix == {"t2a": 1}


def test_tasks_that_need_a_stream_the_stage_lacks_are_named_with_what_to_set():
    tiny = load_preset("tiny")
    with pytest.raises(
        ConfigError, match=r"t2av, t2a, .* cannot be learned without sound: set tasks.t2av=0 tasks.t2a=0 "
    ):
        load_stage("joint", tiny, ["streams=[video]"])
    with pytest.raises(ConfigError, match="t2v cannot be learned without picture: set other tasks, or streams="):
        load_stage("lora", tiny, ["streams=[audio]", "tasks.t2a=0", "tasks.t2av=0", "tasks.i2v=0", "tasks.t2i=0"])


def test_a_stage_of_a_stream_that_the_preset_lacks_says_so(of_sound_alone):
    with pytest.raises(ConfigError, match=r"joint trains picture and sound, and .* sound alone .*video_channels is 0"):
        load_stage("joint", of_sound_alone)
    assert load_stage("audio", of_sound_alone).branches == "audio"
    assert load_stage("lora", of_sound_alone, ["streams=[audio]"]).mix == {"t2a": 1}


class StoredSample:
    """A cached sample with all that any task needs."""

    has_audio = extensions = regions = refined = True
    references = ("image", "video", "audio")
    texts = tuple(
        form + suffix for form in ("structured",) for suffix in ("", "+image", "+video", "+audio", "+image_audio")
    )

    def __init__(self, key, bucket):
        self.key, self.bucket, self.kind = key, bucket, bucket.partition("-")[0]


class Index:
    def __init__(self, stage, counts):
        self.buckets = {name: tuple(StoredSample(f"{name}/{i}", name) for i in range(n)) for name, n in counts.items()}
        self.shapes = {name: Bucket.parse(name, stage.latents) for name in counts}


def test_steps_are_set_or_epochs_over_the_samples_there_are():
    stage = load_stage("sft-1", load_preset("v4"), ["slots=2", "tokens_per_slot=4000", "workers=1"])
    index = Index(stage, {"video-720p-16x9-5s": 40, "video-480p-16x9-5s": 7, "audio-5s": 9})
    sampler = sampler_for(stage, index, lambda task, bucket: 1000)
    # 40 clips by 2 x 4; those at 480 px are of no size of this stage, and none of its tasks makes sound alone
    assert sampler.steps_per_epoch == 5
    assert steps_for(stage, sampler) == 3 * 5
    fixed = load_stage("sft-1", load_preset("v4"), ["steps=12"])
    assert steps_for(fixed, sampler) == 12


def test_pictures_alone_teach_an_adapter():
    stage = load_stage("lora", load_preset("v4"))
    sampler = sampler_for(stage, Index(stage, {"image-480p-1x1": 12}), lambda task, bucket: 100)
    assert sampler.mix == {"t2i": 1000}
    drawn = {entry.key for step in range(4) for slot in sampler.draw(step).slots for entry in slot}
    assert len(drawn) == 12
    assert steps_for(stage, sampler) > 0


def test_a_task_without_samples_says_what_it_looked_for():
    stage = load_stage("video-3", load_preset("v4"))
    with pytest.raises(SamplerError, match="edit needs pair samples at 256 px with before, video") as error:
        sampler_for(stage, Index(stage, {"video-256p-1x1-5s": 3, "image-256p-1x1": 2}), lambda task, bucket: 100)
    assert "3 in video-256p-1x1-5s" in str(error.value)


def test_a_model_is_told_what_its_stage_was_trained_on(stages):
    assert trained_on(stages["v4"]["sft-2"]) == Trained(("structured",), (720.0, 1080.0), (5.0625, 15.0625), 16.0)
    assert trained_on(stages["v4"]["audio"]).sizes == ()
    one_length = trained_on(stages["tiny"]["joint"])
    assert (one_length.captions, one_length.sizes, one_length.seconds) == (
        ("short", "long", "structured"), (64.0,), (1.0625,)
    )  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
def test_the_refiner_learns_at_the_shift_it_is_sampled_with(stages, preset):
    assert stages[preset]["refiner"].flow.shift == load_preset(preset).refiner.shift == 1.0


@pytest.mark.parametrize("preset", ["small", "base", "v4"])
def test_no_source_that_would_repeat_pictures_teaches_the_refiner(stages, preset):
    """At 32 frames per second, of pictures shown at the nearest time: 24 a second repeat a quarter, 30 a sixteenth."""
    stage = stages[preset]["refiner"]
    spec = stage.latents
    assert spec == stages[preset]["keyframes"].latents
    for rate, taken in ((24, False), (25, False), (30, True), (30000 / 1001, True), (32, True)):
        size = {"width": 4000, "height": 2250, "frames": round(20 * rate), "fps": rate, "seconds": 20.0}
        clip = Clip(key="c", kind="video", captions={"structured": "x"}, has_audio=True, members={}, **size)
        placed = place(clip, spec, stage.preset.video)
        assert isinstance(placed, list) is taken, (rate, placed)
        shown = np.floor(np.arange(160) / 32 * rate + 1e-9)
        assert bool((np.diff(shown) == 0).mean() < 0.1) is taken
    assert stages[preset]["sft-2"].latents.min_fps_share == 0.7


def test_files_of_the_refiner_s_data_are_large_enough_for_all_that_it_makes(stages):
    """A short side of 1080, at which other recipes stop, fills 960 of 960, 1440 and 2160 pixels."""
    stage = stages["v4"]["refiner"]
    assert stage.recipe.data.curation == stages["v4"]["keyframes"].recipe.data.curation == ("fine",)
    for recipe, sizes in (("sft", {480}), ("fine", {480, 720, 1080})):
        side = load_curation(recipe).extract.cut.max_short_side
        clip = Clip("", "video", side * 16 // 9, side, 30.0, 600, 20.0, True, {"structured": "x"}, {})
        placed = [place(replace(clip, key=f"k{number}"), stage.latents, stage.preset.video) for number in range(30)]
        assert {one[0].bucket.size for one in placed} == sizes


def test_what_no_task_draws_is_left_out_of_the_cache(stages):
    """Regions of clips, which take as long to encode as the clips: video stages inpaint pictures alone."""
    assert stages["v4"]["video-5"].latents.region_kinds == ("image",)
    assert "inpaint" not in stages["v4"]["video-5"].mix
    assert stages["v4"]["joint"].latents.region_kinds == ("image", "video")
    assert stages["v4"]["refiner"].latents.captions == ("structured",)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("stage", CACHED)
def test_the_cache_that_a_stage_asks_for_holds_what_it_draws(stages, preset, stage):
    check_cached(stages[preset][stage], stages[preset][stage].latents, "runs/latents/one")


@pytest.mark.parametrize(
    ("left_out", "told", "undrawn"),
    [
        ({"captions": ("structured",)}, "short captions, long captions", "captions.short=0 captions.long=0"),
        ({"extensions": 0}, "extensions of video samples for extend", "tasks.extend=0"),
        ({"region_kinds": ("image",)}, "regions of video samples for inpaint", "tasks.inpaint=0"),
        ({"stills": False}, "stills of video samples for i2v", "tasks.i2v=0"),
    ],
)
def test_a_cache_without_what_a_recipe_draws_is_refused_with_the_remedy(stages, left_out, told, undrawn):
    stage = stages["tiny"]["joint"]
    with pytest.raises(LatentError) as error:
        check_cached(stage, stage.latents.model_copy(update=left_out), "runs/latents/one")
    assert f"runs/latents/one was made without {told}" in str(error.value)
    assert "jobs/cache.py --stage joint" in str(error.value)
    assert undrawn in str(error.value)


def test_what_may_be_left_out_need_not_be_cached(stages):
    stage = load_stage("joint", load_preset("tiny"), ["optional=[edit, extend]"])
    check_cached(stage, stage.latents.model_copy(update={"extensions": 0}), "runs/latents/one")
