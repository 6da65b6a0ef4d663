import dataclasses
import re
import shutil
import subprocess
import sys

import pytest
import torch

from model.checkpoint import load_transformer
from model.checksums import CheckpointError
from model.codecs.tiny_audio import TinyAudioCodec, TinyAudioConfig
from model.codecs.tiny_video import TinyVideoCodec, TinyVideoConfig
from model.config import GenerationConfig, SamplingConfig, UsualClip
from model.folder import FROZEN, ModelIndex
from model.generator import Generator
from model.network.mmdit import MMDiT
from model.prompt_encoder.tiny_encoder import build_tiny_encoder
from pipelines.training.learners.network import network_config
from pipelines.training.stages.export import export_refiner, export_transformer, published


@pytest.fixture(scope="module")
def components(tmp_path_factory):
    """The folder that the codecs' stage leaves behind."""
    folder = tmp_path_factory.mktemp("components")
    TinyVideoCodec(TinyVideoConfig(channels=4, width=16, patch_width=8, depth=1)).save(folder / "video_codec")
    audio = TinyAudioConfig(channels=6, width=16, spectrum_width=8, vocoder_iterations=2)
    TinyAudioCodec(audio).save(folder / "audio_codec")
    encoder = build_tiny_encoder(folder / "encoder")
    ModelIndex(FROZEN, encoder=encoder.config).write(folder)
    return folder, encoder.width


@pytest.fixture
def trained(small_preset, components):
    """Weights of a network as a checkpoint gives them, and its config."""

    def make(branches):
        transformer = dataclasses.replace(small_preset.transformer, text_width=components[1])
        config = network_config(dataclasses.replace(small_preset, transformer=transformer), branches)
        torch.manual_seed(0)
        model = MMDiT(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        return dict(model.state_dict()), config

    return make


def generation(preset, **sampling):
    return GenerationConfig(
        SamplingConfig(steps=2, solver="euler", **sampling), UsualClip(16, 32, 32, 0.5), preset.refiner
    )


def test_a_generator_with_refiner_is_exported_and_generates(trained, components, small_preset, tmp_path):
    weights, config = trained("joint")
    base = export_transformer(
        weights,
        config,
        generation(small_preset, keyframes=True),
        components[0],
        tmp_path / "base",
        max_shard_bytes=90_000,
    )
    assert len(list((base / "transformer").glob("*.safetensors"))) > 2
    stored = load_transformer(base / "transformer").state_dict()
    assert stored.keys() == weights.keys()
    assert all(torch.equal(stored[name], value) for name, value in weights.items())
    refiner, refined_config = trained("refiner")
    out = export_refiner(refiner, refined_config, base, tmp_path / "refined")
    generator = Generator.from_pretrained(out)
    assert generator.components.config.sampling.keyframes
    made = generator("a red ball", refine=True, generator=torch.Generator().manual_seed(0))
    assert made.frames.shape == (17, 64, 64, 3)
    assert made.audio.shape[0] == 2
    assert made.audio.abs().max() > 0


@pytest.mark.parametrize("branches", ["video", "audio"])
def test_networks_of_one_branch_are_exported_too(trained, components, small_preset, tmp_path, branches):
    out = export_transformer(*trained(branches), generation(small_preset), components[0], tmp_path / branches)
    made = Generator.from_pretrained(out)("a red ball", generator=torch.Generator().manual_seed(0))
    assert (made.frames is None) == (branches == "audio")
    assert (made.audio is None) == (branches == "video")


def test_weights_are_read_one_at_a_time_and_stored_in_the_precision_asked_for(
    trained, components, small_preset, tmp_path
):
    weights, config = trained("video")
    alive = []

    class Lazy(dict):
        def __getitem__(self, name):
            alive.append(name)
            return super().__getitem__(name)

    export_transformer(
        Lazy(weights), config, generation(small_preset), components[0], tmp_path / "out", dtype=torch.bfloat16
    )
    assert sorted(alive) == sorted(weights)
    stored = load_transformer(tmp_path / "out/transformer", dtype=torch.bfloat16).state_dict()
    assert all(torch.equal(stored[name], value.bfloat16()) for name, value in weights.items())


def test_weights_of_another_network_are_refused_and_leave_nothing(trained, components, small_preset, tmp_path):
    weights, config = trained("video")
    extra = {**weights, "audio.head.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=re.escape("audio.head.weight in one of them alone")):
        export_transformer(extra, config, generation(small_preset), components[0], tmp_path / "out")
    misshapen = {**weights, "video.head.bias": torch.zeros(3)}
    with pytest.raises(CheckpointError, match=r"video.head.bias to export is \(3,\)"):
        export_transformer(misshapen, config, generation(small_preset), components[0], tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="run its stage again"):
        export_transformer(weights, config, generation(small_preset), tmp_path / "none", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    out = tmp_path / "out"
    for words in ("one", "two"):
        with published(out) as folder:
            (folder / "file").write_text(words)
    with pytest.raises(RuntimeError, match="in the middle"), published(out) as folder:
        (folder / "file").write_text("three")
        raise RuntimeError("in the middle")
    assert (out / "file").read_text() == "two"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("part", ["video_codec", "audio_codec", "encoder"])
def test_damaged_components_are_not_handed_on(trained, components, small_preset, tmp_path, part):
    """Nor loaded: one flipped bit in the weights of each part."""
    copied = tmp_path / "components"
    shutil.copytree(components[0], copied)
    weights = next((copied / part).glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-2] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"{part} is damaged: {weights.name} differs"):
        export_transformer(*trained("joint"), generation(small_preset), copied, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["components"]
    base = export_transformer(*trained("joint"), generation(small_preset), components[0], tmp_path / "base")
    shutil.rmtree(base / part)
    shutil.copytree(copied / part, base / part)
    with pytest.raises(CheckpointError, match=rf"{part} is damaged"):
        Generator.from_pretrained(base)


def test_what_a_killed_export_left_is_swept_by_the_next(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from pipelines.training.stages.export import published\n"
        "with published(Path(sys.argv[1])) as folder:\n    (folder / 'weights').write_text('half'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "export")], check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".export-")
    with published(tmp_path / "export") as folder, published(tmp_path / "export") as other:
        assert not left.exists()
        assert folder.is_dir()
        assert other.is_dir()
        (folder / "weights").write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
