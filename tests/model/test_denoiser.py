import pytest
import torch

from model.conditioning import VideoCondition
from model.config import TransformerConfig
from model.denoiser import GuidedVelocity, Scene, stack_text
from model.guidance import GuidanceScales
from model.mmdit import JointInputs, MMDiT

C, CA, T, H, W, L, D = 4, 3, 2, 4, 4, 7, 8
SCALE = T / L


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    built = MMDiT(TransformerConfig(24, 2, 1, 1, D, C, CA))
    for parameter in built.parameters():  # gates start at zero: without this no guidance term would show
        torch.nn.init.normal_(parameter, std=0.1)
    return built.eval()


def texts(length, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, D, generator=generator), torch.ones(batch, length, dtype=torch.bool)


def scene(**changes):
    torch.manual_seed(1)
    values = {
        "prompt": texts(5),
        "negative": texts(3, seed=1),
        "generates": frozenset({"video", "audio"}),
        "condition": VideoCondition(torch.randn(1, C, T, H, W), (torch.rand(1, 1, T, H, W) > 0.5).float()),
        "video_references": [torch.randn(2, C, 1, H, W)],
        "audio_time_scale": SCALE,
    }
    return Scene(**{**values, **changes})


def noise():
    torch.manual_seed(2)
    return {"video": torch.randn(2, C, T, H, W), "audio": torch.randn(2, CA, L)}


@torch.no_grad()
def test_one_batch_of_passes_equals_separate_runs_without_caches(model):
    setting, latents, t = scene(), noise(), 0.4
    scales = GuidanceScales(video=4.0, audio=3.0, reference=2.0, cross_modal=1.5)
    guided = GuidedVelocity(model, setting, scales)(latents, t)

    def alone(text, references, cross_modal):
        return model(
            JointInputs(
                text=text[0],
                timesteps=torch.full((2, 2), t),
                video=setting.condition.channels(latents["video"]),
                audio=latents["audio"],
                audio_time_scale=SCALE,
                video_references=references,
                cross_modal=cross_modal,
            )
        )

    full = alone(setting.prompt, setting.video_references, True)
    no_text = alone(setting.negative, setting.video_references, True)
    no_references = alone(setting.prompt, (), True)
    apart = alone(setting.prompt, setting.video_references, False)
    for stream, text_scale in (("video", 4.0), ("audio", 3.0)):
        f, a, b, c = (getattr(out, stream) for out in (full, no_text, no_references, apart))
        assert min((f - other).abs().max() for other in (a, c)) > 1e-3
        expected = f + (text_scale - 1) * (f - a) + (f - b) + 0.5 * (f - c)
        torch.testing.assert_close(guided[stream], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_given_stream_stands_at_timestep_one_and_is_not_generated(model):
    latents = noise()
    setting = scene(generates=frozenset({"audio"}), given={"video": latents.pop("video")}, video_references=())
    velocity = GuidedVelocity(model, setting, GuidanceScales())
    assert set(velocity(latents, 0.2)) == {"audio"}
    assert velocity.inputs(latents, 0.2).timesteps[0].tolist() == pytest.approx([1.0, 0.2])


def test_texts_of_one_length_need_no_mask():
    assert stack_text([texts(4), texts(4)])[1] is None
    text, mask = stack_text([texts(4), texts(2)])
    assert text.shape == (4, 4, D)
    assert mask.sum(1).tolist() == [4, 4, 2, 2]
    assert not text[2:, 2:].any()
