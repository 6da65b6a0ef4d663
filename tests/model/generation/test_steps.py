"""A call in steps, each elsewhere, against the call in one; and what must never become a black clip."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.conditioning import AudioReference, ImageReference, VideoReference
from model.generation.prepared import Prepared
from model.generation.steps import BaseLatents, NotFinite
from model.generation.wire import from_bytes, to_bytes
from model.generator import Generator

pytestmark = pytest.mark.slow

RANDOM = np.random.default_rng(1)
FRAMES = RANDOM.integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
HOLE = np.zeros((32, 32), bool)
HOLE[8:20, 4:28] = True
VOICE = torch.sin(torch.arange(20000) / 30).expand(2, -1)

MEDIA = {
    "nothing": {},
    "image": {"image": FRAMES[0]},
    "floats": {"image": FRAMES[0] / 255.0, "last_image": torch.rand(3, 20, 40) * 2 - 1},
    "keyframes": {"keyframes": [(0.3, FRAMES[2]), (0.0, FRAMES[0])]},
    "extend": {"video": FRAMES, "seconds": 1.0},
    "lead up": {"video": FRAMES, "video_use": "lead_up", "seconds": 1.0},
    "edit": {"video": FRAMES, "video_use": "edit"},
    "add sound": {"video": FRAMES, "video_use": "add_sound"},
    "inpaint": {"video": FRAMES, "mask": HOLE},
    "voice": {"image": FRAMES[0], "audio": VOICE},
    "no sound": {"sound": False},
    "sound alone": {"picture": False},
}
REFERENCES = [
    ImageReference("@image_1", [torch.rand(3, 20, 50) * 2 - 1, torch.rand(3, 30, 20) * 2 - 1]),
    VideoReference("@video_1", torch.rand(3, 10, 40, 40) * 2 - 1),
]


@pytest.fixture(scope="module")
def whole(build):
    return build(keyframes=True)


@pytest.fixture(scope="module")
def apart(whole):
    """The same model as a service has it: one that makes the base's latents, one that refines, one that decodes."""
    parts = whole.components
    return (
        Generator(dataclasses.replace(parts, refiner=None)),
        Generator(dataclasses.replace(parts, transformer=None, encoder=None)),
        Generator(dataclasses.replace(parts, transformer=None, encoder=None, refiner=None)),
    )


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    media=st.sampled_from(sorted(MEDIA)),
    references=st.lists(st.sampled_from(REFERENCES), unique_by=lambda reference: reference.tag),
    heard=st.booleans(),
    refine=st.booleans(),
    scales=st.fixed_dictionaries(
        {},
        optional={
            "guidance_scale": st.floats(1, 6),
            "cross_modal_guidance_scale": st.sampled_from([1.0, 2.0]),
            "guidance_rescale": st.floats(0, 1),
            "num_inference_steps": st.integers(1, 3),
        },
    ),
    seed=st.integers(0, 2**63 - 1),
)
def test_steps_with_bytes_between_them_make_what_the_call_makes(
    whole, apart, media, references, heard, refine, scales, seed
):
    asked = {**MEDIA[media], **scales, "references": references}
    asked["audio_references"] = [AudioReference("@audio_1", VOICE)] if heard else []
    asked["refine"] = refine and media not in ("add sound", "sound alone")
    prompt = "a ball " + " ".join(reference.tag for reference in (*references, *asked["audio_references"]))
    once = whole(prompt, "blue", **asked, generator=torch.Generator().manual_seed(seed))

    base_process, refiner_process, decoder = apart
    data = to_bytes(whole.prepare(prompt, "blue", **asked, seed=seed))
    prepared = from_bytes(Prepared, data)
    assert to_bytes(prepared) == data
    again = whole.render(prepared)
    base = from_bytes(BaseLatents, to_bytes(base_process.sample_base(prepared)))
    streams = refiner_process.refine(prepared, base) if prepared.refined is not None else base.streams
    sent = from_bytes(BaseLatents, to_bytes(dataclasses.replace(base, streams=streams)))
    for made in (again, decoder.decode(from_bytes(Prepared, data), sent.streams)):
        assert made.clip == once.clip
        assert (made.frames is None) == (once.frames is None)
        assert made.frames is None or np.array_equal(made.frames, once.frames)
        assert (made.audio is None) == (once.audio is None)
        assert made.audio is None or torch.equal(made.audio, once.audio)


def test_a_step_names_the_part_that_was_not_loaded(whole, apart):
    prepared = whole.prepare("a ball", seed=0)
    with pytest.raises(ValueError, match="needs the encoder, and only video_codec, audio_codec, refiner were loaded"):
        apart[1].sample_base(prepared)
    with pytest.raises(ValueError, match="the transformer was not loaded"):
        apart[1].prepare("a ball")


def damaged(part, pick):
    """The part with one weight that is no number."""
    with torch.no_grad():
        next(value for name, value in part.named_parameters() if pick in name).view(-1)[3] = float("nan")


@pytest.mark.parametrize(
    ("name", "pick", "asked", "told"),
    [
        ("transformer", "video.head", {}, "video after step 1 of 2 of the base stage .* transformer/"),
        ("refiner", "video.head", {"refine": True}, "video after step 1 of 2 of the refine stage .* refiner/"),
        ("video_codec", "decoder", {}, "the decoded picture holds NaN .* video_codec/decoder"),
        ("audio_codec", "decoder", {}, "the decoded sound holds NaN .* audio_codec/decoder"),
        ("video_codec", "encoder", {"image": FRAMES[0]}, "base stage .* video_codec/encoder"),
    ],
)
def test_weights_that_are_no_numbers_end_in_an_error_that_names_them(build, name, pick, asked, told):
    generator = build()
    damaged(getattr(generator.components, name), pick)
    with pytest.raises(NotFinite, match=rf"{told}.*take another checkpoint"):
        generator("a ball", **asked, generator=torch.Generator().manual_seed(0))


def test_a_generation_that_runs_away_is_an_error_with_sound_weights(build, monkeypatch):
    generator = build()
    with torch.no_grad():
        for parameter in generator.components.transformer.parameters():
            parameter.mul_(1e30)
    with pytest.raises(NotFinite, match="the weights are finite: lower the guidance scales"):
        generator("a ball", guidance_scale=100.0)


def test_the_refiner_has_a_shift_of_its_own(build):
    """The base's says nothing to it; its own moves where its steps stand."""
    generator = build()
    base = generator.sample_base(generator.prepare("x", seed=3, refine=True))

    def refined(shift, own):
        components = generator.components
        refiner = dataclasses.replace(components.config.refiner, shift=own)
        config = dataclasses.replace(components.config, refiner=refiner)
        another = Generator(dataclasses.replace(components, config=config))
        return another.refine(another.prepare("x", seed=3, refine=True, shift=shift), base)["video"]

    assert torch.equal(refined(5.0, 1.0), refined(2.0, 1.0))
    assert not torch.allclose(refined(5.0, 1.0), refined(5.0, 5.0))


def test_pictures_larger_than_the_refiners_tile_are_refined_in_tiles_of_it(whole):
    parts = whole.components
    tiled = dataclasses.replace(parts.config.refiner, tile=(32, 48))
    apart = Generator(dataclasses.replace(parts, config=dataclasses.replace(parts.config, refiner=tiled)))
    seen = []
    hook = apart.components.refiner.register_forward_pre_hook(lambda _, given: seen.append(given[0].video.shape[-2:]))
    prepared = apart.prepare("a ball", seed=1, refine=True)
    base = apart.sample_base(prepared)
    made = apart.refine(prepared, base)["video"]
    hook.remove()
    assert set(seen) == {(4, 6)}
    assert len(seen) == 2 * 3 * 2  # steps, and rows and columns of tiles over latents of 8 x 8
    usual = whole.refine(prepared, base)["video"]
    assert made.shape == usual.shape
    assert not torch.equal(made, usual)


def test_a_streamed_picture_is_decoded_as_it_is_asked(whole, monkeypatch):
    prepared = whole.prepare("a ball", seconds=2.0, seed=1)
    streams = whole.sample_base(prepared).streams
    expected = whole.decode(prepared, streams).frames
    codec, made = whole.components.video_codec, []
    parts = type(codec).decode_parts

    def counted(self, latents):
        for part in parts(self, latents, chunk=2):
            made.append(part.shape[2])
            yield part

    monkeypatch.setattr(type(codec), "decode_parts", counted)
    frames = whole.decode(prepared, streams, "stream").frames
    assert made == []
    first = next(frames)
    assert len(made) == 1
    np.testing.assert_allclose(np.stack([first, *frames]).astype(int), expected.astype(int), atol=1)
    assert sum(made) == len(expected)
    assert max(made) < len(expected)


def test_layers_that_lie_on_the_host_are_there_only_while_they_work(build):
    """Weights away from their layer's work are no numbers here: whoever read them would make none."""
    usual, streamed = build(), build()
    streamed = Generator(streamed.components, stream=True, offload=True)
    networks = (streamed.components.transformer, streamed.components.refiner)

    def leave(layer, *_):
        for parameter in layer.parameters():
            parameter.data = torch.full_like(parameter, torch.nan)

    for layer in (layer for network in networks for layer in network.layers):
        leave(layer)
        layer.register_forward_hook(leave)
    prepared = usual.prepare("a ball", "dull", seed=1, refine=True)
    made = streamed.refine(prepared, streamed.sample_base(prepared))
    expected = usual.refine(prepared, usual.sample_base(prepared))
    for name, latents in expected.items():
        torch.testing.assert_close(made[name], latents)
