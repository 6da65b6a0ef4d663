"""How the clips of a suite are made: by a whole call, by the codecs alone, or by the refiner alone."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from model.generation.steps import BaseLatents
from model.generator import Generator
from model.media import output_frames, video_tensor
from pipelines.evaluation.clips import Clip
from pipelines.evaluation.films import Format
from pipelines.evaluation.suites import Ask, Suite, enlarged

Make = Callable[[Generator, Ask, int, dict[str, Any]], Clip]


def format_of(generator: Generator) -> Format:
    """What the model makes by default, from its own settings."""
    clip = generator.prepare("").clip
    return Format(clip.frames, clip.fps, clip.height, clip.width)


def make_clip(generator: Generator, suite: Suite, ask: Ask, seed: int, settings: dict[str, Any]) -> Clip:
    """The model's answer. Raises ValueError where it refuses, NotFinite where it breaks."""
    return WAYS[suite.way](generator, ask, seed, settings)


def _generate(generator: Generator, ask: Ask, seed: int, settings: dict[str, Any]) -> Clip:
    made = generator.render(generator.prepare(**ask.arguments, seed=seed, **settings))
    audio = None if made.audio is None else made.audio.float().numpy()
    return Clip(made.frames, made.clip.fps, audio, ask.right.sample_rate)


@torch.no_grad()
def _through_codecs(generator: Generator, ask: Ask, seed: int, settings: dict[str, Any]) -> Clip:
    placement, right = generator.placement, ask.right
    latents = placement.encode_video(video_tensor(right.frames)[None])
    frames = np.concatenate([output_frames(part[0], "np") for part in placement.decode_video(latents)])
    audio = right.audio
    if audio is not None and generator.components.spec.audio is not None:
        decoded = placement.decode_audio(placement.encode_audio(torch.from_numpy(audio)[None]))[0]
        audio = decoded.float().cpu().numpy()[:, : audio.shape[1]]
    return replace(right, frames=frames[: len(right.frames if right.frames is not None else frames)], audio=audio)


@torch.no_grad()
def _refined(generator: Generator, ask: Ask, seed: int, settings: dict[str, Any]) -> Clip:
    """From latents of the true clip, so that what the base makes is no part of it; sparse, and dense beside it."""
    placement = generator.placement
    prepared = generator.prepare(**ask.arguments, seed=seed, **settings)
    low = placement.encode_video(video_tensor(ask.low)[None])
    state = torch.Generator().manual_seed(seed).get_state()
    base = BaseLatents({"video": low}, placement.read(prepared.prompt, ()), state)
    frames, dense = (one.decode(prepared, one.refine(prepared, base)).frames for one in (generator, _dense(generator)))
    given = output_frames(placement.decode_whole_video(low)[0], "np")
    unrefined = enlarged(given, len(frames), (frames.shape[2], frames.shape[1]))
    return replace(ask.right, frames=frames, audio=None, unrefined=unrefined, dense=dense)


def _dense(generator: Generator) -> Generator:
    """The same parts, with a refiner that attends to everything."""
    config = generator.components.config
    dense = replace(config, refiner=replace(config.refiner, sparsity=0.0))
    return Generator(replace(generator.components, config=dense), generator.placement.device)


WAYS: dict[str, Make] = {"generate": _generate, "codec": _through_codecs, "refiner": _refined}
