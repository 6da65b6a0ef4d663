import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.shapes import AudioCodecSpec, ClipShape, VideoCodecSpec

VIDEO = VideoCodecSpec(channels=16)
AUDIO = AudioCodecSpec(channels=40, sample_rate=44_100, hop=1024)


def clip(seconds: float, fps: float = 16) -> ClipShape:
    return ClipShape.from_seconds(seconds, fps, 480, 832, VIDEO, AUDIO)


def test_the_papers_numbers_come_out_of_arithmetic() -> None:
    shape = clip(5)
    assert shape.frames == 81
    assert shape.seconds == 5.0625
    assert shape.video_latent_shape == (16, 21, 60, 104)
    assert shape.audio_latent_shape == (40, 218)
    assert shape.audio_time_scale == pytest.approx(0.09633, abs=5e-6)


def test_another_codec_gives_another_length() -> None:
    oobleck = AudioCodecSpec(channels=64, sample_rate=44_100, hop=2048, stereo=True)
    assert ClipShape.from_seconds(5, 16, 480, 832, VIDEO, oobleck).audio_latent_length == 109


@pytest.mark.parametrize("seconds", [5, 15])
def test_both_streams_span_the_same_seconds_at_every_length(seconds: float) -> None:
    shape = clip(seconds)
    seconds_per_video_latent = shape.seconds / shape.latent_frames
    for index in (0, shape.audio_latent_length // 2, shape.audio_latent_length):
        heard = index * AUDIO.hop / AUDIO.sample_rate
        assert index * shape.audio_time_scale * seconds_per_video_latent == pytest.approx(
            heard, abs=AUDIO.hop / AUDIO.sample_rate
        )


def test_a_constant_factor_would_drift_by_more_than_a_latent_at_15_seconds() -> None:
    constant = clip(5).audio_time_scale
    shape = clip(15)
    assert shape.audio_latent_length * constant - shape.latent_frames > 1


@given(latents=st.integers(1, 60), stride=st.sampled_from([1, 2, 4, 8]), causal=st.booleans())
def test_frames_and_latents_are_inverse_and_spans_tile_the_clip(latents: int, stride: int, causal: bool) -> None:
    spec = VideoCodecSpec(channels=4, stride=(stride, 8, 8), causal_first=causal)
    frames = spec.frames_of(latents)
    assert spec.latent_frames(frames) == latents
    assert [frame for latent in range(latents) for frame in spec.frame_span(latent)] == list(range(frames))
    for latent in range(latents):
        assert {spec.latent_of_frame(frame) for frame in spec.frame_span(latent)} == {latent}


def test_moments_find_their_latent() -> None:
    shape = clip(5)
    assert [shape.latent_at(moment) for moment in (0, 1 / 16, 0.25, 5 / 16, shape.seconds)] == [0, 1, 1, 2, 20]
    with pytest.raises(ValueError, match="outside the clip"):
        shape.latent_at(6)


def test_what_does_not_fit_the_codec_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"80 frames .* 4 \* n \+ 1"):
        ClipShape(80, 16, 480, 832, VIDEO)
    with pytest.raises(ValueError, match="width 830"):
        ClipShape(81, 16, 480, 830, VIDEO)
    with pytest.raises(ValueError, match="no whole audio latent"):
        ClipShape(1, 100, 480, 832, VIDEO, AUDIO)
