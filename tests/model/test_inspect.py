import pytest

from model.config import load_preset
from model.costs.memory import count_parameters, meta_model
from model.inspect import clip_of, low_resolution_clip, parameter_table, report, two_stage_flops, workload


def test_the_table_accounts_for_every_parameter() -> None:
    config = load_preset("small").transformer
    assert sum(parameter_table(config).values()) == count_parameters(meta_model(config))


def test_sides_are_rounded_up_to_whole_patches() -> None:
    clip = clip_of(load_preset("v4"), 5, 1080, 1920, 16)
    assert (clip.frames, clip.height, clip.width) == (81, 1088, 1920)
    assert workload(load_preset("v4").transformer, clip).grid == (21, 68, 120)


@pytest.mark.parametrize("name", ["base", "v4"])
def test_two_stages_save_most_of_the_work_at_1080p(name: str) -> None:
    preset = load_preset(name)
    clip = clip_of(preset, 5, 1080, 1920, 32)
    assert low_resolution_clip(preset, clip).latent_frames == 21
    stages = two_stage_flops(preset, clip)
    both = stages["low resolution and keyframes"] + stages["refiner"]
    assert stages["base at full size and frame rate"] / both > 4


def test_the_report_names_every_task() -> None:
    preset = load_preset("tiny")
    text = report(preset, clip_of(preset, 1, 64, 64, 16), gpus=1)
    for part in ("text to video and audio", "refiner, 75.0% sparse", "attention between the branches", "GiB per GPU"):
        assert part in text
