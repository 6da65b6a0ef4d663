"""The whole chain learns: codecs, transformer and sampler, on four rendered films with sound."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.signal import stft

from model.codecs.latents import measure_latents
from model.codecs.loading import audio_codec_of, video_codec_of
from model.codecs.training import audio_codec_loss, video_codec_loss
from model.conditioning import TextToAudioVideo
from model.config import GenerationConfig, SamplingConfig, TransformerConfig, UsualClip, load_preset
from model.generation.components import Components
from model.generator import Generator
from model.media import video_tensor
from model.network.mmdit import JointInputs, MMDiT
from model.prompt_encoder.tiny_encoder import build_tiny_encoder
from model.sampling.denoiser import stack_text
from model.sampling.flow import noised, sample_timesteps, velocity_target
from model.shapes import ClipShape
from pipelines.synthesis.film import Soundtrack, Tone
from pipelines.synthesis.sampler import sample_film
from pipelines.synthesis.studio import render
from pipelines.training.learners.transformer import objective
from pipelines.training.tasks.batch import Target, TrainingBatch

FRAMES, FPS, SIDE = 17, 16, 48
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


def measured(codec, clips):
    codec.norm.set(measure_latents(codec.raw_latents, [clips]))
    return codec


def train(model, video, audio, text, mask, clip, condition):
    """Joint flow matching by the objective of training, one timestep for both; returns the loss of every step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 20) * (1 - step / STEPS))
    rows = torch.arange(len(video)).repeat(COPIES)
    losses = []
    for _ in range(STEPS):
        t = sample_timesteps(len(rows), 2)
        noise, hiss = torch.randn_like(video[rows]), torch.randn_like(audio[rows])
        inputs = JointInputs(
            text=text[rows],
            timesteps=t,
            text_mask=None if mask is None else mask[rows],
            video=condition.channels(noised(video[rows], noise, t[:, 0])),
            audio=noised(audio[rows], hiss, t[:, 1]),
            audio_time_scale=clip.audio_time_scale,
        )
        velocities = {"video": velocity_target(video[rows], noise), "audio": velocity_target(audio[rows], hiss)}
        targets = {stream: Target(velocity, torch.ones(1)) for stream, velocity in velocities.items()}
        loss = objective(model, TrainingBatch("t2av", inputs, targets, keys=())).loss
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
def test_a_tiny_joint_model_learns_four_films_and_makes_each_from_its_prompt(tmp_path, learn):
    torch.manual_seed(0)
    films = [rendered_film(number) for number in range(4)]
    pixels, sounds = torch.stack([film[0] for film in films]), torch.stack([film[1] for film in films])
    prompts = [film[2] for film in films]
    assert len(set(prompts)) == 4

    preset = load_preset("tiny")
    video_codec, audio_codec = (
        video_codec_of(preset.section("video_codec")),
        audio_codec_of(preset.section("audio_codec")),
    )
    learn(video_codec, video_codec_loss, pixels, rate=3e-3, steps=100)
    measured(video_codec, pixels)
    learn(audio_codec, audio_codec_loss, sounds, rate=3e-3, steps=250)
    measured(audio_codec, sounds)
    encoder = build_tiny_encoder(tmp_path)
    clip = ClipShape(FRAMES, FPS, SIDE, SIDE, video_codec.spec, audio_codec.spec)
    condition = TextToAudioVideo().prepare(clip, video_codec.encode, audio_codec.encode).condition
    text, mask = stack_text([(hidden[None], seen[None]) for hidden, seen in map(encoder.encode, prompts)])

    model = MMDiT(TransformerConfig(96, 4, 1, 2, encoder.width, video_codec.spec.channels, audio_codec.spec.channels))
    losses = train(model, video_codec.encode(pixels), audio_codec.encode(sounds), text, mask, clip, condition)
    assert np.mean(losses[-20:]) < 0.1 * losses[0]

    config = GenerationConfig(
        SamplingConfig(steps=20, solver="euler", shift=1.0, guidance_scale=1.0, audio_guidance_scale=1.0),
        UsualClip(FPS, SIDE, SIDE, clip.seconds),
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
