import pytest
import torch

from model.conditioning import VideoCondition
from model.config import TransformerConfig
from model.network.mmdit import JointInputs, MMDiT
from model.sampling.denoiser import GuidedVelocity, RunInputs, runs_together, stack_text
from model.sampling.guidance import GuidanceScales

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


def run_inputs(**changes):
    torch.manual_seed(1)
    values = {
        "prompt": texts(5),
        "negative": texts(3, seed=1),
        "generates": frozenset({"video", "audio"}),
        "condition": VideoCondition(torch.randn(1, C, T, H, W), (torch.rand(1, 1, T, H, W) > 0.5).float()),
        "video_references": {"@image_1": torch.randn(2, C, 1, H, W)},
        "audio_references": {"@audio_1": torch.randn(2, CA, 2)},
        "audio_time_scale": SCALE,
    }
    return RunInputs(**{**values, **changes})


def noise():
    torch.manual_seed(2)
    return {"video": torch.randn(2, C, T, H, W), "audio": torch.randn(2, CA, L)}


@torch.no_grad()
def alone(model, run, latents, t, *, text=None, shown=("@image_1", "@audio_1"), cross_modal=True, **given):
    """One pass by itself: no batch, no cache, no mask; what is not shown is not there."""
    return model(
        JointInputs(
            text=(text or run.prompt)[0],
            timesteps=torch.tensor([[given.get("video_t", t), t]]).expand(2, 2),
            video=run.condition.channels({**run.given, **latents}["video"]),
            audio=latents["audio"],
            audio_time_scale=SCALE,
            video_references=[part for tag, part in run.video_references.items() if tag in shown],
            audio_references=[part for tag, part in run.audio_references.items() if tag in shown],
            cross_modal=cross_modal,
        )
    )


def assert_guided(guided, full, terms):
    """`terms` are (scale of video, scale of audio, prediction without) triples."""
    for index, stream in enumerate(("video", "audio")):
        f = getattr(full, stream)
        expected = f
        for term in terms:
            expected = expected + (term[index] - 1) * (f - getattr(term[2], stream))
        assert (expected - f).abs().max() > 1e-3
        torch.testing.assert_close(guided[stream], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("together", [True, False])
def test_batched_passes_equal_separate_runs_without_caches(model, together):
    run, latents, t = run_inputs(), noise(), 0.4
    scales = GuidanceScales(video=4.0, audio=3.0, reference=2.0, cross_modal=1.5)
    guided = GuidedVelocity(model, run, scales, together)(latents, t)
    full = alone(model, run, latents, t)
    no_text = alone(model, run, latents, t, text=run.negative)
    no_references = alone(model, run, latents, t, shown=())
    apart = alone(model, run, latents, t, cross_modal=False)
    assert_guided(guided, full, [(4.0, 3.0, no_text), (2.0, 2.0, no_references), (1.5, 1.5, apart)])


@pytest.mark.parametrize("together", [True, False])
def test_every_reference_is_guided_by_a_pass_without_it_alone(model, together):
    run, latents, t = run_inputs(), noise(), 0.4
    scales = GuidanceScales(1.0, 1.0, reference={"@image_1": 3.0, "@audio_1": 1.5})
    guided = GuidedVelocity(model, run, scales, together)(latents, t)
    full = alone(model, run, latents, t)
    voice_only, image_only = (alone(model, run, latents, t, shown=(tag,)) for tag in ("@audio_1", "@image_1"))
    assert_guided(guided, full, [(3.0, 3.0, voice_only), (1.5, 1.5, image_only)])


def test_where_arithmetic_is_dear_no_pass_is_padded_or_masked(model):
    scales = GuidanceScales(reference={"@image_1": 2.0, "@audio_1": 2.0}, cross_modal=1.5)
    velocity = GuidedVelocity(model, run_inputs(), scales, together=False)
    inputs = [batch.inputs(noise(), 0.4) for batch in velocity.batches]
    rows_and_texts = [(part.text.shape[0], part.text.shape[1]) for part in inputs]
    assert rows_and_texts == [(2, 5), (2, 3), (4, 5), (2, 5)]
    assert [part.text_mask for part in inputs] == [None] * 4
    assert [part.reference_rows is not None for part in inputs] == [False, False, True, False]
    assert [part.cross_modal for part in inputs] == [True, True, True, False]
    assert len(GuidedVelocity(model, run_inputs(), scales, together=True).batches) == 1


@pytest.mark.parametrize("together", [True, False])
def test_a_given_stream_stands_at_timestep_one_and_is_not_generated(model, together):
    latents = noise()
    run = run_inputs(generates=frozenset({"audio"}), given={"video": latents.pop("video")})
    velocity = GuidedVelocity(model, run, GuidanceScales(cross_modal=2.0), together)
    guided = velocity(latents, 0.2)
    assert set(guided) == {"audio"}
    full, no_text, apart = (
        alone(model, run, latents, 0.2, video_t=1.0, **changes).audio
        for changes in ({}, {"text": run.negative}, {"cross_modal": False})
    )
    torch.testing.assert_close(guided["audio"], full + 2 * (full - no_text) + (full - apart), rtol=1e-4, atol=1e-4)
    # Apart from the video, the sound needs no video: its pass does without.
    without_video = [batch.inputs(latents, 0.2).video is None for batch in velocity.batches]
    assert without_video == ([False] if together else [False, False, True])


def test_texts_of_one_length_need_no_mask():
    assert stack_text([texts(4), texts(4)])[1] is None
    text, mask = stack_text([texts(4), texts(2)])
    assert text.shape == (4, 4, D)
    assert mask.sum(1).tolist() == [4, 4, 2, 2]
    assert not text[2:, 2:].any()


@pytest.mark.parametrize(
    ("device", "tokens", "padding", "together"),
    [
        ("cpu", 100, 20, True),
        ("cpu", 100, 200, False),
        ("cpu", 2000, 20, False),
        ("cuda", 100, 200, True),
        ("cuda", 30_000, 0, False),
    ],
)
def test_long_sequences_are_not_masked_for_a_shorter_text(device, tokens, padding, together):
    assert runs_together(device, tokens, padding) is together
