import numpy as np
import pytest
import torch
from scipy.signal import stft

from model.codecs.latents import measure_latents
from model.codecs.loading import audio_codec_of, load_audio_codec
from model.codecs.tiny_audio import Spectrum, TinyAudioCodec, TinyAudioConfig
from model.codecs.training import audio_codec_loss, spectral_convergence
from model.shapes import ClipShape, VideoCodecSpec

SMALL = TinyAudioConfig(channels=8, width=48, spectrum_width=24)


@pytest.fixture
def codec():
    torch.manual_seed(0)
    return TinyAudioCodec(SMALL).eval()


def spectral_correlation(one, other):
    """Pearson correlation of scipy's magnitudes, all channels mixed."""
    spectra = [np.abs(stft(w.mean(0).numpy(), nperseg=1024)[2]).ravel() for w in (one, other)]
    return np.corrcoef(spectra)[0, 1]


def test_lengths_are_those_of_the_clip(codec):
    clip = ClipShape(81, 16, 64, 64, VideoCodecSpec(16), codec.spec)
    latents = codec.encode(torch.zeros(2, 2, clip.audio_samples))
    assert latents.shape[1:] == clip.audio_latent_shape == (8, 218)
    assert codec.decode(latents).shape == (2, 2, 218 * 1024)
    with pytest.raises(ValueError, match="1023 samples are shorter"):
        codec.encode(torch.zeros(1, 2, 1023))


def test_spectra_are_those_of_a_windowed_fft_and_invert_exactly():
    waveform = torch.randn(1, 2, 8 * 256)
    spectrum = Spectrum(1024, 256)
    spectra = spectrum(waveform)
    assert spectra.shape == (1, 2, 513, 8)
    padded = np.pad(waveform[0, 1].numpy(), 384)
    expected = np.fft.rfft(padded[3 * 256 : 3 * 256 + 1024] * np.hanning(1025)[:-1])
    np.testing.assert_allclose(spectra[0, 1, :, 3].numpy(), expected, atol=1e-3)
    torch.testing.assert_close(spectrum.inverse(spectra), waveform, rtol=1e-4, atol=1e-5)


def test_vocoder_finds_a_waveform_with_the_magnitudes_and_keeps_the_panning(chirps):
    spectrum = Spectrum(1024, 256)
    whole = chirps[..., : 43 * 1024]
    wanted = spectrum(whole).abs()
    heard = spectrum.vocode(wanted, 32)
    assert spectral_convergence(spectrum(heard).abs(), wanted) < 0.25
    assert spectral_correlation(heard[0], whole[0]) > 0.95
    torch.testing.assert_close(heard[:, 1], 0.4 * heard[:, 0], rtol=1e-3, atol=1e-4)
    assert torch.equal(heard, spectrum.vocode(wanted, 32))


@pytest.mark.slow
def test_it_learns_a_sound_and_its_latents_get_unit_variance(learn):
    torch.manual_seed(0)
    time = torch.arange(22050) / 44100
    tone = 0.5 * torch.sin(2 * torch.pi * torch.where(time < 0.25, 440.0, 1320.0) * time)
    sound = torch.stack([tone, 0.4 * tone])[None]
    codec = audio_codec_of({"kind": "tiny_audio"})
    learn(codec, audio_codec_loss, sound, rate=3e-3, steps=120)
    codec.norm.set(measure_latents(codec.raw_latents, [sound]))
    latents = codec.encode(sound)
    torch.testing.assert_close(latents.std((0, 2), unbiased=False), torch.ones(32), rtol=1e-3, atol=1e-3)
    decoded = codec.decode(latents)
    assert spectral_correlation(decoded[0], sound[0, :, : decoded.shape[-1]]) > 0.9


def test_silence_stays_silent_through_the_vocoder():
    spectrum = Spectrum(1024, 256)
    assert not spectrum.vocode(torch.zeros(1, 2, 513, 8), 4).any()


def test_a_saved_codec_loads_as_itself(codec, tmp_path, chirps):
    codec.norm.set(measure_latents(codec.raw_latents, [chirps]))
    codec.save(tmp_path)
    loaded = load_audio_codec(tmp_path)
    assert torch.equal(loaded.encode(chirps), codec.encode(chirps))
    assert loaded.identity == codec.identity
    assert TinyAudioCodec(SMALL).identity != codec.identity


def test_mono_is_a_matter_of_configuration():
    mono = audio_codec_of({"kind": "tiny_audio", "stereo": False, "sample_rate": 16000, "hop": 512, "window": 512})
    assert not mono.spec.stereo
    assert mono.spec.latent_rate == 31.25
    assert mono.decode(mono.encode(torch.randn(1, 1, 16000))).shape == (1, 1, 31 * 512)
