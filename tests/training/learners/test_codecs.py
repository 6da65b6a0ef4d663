import dataclasses

import pytest
import torch

from model.codecs.loading import load_audio_codec, load_video_codec
from model.config import load_preset
from pipelines.dataset.reader import Clip
from pipelines.training.curriculum.recipe import load_recipe
from pipelines.training.curriculum.resolve import resolve
from pipelines.training.data.windows import Windows
from pipelines.training.learners import codecs as codec_stage
from pipelines.training.learners.codecs import CodecStage, codecs_learn, finish_codecs
from skyreels.training.trainable import Slot

SMALL = {
    "video_codec": {"kind": "tiny_video", "width": 16, "patch_width": 8, "depth": 1},
    "audio_codec": {"kind": "tiny_audio", "width": 16, "spectrum_width": 8, "vocoder_iterations": 2},
}


CAPTIONS = {"short": "A striped bar slides.", "structured": "Main subject: a striped bar"}


def named(kind, seeds):
    return tuple(Clip(f"{kind}-{seed}", "video", 32, 32, 16.0, 9, 0.5, True, CAPTIONS, {}) for seed in seeds)


class Bars:
    """Windows of moving bars and of tones, made up from step, slot and place."""

    height = width = 32
    frames, fps, sample_rate, dataset = 9, 16, 44100, type("", (), {"clips": ()})()
    seed, has_pixels = 0, True

    def has_sounds(self, samples):
        return True

    def pixels(self, step, slot, count):
        seeds = [100 * step + 10 * slot + place for place in range(count)]
        time, row, column = torch.meshgrid(torch.arange(9), torch.arange(32), torch.arange(32), indexing="ij")
        bars = [torch.sin((column + (seed % 5) * time + seed) / 4 + row / 9).expand(3, -1, -1, -1) for seed in seeds]
        return Windows(torch.stack(bars), named("bars", seeds), (0.0,) * count, ("one.tar: torn",) if step == 3 else ())

    def sounds(self, step, slot, count, samples):
        seeds = [100 * step + 10 * slot + place for place in range(count)]
        tones = [0.5 * torch.sin(torch.arange(samples) * (0.02 + 0.003 * (seed % 7))).expand(2, -1) for seed in seeds]
        return Windows(torch.stack(tones), named("tone", seeds), (0.0,) * count, ())


@pytest.fixture
def stage(monkeypatch):
    """The codecs' stage with codecs smaller than tiny's, over windows that need no dataset."""
    tiny = load_preset("tiny")
    preset = dataclasses.replace(tiny, sections={**tiny.sections, **SMALL})
    monkeypatch.setattr(codec_stage, "codec_windows", lambda stage, dataset: Bars())
    return resolve(load_recipe("codecs", preset, ["tokens_per_slot=24", "steps=5"]), preset)


def test_codecs_learn_and_are_laid_out_with_their_statistics(stage, tmp_path, capsys):
    torch.manual_seed(0)
    trainable = CodecStage(stage, "anywhere")
    module = trainable.build()
    optimizer = torch.optim.AdamW(module.parameters(), lr=5e-3)
    losses = []
    for step in range(25):
        made = trainable.loss(module, trainable.batch(Slot(step, step % 2)))
        made.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append({name: float(total) / weight for name, (total, weight) in made.sums.items()})
    for name in ("loss/codecs/video", "loss/codecs/audio"):
        assert losses[-1][name] < 0.7 * losses[0][name]

    out = finish_codecs(module.state_dict(), stage, "anywhere", tmp_path / "components")
    assert "encoder   finds, of the words for held-out windows," in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["audio_codec", "encoder", "model_index.json", "video_codec"]
    video, audio = load_video_codec(out / "video_codec"), load_audio_codec(out / "audio_codec")
    assert all(torch.equal(value, module["video"].state_dict()[name]) for name, value in video.state_dict().items())
    seen, heard = Bars().pixels(0, 0, 8).values, Bars().sounds(0, 0, 8, 20_000).values
    for latents in (video.encode(seen), audio.encode(heard)):
        assert abs(latents.mean()) < 0.2
        assert abs(latents.std() - 1) < 0.2


def test_batches_are_a_function_of_step_and_slot(stage):
    one, other = CodecStage(stage, "anywhere"), CodecStage(stage, "anywhere")
    module = one.build()
    for slot in (Slot(0, 0), Slot(5, 1), Slot(codec_stage.DISTINCT_STEPS + 5, 1)):
        ours, theirs = one.batch(slot), other.batch(slot)
        assert torch.equal(ours.frames, theirs.frames)
        assert torch.equal(ours.waveform, theirs.waveform)
        assert torch.equal(one.loss(module, ours).loss, one.loss(module, theirs).loss)
    first, again = one.batch(Slot(5, 1)), one.batch(Slot(codec_stage.DISTINCT_STEPS + 5, 1))
    assert torch.equal(first.frames, again.frames)
    assert not torch.equal(one.loss(module, first).loss, one.loss(module, again).loss)  # other noise
    assert not torch.equal(first.frames, one.batch(Slot(5, 0)).frames)
    assert one.batch(Slot(3, 0)).skipped == ("one.tar: torn",)


def test_a_clip_through_the_codecs_and_back_is_written(stage, tmp_path):
    trainable = CodecStage(stage, "anywhere")
    module = trainable.build()
    trainable.write_samples(module, 0, tmp_path)
    trainable.write_samples(module, 0, None)
    assert [path.name for path in tmp_path.iterdir()] == ["codecs.mp4"]


@pytest.mark.parametrize(("preset", "learns"), [("tiny", True), ("small", False), ("v4", False)])
def test_only_light_codecs_learn(preset, learns):
    assert codecs_learn(load_preset(preset)) is learns
