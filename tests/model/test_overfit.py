"""The whole chain learns: codecs, transformer and sampler, on four rendered films with sound."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.signal import stft

from model.codecs.loading import audio_codec_of, video_codec_of
from model.codecs.training import fit_codec, measure
from model.conditioning import TextToAudioVideo
from model.config import TransformerConfig, load_preset
from model.generation.components import Components, GenerationConfig, SamplingConfig
from model.generation.requests import Defaults
from model.generator import Generator
from model.media import video_tensor
from model.network.mmdit import JointInputs, MMDiT
from model.prompt_encoder.tiny_encoder import build_tiny_encoder
from model.sampling.denoiser import stack_text
from model.sampling.flow import flow_loss, noised, sample_timesteps, velocity_target
from model.shapes import ClipShape
from pipelines.synthesis.film import Soundtrack, Tone
from pipelines.synthesis.sampler import sample_film
from pipelines.synthesis.studio import render

FRAMES, FPS, SIDE = 17, 16, 64
STEPS, COPIES = 300, 2  # each step sees every film twice, at different noise


def rendered_film(number):
    """Pixels (3, F, H, W), sound (2, N) and prompt: a subject that moves, and a tone of its own at its own time."""
    film = sample_film(
        100 + number,
        size=(SIDE, SIDE),
        fps=FPS,
        seconds=FRAMES / FPS,
        subjects=1,
        sound="impacts",
        camera="static",
    )
    tone = Tone(start=0.1 + 0.2 * number, seconds=0.4, frequency=300 * 1.7**number)
    made = render(replace(film, sound=Soundtrack(tones=(tone,))))
    prompt = made.annotation["captions"]["short"]
    return video_tensor(np.stack(list(made.frames()))), torch.from_numpy(made.audio), prompt


def trained_codec(codec, clips, steps):
    list(fit_codec(codec, itertools.repeat(clips), learning_rate=3e-3, steps=steps))
    measure(codec, [clips])
    return codec


def train(model, video, audio, text, mask, clip, condition):
    """Joint flow matching with one timestep for both modalities and losses 1:1; returns the loss of every step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 20) * (1 - step / STEPS))
    rows = torch.arange(len(video)).repeat(COPIES)
    losses = []
    for _ in range(STEPS):
        t = sample_timesteps(len(rows), 2)
        noise, hiss = torch.randn_like(video[rows]), torch.randn_like(audio[rows])
        predicted = model(
            JointInputs(
                text=text[rows],
                timesteps=t,
                text_mask=None if mask is None else mask[rows],
                video=condition.channels(noised(video[rows], noise, t[:, 0])),
                audio=noised(audio[rows], hiss, t[:, 1]),
                audio_time_scale=clip.audio_time_scale,
            )
        )
        seen = flow_loss(predicted.video, velocity_target(video[rows], noise))
        loss = seen + flow_loss(predicted.audio, velocity_target(audio[rows], hiss))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def psnr(one, other):
    return 10 * np.log10(255**2 / np.mean((one.astype(float) - other.astype(float)) ** 2))


def spectral_correlation(one, other):
    """Pearson correlation of short-time magnitudes, channels mixed."""
    spectra = [np.abs(stft(np.asarray(sound).mean(0), nperseg=1024)[2]).ravel() for sound in (one, other)]
    return np.corrcoef(spectra)[0, 1]


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_tiny_joint_model_learns_four_films_and_makes_each_from_its_prompt(tmp_path):
    torch.manual_seed(0)
    films = [rendered_film(number) for number in range(4)]
    pixels, sounds = torch.stack([film[0] for film in films]), torch.stack([film[1] for film in films])
    prompts = [film[2] for film in films]
    assert len(set(prompts)) == 4

    preset = load_preset("tiny")
    video_codec = trained_codec(video_codec_of(preset.section("video_codec")), pixels, 100)
    audio_codec = trained_codec(audio_codec_of(preset.section("audio_codec")), sounds, 250)
    encoder = build_tiny_encoder(tmp_path)
    clip = ClipShape(FRAMES, FPS, SIDE, SIDE, video_codec.spec, audio_codec.spec)
    condition = TextToAudioVideo().prepare(clip, video_codec.encode, audio_codec.encode).condition
    text, mask = stack_text([(hidden[None], seen[None]) for hidden, seen in map(encoder.encode, prompts)])

    model = MMDiT(TransformerConfig(96, 4, 1, 2, encoder.width, video_codec.spec.channels, audio_codec.spec.channels))
    losses = train(model, video_codec.encode(pixels), audio_codec.encode(sounds), text, mask, clip, condition)
    assert np.mean(losses[-20:]) < 0.1 * losses[0]

    config = GenerationConfig(
        SamplingConfig(steps=20, solver="euler", shift=1.0, guidance_scale=1.0, audio_guidance_scale=1.0),
        Defaults(FPS, SIDE, SIDE, clip.seconds),
    )
    generate = Generator(Components(model.eval(), video_codec, encoder, audio_codec, config=config))
    truth = [((film[0].permute(1, 2, 3, 0).numpy() + 1) * 127.5).round() for film in films]
    for number, prompt in enumerate(prompts):
        made = generate(prompt, generator=torch.Generator().manual_seed(number))
        likeness = [psnr(made.frames, frames) for frames in truth]
        assert likeness[number] >= 22, (prompt, likeness)
        assert likeness[number] > 4 + max(likeness[:number] + likeness[number + 1 :])
        heard = [spectral_correlation(made.audio, sound) for sound in sounds]
        assert heard[number] >= 0.8, (prompt, heard)
        assert heard[number] == max(heard)
