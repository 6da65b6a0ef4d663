"""The folder of a model, laid out as diffusers does: names of parts and their index are known here alone.

model_index.json   which parts there are, how the model is used when the caller does not say, what it was trained on
transformer/  video_codec/  audio_codec/  encoder/  refiner/
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from model.checksums import CheckpointError, check
from model.config import GenerationConfig, RefinerConfig, SamplingConfig, Trained, UsualClip, from_mapping
from model.prompt_encoder.encoder import EncoderConfig

INDEX = "model_index.json"
TRANSFORMER, VIDEO_CODEC, AUDIO_CODEC, ENCODER, REFINER = PARTS = (
    "transformer",
    "video_codec",
    "audio_codec",
    "encoder",
    "refiner",
)
SHIPPED = Path(__file__).parent / "shipped" / "tiny"
"""The small model that comes with the project; its README.md says what it can do."""
FROZEN = (VIDEO_CODEC, AUDIO_CODEC, ENCODER)
"""Parts that every stage of training shares, and hands on as they are."""


@dataclass(frozen=True)
class ModelIndex:
    """What `model_index.json` says. It is written last: a folder without it is not finished."""

    parts: tuple[str, ...]
    config: GenerationConfig = field(default_factory=GenerationConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)

    @classmethod
    def read(cls, folder: str | Path) -> "ModelIndex":
        """Raises FileNotFoundError where there is none, CheckpointError where it cannot be understood."""
        path = Path(folder) / INDEX
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: {folder} is not the folder of a generator; if it is a stage's, run its stage again"
            )
        try:
            values = json.loads(path.read_text())
            sections = {name: values[name] for name in ("components", "encoder", "sampling", "generation", "refiner")}
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is damaged ({error!r}): export or copy the model again") from error
        config = GenerationConfig(
            from_mapping(SamplingConfig, sections["sampling"], f"{path}: sampling"),
            from_mapping(UsualClip, sections["generation"], f"{path}: generation"),
            from_mapping(RefinerConfig, sections["refiner"], f"{path}: refiner"),
            from_mapping(Trained, values.get("trained", {}), f"{path}: trained"),
        )
        encoder = from_mapping(EncoderConfig, sections["encoder"], f"{path}: encoder")
        return cls(tuple(sections["components"]), config, encoder)

    def write(self, folder: str | Path) -> None:
        """Into a folder whose parts are there."""
        index = {
            "components": sorted(self.parts),
            "encoder": dataclasses.asdict(self.encoder),
            **dataclasses.asdict(self.config),
        }
        (Path(folder) / INDEX).write_text(json.dumps(index, indent=2) + "\n")

    def part(self, folder: str | Path, name: str) -> Path:
        """The folder of a part. Raises FileNotFoundError where it is not there: no hub is asked for it."""
        path = Path(folder) / name
        if name not in self.parts:
            raise FileNotFoundError(f"{folder} has no {name}: it holds {', '.join(sorted(self.parts))}")
        if not path.is_dir():
            raise FileNotFoundError(f"{path} is missing, and {INDEX} names it: export or copy the model again")
        return path


def parts_in(folder: str | Path, names: tuple[str, ...] = PARTS) -> Iterator[str]:
    """Those of `names` that a folder holds, index or not."""
    return (name for name in names if (Path(folder) / name).is_dir())


def link_part(source: str | Path, target: str | Path, name: str) -> None:
    """Copy a part from one model's folder to another's by hard links, or by bytes where the disk has none.

    Raises CheckpointError for damaged weights.
    """
    check(Path(source) / name)
    shutil.copytree(Path(source) / name, Path(target) / name, copy_function=_link_file)


def _link_file(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
