"""A user's clips become an adapter, and the adapter changes what the model makes."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from jobs import finetune, generate
from model.codecs.loading import audio_codec_of, video_codec_of
from model.config import GenerationConfig, load_preset
from model.generation.components import Components
from model.generator import Generator
from model.network.mmdit import MMDiT
from model.prompt_encoder.tiny_encoder import encoder_of
from pipelines.training.learners.network import network_config
from skyreels.media.decode import iter_video_frames
from skyreels.media.probe import probe

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def models(smallest_preset, tmp_path_factory):
    """Two generators of different weights. Not fresh ones: their heads are zero and let no gradient through."""
    root, described = tmp_path_factory.mktemp("models"), load_preset(smallest_preset)
    encoder = encoder_of(described.section("encoder"), root / "encoder")
    folders = [root / f"model-{number}" for number in range(2)]
    for number, folder in enumerate(folders):
        torch.manual_seed(number)
        _save(MMDiT(described.transformer), described, encoder, folder)
    return folders


def _save(transformer, described, encoder, folder):
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    video = video_codec_of(described.section("video_codec"))
    audio = audio_codec_of(described.section("audio_codec")) if transformer.config.audio_channels else None
    parts = Components(transformer, video, encoder, audio, None, GenerationConfig.of(described))
    Generator(parts).save_pretrained(folder)


def test_clips_become_an_adapter_that_changes_what_is_made(curated, smallest_preset, models, tmp_path, capsys):
    quiet = ["--no-tracking", "--quiet"]
    words = ["--dataset", str(curated / "datasets/default"), "--output", str(tmp_path / "mine")]
    words += ["--preset", str(smallest_preset), "--rank", "4", "--workers", "2", *quiet, "optimizer.learning_rate=1e-2"]
    before = {path: path.read_bytes() for path in models[0].rglob("*.safetensors")}
    assert finetune.main(["--model", str(models[0]), *words, "--steps", "4"]) == 0
    said = capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before
    adapter = load_file(tmp_path / "mine/adapter/adapter_model.safetensors")
    assert all(tensor.abs().max() > 0 for tensor in adapter.values())
    model, learning = re.search(r"model +([\d.]+) k parameters, ([\d.]+) k of them learn\n", said).groups()
    base = load_file(models[0] / "transformer/diffusion_pytorch_model.safetensors")
    counts = [sum(tensor.numel() for tensor in tensors.values()) / 1e3 for tensors in (base, adapter)]
    assert [float(model), float(learning)] == pytest.approx([sum(counts), counts[1]], abs=0.1)
    assert "4 steps, about" in said
    checkpoint = [load_file(path) for path in (tmp_path / "mine/run/checkpoints").rglob("*.safetensors")]
    assert {name.split("/")[1].split(".")[-3] for shard in checkpoint for name in shard} == {"lora_A", "lora_B"}
    metrics = [json.loads(line) for line in (tmp_path / "mine/run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == [0, 1, 2, 3]

    made = [_clip(models[0], tmp_path, *lora) for lora in ([], ["--lora", str(tmp_path / "mine/adapter")])]
    assert np.abs(made[0].astype(int) - made[1]).max() > 0
    plain = ["--lora", str(tmp_path / "mine/adapter"), "--lora-scale", "0"]
    assert np.array_equal(_clip(models[0], tmp_path, *plain), made[0])

    capsys.readouterr()
    assert finetune.main(["--model", str(models[1]), *words, "--steps", "8"]) == 1
    assert "holds an adapter of the transformer" in capsys.readouterr().err
    assert finetune.main(["--model", str(models[0]), *words, "--steps", "8", "--rank", "8"]) == 1
    assert "was begun with --rank 4 --alpha 4: give these, or another --output" in capsys.readouterr().err
    wrong = [*words[: words.index("--preset")], "--preset", "tiny", *quiet]
    assert finetune.main(["--model", str(models[0]), *wrong]) == 1
    assert "was trained with another preset: dual_blocks 1 instead of 2" in capsys.readouterr().err


@pytest.mark.parametrize(("branch", "learned"), [("video", {"t2v", "i2v"}), ("audio", {"t2a"})])
def test_a_model_of_one_stream_learns_the_tasks_that_it_can(curated, smallest_preset, tmp_path, branch, learned):
    described = load_preset(smallest_preset)
    encoder = encoder_of(described.section("encoder"), tmp_path / "encoder")
    _save(MMDiT(network_config(described, branch)), described, encoder, tmp_path / "model")
    words = ["--model", str(tmp_path / "model"), "--dataset", str(curated / "datasets/default"), "--workers", "0"]
    words += [
        "--output",
        str(tmp_path / "mine"),
        "--preset",
        str(smallest_preset),
        "--steps",
        "12",
        "--no-tracking",
        "--quiet",
    ]
    assert finetune.main(words) == 0
    rows = [json.loads(line) for line in (tmp_path / "mine/run/metrics.jsonl").read_text().splitlines()]
    tasks = {name.split("/")[1] for row in rows for name in row if re.fullmatch(r"loss/[a-z0-9]+/(video|audio)", name)}
    assert learned <= tasks <= learned | {"t2i"}


def test_what_cannot_fit_is_refused_before_anything_is_written(smallest_preset, models, tmp_path, capsys):
    words = ["--model", str(models[0]), "--preset", str(smallest_preset), "--dataset", "anywhere", "--no-tracking"]
    words += ["--output", str(tmp_path / "mine"), "tokens_per_slot=1000000000", "workers=2"]
    assert finetune.main(words) == 1
    said = capsys.readouterr().err
    assert re.search(r"lora needs [\d,.]+ GiB on each of 2 cpu for .* can be filled. What would make it fit:\n  ", said)
    assert finetune.main([*words, "--gpu", "h100"]) == 1
    assert "GiB on each of 2 h100" in capsys.readouterr().err
    assert finetune.main([*words, "sequence_parallel=3"]) == 1
    assert "lora: the 2 heads of preset smallest cannot be dealt out" in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


def _clip(model, folder, *words):
    path = folder / "clip.mp4"
    given = ["--model", str(model), "--prompt", "a ball", "--steps", "2", "--seed", "1", "--output", str(path)]
    assert generate.main([*given, "--quiet", *words]) == 0
    return np.stack([frame.rgb() for frame in iter_video_frames(path, probe(path))])
