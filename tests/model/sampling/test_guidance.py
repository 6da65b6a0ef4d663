import pytest
import torch

from model.sampling.guidance import APART, FULL, NO_TEXT, GuidanceScales, Pass, guidance_passes, guide, rescale_velocity

BOTH = frozenset({"video", "audio"})
TAGS = ("@image_1", "@audio_1")
NO_REFERENCES = Pass(without=TAGS)


def velocities(*passes):
    torch.manual_seed(0)
    return {p: {"video": torch.randn(2, 3, 4), "audio": torch.randn(2, 5)} for p in passes}


def test_each_term_has_its_scale_and_text_one_per_modality():
    v = velocities(FULL, NO_TEXT, NO_REFERENCES, APART)
    guided = guide(v, GuidanceScales(video=4.0, audio=3.0, reference=2.0, cross_modal=1.5))
    for stream, text in (("video", 4.0), ("audio", 3.0)):
        full = v[FULL][stream]
        expected = (
            full
            + (text - 1) * (full - v[NO_TEXT][stream])
            + (2.0 - 1) * (full - v[NO_REFERENCES][stream])
            + (1.5 - 1) * (full - v[APART][stream])
        )
        torch.testing.assert_close(guided[stream], expected)


def test_text_guidance_alone_is_the_classic_formula():
    v = velocities(FULL, NO_TEXT)
    guided = guide(v, GuidanceScales(video=5.0))["video"]
    cond, uncond = v[FULL]["video"], v[NO_TEXT]["video"]
    torch.testing.assert_close(guided, uncond + 5.0 * (cond - uncond))


def test_every_reference_can_have_a_scale_of_its_own():
    image, sound = (Pass(without=(tag,)) for tag in TAGS)
    v = velocities(FULL, image, sound)
    guided = guide(v, GuidanceScales(reference={"@image_1": 2.5, "@audio_1": 0.5}))
    for stream in BOTH:
        full = v[FULL][stream]
        expected = full + 1.5 * (full - v[image][stream]) - 0.5 * (full - v[sound][stream])
        torch.testing.assert_close(guided[stream], expected)


def test_only_passes_with_an_effect_run():
    off = GuidanceScales(video=1.0, audio=1.0)
    assert guidance_passes(off, BOTH, references=TAGS, joint=True) == (FULL,)
    only_audio = GuidanceScales(video=4.0, audio=1.0, reference=3.0, cross_modal=3.0)
    assert guidance_passes(only_audio, frozenset({"audio"}), references=(), joint=False) == (FULL,)
    every = GuidanceScales(reference=2.0, cross_modal=2.0)
    assert guidance_passes(every, BOTH, references=TAGS, joint=True) == (FULL, NO_TEXT, NO_REFERENCES, APART)


def test_a_reference_with_scale_one_or_none_costs_no_pass():
    def passes(reference):
        return guidance_passes(GuidanceScales(1.0, 1.0, reference=reference), BOTH, references=TAGS, joint=True)

    assert passes({"@image_1": 2.0, "@audio_1": 1.0}) == (FULL, Pass(without=("@image_1",)))
    assert passes({"@audio_1": 2.0}) == (FULL, Pass(without=("@audio_1",)))
    assert passes({}) == (FULL,)
    with pytest.raises(ValueError, match="names @image_2, but the references are @image_1, @audio_1"):
        passes({"@image_2": 2.0})


def test_rescale_restores_the_spread_of_each_sample():
    full = torch.randn(2, 3, 4)
    guided = 7 * full + torch.tensor([1.0, 3.0])[:, None, None]
    whole = rescale_velocity(guided, full, 1.0)
    torch.testing.assert_close(whole.std((1, 2)), full.std((1, 2)))
    torch.testing.assert_close(rescale_velocity(guided, full, 0.0), guided)
    half = rescale_velocity(guided, full, 0.5)
    torch.testing.assert_close(half, (whole + guided) / 2)
    with pytest.raises(ValueError, match=r"rescale is 1\.5"):
        GuidanceScales(rescale=1.5)
