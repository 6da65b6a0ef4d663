"""A tiny generator of random weights, and a plain loop that a codec learns in, with the losses of its stage."""

import dataclasses

import pytest
import torch

from model.codecs.tiny_audio import TinyAudioCodec, TinyAudioConfig
from model.codecs.tiny_video import TinyVideoCodec, TinyVideoConfig
from model.config import GenerationConfig, RefinerConfig, SamplingConfig, TransformerConfig, UsualClip
from model.generation.components import Components
from model.generator import Generator
from model.network.mmdit import MMDiT
from model.network.refiner import refiner_config

REFINER = RefinerConfig(steps=2, keyframe_spacing=2)
SAMPLING = SamplingConfig(steps=2, solver="euler", shift=3.0)


class WordLengths:
    """A prompt encoder without a network: one token per word, from its letters."""

    width, identity = 8, "words"

    def encode(self, prompt, references=()):
        words = [*prompt.split(), *(r.tag for r in references)] or [""]
        seeds = [sum(map(ord, word)) for word in words]
        hidden = torch.stack([torch.randn(8, generator=torch.Generator().manual_seed(s)) for s in seeds])
        return hidden, torch.ones(len(words), dtype=torch.bool)


def _build(encoder=None, width=32, **sampling):
    encoder = encoder or WordLengths()
    torch.manual_seed(0)
    video = TinyVideoCodec(TinyVideoConfig(channels=4, width=16, patch_width=8, depth=1)).eval()
    audio = TinyAudioCodec(TinyAudioConfig(channels=4, width=16, spectrum_width=8, vocoder_iterations=2)).eval()
    transformer = MMDiT(TransformerConfig(width, 2, 1, 1, encoder.width, 4, 4)).eval()
    refiner = MMDiT(refiner_config(transformer.config, REFINER)).eval()
    for parameter in (*transformer.parameters(), *refiner.parameters()):
        torch.nn.init.normal_(parameter, std=0.1)  # gates start at zero: without this conditions would not show
    config = GenerationConfig(dataclasses.replace(SAMPLING, **sampling), UsualClip(16, 32, 32, 0.5), REFINER)
    return Generator(Components(transformer, video, encoder, audio, refiner, config))


@pytest.fixture(scope="session")
def build():
    """build(encoder=None, width=32, **sampling): a generator of 32 x 32 clips of half a second, refined to 64 x 64."""
    return _build


@pytest.fixture(scope="session")
def learn():
    """learn(codec, loss, clips, rate, steps): losses of `steps` AdamW steps on a cosine from `rate` to 0."""

    def run(codec, loss_of, clips, *, rate, steps):
        optimizer = torch.optim.AdamW(codec.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        codec.train()
        losses = []
        for _ in range(steps):
            loss = loss_of(codec, clips)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        codec.eval()
        return losses

    return run
