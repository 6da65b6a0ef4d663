"""Guided sampling as `GuidedVelocity` does it, against one plain call of the model per pass and step.

The plain loop is what a user would write first: every pass by itself, with its own text and without what it leaves out,
nothing kept between steps. Both give the same latents, which is checked before they are timed.
"""

import dataclasses
from collections.abc import Callable, Iterator

import torch

from model.conditioning import VideoCondition
from model.config import TransformerConfig, load_preset
from model.inspect import clip_of
from model.network.mmdit import JointInputs, MMDiT, predict
from model.sampling.denoiser import GuidedVelocity, RunInputs, TextPair
from model.sampling.guidance import GuidanceScales, Pass, Streams, guidance_passes, guide
from model.sampling.sampler import sample, timestep_schedule
from model.shapes import ClipShape

PLAIN, OURS = "plain loop", "ours"
Contestants = dict[str, Callable[[], Streams]]


def sampling_cases() -> Iterator[tuple[str, Contestants]]:
    """(what is generated, both contestants) for tiny clips with text, references and given video, and a wider model."""
    preset = load_preset("tiny")
    model = random_model(preset.transformer)
    clip = clip_of(preset, 1, 64, 64, 16)
    text = GuidanceScales(video=4.0, audio=3.0)
    yield "text 77 + 77", contestants(model, clip, run_inputs(clip, model, 77, 77), text, 10)
    yield "text 200 + 8", contestants(model, clip, run_inputs(clip, model, 200, 8), text, 10)
    shown = {"@image_1": 1, "@image_2": 1}, {"@audio_1": 20}
    every = dataclasses.replace(text, reference=2.0, cross_modal=1.5)
    run = run_inputs(clip, model, 150, 8, *shown)
    yield "text 150 + 8, 3 references, apart", contestants(model, clip, run, every, 10)
    by_tag = dataclasses.replace(text, reference={"@image_1": 2.0, "@image_2": 2.0, "@audio_1": 2.0})
    yield "text 150 + 8, each of 3 references", contestants(model, clip, run, by_tag, 10)
    given = run_inputs(clip, model, 77, 77, generates=frozenset({"audio"}))
    apart = dataclasses.replace(text, cross_modal=3.0)
    yield "sound for a given video, text 77 + 77, apart", contestants(model, clip, given, apart, 10)
    wider = random_model(dataclasses.replace(preset.transformer, width=512, heads=8))
    clip = clip_of(preset, 2, 128, 128, 16)
    run = run_inputs(clip, wider, 77, 77)
    yield "text 77 + 77, width 512, 664 tokens", contestants(wider, clip, run, text, 2)


def random_model(config: TransformerConfig) -> MMDiT:
    """With no gate left at zero, so that equal results say something."""
    model = MMDiT(config).eval()
    for parameter in model.parameters():
        if not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.02)
    return model


def run_inputs(
    clip: ClipShape,
    model: MMDiT,
    prompt: int,
    negative: int,
    images: dict[str, int] | None = None,
    voices: dict[str, int] | None = None,
    generates: frozenset[str] = frozenset({"video", "audio"}),
) -> RunInputs:
    """Texts of as many tokens, references of as many latents; what is not generated is given."""
    channels, _, height, width = clip.video_latent_shape
    black = torch.zeros(1, *clip.video_latent_shape)
    return RunInputs(
        prompt=text_of(prompt, model),
        negative=text_of(negative, model),
        generates=generates,
        condition=VideoCondition(black, black[:, :1]),
        given={} if "video" in generates else {"video": torch.randn(1, *clip.video_latent_shape)},
        video_references={tag: torch.randn(1, channels, n, height, width) for tag, n in (images or {}).items()},
        audio_references={tag: torch.randn(1, clip.audio_latent_shape[0], n) for tag, n in (voices or {}).items()},
        audio_time_scale=clip.audio_time_scale,
    )


def text_of(tokens: int, model: MMDiT) -> TextPair:
    return torch.randn(1, tokens, model.config.text_width), torch.ones(1, tokens, dtype=torch.bool)


def contestants(model: MMDiT, clip: ClipShape, run: RunInputs, scales: GuidanceScales, steps: int) -> Contestants:
    """Both ways through `steps` Euler steps from one noise."""
    shapes = {"video": clip.video_latent_shape, "audio": clip.audio_latent_shape}
    noise = {name: torch.randn(1, *shapes[name]) for name in run.generates}
    schedule = timestep_schedule(steps)

    def ours() -> Streams:
        return sample(GuidedVelocity(model, run, scales), noise, schedule)

    def plain() -> Streams:
        return sample(lambda latents, t: plain_velocity(model, run, scales, latents, t), noise, schedule)

    made, expected = ours(), plain()
    for name, latents in expected.items():
        torch.testing.assert_close(made[name], latents, rtol=1e-3, atol=1e-3)
    return {PLAIN: plain, OURS: ours}


def plain_velocity(model: MMDiT, run: RunInputs, scales: GuidanceScales, latents: Streams, t: float) -> Streams:
    """One call of the model per pass."""
    tags = (*run.video_references, *run.audio_references)
    passes = guidance_passes(scales, run.generates, references=tags, joint=True)
    return guide({p: plain_pass(model, run, p, latents, t) for p in passes}, scales)


def plain_pass(model: MMDiT, run: RunInputs, p: Pass, latents: Streams, t: float) -> Streams:
    known = {**run.given, **latents}
    levels = [t if name in latents else 1.0 for name in ("video", "audio")]
    tags = (*run.video_references, *run.audio_references)
    partly = 0 < len(p.without) < len(tags)
    hidden = bool(p.without) and not partly
    outputs = predict(
        model,
        JointInputs(
            text=(run.prompt if p.text else run.negative)[0],
            timesteps=torch.tensor([levels]),
            video=run.condition.channels(known["video"]),
            audio=known["audio"],
            audio_time_scale=run.audio_time_scale,
            video_references=() if hidden else list(run.video_references.values()),
            audio_references=() if hidden else list(run.audio_references.values()),
            reference_rows=torch.tensor([[tag not in p.without for tag in tags]]) if partly else None,
            cross_modal=p.cross_modal,
        ),
    )
    return {name: getattr(outputs, name) for name in latents}
