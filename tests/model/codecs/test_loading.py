import json

import pytest
import torch

from model.codecs.latents import LatentStatistics
from model.codecs.loading import audio_codec_of, load_audio_codec, load_video_codec, video_codec_of
from model.codecs.oobleck import OobleckAudioCodec
from model.codecs.wan import WanVideoCodec
from model.shapes import ClipShape


@pytest.fixture(scope="module")
def wan_folder(tmp_path_factory):
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("wan")
    vae = AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.5] * 4, latents_std=[2.0] * 4
    )
    vae.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def oobleck_folder(tmp_path_factory):
    from diffusers import AutoencoderOobleck

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("oobleck")
    AutoencoderOobleck(8, [2, 4, 8], [1, 2, 2], 8, 4).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_wan_folder_gives_latents_normalised_by_its_own_configuration(wan_folder):
    codec = load_video_codec(wan_folder)
    assert isinstance(codec, WanVideoCodec)
    assert (codec.spec.channels, codec.spec.stride) == (4, (4, 8, 8))
    frames = torch.rand(1, 3, 5, 32, 32) * 2 - 1
    latents = codec.encode(frames)
    assert latents.shape == (1, 4, 2, 4, 4)
    raw = codec.vae.encode(frames).latent_dist.mode()
    torch.testing.assert_close(latents, (raw - 0.5) / 2.0)
    torch.testing.assert_close(codec.decode(latents), codec.vae.decode(raw).sample)


@pytest.mark.slow
def test_wan_decodes_large_frames_in_blended_tiles(wan_folder):
    codec = load_video_codec(wan_folder, tile=32)
    whole = load_video_codec(wan_folder, tile=512)
    latents = torch.randn(1, 4, 2, 6, 8)
    tiled = codec.decode(latents)
    assert tiled.shape == (1, 3, 5, 48, 64)
    corner = whole.decode(latents[..., :4, :4])  # a tile of 32 pixels, of which 24 come before the next one's overlap
    torch.testing.assert_close(tiled[..., :24, :24], corner[..., :24, :24], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_wan_decodes_a_clip_in_parts_of_time_and_tiles_of_space_without_seams(wan_folder):
    """Every latent's frames by themselves are those of diffusers, which holds them all. Of latents that do not change
    along the width, a picture steps where tiles are set side by side, and not where they fade into each other."""
    codec, whole = load_video_codec(wan_folder, tile=64), load_video_codec(wan_folder, tile=512)
    latents = torch.randn(1, 4, 4, 8, 1).expand(-1, -1, -1, -1, 24)
    parts = list(codec.decode_parts(latents))
    assert [part.shape[2] for part in parts] == [1, 4, 4, 4]
    one = torch.cat(list(whole.decode_parts(latents)), 2)
    torch.testing.assert_close(one, whole.vae.decode(latents * 2.0 + 0.5).sample)
    beside = torch.cat([whole.decode(part) for part in latents.split(8, -1)], -1)

    def seam(frames):
        return frames.diff(dim=-1).abs().mean((0, 1, 2, 3))[32:-32].max()

    assert seam(torch.cat(parts, 2)) < 0.3 * seam(beside)


@pytest.mark.slow
def test_wan_2_2_codes_patches_at_twice_the_stride(tmp_path):
    from diffusers import AutoencoderKLWan

    AutoencoderKLWan(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2, 2, 2],
        num_res_blocks=1,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
    ).save_pretrained(tmp_path)
    codec = load_video_codec(tmp_path, tile=64)
    frames = torch.rand(1, 3, 5, 64, 96) * 2 - 1
    latents = codec.encode(frames)
    assert latents.shape[1:] == ClipShape(5, 16, 64, 96, codec.spec).video_latent_shape == (4, 2, 4, 6)
    torch.testing.assert_close(codec.decode(latents[..., :4]), codec.vae.decode(latents[..., :4]).sample)
    assert codec.decode(latents).shape == frames.shape


@pytest.mark.slow
def test_wan_with_foreign_statistics_says_what_to_set(wan_folder, tmp_path):
    codec = load_video_codec(wan_folder)
    codec.norm.set(LatentStatistics((1.0,) * 4, (3.0,) * 4, 10))
    codec.save(tmp_path)
    assert load_video_codec(tmp_path).norm.statistics == codec.norm.statistics
    assert load_video_codec(tmp_path).identity == codec.identity != load_video_codec(wan_folder).identity
    (tmp_path / "latent_statistics.json").unlink()
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "latents_mean": [0.0] * 16}))
    with pytest.raises(ValueError, match="4 latent channels but latents_mean of 16"):
        load_video_codec(tmp_path)


def test_oobleck_folder_gives_whole_latents_of_its_own_rate(oobleck_folder):
    codec = load_audio_codec(oobleck_folder)
    assert isinstance(codec, OobleckAudioCodec)
    assert (codec.spec.hop, codec.spec.channels, codec.spec.stereo) == (64, 4, True)
    waveform = torch.rand(1, 2, 64 * 20 + 30) * 2 - 1
    latents = codec.encode(waveform)
    assert latents.shape == (1, 4, 20)
    torch.testing.assert_close(latents, codec.vae.encode(waveform[..., : 64 * 20]).latent_dist.mode())
    assert codec.decode(latents).shape == (1, 2, 64 * 20)
    assert load_audio_codec(oobleck_folder).identity == codec.identity


def test_oobleck_decodes_long_sound_in_pieces(oobleck_folder):
    codec = load_audio_codec(oobleck_folder)
    latents = torch.randn(1, 4, 96)
    codec.vae.tile_latent_min_length, codec.vae.tile_latent_overlap = 64, 16
    pieces = codec.decode(latents)
    codec.vae.use_tiling = False
    torch.testing.assert_close(pieces, codec.decode(latents), rtol=1e-3, atol=1e-4)


def test_presets_name_a_folder_or_sizes(oobleck_folder):
    assert isinstance(audio_codec_of({"kind": "oobleck", "path": str(oobleck_folder)}), OobleckAudioCodec)
    with pytest.raises(ValueError, match="'mpeg': use tiny_video or wan"):
        video_codec_of({"kind": "mpeg"})
    with pytest.raises(ValueError, match=r"unknown keys \['widht'\]"):
        video_codec_of({"kind": "tiny_video", "widht": 3})


def test_a_folder_of_another_class_is_refused(oobleck_folder, tmp_path):
    with pytest.raises(ValueError, match="'AutoencoderOobleck': use TinyVideoCodec or AutoencoderKLWan"):
        load_video_codec(oobleck_folder)
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        load_audio_codec(tmp_path)
