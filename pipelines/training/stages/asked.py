"""Prompts that somebody wants to see sampled: laid into a stage's folder, their samples side by side over steps."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from PIL import Image, ImageDraw

from model.config import GenerationConfig
from model.generation.components import spec_with
from model.generation.prepared import GeneratorSpec
from pipelines.training.curriculum.resolve import Stage
from pipelines.training.learners.asked import PREFIX, SUFFIX
from pipelines.training.learners.network import network_config
from skyreels.training.config import EngineConfig

Prepare = Callable[[GeneratorSpec], Mapping[str, bytes]]
"""Prepared calls by name, for a model of that spec (`model.generation.wire`)."""

_FOLDER, _SIDE_BY_SIDE = "prompts", "side-by-side"
_LABEL_WIDTH = 84


def lay_out_prompts(prepare: Prepare, spec: GeneratorSpec, folder: Path) -> str | None:
    """Prepare the calls and write them below a run's folder; where nothing can be sampled, None."""
    target = folder / _FOLDER
    shutil.rmtree(target, ignore_errors=True)
    prepared = prepare(spec)
    for name, data in prepared.items():
        target.mkdir(parents=True, exist_ok=True)
        (target / f"{name}{SUFFIX}").write_bytes(data)
    return str(target) if prepared else None


def stage_spec(stage: Stage, components: str | Path, config: GenerationConfig) -> GeneratorSpec:
    """What preparing must know of the model that a stage trains."""
    return spec_with(network_config(stage.preset, stage.branches), components, config)


def with_samples(engine: EngineConfig) -> EngineConfig:
    """Samples ten times in a run, where it is not said how often."""
    often = engine.samples_every_steps or max(1, engine.steps // 10)
    return engine.model_copy(update={"samples_every_steps": often})


def side_by_side(samples: Path) -> Iterator[Path]:
    """Lay the strips of every prompt below each other, a row per step, and say where: a PNG for each prompt."""
    strips: dict[str, list[tuple[int, Path]]] = {}
    for path in sorted(samples.glob(f"step-*/{PREFIX}*.png")):
        strips.setdefault(path.stem, []).append((int(path.parent.name.removeprefix("step-")), path))
    for name, rows in strips.items():
        images = [(step, Image.open(path).convert("RGB")) for step, path in rows]
        width, heights = max(image.width for _, image in images), [image.height for _, image in images]
        sheet = Image.new("RGB", (_LABEL_WIDTH + width, sum(heights)), "white")
        draw = ImageDraw.Draw(sheet)
        for place, (step, image) in enumerate(images):
            top = sum(heights[:place])
            draw.text((4, top + 4), f"step {step}", fill="black")
            sheet.paste(image, (_LABEL_WIDTH, top))
        target = samples / _SIDE_BY_SIDE / f"{name.removeprefix(PREFIX)}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(target)
        yield target
