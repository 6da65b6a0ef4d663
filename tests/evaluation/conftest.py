"""A generator of random weights that makes the clips of the tiny preset: 17 frames of 64 x 64 with sound."""

import pytest
import torch

from model.codecs.tiny_audio import TinyAudioCodec, TinyAudioConfig
from model.codecs.tiny_video import TinyVideoCodec, TinyVideoConfig
from model.config import GenerationConfig, RefinerConfig, SamplingConfig, TransformerConfig, UsualClip
from model.generation.components import Components
from model.generator import Generator
from model.network.mmdit import MMDiT
from model.network.refiner import refiner_config
from model.prompt_encoder.tiny_encoder import build_tiny_encoder


@pytest.fixture(scope="session")
def random_model(tmp_path_factory):
    """Its folder."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    video = TinyVideoCodec(TinyVideoConfig(channels=4, width=16, patch_width=8, depth=1)).eval()
    audio = TinyAudioCodec(TinyAudioConfig(channels=4, width=16, spectrum_width=8, vocoder_iterations=2)).eval()
    settings = RefinerConfig(steps=1, keyframe_spacing=4)
    transformer = MMDiT(TransformerConfig(32, 2, 1, 1, 16, 4, 4)).eval()
    refiner = MMDiT(refiner_config(transformer.config, settings)).eval()
    for parameter in (*transformer.parameters(), *refiner.parameters()):
        torch.nn.init.normal_(parameter, std=0.1)
    config = GenerationConfig(SamplingConfig(1, "euler", 3.0), UsualClip(16, 64, 64, 1.0), settings)
    encoder = build_tiny_encoder(folder / "made-encoder", width=16)
    Generator(Components(transformer, video, encoder, audio, refiner, config)).save_pretrained(folder / "model")
    return folder / "model"
