"""A recipe: everything that decides what a dataset contains, as YAML.

`extract` decides what is measured and how clips are cut; it is part of a part's identity, so changing it makes
new parts. `embedding`, `asr` and `captions` are layers over the clips, each kept under its own identity. The rest
(filters, dedup, balance, shards) works on what is stored and is cheap to change with `refilter`.
"""

import hashlib
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from pipelines.curation.filters import Rule
from pipelines.dataset.buckets import BucketSteps
from skyreels.commits import stable_json
from skyreels.config import Config, load_config

RECIPES = Path(__file__).parent / "recipes"
EXTRACT_VERSION = 2  # raise when the code changes what an unchanged `extract` section produces


# Rules by name: a recipe changes one of another with `filters.sharp.min=0.5` and drops it with `filters.sharp=null`.
Rules = dict[str, Rule | None]


class LimitsConfig(Config):
    """What one source may cost. Beyond it the source is rejected with the limit's name."""

    max_file_gb: PositiveFloat = 64.0
    max_pixels: PositiveInt = 8192 * 4320
    max_hours: PositiveFloat = 8.0
    memory_gb: PositiveFloat = 1.4
    wall_floor_s: PositiveFloat = 120.0  # plus wall_per_media_s for every second of media
    wall_per_media_s: PositiveFloat = 4.0


class SegmentsConfig(Config):
    """Lengths of clips, in seconds.

    Shots whose pictures on both sides of a cut are alike by `merge_above` (share of equal bits of their perceptual
    hashes; 0.9 is nearly the same picture) stay together as one scene; null keeps every cut.
    """

    min_s: PositiveFloat = 2.0
    max_s: PositiveFloat = 15.0
    merge_above: float | None = Field(None, gt=0.5, le=1)


class ShotsConfig(Config):
    """What finds the changes of shot. Fades and dissolves are measured with both backends.

    `transnet` takes hard cuts from the network alone, and transitions from either: what overlaps becomes one. Its
    `weights` are a local path on every worker, a folder or a file (`visual/transnet.py`); none come with the project.
    """

    backend: Literal["adaptive", "transnet"] = "adaptive"
    weights: str = ""
    threshold: float = Field(0.5, gt=0, lt=1)  # of the network's probabilities

    @model_validator(mode="after")
    def _needs_weights(self) -> Self:
        if self.backend == "transnet" and not self.weights:
            raise ValueError("backend transnet has no weights: set weights to a checkpoint, or backend to adaptive")
        return self


class CutConfig(Config):
    """The normalised clip: constant frame rate H.264 and FLAC.

    Its rate is an even part of the source's (1, 1/2, 1/3, ...), since any other would make motion stutter: 60 pictures
    a second become 30, 50 become 25.
    """

    fps: PositiveFloat | None = None  # the part nearest to this that is not a tenth below; None: the source's rate
    max_fps: PositiveFloat = 32.0
    max_short_side: PositiveInt = 1080
    crf: int = Field(20, ge=0, le=40)
    preset: str = "superfast"
    sample_rate: PositiveInt = 44_100
    crop_borders: bool = True
    image_quality: int = Field(95, ge=50, le=100)


class WorkersConfig(Config):
    """Where a model runs: that many processes, each with these resources, over parts of that many clips."""

    count: PositiveInt = 1
    num_cpus: PositiveFloat = 1.0
    num_gpus: float = Field(0.0, ge=0)
    clips_per_part: PositiveInt = 256


class FramesConfig(Config):
    """Sampled frames kept beside each clip, for embeddings and for looking at."""

    per_clip: PositiveInt = 4
    short_side: PositiveInt = 256
    quality: int = Field(90, ge=50, le=100)


class EmbeddingConfig(Config):
    """`descriptor` needs no weights; `open_clip` takes a model name and a tag, a path or `local-dir:`."""

    backend: Literal["descriptor", "open_clip"] = "descriptor"
    model: str = "ViT-L-14"
    pretrained: str = ""
    aesthetics: str = ""  # safetensors of a linear head on that embedding; empty: not scored
    workers: WorkersConfig = WorkersConfig()


class AsrConfig(Config):
    """Whisper through transformers, by hub id or path; empty: no transcripts."""

    model: str = ""
    workers: WorkersConfig = WorkersConfig()


class PartsConfig(Config):
    """How many sources are committed together."""

    max_sources: PositiveInt = 8
    max_bytes: PositiveInt = 2 << 30


class ExtractConfig(Config):
    limits: LimitsConfig = LimitsConfig()
    shots: ShotsConfig = ShotsConfig()
    segments: SegmentsConfig = SegmentsConfig()
    cut: CutConfig = CutConfig()
    frames: FramesConfig = FramesConfig()
    parts: PartsConfig = PartsConfig()
    prefilter: Rules = Field(default_factory=dict)  # on keyframes only, before the full decode
    gate: Rules = Field(default_factory=dict)  # before the cut: what it turns away is measured but has no files
    audio: bool = True

    @property
    def identity(self) -> str:
        """16 hex digits: equal extractions give equal parts."""
        described = {"version": EXTRACT_VERSION, **self.model_dump(mode="json")}
        return hashlib.blake2b(stable_json(described), digest_size=8).hexdigest()


class TaggerConfig(Config):
    """An audio tagger of the AST kind, by hub id or path, whose class replaces the measured one; empty: none."""

    model: str = ""
    workers: WorkersConfig = WorkersConfig()


class DedupConfig(Config):
    exact: bool = True
    perceptual_bits: int | None = Field(6, ge=0, le=32)  # hamming distance per frame; None: off
    perceptual_share: float = Field(0.6, gt=0, le=1)  # of aligned frames that must agree
    within_source: bool = False  # True: also look-alikes of one source, such as the parts of a long still shot
    semantic_cosine: float | None = Field(None, gt=0, le=1)  # None: off
    against: tuple[str, ...] = ()  # other datasets' outputs whose clips must not come back


class BalanceConfig(Config):
    enabled: bool = False
    concepts: PositiveInt = 16
    max_per_cell: PositiveInt | None = None
    temper: float = Field(0.5, ge=0, le=1)  # cell sizes n -> n^(1-temper), scaled; 0 keeps all


class CaptionConfig(Config):
    """Who captions clips. Captions that came with the media go before the backend's, unless `user` is "ignore".

    Forms (short, long, structured) that a user did not write get the words of those that were written, or with
    `missing_forms` "captioner" the backend's.
    """

    user: Literal["first", "ignore"] = "first"
    missing_forms: Literal["user", "captioner"] = "user"
    backend: str = Field("measured", description="a name of `captions/captioners.py`, vllm, or none")
    model: str = ""
    url: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    frames: PositiveInt = 8
    short_side: PositiveInt = 336
    send_audio: bool = True
    concurrency: PositiveInt = 4
    timeout_s: PositiveFloat = 120.0
    workers: WorkersConfig = WorkersConfig()


class ShardConfig(BucketSteps):
    max_bytes: PositiveInt = 256 << 20
    max_samples: PositiveInt = 10_000
    pack_bytes: PositiveInt = 1 << 30  # survivors packed by one task


class Recipe(Config):
    name: str = Field("default", pattern=r"^[a-z0-9][a-z0-9_-]*$")
    extract: ExtractConfig = ExtractConfig()
    filters: Rules = Field(default_factory=dict)
    embedding: EmbeddingConfig = EmbeddingConfig()
    tagger: TaggerConfig = TaggerConfig()
    asr: AsrConfig = AsrConfig()
    dedup: DedupConfig = DedupConfig()
    balance: BalanceConfig = BalanceConfig()
    captions: CaptionConfig = CaptionConfig()
    shards: ShardConfig = ShardConfig()


def load_recipe(name: str = "default", overrides: tuple[str, ...] = ()) -> Recipe:
    """A shipped recipe by name, or a YAML file, with `key=value` overrides."""
    return load_config(Recipe, name, overrides, search=RECIPES)
