"""A latent cache in memory: samples of every kind, with latents that can be learned and told apart."""

import dataclasses
from dataclasses import dataclass

import pytest
import torch

from model.config import load_preset
from model.shapes import AudioCodecSpec, ClipShape, VideoCodecSpec
from pipelines.training.data.sampler import Sampler
from pipelines.training.latents.index import LatentError
from pipelines.training.latents.sample import Extension, LatentSample, Region
from pipelines.training.learners.network import STREAMS
from pipelines.training.tasks import TASKS

VIDEO = VideoCodecSpec(4, (4, 8, 8))
AUDIO = AudioCodecSpec(6, 44100, 1024, stereo=True)
TEXT = 8
CLIP = ClipShape(17, 16, 32, 32, VIDEO, AUDIO)
FORMS = ("short", "long", "structured")


@dataclass(frozen=True)
class SyntheticEntry:
    key: str
    kind: str
    bucket: str
    has_audio: bool
    texts: tuple[str, ...]
    references: tuple[str, ...]
    extensions: int
    regions: int
    refined: bool


class SyntheticLatents:
    """Four samples of each kind; `broken` keys cannot be read."""

    def __init__(self, broken=()):
        self.broken = set(broken)
        made = [sample(kind, number) for kind in ("video", "image", "audio", "pair") for number in range(4)]
        self.samples = {one.key: one for one in made}
        self.buckets = {}
        for one in made:
            self.buckets.setdefault(one.bucket, []).append(entry(one))
        self.null_text = noise(-1, 2, TEXT)

    def read(self, asked):
        if asked.key in self.broken:
            raise LatentError(f"shard-0.tar: {asked.key}: the sample is damaged")
        return self.samples[asked.key]

    def black(self, bucket, *, large=False):
        side = 8 if large else 4
        return noise(-2 - large, VIDEO.channels, 1, side, side)


def noise(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1000 + seed))


def sample(kind, number):
    """Every tensor drawn from a seed of its own, so that no two are alike."""
    seed = 100 * ("video", "image", "audio", "pair").index(kind) + 20 * number
    key = f"{kind}-{number}"
    texts = {form: noise(seed + place, 3 + place + number, TEXT) for place, form in enumerate(FORMS)}
    if kind == "audio":
        texts["short+audio"] = noise(seed + 4, 4, TEXT)
        sound = noise(seed + 5, 6, CLIP.audio_latent_length)
        return LatentSample(
            key, kind, "audio-1s", None, None, sound, texts, references={"audio": noise(seed + 6, 6, 5)}
        )
    frames = 1 if kind == "image" else CLIP.latent_frames
    picture = noise(seed + 5, 4, frames, 4, 4)
    if kind == "image":
        shape = dataclasses.replace(CLIP, frames=1, audio=None)
        large = noise(seed + 7, 4, 1, 8, 8)
        regions = (region(seed + 6, 1),)
        return LatentSample(
            key,
            kind,
            "image",
            shape,
            picture,
            None,
            texts,
            regions=regions,
            large=large,
            refined=large,
            refined_regions=(region(seed + 8, 1, 8),),
        )
    sound = noise(seed + 8, 6, CLIP.audio_latent_length)
    if kind == "pair":
        before = {"video": noise(seed + 9, 4, frames, 4, 4)}
        regions = (region(seed + 6, frames),) if number % 2 else ()
        told = {"instruction": texts["short"], "instruction+video": texts["long"]}
        return LatentSample(key, kind, "pair", CLIP, picture, sound, told, regions=regions, references=before)
    read = {f"structured+{other}": noise(seed + 10 + i, 6, TEXT) for i, other in enumerate(("image", "video", "audio"))}
    read["structured+image_audio"] = noise(seed + 12, 7, TEXT)
    return LatentSample(
        key,
        kind,
        "video",
        CLIP,
        picture,
        sound,
        texts | read,
        stills=noise(seed + 13, 4, frames, 4, 4),
        extensions=(Extension(noise(seed + 14, 4, 2, 4, 4), False), Extension(noise(seed + 15, 4, 1, 4, 4), True)),
        regions=(region(seed + 6, frames),),
        references={
            "image": noise(seed + 16, 4, 1 + number, 4, 4),
            "video": noise(seed + 17, 4, 3, 4, 4),
            "audio": noise(seed + 18, 6, 5),
        },
        large=noise(seed + 7, 4, frames, 8, 8),
        refined=noise(seed + 19, 4, 2 * frames - 1, 8, 8),
        refined_regions=(region(seed + 3, 2 * frames - 1, 8),),
    )


def region(seed, frames, side=4):
    keep = torch.ones(1, frames, side, side, dtype=torch.bool)
    keep[:, :, 1:3, :2] = False
    return Region(noise(seed, 4, frames, side, side), keep)


def entry(one):
    return SyntheticEntry(
        one.key,
        one.kind,
        one.bucket,
        one.audio is not None,
        tuple(one.texts),
        tuple(one.references),
        len(one.extensions),
        len(one.regions),
        one.refined is not None,
    )


@pytest.fixture
def latents():
    return SyntheticLatents()


@pytest.fixture
def damaged():
    """A cache with two samples that cannot be read."""
    return SyntheticLatents(broken=("video-1", "video-2"))


@pytest.fixture(scope="session")
def small_preset():
    """The tiny preset, smaller still."""
    tiny = load_preset("tiny")
    transformer = dataclasses.replace(
        tiny.transformer,
        width=32,
        heads=2,
        dual_blocks=1,
        single_blocks=1,
        text_width=TEXT,
        video_channels=4,
        audio_channels=6,
    )
    as_the_base = {"dual_blocks": None, "single_blocks": None, "prediction": None, "enlarges": "latents"}
    refiner = dataclasses.replace(tiny.refiner, keyframe_spacing=2, sparse_min_tokens=32, **as_the_base)
    return dataclasses.replace(tiny, transformer=transformer, refiner=refiner, video=VIDEO, audio=AUDIO)


@pytest.fixture
def draws():
    """A sampler of the tasks in a mix, with 2 samples per slot."""

    def make(latents, mix, branches, slots=2):
        return Sampler(
            latents.buckets,
            mix,
            usable=lambda task, one: TASKS[task].usable(one, STREAMS[branches]),
            tokens=lambda task, bucket: 1,
            slots=slots,
            tokens_per_slot=2,
        )

    return make
