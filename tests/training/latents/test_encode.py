"""A sample against the conditioning that generation uses, and nothing in it from pixels that were not given."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch

from model.conditioning import (
    AudioReference,
    ExtendBackward,
    ExtendForward,
    ImageReference,
    ImageToVideo,
    Inpainting,
    KeyframesToVideo,
)
from pipelines.dataset.caption_parts import CaptionParts
from pipelines.dataset.captions import StructuredCaption
from pipelines.dataset.reader import open_video, read_sound
from pipelines.training.data.draws import drawn_by
from pipelines.training.latents.encode import (
    encode_extensions,
    encode_region,
    encode_sample,
    encode_stills,
    frame_times,
)
from pipelines.training.latents.masks import draw_keep_mask
from pipelines.training.latents.references import MOST_IMAGES, draw_references, other_times, told_with
from pipelines.training.latents.spec import RefinedSpec, clip_shape, place


def _placed(dataset, spec, encoders, key):
    return place(next(clip for clip in dataset.clips if clip.key == key), spec, encoders.video.spec)[0]


@pytest.fixture(scope="module")
def placed(dataset, spec, encoders):
    return _placed(dataset, spec, encoders, "clip")


@pytest.fixture(scope="module")
def sample(dataset, spec, encoders, placed):
    return encode_sample(placed, dataset.storage, spec, encoders)


@pytest.fixture(scope="module")
def pixels(dataset, sample, placed):
    """(3, F, H, W) of the sample's window, read again."""
    shape = sample.shape
    times = frame_times(placed.start_s, shape.frames, shape.fps)
    return open_video(dataset.storage, placed.clip).read(times, shape.height, shape.width)


def _same(one, other):
    return torch.allclose(one, other, atol=1e-5)


def test_latents_of_picture_and_sound(sample, pixels, dataset, encoders, placed):
    assert _same(sample.video, encoders.video.encode(pixels[None])[0])
    assert sample.video.shape == sample.shape.video_latent_shape
    heard = read_sound(
        dataset.storage, placed.clip, placed.start_s, sample.shape.audio_samples, sample_rate=44100, stereo=True
    )
    assert _same(sample.audio, encoders.audio.encode(heard[None])[0])
    assert sample.audio.shape == sample.shape.audio_latent_shape


def test_stills_are_what_generation_keeps_of_given_images(sample, pixels, encoders):
    clip = sample.shape
    first = ImageToVideo(pixels[None, :, 0]).prepare(clip, encoders.video.encode).condition
    ends = KeyframesToVideo([pixels[None, :, 0], pixels[None, :, -1]], [0.0, clip.seconds])
    both = ends.prepare(clip, encoders.video.encode).condition
    assert _same(sample.stills[:, 0], first.latents[0, :, 0])
    assert _same(sample.stills[:, -1], both.latents[0, :, -1])


def test_extensions_are_what_generation_keeps_of_a_video(sample, pixels, encoders):
    clip = sample.shape
    beginning, ending = sample.extensions
    assert [beginning.at_end, ending.at_end] == [False, True]
    for extension, task in ((beginning, ExtendForward), (ending, ExtendBackward)):
        kept = extension.latents.shape[1]
        frames = clip.video.frames_of(kept)
        given = pixels[None, :, -frames:] if extension.at_end else pixels[None, :, :frames]
        condition = task(given).prepare(clip, encoders.video.encode).condition
        place = slice(-kept, None) if extension.at_end else slice(0, kept)
        assert _same(extension.latents, condition.latents[0, :, place])
        assert condition.keep_mask[0, 0, :, 0, 0].sum() == kept


def test_a_region_is_what_generation_keeps_of_an_inpainted_clip(sample, pixels, placed, encoders, spec):
    keep = draw_keep_mask(drawn_by(spec.seed, placed.key, "regions"), *pixels.shape[1:])
    condition = Inpainting(pixels[None], keep[None]).prepare(sample.shape, encoders.video.encode).condition
    (region,) = sample.regions
    assert _same(region.latents, condition.latents[0])
    assert torch.equal(region.keep_mask, condition.keep_mask[0].bool())
    assert 0 < region.keep_mask.float().mean() < 1


@pytest.mark.parametrize("seed", range(4))
def test_pixels_inside_a_region_do_not_show_in_it(pixels, encoders, seed):
    keep = draw_keep_mask(np.random.default_rng(seed), *pixels.shape[1:])
    noise = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    region = encode_region(pixels, keep, encoders)
    inside = encode_region(torch.where(keep, pixels, noise), keep, encoders)
    outside = encode_region(torch.where(keep, noise, pixels), keep, encoders)
    assert torch.equal(region.latents, inside.latents)
    assert not _same(region.latents, outside.latents)


def test_a_still_holds_its_own_frame_alone(pixels, sample, encoders):
    shape = sample.shape
    stills = encode_stills(pixels, shape, encoders)
    assert _same(stills, sample.stills)
    later = pixels.clone()
    later[:, 1:] = 0
    assert _same(encode_stills(later, shape, encoders)[:, 0], stills[:, 0])
    earlier = pixels.clone()
    earlier[:, :-1] = 0
    assert _same(encode_stills(earlier, shape, encoders)[:, -1], stills[:, -1])
    assert not _same(encode_stills(earlier, shape, encoders)[:, 0], stills[:, 0])


def test_an_ending_holds_its_own_frames_alone(pixels, sample, spec, encoders):
    shape = sample.shape
    ending = sample.extensions[1]
    frames = shape.video.frames_of(ending.latents.shape[1])
    changed = pixels.clone()
    changed[:, :-frames] = 0
    again = list(encode_extensions(changed, sample.key, shape, spec, encoders))[1]
    assert _same(again.latents, ending.latents)
    whole = encoders.video.encode(changed[None])[0][:, -ending.latents.shape[1] :]
    assert not _same(whole, ending.latents)  # a slice of the clip's latents would have told of the frames before


class _Recorder:
    """Stands for a video and notes which moments are looked at."""

    def __init__(self):
        self.times = []

    def read(self, times, height, width):
        self.times += list(times)
        return torch.zeros(3, len(times), height, width)


@pytest.mark.parametrize("start_s", [0.0, 0.25, 1.0, 1.4])
def test_references_come_from_other_times(dataset, spec, encoders, placed, start_s):
    moved = dataclasses.replace(placed, start_s=start_s)
    shape = clip_shape(placed.bucket, spec, encoders.video.spec, encoders.audio.spec)
    seen = _Recorder()
    spans = other_times(placed.clip, start_s, shape.seconds)
    found = draw_references(moved, spans, dataset.storage, seen, shape, spec, encoders)
    images = [reference for reference in found if isinstance(reference, ImageReference)]
    assert [reference.tag for reference in images] == [f"@image_{number}" for number in range(1, len(images) + 1)]
    assert [reference.tag for reference in found[len(images) :]] == ["@video_1", "@audio_1"]
    pictures = sum(len(reference.images) for reference in images)
    assert len(seen.times) == pictures + shape.video.nearest_frames(spec.reference_seconds * spec.fps)
    assert 1 <= pictures <= MOST_IMAGES
    assert all(time <= start_s - 1 / spec.fps or time >= start_s + shape.seconds for time in seen.times)
    assert all(0 <= time <= placed.clip.seconds - 1 / spec.fps + 1e-9 for time in seen.times)


def test_a_clip_without_other_times_has_no_references(spec, placed):
    assert other_times(placed.clip, 0.0, placed.clip.seconds) == []


def test_references_and_the_texts_read_with_them(sample, encoders, spec):
    assert set(sample.references) == {"image", "video", "audio"}
    channels, _, height, width = sample.video.shape
    assert sample.references["image"].shape[1] in range(1, MOST_IMAGES + 1)
    assert sample.references["image"].shape[::2] == (channels, height)
    assert sample.references["image"].shape[3] == width
    assert sample.references["video"].shape[-2:] == (height, width)
    assert sample.references["audio"].shape[1] == round(spec.reference_seconds * 44100) // 1024
    read = {name.partition("+")[2]: name for name in sample.texts if "+" in name}
    assert set(sample.texts) == {"short", "long", "structured", *read.values()}  # in one form each
    assert set(read) == {"image", "video", "audio", "image_audio"}
    words = "Main subject: a clip"
    assert torch.equal(sample.texts["structured"], encoders.text.encode(words)[0])
    for kind, tags in (("image", "@image_1"), ("audio", "@audio_1"), ("image_audio", "@image_1 @audio_1")):
        assert len(sample.texts[read[kind]]) > len(encoders.text.encode(tags)[0])  # what they name was read too


def test_one_image_several_of_one_tag_and_several_tags(dataset, spec, encoders, placed):
    """What users may give is drawn: how many images, and how many tags."""
    shape = clip_shape(placed.bucket, spec, encoders.video.spec, encoders.audio.spec)
    seen = set()
    for number in range(60):
        one = dataclasses.replace(placed, key=f"k{number}")
        spans = other_times(placed.clip, placed.start_s, shape.seconds)
        found = draw_references(one, spans, dataset.storage, _Recorder(), shape, spec, encoders)
        images = [reference for reference in found if isinstance(reference, ImageReference)]
        seen.add((len(images), sum(len(reference.images) for reference in images)))
    assert {(1, 1), (1, 3), (2, 2), (4, 4)} <= seen
    assert all(tags in (1, pictures) and pictures <= MOST_IMAGES for tags, pictures in seen)


CAPTION = "Main subject: a red circle\nType: shape\nAction: bounces\nCamera: static\n<sfx>an impact at 0.40 s</sfx>"


PROSE = "A red circle bounces, flat blue background, metal impacts."


@pytest.mark.parametrize("text", [CAPTION, PROSE, "A clip.", ""])
def test_tags_stand_inside_what_they_show_and_not_at_the_end_alone(text):
    """With every tag once, and in the order of before."""
    references = [_picture(), AudioReference("@audio_1", torch.zeros(2, 9))]
    told = [told_with(text, references, 0, f"k{number}", "a glass circle") for number in range(80)]
    for one in told:
        assert sorted(re.findall(r"@[\w-]+", one)) == ["@audio_1", "@image_1"]
        rest = iter(re.findall(r"\w+", text.lower()))
        said = re.sub("|".join(ADDED), "", one)
        assert all(word in rest for word in re.findall(r"\w+", said.lower()))
    trailing = sum("\nReference: @image_1" in one for one in told)
    assert trailing == 80 if not text else 8 <= trailing <= 35
    if text == CAPTION:
        for one in told:
            lines = [line for line in one.split("\n") if not line.startswith("Reference: ")]
            if not any(line.startswith("Type: ") for line in lines):  # as what users write has none
                lines.insert(1, "Type: unsaid")
            StructuredCaption.parse("\n".join(lines))
    assert told == [told_with(text, references, 0, f"k{number}", "a glass circle") for number in range(80)]


ADDED = (r"@\w+", "Reference: ", ", as in", "(It looks|It sounds) as( in)?", "As in", "of ", "heard as",
         "With the voice or sound", ":")  # fmt: skip


@pytest.mark.parametrize(
    ("text", "left_out"), [(CAPTION, "red circle"), (PROSE, "red circle"), ("Two clowns sing.", None)]
)
def test_many_captions_leave_to_a_picture_what_it_shows(text, left_out):
    """Otherwise words tell all that a picture could, and nobody need look at it."""
    told = [told_with(text, [_picture()], 0, f"k{number}", "a glass circle") for number in range(100)]
    if left_out is None:
        assert all("Two clowns" in one for one in told)
        return
    silent = [one for one in told if left_out not in one]
    assert 30 <= len(silent) <= 60
    assert all(one.startswith(("@image_1 bounces", "Main subject: @image_1\nAction: bounces")) for one in silent)


def _picture() -> ImageReference:
    return ImageReference("@image_1", (torch.zeros(3, 4, 4),))


def test_regions_are_encoded_for_the_kinds_that_draw_them_alone(dataset, spec, encoders):
    kept = {
        kinds: [
            len(encode_sample(_placed(dataset, of, encoders, key), dataset.storage, of, encoders).regions)
            for key in ("clip", "picture")
        ]
        for kinds in (("image", "video"), ("image",))
        if (of := spec.model_copy(update={"region_kinds": kinds}))
    }
    assert kept == {("image", "video"): [1, 1], ("image",): [0, 1]}


def test_a_silent_clip_a_picture_and_a_sound(dataset, spec, encoders):
    silent, picture, sound = (
        encode_sample(_placed(dataset, spec, encoders, key), dataset.storage, spec, encoders)
        for key in ("silent", "picture", "sound")
    )
    assert silent.audio is None
    assert silent.shape.audio is None
    assert set(silent.references) == {"image", "video"}
    assert picture.video.shape == picture.shape.video_latent_shape == (16, 1, 4, 6)
    assert (picture.audio, picture.stills, picture.extensions) == (None, None, ())
    assert len(picture.regions) == 1
    assert (sound.video, sound.shape) == (None, None)
    assert sound.audio.shape == (32, round(9 / 16 * 44100) // 1024)
    assert set(sound.texts) == {"short", "long", "long+audio"}


def test_the_refiner_s_clips_show_the_same_window_larger_and_faster(dataset, spec, encoders):
    fine = spec.model_copy(update={"refined": RefinedSpec(), "sizes": (16,)})
    placed = _placed(dataset, fine, encoders, "clip")
    sample = encode_sample(placed, dataset.storage, fine, encoders)
    assert sample.shape.video_latent_shape == (16, 3, 2, 2)
    assert sample.large.shape == (16, 3, 4, 4)
    assert sample.refined.shape == (16, 5, 4, 4)
    video = open_video(dataset.storage, placed.clip)
    frames = video.read(placed.start_s + np.arange(17) / 32, 32, 32)
    assert _same(sample.refined, encoders.video.encode(frames[None])[0])
    assert _same(sample.large, encoders.video.encode(frames[None, :, ::2])[0])


def test_the_same_key_gives_the_same_sample(dataset, spec, encoders, placed, sample):
    again = encode_sample(placed, dataset.storage, spec, encoders)
    assert torch.equal(again.regions[0].latents, sample.regions[0].latents)
    assert torch.equal(again.references["image"], sample.references["image"])
    other = encode_sample(dataclasses.replace(placed, key="another"), dataset.storage, spec, encoders)
    assert not torch.equal(other.regions[0].latents, sample.regions[0].latents)


@pytest.mark.parametrize("seed", range(20))
def test_regions_are_neither_nothing_nor_everything(seed):
    keep = draw_keep_mask(np.random.default_rng(seed), 9, 48, 64)
    shares = (~keep).float().mean((0, 2, 3))
    assert keep.shape == (1, 9, 48, 64)
    assert ((shares > 0.005) & (shares < 0.6)).all()


def test_a_window_is_told_only_what_happens_in_it(placed, sample, dataset, spec, encoders):
    start, end = placed.start_s, placed.start_s + sample.shape.seconds
    heard = [
        {"start_s": at, "end_s": at, "tag": "sfx", "text": f"hit {number}", "sentence": f"Hit {number}."}
        for number, at in enumerate((max(0.0, start - 0.5), (start + end) / 2, end + 0.5))
    ]
    parts = CaptionParts.model_validate(
        {"shots": [{"long": "A film.", "structured": "Lighting: soft"}], "timed": heard}
    )
    clip = dataclasses.replace(placed.clip, captions=parts.forms(), caption_parts=json.dumps([parts.model_dump()]))
    texts = encode_sample(dataclasses.replace(placed, clip=clip), dataset.storage, spec, encoders).texts
    told = "A film. Hit 1." if start > 0 else "A film. Hit 0. Hit 1."
    assert _same(texts["long"], encoders.text_states(told))
    assert not torch.equal(texts["long"], encoders.text_states(clip.captions["long"])[: len(texts["long"])])
