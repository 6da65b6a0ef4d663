"""What the refiner learns with a kept source is what generation gives it: the same channels, latent by latent."""

import dataclasses

import numpy as np
import pytest
import torch

from model.config import GenerationConfig, RefinerConfig, SamplingConfig, UsualClip, load_preset
from model.generation.components import Components
from model.generator import Generator
from model.network.keyframes import keyframe_indices
from model.network.mmdit import MMDiT
from model.network.refiner import enlarged_pixels, refined_clip, refined_source, refiner_config
from model.shapes import ClipShape
from pipelines.dataset.reader import open_video
from pipelines.training.data.assembler import Assembler
from pipelines.training.latents.encode import encode_sample, frame_times
from pipelines.training.latents.masks import draw_refined_mask
from pipelines.training.latents.spec import RefinedSpec, place
from pipelines.training.tasks import Dropout, TaskSettings

SIDE, LARGE = 16, 32
REFINER = RefinerConfig(steps=1, keyframe_spacing=1)


@pytest.fixture(scope="module")
def small():
    """A preset of few weights."""
    tiny = load_preset("tiny")
    transformer = dataclasses.replace(tiny.transformer, width=64, heads=2, dual_blocks=1, single_blocks=1)
    return dataclasses.replace(tiny, transformer=transformer, refiner=REFINER)


@pytest.fixture(scope="module")
def shown(small, encoders):
    """A call of a generator with `refine`: the refiner's first video input, and the base's streams."""
    return caller(small, encoders, REFINER)


def caller(small, encoders, settings):
    torch.manual_seed(0)
    base = MMDiT(small.transformer).eval()
    refiner = MMDiT(refiner_config(small.transformer, settings)).eval()
    config = GenerationConfig(SamplingConfig(1, "euler", 1.0, keyframes=True), UsualClip(16, SIDE, SIDE, 0.5), settings)
    generator = Generator(Components(base, encoders.video, encoders.text, encoders.audio, refiner, config))
    inputs = []
    refiner.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))

    def call(**media):
        inputs.clear()
        made = {}
        generator(
            "grass",
            **media,
            size=(SIDE, SIDE),
            fps=16,
            refine=True,
            sound=False,
            output_type="latent",
            generator=torch.Generator().manual_seed(1),
            callback_on_step_end=lambda progress: made.setdefault(progress.stage, progress.step.latents),
        )
        return inputs[0].video[0], {name: latents[0] for name, latents in made["base"].items()}

    return call


@pytest.fixture(scope="module")
def source(dataset, spec, encoders):
    """By key: a sample with a kept source, and the pixels (3, F, H, W) and mask (1, F, H, W) that this was made of."""
    fine = spec.model_copy(update={"refined": RefinedSpec(), "sizes": (SIDE,)})
    clip = next(clip for clip in dataset.clips if clip.key == "clip")
    placed = place(clip, fine, encoders.video.spec)[0]

    def make(key, monkeypatch):
        drawn = []
        monkeypatch.setattr(
            "pipelines.training.latents.encode.draw_refined_mask",
            lambda *given: drawn.append(draw_refined_mask(*given)) or drawn[0],
        )
        sample = encode_sample(dataclasses.replace(placed, key=key), dataset.storage, fine, encoders)
        times = frame_times(placed.start_s, sample.shape.frames, 16)
        return sample, open_video(dataset.storage, clip).read(times, LARGE, LARGE), drawn[0]

    return make


@dataclasses.dataclass
class Constants:
    """What a batch needs beside its samples."""

    null_text: torch.Tensor

    def black(self, bucket, *, large=False):
        return torch.zeros(16, 1, 2, 2)


def trained_on(small, sample, task="refine_inpaint", refiner=REFINER):
    """The video input of a training batch of one sample, nothing dropped or noised."""
    settings = TaskSettings({"structured": 1.0}, Dropout(0, 0), refiner, low_noise=0.0)
    assembler = Assembler(small, "refiner", Constants(sample.texts["structured"]), settings)
    batch = assembler.batch(task, [sample], torch.Generator().manual_seed(0))
    return batch.inputs.video[0], batch.targets["video"]


def generated_as(sample, streams):
    """The sample with what a base made in place of its own latents."""
    indices = list(keyframe_indices(sample.video.shape[1], REFINER.keyframe_spacing))
    large = sample.large.clone()
    large[:, indices] = streams["keyframes"]
    return dataclasses.replace(sample, video=streams["video"], large=large)


KEYS = {"region": "clip-0", "beginning": "clip-4", "end": "clip-68"}
"""Keys that draw a region, and the first or last five frames."""


@pytest.mark.parametrize("kind", KEYS)
def test_a_batch_has_the_channels_that_generation_gives_the_refiner(small, shown, source, kind, monkeypatch):
    sample, pixels, keep = source(KEYS[kind], monkeypatch)
    whole = keep.flatten(2).all(-1)[0]
    given = {
        "region": {"video": pixels, "mask": ~keep[0]},
        "beginning": {"video": pixels[:, whole], "video_use": "extend", "seconds": 9 / 16},
        "end": {"video": pixels[:, whole], "video_use": "lead_up", "seconds": 9 / 16},
    }[kind]
    asked, streams = shown(**given)
    trained, target = trained_on(small, generated_as(sample, streams))
    assert trained.shape == asked.shape == (2 * 16 + 1, 5, LARGE // 8, LARGE // 8)
    assert torch.allclose(trained[16:], asked[16:], atol=1e-5)

    mask, kept = asked[-1], sample.refined_regions[0]
    assert 0 < mask.mean() < 1
    assert torch.equal(mask.bool(), kept.keep_mask[0])
    assert torch.allclose(asked[16:-1][:, mask.bool()], kept.latents[:, mask.bool()], atol=1e-5)
    assert torch.allclose(target.weight[0, 0], torch.where(mask.bool(), 0.1, 1.0))


def test_enlarged_pixels_are_in_the_cache_and_in_a_batch_as_generation_shows_them(small, encoders, dataset, spec):
    settings = dataclasses.replace(REFINER, enlarges="pixels")
    fine = spec.model_copy(update={"refined": RefinedSpec(enlarges="pixels"), "sizes": (SIDE,)})
    clip = next(clip for clip in dataset.clips if clip.key == "clip")
    sample = encode_sample(place(clip, fine, encoders.video.spec)[0], dataset.storage, fine, encoders)
    refined = refined_clip(sample.shape, settings)

    def again(latents):
        return enlarged_pixels(latents[None], refined, encoders.video.decode, encoders.video.encode)[0]

    assert torch.allclose(sample.enlarged, again(sample.video), atol=1e-5)
    asked, streams = caller(small, encoders, settings)(seconds=sample.shape.frames / 16)
    made = dataclasses.replace(generated_as(sample, streams), enlarged=again(streams["video"]))
    trained, _ = trained_on(small, made, "refine", settings)
    assert torch.allclose(trained[16:], asked[16:], atol=1e-5)
    plain, _ = trained_on(small, made, "refine")
    assert not torch.allclose(trained[16:-1], plain[16:-1], atol=1e-3)


def test_what_is_kept_of_a_source_leaks_nothing_of_the_rest(encoders, source, monkeypatch):
    """Latents of a region do not change with the pixels in it."""
    sample, pixels, keep = source(KEYS["region"], monkeypatch)
    changed = torch.where(keep, pixels, -pixels)
    assert not torch.equal(changed, pixels)
    fine = refined_clip(sample.shape, REFINER)
    _, _, shown = refined_source(changed[None], keep[None], fine, encoders.video_latents)
    assert torch.allclose(shown.latents[0], sample.refined_regions[0].latents, atol=1e-5)


def test_a_picture_has_a_region_at_its_large_size(dataset, spec, encoders):
    fine = spec.model_copy(update={"refined": RefinedSpec(), "sizes": (SIDE,)})
    clip = next(clip for clip in dataset.clips if clip.key == "picture")
    sample = encode_sample(place(clip, fine, encoders.video.spec)[0], dataset.storage, fine, encoders)
    (kept,) = sample.refined_regions
    assert kept.latents.shape == sample.refined.shape
    assert kept.keep_mask.shape == (1, *sample.refined.shape[1:])
    plain = spec.model_copy(update={"regions": 1})
    assert not encode_sample(
        place(clip, plain, encoders.video.spec)[0], dataset.storage, plain, encoders
    ).refined_regions


def test_a_quarter_of_clips_keeps_whole_latents(sample_shape):
    runs = {"beginning": 0, "end": 0}
    for seed in range(400):
        keep = draw_refined_mask(np.random.default_rng(seed), sample_shape)
        assert keep.shape == (1, 17, LARGE, LARGE)
        whole = keep.flatten(2).all(-1)[0]
        if (keep.flatten(2).any(-1)[0] == whole).all():
            assert int(whole.sum()) % 4 == 1
            assert 0 < whole.sum() < 17
            assert whole[0] != whole[-1]
            runs["beginning" if whole[0] else "end"] += 1
    assert sum(runs.values()) / 400 == pytest.approx(0.25, abs=0.06)
    assert min(runs.values()) > 30
    alone = dataclasses.replace(sample_shape, frames=1)
    masks = [draw_refined_mask(np.random.default_rng(seed), alone) for seed in range(40)]
    assert all(mask.any() and not mask.all() for mask in masks)


@pytest.fixture
def sample_shape(small):
    return ClipShape(17, 16, LARGE, LARGE, small.video)
