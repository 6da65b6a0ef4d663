"""Hyperparameters: one frozen dataclass per network, and presets that name them in YAML."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from model.shapes import AudioCodecSpec, VideoCodecSpec

PRESETS = Path(__file__).parent / "presets"

Dataclass = TypeVar("Dataclass")
Solver = Literal["euler", "heun", "unipc"]
Prediction = Literal["velocity", "x0", "residual"]
ReferenceScale = float | Mapping[str, float]
"""One scale for all references together, or one by tag; a tag that is not named has 1."""


@dataclass(frozen=True)
class TransformerConfig:
    """The dual-stream MMDiT. A branch with 0 channels is not built, for video stages and audio pretraining.

    `dual_blocks` is the paper's M and `single_blocks` its N (section 3.1). `prediction` is what the output layer
    states: velocities, clean latents, or what the latents given beside the noise lack (`residual`, of a refiner); the
    model returns velocities in any case. `sparse` adds the gate of Video Sparse Attention, which is used from
    `sparse_min_tokens` video tokens on: shorter sequences are faster dense.
    """

    width: int
    heads: int
    dual_blocks: int
    single_blocks: int
    text_width: int
    video_channels: int
    audio_channels: int
    patch: tuple[int, int, int] = (1, 2, 2)
    mlp_ratio: float = 4.0
    audio_first: bool = True
    prediction: Prediction = "velocity"
    rope_theta: float = 10_000.0
    sparse: bool = False
    sparse_cube: tuple[int, int, int] = (4, 4, 4)
    sparse_min_tokens: int = 4096
    sparse_kernel: Literal["auto", "gather", "flex", "triton"] = "auto"

    def __post_init__(self) -> None:
        if self.width % self.heads or self.head_width % 2 or self.head_width < 6:
            raise ValueError(f"width {self.width} over {self.heads} heads must give an even head width of at least 6")
        if self.single_blocks < 1:
            raise ValueError("single_blocks must be at least 1: in a last dual block the text weights learn nothing")
        if not (self.video_channels or self.audio_channels):
            raise ValueError("video_channels and audio_channels are both 0: the model would have no branch")
        if self.patch[0] != 1:
            raise ValueError(f"patch {self.patch} must be 1 in time: references and keyframes are single latent frames")
        if self.prediction == "velocity" and self.width < self.patch_width:
            raise ValueError(
                f"width {self.width} is below the patch's {self.patch_width} values: a velocity holds full-rank noise "
                "and cannot pass through it. Widen the model or set prediction to x0"
            )
        if self.prediction == "residual" and self.audio_channels:
            raise ValueError("prediction is residual, and sound is given no latents that it could be a residual of")

    @property
    def layers(self) -> int:
        """M + N."""
        return self.dual_blocks + self.single_blocks

    @property
    def head_width(self) -> int:
        """Channels per attention head."""
        return self.width // self.heads

    @property
    def patch_width(self) -> int:
        """Latent values in one video token."""
        return self.video_channels * self.patch[0] * self.patch[1] * self.patch[2]

    @property
    def mlp_width(self) -> int:
        """Hidden channels of the MLPs."""
        return int(self.width * self.mlp_ratio)

    @property
    def joint(self) -> bool:
        """Whether both branches exist, and with them the attention between them."""
        return bool(self.video_channels and self.audio_channels)


@dataclass(frozen=True)
class RefinerConfig:
    """What the refiner changes of the base video branch, and what the base leaves to it (paper, section 4.5).

    Sides grow by `space_factor`, the frame rate by `time_factor`. Every `keyframe_spacing`-th latent frame is made at
    high resolution by the base. `steps` are sampling steps without guidance, spaced by `shift`: the refiner is given
    most of the picture, and what it makes itself is the detail, which is settled at low noise. Pictures larger than
    `tile` pixels (height, width) are refined in overlapping tiles of that size; empty: whole. `dual_blocks`,
    `single_blocks` and `prediction` are of its network; None: as many as the base has, and as the base predicts.
    `enlarges` is what is laid onto the finer grid: the latents (paper), or the pixels that they decode to, which are
    encoded again. That costs two passes of the codec, and small codecs' latents say little between their places.
    """

    space_factor: int = 2
    time_factor: int = 2
    keyframe_spacing: int = 10
    steps: int = 8
    shift: float = 1.0
    sparsity: float = 0.875
    sparse_min_tokens: int = 4096
    tile: tuple[int, ...] = ()
    dual_blocks: int | None = None
    single_blocks: int | None = None
    prediction: Prediction | None = None
    enlarges: Literal["latents", "pixels"] = "latents"

    def __post_init__(self) -> None:
        if len(self.tile) not in (0, 2):
            raise ValueError(f"the refiner's tile is {self.tile}: give its height and width in pixels, or leave it out")


@dataclass(frozen=True)
class SamplingConfig:
    """Defaults of a call. `keyframes` says that the base was trained to make high-resolution keyframes too.

    What is shown needs less of the words: `edit_guidance_scale` takes the place of `guidance_scale` where a clip is
    given to be changed, whole or within a mask, `referred_guidance_scale` where pictures or clips are referred to.
    None: the same.
    """

    steps: int = 50
    solver: Solver = "unipc"
    shift: float = 5.0
    guidance_scale: float = 4.0
    edit_guidance_scale: float | None = None
    referred_guidance_scale: float | None = None
    audio_guidance_scale: float = 3.0
    reference_guidance_scale: ReferenceScale = 1.0
    cross_modal_guidance_scale: float = 1.0
    guidance_rescale: float = 0.0
    keyframes: bool = False


@dataclass(frozen=True)
class UsualClip:
    """What a model generates when the caller does not say."""

    fps: float = 16.0
    height: int = 64
    width: int = 64
    seconds: float = 1.0


@dataclass(frozen=True)
class Trained:
    """What the last stage of a model's training saw; what is empty or None is not known, as of older folders.

    `captions` are forms: short, long, structured. `sizes` are short sides in pixels and `seconds` lengths, the least
    and the most of each.
    """

    captions: tuple[str, ...] = ()
    sizes: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()
    fps: float | None = None


@dataclass(frozen=True)
class GenerationConfig:
    """How a model is used when the caller does not say, and what it was trained on."""

    sampling: SamplingConfig = SamplingConfig()
    generation: UsualClip = UsualClip()
    refiner: RefinerConfig = RefinerConfig()
    trained: Trained = Trained()

    @classmethod
    def of(cls, preset: "Preset") -> "GenerationConfig":
        """From a preset's sections."""
        return cls(
            from_mapping(SamplingConfig, preset.section("sampling"), f"{preset.name}: sampling"),
            from_mapping(UsualClip, preset.section("generation"), f"{preset.name}: generation"),
            preset.refiner,
        )


@dataclass(frozen=True)
class Preset:
    """One size of the whole system. Sections as mappings belong to the modules that read them."""

    name: str
    transformer: TransformerConfig
    refiner: RefinerConfig
    video: VideoCodecSpec
    audio: AudioCodecSpec
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def section(self, name: str) -> Mapping[str, Any]:
        """The mapping under `name`, such as `sampling`. Raises KeyError naming the sections there are."""
        if name not in self.sections:
            raise KeyError(f"preset {self.name!r} has no section {name!r}; it has {sorted(self.sections)}")
        return self.sections[name]


def load_preset(name: str | Path) -> Preset:
    """Read `presets/<name>.yaml`, or the YAML file at that path."""
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else PRESETS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(preset.stem for preset in PRESETS.glob("*.yaml")))
        raise FileNotFoundError(f"no preset {name!r}: give the path of a YAML file or one of {known}")
    values = yaml.safe_load(path.read_text())
    typed = {
        "transformer": TransformerConfig,
        "refiner": RefinerConfig,
        "video": VideoCodecSpec,
        "audio": AudioCodecSpec,
    }
    missing = typed.keys() - values.keys()
    if missing:
        raise ValueError(f"{path} lacks the sections {sorted(missing)}")
    parts: dict[str, Any] = {key: from_mapping(kind, values.pop(key), f"{path}: {key}") for key, kind in typed.items()}
    return Preset(name=path.stem, sections=values, **parts)


def from_mapping(kind: type[Dataclass], values: Mapping[str, Any], where: str) -> Dataclass:
    """Build a dataclass from plain values, lists becoming tuples. Errors name `where` and the key."""
    fields = {spec.name: spec for spec in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = values.keys() - fields.keys()
    if unknown:
        raise ValueError(f"{where}: unknown keys {sorted(unknown)}; known are {sorted(fields)}")
    required = {name for name, spec in fields.items() if spec.default is spec.default_factory is dataclasses.MISSING}
    if required - values.keys():
        raise ValueError(f"{where}: missing keys {sorted(required - values.keys())}")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
