import time

import pytest
import torch

from model.checksums import CheckpointError
from model.codecs.latents import measure_latents
from model.codecs.loading import load_video_codec, video_codec_of
from model.codecs.tiny_video import TinyVideoCodec, TinyVideoConfig
from model.codecs.training import video_codec_loss
from model.shapes import ClipShape

SMALL = TinyVideoConfig(channels=6, width=16, patch_width=8)


@pytest.fixture
def codec():
    torch.manual_seed(0)
    return TinyVideoCodec(SMALL).eval()


def test_shapes_are_those_of_the_clip(codec):
    for frames, height, width in ((1, 16, 24), (17, 16, 24), (81, 8, 8)):
        clip = ClipShape(frames, 16, height, width, codec.spec)
        latents = codec.encode(torch.rand(2, 3, frames, height, width) * 2 - 1)
        assert latents.shape[1:] == clip.video_latent_shape
        assert codec.decode(latents).shape == (2, 3, frames, height, width)
    with pytest.raises(ValueError, match="16 frames do not fill"):
        codec.encode(torch.zeros(1, 3, 16, 16, 16))


def test_latents_of_the_beginning_do_not_know_what_follows(codec):
    frames = torch.rand(1, 3, 17, 16, 16) * 2 - 1
    other = frames.clone()
    other[:, :, 9:] = -1
    torch.testing.assert_close(codec.encode(frames)[:, :, :3], codec.encode(other)[:, :, :3])
    torch.testing.assert_close(codec.encode(frames)[:, :, :1], codec.encode(frames[:, :, :1]))
    assert not torch.allclose(codec.encode(frames)[:, :, 3:], codec.encode(other)[:, :, 3:])


def test_decoding_in_chunks_changes_nothing(codec):
    latents = 0.3 * torch.randn(1, 6, 11, 2, 3)
    whole = codec.decode(latents, chunk=11)
    assert whole.abs().max() < 1  # nothing is hidden by clamping
    for chunk in (1, 2, 5):
        torch.testing.assert_close(codec.decode(latents, chunk=chunk), whole, rtol=1e-4, atol=1e-5)


def test_it_learns_a_clip_and_its_latents_get_unit_variance(codec, moving_square, learn):
    crop = moving_square[:, :, :9, 16:48, :48]
    before = (codec.decode(codec.encode(crop)) - crop).square().mean()
    losses = learn(codec, video_codec_loss, crop, rate=5e-3, steps=60)
    codec.norm.set(measure_latents(codec.raw_latents, [crop]))
    after = (codec.decode(codec.encode(crop)) - crop).square().mean()
    assert len(losses) == 60
    assert after < 0.1 * before
    latents = codec.encode(crop)
    torch.testing.assert_close(latents.std((0, 2, 3, 4), unbiased=False), torch.ones(6), rtol=1e-3, atol=1e-3)


def test_a_saved_codec_loads_as_itself(codec, tmp_path, moving_square):
    codec.norm.set(measure_latents(codec.raw_latents, [moving_square]))
    codec.save(tmp_path)
    loaded = load_video_codec(tmp_path)
    assert torch.equal(loaded.encode(moving_square), codec.encode(moving_square))
    assert loaded.identity == codec.identity
    with torch.no_grad():
        next(loaded.parameters()).add_(1e-4)
    assert loaded.identity != codec.identity


def test_statistics_are_part_of_the_identity(codec, moving_square):
    identity = codec.identity
    codec.norm.set(measure_latents(codec.raw_latents, [moving_square]))
    assert codec.identity != identity


def test_missing_weights_are_named(codec, tmp_path):
    codec.save(tmp_path)
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text().replace('"depth": 2', '"depth": 3'))
    with pytest.raises(CheckpointError, match=r"missing: decoder\.blocks\.2"):
        load_video_codec(tmp_path)


def test_default_size_codes_17_frames_of_64_pixels_within_50_ms_of_cpu(moving_square):
    codec = video_codec_of({"kind": "tiny_video"})
    latents = codec.encode(moving_square)
    for work in (lambda: codec.encode(moving_square), lambda: codec.decode(latents)):
        spent = []
        for _ in range(8):
            start = time.process_time()
            work()
            spent.append(time.process_time() - start)
        assert min(spent) < 0.05 * 2  # seconds of both cores together
