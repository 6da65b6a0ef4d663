import numpy as np
import pytest
import torch
from torch.nn import functional as F

import pipelines  # noqa: F401  (before transformers: it makes torchvision importable)
from pipelines.curation.syncnet import FPS, SyncNet, SyncNetConfig, sync_from_embeddings

TINY = SyncNetConfig(mel_bins=20, mouth_size=32, width=4, embedding=16)


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """A small random network that went through its files, and the one it was saved from."""
    torch.manual_seed(0)
    made = SyncNet(TINY).eval()
    folder = tmp_path_factory.mktemp("syncnet")
    made.save(folder)
    return SyncNet.load(folder), made


@pytest.mark.parametrize("late", [-12, -3, 0, 1, 7, 15])
def test_embeddings_that_agree_after_a_shift_show_it(late):
    generator = torch.Generator().manual_seed(late + 20)
    steps = F.normalize(torch.randn(200, 16, generator=generator), dim=-1)
    video = steps[30:130]
    audio = F.normalize(steps[30 - late : 130 - late] + 0.1 * torch.randn(100, 16, generator=generator), dim=-1)
    found = sync_from_embeddings(video, audio, 15)
    assert (found.offset_frames, found.method) == (late, "syncnet")
    assert found.offset_s == pytest.approx(late / FPS)
    assert found.confidence > 0.5
    strange = sync_from_embeddings(video, F.normalize(torch.randn(100, 16, generator=generator), dim=-1), 15)
    assert strange.confidence < 0.15


@torch.inference_mode()
def test_a_checkpoint_comes_back_as_it_was(net):
    loaded, made = net
    mouths, mel = torch.rand(3, 5, 3, 32, 32), torch.randn(3, 20, 20)
    assert torch.equal(loaded.embed_mouths(mouths), made.embed_mouths(mouths))
    assert torch.equal(loaded.embed_sound(mel), made.embed_sound(mel))
    assert loaded.embed_sound(mel).norm(dim=-1) == pytest.approx(torch.ones(3), abs=1e-5)


def test_a_clip_is_cut_into_windows_that_share_a_clock(net, monkeypatch):
    """With towers that read off brightness and loudness, a flash and a click in the same frame are in sync."""
    loaded, _ = net
    frames = np.zeros((75, 40, 40, 3), np.uint8)
    samples = np.random.default_rng(0).normal(0, 1e-3, (2, 3 * 44100)).astype(np.float32)
    for at in (20, 33, 51):
        frames[at] = 255
        start = round((at + 4) / FPS * 44100)  # four frames late
        samples[:, start : start + 1764] += 0.5 * np.random.default_rng(at).normal(0, 1, 1764)
    shape = torch.linspace(1, 2, 5)
    monkeypatch.setattr(SyncNet, "embed_mouths", lambda self, mouths: (mouths.mean((2, 3, 4)) > 0.5).float() * shape)
    monkeypatch.setattr(
        SyncNet,
        "embed_sound",
        lambda self, mel: (mel.mean(1).unflatten(1, (5, 4)).mean(2) > 0).float() * shape,
    )
    assert loaded.measure(frames, samples, 44100).offset_frames == pytest.approx(4, abs=1)


def test_a_random_network_measures_something_finite_and_short_clips_nothing(net):
    loaded, _ = net
    rng = np.random.default_rng(0)
    mouths, samples = rng.integers(0, 255, (60, 48, 48, 3), dtype=np.uint8), rng.normal(0, 0.1, (1, 40000))
    found = loaded.measure(mouths, samples, 16000)
    assert abs(found.offset_frames) <= 15
    assert np.isfinite(found.confidence)
    assert found.confidence >= 0
    assert loaded.measure(mouths[:20], samples, 16000) is None
