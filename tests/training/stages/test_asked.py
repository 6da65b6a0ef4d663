"""Prompts of one's own while a stage trains: the generator's own clip, by forward passes alone; and side by side."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from model.codecs.tiny_audio import TinyAudioCodec, TinyAudioConfig
from model.codecs.tiny_video import TinyVideoCodec, TinyVideoConfig
from model.config import GenerationConfig, SamplingConfig, UsualClip
from model.folder import FROZEN, ModelIndex
from model.generation.components import Components, spec_with
from model.generation.prepared import prepare
from model.generation.wire import to_bytes
from model.generator import Generator
from model.network.mmdit import MMDiT
from model.prompt_encoder.tiny_encoder import build_tiny_encoder
from pipelines.training.learners.asked import write_asked
from pipelines.training.learners.network import network_config
from pipelines.training.stages.asked import lay_out_prompts, side_by_side, with_samples
from skyreels.media.decode import iter_video_frames
from skyreels.media.probe import probe
from skyreels.training.config import EngineConfig


@pytest.fixture(scope="module")
def components(tmp_path_factory):
    """What the codecs' stage leaves behind."""
    folder = tmp_path_factory.mktemp("components")
    TinyVideoCodec(TinyVideoConfig(channels=4, width=16, patch_width=8, depth=1)).save(folder / "video_codec")
    audio = TinyAudioConfig(channels=6, width=16, spectrum_width=8, vocoder_iterations=2)
    TinyAudioCodec(audio).save(folder / "audio_codec")
    encoder = build_tiny_encoder(folder / "encoder", width=8)
    ModelIndex(FROZEN, encoder=encoder.config).write(folder)
    return folder


@pytest.fixture(scope="module")
def network(small_preset):
    torch.manual_seed(0)
    model = MMDiT(network_config(small_preset, "joint"))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.fixture(scope="module")
def spec(components, network, small_preset):
    config = GenerationConfig(SamplingConfig(2, "euler"), UsualClip(16, 32, 32, 0.5), small_preset.refiner)
    return spec_with(network.config, components, config)


def laid_out(spec, folder, **asked):
    calls = {"ball": prepare(spec, "a red ball", seed=3, **asked), "wind": prepare(spec, "wind", seed=3, picture=False)}
    return lay_out_prompts(lambda given: {name: to_bytes(call) for name, call in calls.items()}, spec, folder)


class Forwards(torch.nn.Module):
    """A network of which nothing but `forward` may be used, as one that is spread over ranks."""

    def __init__(self, network):
        super().__init__()
        self.network, self.config = network, network.config

    def forward(self, inputs):
        return self.network(inputs)


@torch.no_grad()
def test_the_samples_are_what_the_generator_makes_of_the_weights(components, network, spec, tmp_path):
    prompts = laid_out(spec, tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    write_asked(Forwards(network), prompts, components, out)
    assert {path.name for path in out.iterdir()} == {"asked-ball.mp4", "asked-ball.png", "asked-wind.flac"}
    parts = dataclasses.replace(Components.load(components, only=FROZEN), transformer=network)
    made = Generator(parts).render(prepare(spec, "a red ball", seed=3))
    shown = np.stack(
        [frame.rgb() for frame in iter_video_frames(out / "asked-ball.mp4", probe(out / "asked-ball.mp4"))]
    )
    assert shown.shape == made.frames.shape
    strip = np.asarray(Image.open(out / "asked-ball.png"))
    assert strip.shape == (32, 6 * 32, 3)
    assert np.abs(strip[:, :32].astype(int) - made.frames[0]).max() <= 1
    before = (out / "asked-ball.png").read_bytes()
    write_asked(Forwards(network), prompts, components, out)
    assert (out / "asked-ball.png").read_bytes() == before
    write_asked(Forwards(network), prompts, components, None)  # a rank that writes nothing


@torch.no_grad()
def test_a_network_that_makes_no_numbers_costs_its_samples_alone(components, network, spec, tmp_path):
    broken = MMDiT(network.config)
    for parameter in broken.parameters():
        parameter.fill_(float("nan"))
    write_asked(broken, laid_out(spec, tmp_path), components, tmp_path)
    assert "NaN" in (tmp_path / "asked-ball.txt").read_text()


def test_rows_of_all_steps_lie_below_each_other(tmp_path):
    for step in (10, 20, 100):
        folder = tmp_path / f"step-{step:08d}"
        folder.mkdir()
        Image.fromarray(np.full((16, 48, 3), step, np.uint8)).save(folder / "asked-ball.png")
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(folder / "t2i-some-sample.png")
    (sheet,) = side_by_side(tmp_path)
    pixels = np.asarray(Image.open(sheet))
    assert sheet.name == "ball.png"
    assert pixels.shape[0] == 3 * 16
    assert [pixels[row * 16 + 8, -1, 0] for row in range(3)] == [10, 20, 100]


def test_nothing_to_sample_leaves_no_folder(spec, tmp_path):
    assert laid_out(spec, tmp_path) is not None
    assert lay_out_prompts(lambda given: {}, spec, tmp_path) is None
    assert not (tmp_path / "prompts").exists()


def test_prompts_are_sampled_ten_times_unless_it_is_said_how_often():
    assert with_samples(EngineConfig(steps=400)).samples_every_steps == 40
    assert with_samples(EngineConfig(steps=3)).samples_every_steps == 1
    assert with_samples(EngineConfig(steps=400, samples_every_steps=7)).samples_every_steps == 7
