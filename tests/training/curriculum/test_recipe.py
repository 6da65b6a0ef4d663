"""The shipped recipes against the paper's table, and what overrides and errors do."""

import pytest

from model.config import load_preset
from pipelines.training.curriculum.recipe import GROUPS, RECIPES, STAGES, StageRecipe, load_recipe, shares, stages_of
from pipelines.training.curriculum.resolve import load_stage
from pipelines.training.tasks import TASKS
from skyreels.config import ConfigError, build, read_yaml

# SkyReels-V4, table 1: size, seconds, images, clips, epochs; None where the paper is silent.
PAPER = {
    "video-1": ([256], None, 3e9, 0, 3),
    "video-2": ([256], (2, 10), 1e9, 4e8, 3),
    "video-3": ([256], (2, 15), 1e9, 4e8, 2),
    "video-4": ([256, 480], (2, 15), 1e8, 1e8, 2),
    "video-5": ([480, 720, 1080], (3, 15), 5e7, 5e7, 2),
    "video-6": ([480, 720, 1080], (3, 15), 2e7, 5e7, 2),
    "joint": ([720, 1080], (5, 15), 0, 2.5e7, 2),  # half of the video data
    "sft-1": ([720, 1080], (5, 15), 0, 5e6, 3),
    "sft-2": ([720, 1080], (5, 15), 0, 1e6, 3),
}
FIVE_PERCENT_EACH = {"image_inpaint": 0.05, "i2v": 0.05, "extend": 0.05, "edit": 0.05}
ADDED = ("v2a", "a2v", "i2v", "start_end", "keyframes_at", "extend", "inpaint", "edit")
REFERENCES = ("image_ref", "video_ref", "audio_ref", "image_audio_ref")


def shipped(name: str) -> StageRecipe:
    """As the YAML says it, without any preset."""
    return build(StageRecipe, read_yaml(RECIPES / f"{name}.yaml"), name)


def test_every_stage_has_a_recipe():
    assert [shipped(name).name for name in STAGES] == list(STAGES)


@pytest.mark.parametrize("name", PAPER)
def test_sizes_lengths_data_and_epochs_are_the_papers(name):
    sizes, seconds, images, clips, epochs = PAPER[name]
    recipe = shipped(name)
    assert list(recipe.sizes) == sizes
    assert seconds is None or (recipe.seconds.min, recipe.seconds.max) == seconds
    assert (recipe.data.images, recipe.data.clips, recipe.epochs) == (images, clips, epochs)
    assert recipe.fps == 16


def test_the_mixes_are_the_papers():
    mixes = {name: shares(shipped(name).tasks) for name in STAGES}
    assert mixes["video-1"] == {"t2i": 1}
    assert mixes["video-2"].keys() == {"t2i", "t2v"}
    for name in ("video-3", "video-4", "video-5"):
        assert {task: mixes[name][task] for task in FIVE_PERCENT_EACH} == pytest.approx(FIVE_PERCENT_EACH)
        assert mixes[name]["t2i"] + mixes[name]["t2v"] == pytest.approx(0.8)
    assert mixes["video-6"] == pytest.approx({"image_ref": 0.2, "video_ref": 0.2, "t2v": 0.6})
    assert mixes["audio"] == {"t2a": 1}
    assert mixes["joint"].keys() == {"t2v", "t2av", "t2a", *ADDED}
    paper = shares({task: share for task, share in shipped("joint").tasks.items() if task not in ADDED})
    assert paper == pytest.approx({"t2av": 0.5, "t2v": 0.3, "t2a": 0.2})
    for name in ("sft-1", "sft-2"):
        paper = shares({task: share for task, share in shipped(name).tasks.items() if task not in ADDED})
        assert paper["t2av"] == pytest.approx(0.8)
        assert sum(paper[task] for task in REFERENCES) == pytest.approx(0.2)
        assert mixes[name].keys() == {"t2av", *REFERENCES, *ADDED}


@pytest.mark.parametrize("name", ["joint", "sft-1", "sft-2"])
def test_what_we_add_is_a_small_part(name):
    mix = shares(shipped(name).tasks)
    assert 0.1 <= sum(mix[task] for task in ADDED) <= 0.15


def test_every_task_is_taught_by_some_stage_and_those_with_sound_together_with_it():
    taught = {task for name in STAGES for task in shares(shipped(name).tasks)}
    assert taught == TASKS.keys()
    with_sound = {task for name in ("joint", "sft-1") for task in shares(shipped(name).tasks)}
    assert {task for task, made in TASKS.items() if made.cross_modal} <= with_sound


@pytest.mark.parametrize("name", [name for name in STAGES if name != "codecs"])
def test_shares_are_written_to_sum_to_one(name):
    recipe = shipped(name)
    assert sum(recipe.tasks.values()) == pytest.approx(1)
    assert sum(recipe.captions.values()) == pytest.approx(1)


def test_sound_is_up_to_fifteen_seconds_of_hundreds_of_thousands_of_hours():
    audio = shipped("audio")
    assert audio.seconds.max == 15
    assert 1e5 <= audio.data.hours < 1e6
    assert audio.epochs == 3


def test_the_last_stages_read_structured_captions_alone():
    for name in ("sft-1", "sft-2", "keyframes", "refiner"):
        assert shares(shipped(name).captions) == {"structured": 1}
    for name in ("video-1", "video-3", "audio"):
        assert shares(shipped(name).captions).keys() == {"short", "long", "structured"}


def test_rates_are_the_public_ones():
    """Ovi: 1e-4 from scratch, 5e-5 for fusion. FastVideo's sparse fine-tuning: 1e-6, 0.03 more every 30 steps."""
    assert shipped("audio").optimizer.learning_rate == shipped("video-1").optimizer.learning_rate == 1e-4
    assert shipped("joint").optimizer.learning_rate == 5e-5
    refiner = shipped("refiner")
    assert refiner.optimizer.learning_rate == 1e-6
    assert (refiner.sparsity.start, refiner.sparsity.rise, refiner.sparsity.every) == (0, 0.03, 30)
    assert all(shipped(name).dropout.text == 0.1 for name in STAGES)


def test_every_stage_starts_from_stages_before_it():
    for place, name in enumerate(STAGES):
        for alternatives in shipped(name).starts_from:
            assert set(alternatives) <= set(STAGES[:place])
    assert shipped("joint").starts_from == (("video-6",), ("audio",))
    assert shipped("sft-1").starts_from == (("joint",),)
    assert shipped("sft-2").starts_from == (("sft-1",),)


def test_groups_of_stages():
    assert stages_of("sft") == ("sft-1", "sft-2")
    assert stages_of("video") == tuple(f"video-{number}" for number in range(1, 7))
    assert stages_of("all") == STAGES
    assert stages_of("joint") == ("joint",)
    with pytest.raises(ConfigError, match="did you mean 'sft-1'"):
        stages_of("sft1")
    assert not GROUPS.keys() & set(STAGES)


def test_overrides_reach_every_level_and_win_over_the_preset():
    tiny = load_preset("tiny")
    overrides = ("steps=7", "optimizer.learning_rate=3e-4", "tasks.v2a=0.1", "captions.short=0.5", "seconds.max=9")
    recipe = load_recipe("joint", tiny, overrides)
    assert recipe.steps == 7
    assert recipe.optimizer.learning_rate == 3e-4
    assert recipe.optimizer.betas == (0.9, 0.95)
    assert recipe.tasks["v2a"] == 0.1
    assert recipe.captions["short"] == 0.5
    assert (recipe.seconds.min, recipe.seconds.max) == (5, 9)


def test_an_override_with_a_stage_before_the_key_is_for_that_stage_alone():
    tiny = load_preset("tiny")
    overrides = ("steps=7", "joint.steps=400", "sft-1.tasks.t2av=0.5")
    assert load_recipe("joint", tiny, overrides).steps == 400
    assert load_recipe("sft-1", tiny, overrides).steps == 7
    assert load_recipe("sft-1", tiny, overrides).tasks["t2av"] == 0.5
    assert load_recipe("sft-2", tiny, overrides).tasks["t2av"] == 0.696


def test_the_preset_lies_over_the_recipe():
    tiny, v4 = load_preset("tiny"), load_preset("v4")
    assert load_recipe("video-2", tiny).steps > 0
    assert load_recipe("video-2", tiny).precision == "fp32"
    assert load_recipe("video-2", v4).steps == 0
    assert load_recipe("video-2", v4).optimizer == shipped("video-2").optimizer


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("tasks.t2vv=0.1", "unknown task 't2vv'; did you mean 't2v'"),
        ("optional=[edits]", "unknown task 'edits'; did you mean 'edit'"),
        ("tasks={t2v: 0}", "no share above 0"),
        ("tasks.t2v=-1", "share of t2v is below 0"),
        ("seconds.min=20", "seconds.min 20 is above seconds.max 15"),
        ("captions.medium=1", "captions.medium"),
        ("optimizer.lr=1", "unknown key 'optimizer.lr'"),
        ("stepz=4", "unknown key 'stepz'; did you mean 'steps'"),
        ("sizes=[333]", "333 px"),
        ("seconds={min: 6, max: 7}", "6 to 7 s"),
        ("flow.shfit=3", "shfit"),
    ],
)
def test_errors_name_the_key(override, said):
    with pytest.raises(ValueError) as error:
        load_stage("joint", load_preset("tiny"), ["tasks.t2av=0", "tasks.t2a=0", override])
    assert said in str(error.value)


def test_an_unknown_recipe_names_those_there_are():
    with pytest.raises(ConfigError, match="did you mean 'joint'"):
        load_recipe("jiont", load_preset("tiny"))


def test_a_recipe_of_ones_own(tmp_path):
    own = tmp_path / "mine.yaml"
    own.write_text(f"extends: {RECIPES / 'sft-2.yaml'}\nname: mine\nlatents: mine\ntasks: {{v2a: 0.5}}\n")
    stage = load_stage(str(own), load_preset("tiny"), ["mine.steps=3"])
    assert stage.name == stage.latents.name == "mine"
    assert stage.mix["v2a"] == pytest.approx(0.5 / 1.475)
    assert stage.steps == 3
