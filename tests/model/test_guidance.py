import pytest
import torch

from model.guidance import GuidanceScales, Pass, guidance_passes, guide, rescale_velocity

BOTH = frozenset({"video", "audio"})


def velocities(*passes):
    torch.manual_seed(0)
    return {p: {"video": torch.randn(2, 3, 4), "audio": torch.randn(2, 5)} for p in passes}


def test_each_term_has_its_scale_and_text_one_per_modality():
    v = velocities(*Pass)
    guided = guide(v, GuidanceScales(video=4.0, audio=3.0, reference=2.0, cross_modal=1.5))
    for stream, text in (("video", 4.0), ("audio", 3.0)):
        full = v[Pass.FULL][stream]
        expected = (
            full
            + (text - 1) * (full - v[Pass.NO_TEXT][stream])
            + (2.0 - 1) * (full - v[Pass.NO_REFERENCES][stream])
            + (1.5 - 1) * (full - v[Pass.APART][stream])
        )
        torch.testing.assert_close(guided[stream], expected)


def test_text_guidance_alone_is_the_classic_formula():
    v = velocities(Pass.FULL, Pass.NO_TEXT)
    guided = guide(v, GuidanceScales(video=5.0))["video"]
    cond, uncond = v[Pass.FULL]["video"], v[Pass.NO_TEXT]["video"]
    torch.testing.assert_close(guided, uncond + 5.0 * (cond - uncond))


def test_only_passes_with_an_effect_run():
    off = GuidanceScales(video=1.0, audio=1.0)
    assert guidance_passes(off, BOTH, has_references=True, joint=True) == (Pass.FULL,)
    only_audio = GuidanceScales(video=4.0, audio=1.0, reference=3.0, cross_modal=3.0)
    assert guidance_passes(only_audio, frozenset({"audio"}), has_references=False, joint=False) == (Pass.FULL,)
    every = GuidanceScales(reference=2.0, cross_modal=2.0)
    assert guidance_passes(every, BOTH, has_references=True, joint=True) == tuple(Pass)


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
