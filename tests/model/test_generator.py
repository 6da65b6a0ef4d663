import dataclasses
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.codecs.tiny_video import TinyVideoCodec, TinyVideoConfig
from model.conditioning import AudioReference, ImageReference, VideoReference
from model.config import GenerationConfig, load_preset
from model.generation.prompts import Shot
from model.generator import Generator
from model.prompt_encoder.tiny_encoder import build_tiny_encoder, encoder_of
from model.sampling.sampler import Cancelled

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def generator(build):
    return build()


def seed(number=0):
    return torch.Generator().manual_seed(number)


def pixels(frames, height=32, width=32):
    return np.random.default_rng(1).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def test_frames_and_sound_last_equally_long(generator):
    made = generator("a red ball", generator=seed())
    assert made.frames.shape == (9, 32, 32, 3)
    assert made.frames.dtype == np.uint8
    assert made.audio.shape == (2, round(9 / 16 * 44100))
    assert made.audio.abs().max() <= 1


def test_a_seed_gives_the_same_bits_and_another_one_others(generator):
    first, again, other = (generator("a red ball", generator=seed(s)) for s in (1, 1, 2))
    assert np.array_equal(first.frames, again.frames)
    assert torch.equal(first.audio, again.audio)
    assert not np.array_equal(first.frames, other.frames)


def test_streams_can_be_left_out(generator):
    assert generator("x", sound=False).audio is None
    alone = generator("x", picture=False)
    assert alone.frames is None
    assert alone.audio.shape[0] == 2
    with pytest.raises(ValueError, match="both switched off"):
        generator("x", sound=False, picture=False)


def test_size_length_and_rate_follow_the_call(generator):
    made = generator("x", size=(32, 48), seconds=1.0, fps=8, sound=False)
    assert made.frames.shape == (9, 32, 48, 3)
    assert made.clip.fps == 8
    with pytest.raises(ValueError, match=r"multiples of \(16, 16\)"):
        generator("x", size=(40, 32))


@pytest.mark.parametrize(
    "given",
    [
        {"image": pixels(1)[0]},
        {"image": pixels(1)[0], "last_image": pixels(2)[1]},
        {"keyframes": [(0.3, pixels(1, 20, 60)[0])]},
        {"audio": torch.sin(torch.arange(30000) / 30).expand(2, -1)},
        {"negative_prompt": "blue and very long"},
    ],
    ids=["image", "first and last", "keyframe", "audio", "negative"],
)
def test_what_is_given_changes_what_is_made(generator, given):
    plain = generator("x", generator=seed(), output_type="latent")
    made = generator("x", generator=seed(), output_type="latent", **given)
    assert made.frames.shape == plain.frames.shape
    assert (made.frames - plain.frames).abs().max() > 1e-3


def test_references_change_what_is_made_and_must_be_named(generator):
    references = [
        ImageReference("@image_1", [torch.rand(3, 20, 50) * 2 - 1]),
        VideoReference("@video_1", torch.rand(3, 10, 40, 40) * 2 - 1),
    ]
    voice = [AudioReference("@audio_1", torch.randn(2, 20000))]
    prompt = "@image_1 as in @video_1 with @audio_1"
    plain = generator(prompt, generator=seed(), output_type="latent")
    made = generator(
        prompt,
        references=references,
        audio_references=voice,
        reference_guidance_scale=2.0,
        generator=seed(),
        output_type="latent",
    )
    assert made.frames.shape == plain.frames.shape
    assert (made.frames - plain.frames).abs().max() > 1e-3
    by_tag = generator(
        prompt,
        references=references,
        audio_references=voice,
        reference_guidance_scale={"@video_1": 2.0},
        generator=seed(),
        output_type="latent",
    )
    assert (made.frames - by_tag.frames).abs().max() > 1e-3
    with pytest.raises(ValueError, match="does not mention @audio_1"):
        generator("@image_1 as in @video_1", references=references, audio_references=voice)


def test_extension_keeps_the_source_and_adds_seconds(generator):
    source = pixels(11)
    longer = generator("x", video=source, seconds=1.0)
    assert longer.frames.shape[0] == 17
    assert np.array_equal(longer.frames[:9], source[2:])  # the last whole latents: where the action goes on
    before = generator("x", video=source, video_use="lead_up", seconds=1.0)
    assert np.array_equal(before.frames[-9:], source[:9])


def test_inpainting_returns_kept_pixels_and_ignores_edited_ones(generator):
    source = pixels(9)
    mask = np.zeros((32, 32), bool)
    mask[8:20, 4:28] = True
    made = generator("x", video=source, mask=mask, generator=seed())
    assert np.array_equal(made.frames[:, ~mask], source[:, ~mask])
    assert not np.array_equal(made.frames[:, mask], source[:, mask])
    other = source.copy()
    other[:, mask] = 255 - other[:, mask]
    again = generator("x", video=other, mask=mask, generator=seed())
    assert np.array_equal(made.frames, again.frames)
    assert torch.equal(made.audio, again.audio)


def test_the_prompt_encoder_reads_the_video_of_an_edit(monkeypatch, build):
    generator, read = build(), []
    encode = generator.components.encoder.encode
    monkeypatch.setattr(
        generator.components.encoder,
        "encode",
        lambda prompt, references=(): read.append((prompt, list(references))) or encode(prompt, references),
    )
    subject = ImageReference("@video_1", (torch.zeros(3, 32, 32),))
    source = torch.rand(3, 9, 32, 32) * 2 - 1
    generator("make it a drawing", video=source, video_use="edit")
    generator("put @video_1 into it", video=source, video_use="edit", references=[subject])
    (alone, empty), (beside, _) = read[:2], read[2:]
    assert empty == ("", [])
    assert alone[0] == "make it a drawing\nReference: @video_1"
    assert beside[0] == "put @video_1 into it\nReference: @video_2"
    assert [reference.tag for reference in beside[1]] == ["@video_2", "@video_1"]
    for _, references in (alone, beside):
        assert torch.equal(references[0].frames, source)
    read.clear()
    generator("grass", video=source, mask=torch.ones(32, 32), generator=seed())
    assert read[0] == ("grass", [])


def test_an_edit_goes_by_its_video_and_is_no_reference(generator):
    """So guidance on references costs it no pass."""

    def edited(source, **settings):
        made = generator("x", video=source, video_use="edit", generator=seed(), output_type="latent", **settings)
        return made.frames

    source = pixels(9)
    assert torch.equal(edited(source, reference_guidance_scale=2.0), edited(source))
    assert not torch.allclose(edited(255 - source), edited(source))


def test_adding_sound_returns_the_video_untouched(generator):
    source = pixels(9)
    made = generator("x", video=source, video_use="add_sound", generator=seed())
    assert np.array_equal(made.frames, source)
    other = generator("x", video=source[::-1].copy(), video_use="add_sound", generator=seed())
    assert not torch.equal(made.audio, other.audio)


def test_given_sound_goes_with_any_picture_and_comes_back_as_it_was(generator):
    voice = torch.sin(torch.arange(20000) / 30).expand(2, -1)
    made = generator("x", image=pixels(1)[0], audio=voice, generator=seed())
    assert torch.equal(made.audio[:, :20000], voice)
    assert not made.audio[:, 20000:].any()
    silent = generator("x", image=pixels(1)[0], audio=0 * voice, generator=seed())
    assert not np.array_equal(made.frames, silent.frames)
    with pytest.raises(ValueError, match="audio was given and also asked for"):
        generator("x", video=pixels(9), video_use="add_sound", audio=voice)


def test_shots_set_the_length(generator):
    made = generator([Shot("wide", 0.5), Shot("close", 0.5)], sound=False)
    assert made.frames.shape[0] == 17


def test_refiner_doubles_size_and_rate_and_still_keeps_the_source(generator):
    source, mask = pixels(9), np.zeros((32, 32), bool)
    mask[:, :16] = True
    made = generator("x", video=source, mask=mask, refine=True, generator=seed())
    assert made.frames.shape == (17, 64, 64, 3)
    assert made.clip.fps == 32
    right = torch.from_numpy(source[:, :, 16:].copy()).permute(0, 3, 1, 2).float()
    upscaled = F.interpolate(right, scale_factor=2, mode="bilinear", antialias=True).permute(0, 2, 3, 1).numpy()
    kept = made.frames[::2, :, 34:].astype(float)
    assert np.abs(kept - upscaled[:, :, 2:]).max() <= 1
    without = Generator(dataclasses.replace(generator.components, refiner=None))
    with pytest.raises(ValueError, match="has no refiner"):
        without("x", refine=True)


def test_keyframes_made_by_the_base_reach_the_refiner(build):
    settings = {"generator": None, "refine": True, "sound": False, "output_type": "latent"}
    plain, keyed = build(), build(keyframes=True)
    out = [g("x", **{**settings, "generator": seed()}).frames for g in (plain, keyed)]
    assert out[0].shape == out[1].shape == (1, 4, 5, 8, 8)
    assert not torch.allclose(out[0], out[1])
    first = keyed("x", image=pixels(1)[0], **{**settings, "generator": seed()}).frames
    other = keyed("x", image=255 - pixels(1)[0], **{**settings, "generator": seed()}).frames
    assert not torch.allclose(first, other)


def test_callback_gives_progress_and_previews_and_cancels(generator):
    seen = []
    generator("x", refine=True, sound=False, callback_on_step_end=lambda p: seen.append((p.stage, p.progress)))
    assert seen == [("base", 0.25), ("base", 0.5), ("refine", 0.75), ("refine", 1.0)]

    previews = []

    def stop(progress):
        previews.append(progress.preview())
        raise Cancelled

    with pytest.raises(Cancelled):
        generator("x", callback_on_step_end=stop)
    assert [p.shape for p in previews] == [(9, 32, 32, 3)]


def test_only_one_component_works_at_a_time(monkeypatch, build):
    offloaded = Generator(build().components, "cpu", offload=True)
    inside, most = [], []
    working = offloaded.placement.working

    @contextmanager
    def counted(component):
        with working(component):
            inside.append(component)
            most.append(len(inside))
            yield
            inside.pop()

    monkeypatch.setattr(offloaded.placement, "working", counted)
    offloaded("x", refine=True)
    assert max(most) == 1


def test_parts_that_do_not_fit_are_named(generator):
    wide = TinyVideoCodec(TinyVideoConfig(channels=6, width=16, patch_width=8))
    with pytest.raises(ValueError, match="video_channels = 4, its codec or encoder has 6"):
        dataclasses.replace(generator.components, video_codec=wide)


def test_a_part_that_cannot_be_saved_is_named(generator, tmp_path):
    with pytest.raises(TypeError, match="the encoder, a WordLengths, has no save"):
        generator.save_pretrained(tmp_path)
    assert not (tmp_path / "model_index.json").exists()


def test_a_preset_without_a_path_builds_the_tiny_encoder_once(tmp_path):
    section = load_preset("tiny").section("encoder")
    built = encoder_of(section, tmp_path)
    assert encoder_of(section, tmp_path).identity == built.identity
    assert encoder_of({**section, "path": str(tmp_path), "layer": -1}, tmp_path).config.layer == -1
    assert GenerationConfig.of(load_preset("tiny")).generation.fps == 16


def test_media_that_contradict_each_other_are_refused(generator):
    with pytest.raises(ValueError, match="cannot be combined with image"):
        generator("x", video=pixels(9), image=pixels(1)[0])
    with pytest.raises(ValueError, match="a mask needs the video"):
        generator("x", mask=np.zeros((32, 32)))
    with pytest.raises(ValueError, match=r"mask is \(16, 32\) pixels and the video \(32, 32\)"):
        generator("x", video=pixels(9), mask=np.zeros((16, 32)))
    with pytest.raises(ValueError, match="no picture is generated"):
        generator("x", picture=False, refine=True)
    with pytest.raises(ValueError, match="3 frames and the video 9"):
        generator("x", video=pixels(9), mask=np.zeros((3, 32, 32)))


def test_a_saved_generator_makes_the_same_clip(tmp_path, build):
    made = build(build_tiny_encoder(tmp_path / "encoder", width=16))
    made.save_pretrained(tmp_path / "model")
    loaded = Generator.from_pretrained(tmp_path / "model")
    assert loaded.components.config == made.components.config
    first, again = made("a red ball", generator=seed()), loaded("a red ball", generator=seed())
    assert np.array_equal(first.frames, again.frames)
    assert torch.equal(first.audio, again.audio)
    folders = {path.name for path in (tmp_path / "model").iterdir()}
    assert folders == {"model_index.json", "transformer", "video_codec", "audio_codec", "encoder", "refiner"}
    with pytest.raises(FileNotFoundError, match=r"model_index\.json is missing"):
        Generator.from_pretrained(tmp_path)


@pytest.mark.parametrize("part", ["transformer", "video_codec", "audio_codec", "encoder", "refiner"])
def test_a_model_without_one_of_its_parts_is_an_error_and_no_hub_is_asked(tmp_path, part, monkeypatch, build):
    build(build_tiny_encoder(tmp_path / "made", width=16)).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / part).rename(tmp_path / part)
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    with pytest.raises(FileNotFoundError, match=rf"{part} is missing, and model_index\.json names it"):
        Generator.from_pretrained(tmp_path / "model")


def test_a_process_of_one_step_loads_the_parts_of_that_step(tmp_path, build):
    made = build(build_tiny_encoder(tmp_path / "made", width=16))
    made.save_pretrained(tmp_path / "model")
    for part in ("transformer", "encoder"):  # not even looked at
        (tmp_path / "model" / part).rename(tmp_path / part)
    refiner = Generator.from_pretrained(tmp_path / "model", only={"refiner", "audio_codec"})
    assert set(refiner.components.parts) == {"refiner", "video_codec", "audio_codec"}
    prepared = made.prepare("a ball", seed=1, refine=True)
    elsewhere = refiner.decode(prepared, refiner.refine(prepared, made.sample_base(prepared)))
    assert np.array_equal(elsewhere.frames, made.render(prepared).frames)
    with pytest.raises(ValueError, match="adapter x changes the transformer, which is not loaded here"):
        Generator.from_pretrained(tmp_path / "model", only={"refiner"}, lora="x")
    with pytest.raises(ValueError, match="without refine=True"):
        refiner.refine(made.prepare("a ball"), made.sample_base(prepared))
