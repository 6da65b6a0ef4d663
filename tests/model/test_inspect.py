import dataclasses

import pytest
import torch

from model.config import TransformerConfig, load_preset
from model.flops import Workload
from model.inspect import (
    SAVED_BYTES,
    STATE_BYTES,
    clip_of,
    count_parameters,
    low_resolution_clip,
    meta_model,
    parameter_table,
    report,
    training_memory,
    two_stage_flops,
    workload,
)
from model.mmdit import JointInputs, MMDiT


def test_the_table_accounts_for_every_parameter() -> None:
    config = load_preset("small").transformer
    assert sum(parameter_table(config).values()) == count_parameters(meta_model(config))


def test_sides_are_rounded_up_to_whole_patches() -> None:
    clip = clip_of(load_preset("v4"), 5, 1080, 1920, 16)
    assert (clip.frames, clip.height, clip.width) == (81, 1088, 1920)
    assert workload(load_preset("v4").transformer, clip).grid == (21, 68, 120)


def saved_bytes(config: TransformerConfig, audio: int) -> int:
    """What autograd keeps for one forward pass, weights left out."""
    model = MMDiT(config).bfloat16()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    inputs = JointInputs(
        text=torch.randn(1, 16, config.text_width),
        timesteps=torch.rand(1, 2),
        video=torch.randn(1, 2 * config.video_channels + 1, 4, 16, 16),
        audio=torch.randn(1, config.audio_channels, audio) if audio else None,
        audio_time_scale=0.1,
    )
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(inputs)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize(("audio", "kind"), [(0, "alone"), (200, "joint")])
def test_activation_memory_is_what_a_layer_really_keeps(audio: int, kind: str) -> None:
    shallow = TransformerConfig(
        width=256, heads=4, dual_blocks=1, single_blocks=1, text_width=32, video_channels=4, audio_channels=8
    )
    deep = dataclasses.replace(shallow, single_blocks=3)
    tokens = 4 * 8 * 8 + 16 + (audio + 16 if audio else 0)
    measured = (saved_bytes(deep, audio) - saved_bytes(shallow, audio)) / 2 / tokens / shallow.width
    assert measured == pytest.approx(SAVED_BYTES[kind], rel=0.1)


def test_states_are_sharded_and_activations_are_not() -> None:
    config = load_preset("base").transformer
    work = Workload(text=512, grid=(21, 34, 60), audio=109)
    few, many = (training_memory(config, work, gpus=gpus) for gpus in (8, 64))
    assert few.states == 8 * many.states == STATE_BYTES * count_parameters(meta_model(config)) / 8
    assert few.activations == many.activations > 0
    assert training_memory(config, work, gpus=8, batch=2).activations == 2 * few.activations
    assert few.total < 80 * 2**30


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
