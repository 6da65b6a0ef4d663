"""A tiny generator of random weights in a folder, and media to give it."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from model.codecs.tiny_audio import TinyAudioCodec, TinyAudioConfig
from model.codecs.tiny_video import TinyVideoCodec, TinyVideoConfig
from model.config import GenerationConfig, RefinerConfig, SamplingConfig, Trained, TransformerConfig, UsualClip
from model.folder import ModelIndex
from model.generation.components import Components
from model.generator import Generator
from model.network.mmdit import MMDiT
from model.network.refiner import refiner_config
from model.prompt_encoder.tiny_encoder import build_tiny_encoder
from skyreels.media.encode import write_flac, write_video
from skyreels.media.image import write_image

SIDE = 32
RATE = 44_100


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """The folder of a generator of 32 x 32 clips that last half a second, refined to 64 x 64."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    video = TinyVideoCodec(TinyVideoConfig(channels=4, width=16, patch_width=8, depth=1)).eval()
    audio = TinyAudioCodec(TinyAudioConfig(channels=4, width=16, spectrum_width=8, vocoder_iterations=2)).eval()
    settings = RefinerConfig(steps=2, keyframe_spacing=2)
    transformer = MMDiT(TransformerConfig(32, 2, 1, 1, 16, 4, 4)).eval()
    refiner = MMDiT(refiner_config(transformer.config, settings)).eval()
    for parameter in (*transformer.parameters(), *refiner.parameters()):
        torch.nn.init.normal_(parameter, std=0.1)  # gates start at zero: without this conditions would not show
    config = GenerationConfig(SamplingConfig(2, "euler", 3.0), UsualClip(16, SIDE, SIDE, 0.5), settings)
    encoder = build_tiny_encoder(folder / "made-encoder", width=16)
    Generator(Components(transformer, video, encoder, audio, refiner, config)).save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture(scope="session")
def structured_folder(model_folder, tmp_path_factory):
    """The same model, which says that it was trained on structured captions of half a second."""
    folder = tmp_path_factory.mktemp("structured") / "model"
    shutil.copytree(model_folder, folder)
    index = ModelIndex.read(folder)
    trained = Trained(("structured",), (float(SIDE), float(SIDE)), (0.5625, 0.5625), 16.0)
    dataclasses.replace(index, config=dataclasses.replace(index.config, trained=trained)).write(folder)
    return folder


@pytest.fixture(scope="session")
def media(tmp_path_factory):
    """picture.png (96x64), clip.mp4 (32x32, 9 frames, tone), hole.png (32x32, a white square), voice.flac (0.7 s)."""
    folder = tmp_path_factory.mktemp("media")
    random = np.random.default_rng(0)
    write_image(folder / "picture.png", random.integers(0, 256, (64, 96, 3), np.uint8))
    hole = np.zeros((SIDE, SIDE, 3), np.uint8)
    hole[8:24, 4:20] = 255
    write_image(folder / "hole.png", hole)
    tone = 0.3 * np.sin(np.arange(int(0.7 * RATE)) / 30, dtype=np.float32)[None]
    write_flac(folder / "voice.flac", tone, RATE)
    blocks = random.integers(0, 256, (9, 4, 4, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    write_video(folder / "clip.mp4", blocks, 16, audio=tone[:, : round(9 / 16 * RATE)], crf=1)
    return folder
