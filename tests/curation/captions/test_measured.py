import pytest

from pipelines.curation.captions.measured import MeasuredCaptioner
from pipelines.curation.captions.requests import CaptionRequest

FILM = {
    "seconds": 5.0,
    "width": 1280,
    "height": 720,
    "visual.camera": "pan_left",
    "visual.object_motion": 0.2,
    "visual.luma_mean": 40.0,
    "visual.contrast": 70.0,
    "audio.class": "music",
    "audio.silence_ratio": 0.0,
    "audio.onsets_per_s": 2.0,
    "audio.beat_strength": 0.6,
    "audio.tempo_bpm": 119.7,
}


def caption(measurements, transcript=None):
    [result] = MeasuredCaptioner().caption([CaptionRequest("a", measurements=measurements, transcript=transcript)])
    return result


def test_every_sentence_is_a_measurement():
    result = caption(FILM)
    assert result.issues == ()
    assert result.caption.caption_source == "measured"
    assert result.caption.short == "A wide clip of 1280 x 720 pixels, 5.0 seconds long with music."
    assert result.caption.long == (
        "A wide clip of 1280 x 720 pixels, 5.0 seconds long. The camera pans left. Much moves, and fast. "
        "The picture is dark and rich in contrast. The sound is mainly music. 10 sudden sounds. "
        "A beat at 120 per minute."
    )
    assert result.caption.structured_text == (
        "Camera: The camera pans left.\nLighting: The picture is dark and rich in contrast.\n"
        "<bgm>A beat at 120 per minute.</bgm>"
    )


def test_nothing_is_said_of_what_was_not_measured():
    result = caption({"seconds": 4.0})
    assert result.caption.long == "A recording of 4.0 seconds."
    assert result.caption.structured_text == ""
    assert caption({"width": 512, "height": 512}).caption.long == "A square picture of 512 x 512 pixels."


@pytest.mark.parametrize(("kind", "tag"), [("speech", "dialogue"), ("singing", "singing")])
def test_a_transcript_is_quoted_as_what_it_is(kind, tag):
    result = caption({**FILM, "audio.class": kind}, "good morning")
    assert result.issues == ()
    assert f"<{tag}>good morning</{tag}>" in result.caption.structured_text
    assert 'The words are: "good morning"' in result.caption.long


def test_without_length_and_size_there_is_no_caption():
    result = caption({"visual.camera": "static"})
    assert result.caption is None
    assert "neither a length nor a size" in result.error.reason


def test_a_key_given_twice_is_refused():
    with pytest.raises(ValueError, match="twice in one call for clip a"):
        MeasuredCaptioner().caption([CaptionRequest("a"), CaptionRequest("a")])
