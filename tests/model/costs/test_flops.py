import dataclasses

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model.config import TransformerConfig
from model.costs.flops import Workload, attention_flops, forward_flops
from model.network.keyframes import KeyframeInput
from model.network.mmdit import JointInputs, MMDiT

JOINT = TransformerConfig(
    width=48, heads=2, dual_blocks=2, single_blocks=3, text_width=20, video_channels=3, audio_channels=5, mlp_ratio=3.0
)


def inputs(config: TransformerConfig, work: Workload) -> JointInputs:
    """Random inputs with as many tokens as `work` says; references and keyframes come in whole frames."""
    video = audio = keyframes = None
    references = []
    if work.grid:
        time, height, width = work.grid
        channels = 2 * config.video_channels + 1
        video = torch.randn(1, channels, time, 2 * height, 2 * width)
        frames = work.video_references // (height * width)
        references = [torch.randn(1, config.video_channels, frames, 2 * height, 2 * width)] if frames else []
        if work.keyframes:
            keyframes = KeyframeInput(torch.randn(1, channels, 1, 2, 2 * work.keyframes), (0,))
    if work.audio:
        audio = torch.randn(1, config.audio_channels, work.audio)
    return JointInputs(
        text=torch.randn(1, work.text, config.text_width),
        timesteps=torch.rand(1, 2),
        video=video,
        audio=audio,
        audio_time_scale=0.1,
        video_references=references,
        audio_references=[torch.randn(1, config.audio_channels, work.audio_references)]
        if work.audio_references
        else [],
        keyframes=keyframes,
        sparsity=work.sparsity,
    )


@pytest.mark.parametrize(
    ("changes", "work"),
    [
        ({}, Workload(text=7, grid=(3, 2, 4), audio=11)),
        ({}, Workload(text=7, grid=(3, 2, 4))),
        ({}, Workload(text=5, audio=11, audio_references=4)),
        ({}, Workload(text=7, grid=(3, 2, 4), audio=11, keyframes=9, video_references=16)),
        ({"audio_channels": 0}, Workload(text=7, grid=(3, 2, 4))),
        ({"sparse": True, "sparse_min_tokens": 10_000}, Workload(text=7, grid=(3, 2, 4), sparsity=0.5)),
        ({"sparse": True, "sparse_min_tokens": 1}, Workload(text=7, grid=(5, 8, 6), sparsity=0.6, audio=11)),
        ({"sparse": True, "sparse_min_tokens": 1}, Workload(text=7, grid=(4, 8, 8), sparsity=0.9, video_references=64)),
    ],
)
def test_the_formula_agrees_with_pytorchs_counter(changes: dict, work: Workload) -> None:
    config = dataclasses.replace(JOINT, **changes)
    model = MMDiT(config)
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(inputs(config, work))
    assert forward_flops(config, work) == counter.get_total_flops()
    counts = counter.get_flop_counts()["Global"]
    batched = sum(flops for operator, flops in counts.items() if operator is torch.ops.aten.bmm)
    assert attention_flops(config, work) == batched


def test_sparsity_saves_what_it_skips() -> None:
    config = dataclasses.replace(JOINT, sparse=True, sparse_min_tokens=1)
    grid = (32, 32, 32)
    dense, sparse = (forward_flops(config, Workload(text=1, grid=grid, sparsity=share)) for share in (0.0, 0.875))
    attention = 4 * config.layers * 32**6 * config.width
    assert dense - sparse == pytest.approx(0.875 * attention, rel=0.001)
