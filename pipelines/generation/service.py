"""The generator as the serving engine takes it: a request is prepared where it comes in, and rendered in stages.

What stages hand on is `model.generation.wire`: the prepared call, the base's latents, the refined ones.
"""

import dataclasses
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.folder import INDEX
from model.generation.components import read_spec
from model.generation.enhancing import Write, by_rules
from model.generation.prepared import Prepared
from model.generation.prompts import render_prompt
from model.generation.steps import BaseLatents, NotFinite, Progress
from model.generation.wire import from_bytes, to_bytes
from model.generator import Generator
from pipelines.generation.media import MediaReader
from pipelines.generation.prepare import prepare
from pipelines.generation.render import clip_facts, write_clip
from pipelines.generation.request import MAX_PROMPT, MAX_SECONDS, GenerationRequest, RequestError
from skyreels.config import ConfigError, build
from skyreels.media.image import write_image
from skyreels.media.limits import MediaLimits
from skyreels.serving.request import VideoRequest
from skyreels.serving.servable import ModelCard, Plan, RequestRefused, StageFailed, Work

BASE, REFINE, DECODE = STAGES = ("base", "refine", "decode")

_PREPARED, _LATENTS, _RECORD = "prepared.safetensors", "latents.safetensors", "record.json"
_SHEET_PICTURES, _SHEET_SIDE = 16, 4
_LIMITS = MediaLimits(max_file_bytes=4 * 2**30, max_frames=3600, max_duration_s=MAX_SECONDS, wall_s=120.0, cpu_s=120.0)

# Fields of a request off the wire that the generator calls otherwise.
_NAMES = {
    "first_frame": "image",
    "last_frame": "last_image",
    "source_video": "video",
    "source_audio": "audio",
    "num_inference_steps": "steps",
    "audio": "sound",
}
_AS_THEY_ARE = ("prompt", "negative_prompt", "seconds", "fps", "seed", "guidance_scale", "audio_guidance_scale")


class GenerationService:
    """A `Servable` over the model in `folder`, whose weights are read when the first stage runs.

    `enhance` puts prompts into a form that the model was trained on; None leaves them alone.
    """

    def __init__(
        self,
        folder: str | Path,
        name: str = "skyreels",
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        enhance: Write | None = by_rules,
    ) -> None:
        self.folder, self.device, self.dtype, self.enhance = Path(folder), device, dtype, enhance
        self.spec = read_spec(folder)
        self._name = name
        self._reader = MediaReader(_LIMITS)
        self._running = threading.Lock()

    @property
    def models(self) -> Sequence[ModelCard]:
        usual = self.spec.config.generation
        told = {
            "size": f"{usual.width}x{usual.height}",
            "seconds": usual.seconds,
            "fps": usual.fps,
            "sound": self.spec.sounds,
            "refine": self.spec.refines,
            "longest_seconds": MAX_SECONDS,
            "longest_prompt": MAX_PROMPT,
        }
        return [ModelCard(self._name, int((self.folder / INDEX).stat().st_mtime), told)]

    @property
    def stages(self) -> Sequence[str]:
        return STAGES if self.spec.refines else (BASE, DECODE)

    def plan(self, request: VideoRequest, files: Mapping[str, Path], folder: Path) -> Plan:
        """As `Servable.plan`."""
        with _refusals(files):
            asked = generation_request(request)
            prepared = prepare(asked, files, self.spec, self._reader, self.enhance)
        path = folder / _PREPARED
        path.write_bytes(to_bytes(prepared))
        clip = prepared.refined or prepared.clip
        facts = {
            "model": self._name,
            "task": task_of(request),
            "size": f"{clip.width}x{clip.height}",
            "seconds": round(clip.seconds, 4),
            "fps": clip.fps,
            "seed": prepared.seed,
            **({} if prepared.prompt == render_prompt(asked.prompt) else {"asked": prepared.prompt}),
            **({"remarks": list(prepared.remarks)} if prepared.remarks else {}),
        }
        stages = STAGES if prepared.refined is not None else (BASE, DECODE)
        return Plan(stages, (path,), facts)

    def run(self, work: Work) -> Mapping[str, Any]:
        """As `Servable.run`: one stage at a time, for they share the generator."""
        prepared = from_bytes(Prepared, work.files[_PREPARED].read_bytes())
        with self._running, _failures():
            if work.stage == BASE:
                latents = self._generator.sample_base(prepared, callback_on_step_end=_steps(work))
                return _hand_on(work, latents)
            latents = from_bytes(BaseLatents, work.files[_LATENTS].read_bytes())
            if work.stage == REFINE:
                streams = self._generator.refine(prepared, latents, callback_on_step_end=_steps(work))
                return _hand_on(work, dataclasses.replace(latents, streams=streams))
            return self._decoded(work, prepared, latents)

    @cached_property
    def _generator(self) -> Generator:
        return Generator.from_pretrained(self.folder, self.device, self.dtype)

    def _decoded(self, work: Work, prepared: Prepared, latents: BaseLatents) -> Mapping[str, Any]:
        work.step(0.0)
        made = self._generator.decode(prepared, latents.streams)
        work.step(0.5)
        write_clip(made, "video", work.folder / "video.mp4")
        write_image(work.folder / "thumbnail.jpg", made.frames[len(made.frames) // 2])
        write_image(work.folder / "spritesheet.jpg", contact_sheet(made.frames))
        facts = {**clip_facts(made, "video"), "provenance": self._generator.components.identities()}
        told = {**facts, "seed": prepared.seed, "prompt": prepared.prompt}
        (work.folder / _RECORD).write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n")
        return {name: value for name, value in facts.items() if name not in ("width", "height")}


def generation_request(request: VideoRequest) -> GenerationRequest:
    """What the generator is asked. Raises ConfigError where a bound of the generator's is narrower."""
    values: dict[str, Any] = {name: getattr(request, name) for name in _AS_THEY_ARE}
    values |= {ours: getattr(request, theirs) for theirs, ours in _NAMES.items()}
    references: dict[str, list[str]] = {}
    for reference in request.references:
        references.setdefault(reference.tag, []).append(reference.source)
    values |= {
        "keyframes": [{"seconds": frame.time, "image": frame.image} for frame in request.keyframes],
        "references": references,
        "mask": request.mask,
        "refine": request.refine,
        "video_use": request.task or "extend",
    }
    if request.width_and_height is not None:
        values["width"], values["height"] = request.width_and_height
    return build(GenerationRequest, {name: value for name, value in values.items() if value is not None}, "the request")


def task_of(request: VideoRequest) -> str:
    """The usual name of what is asked."""
    if request.mask is not None:
        return "inpaint"
    if request.task is not None:
        return "v2a" if request.task == "add_sound" else request.task
    if request.keyframes or request.last_frame is not None:
        return "keyframes"
    if request.first_frame is not None:
        return "i2v"
    if request.references:
        return "r2v"
    return "a2v" if request.source_audio is not None else "t2v"


def contact_sheet(frames: np.ndarray) -> np.ndarray:
    """Sixteen of (F, H, W, 3) frames, evenly apart, in four rows: (4 * H, 4 * W, 3)."""
    chosen = frames[np.linspace(0, len(frames) - 1, _SHEET_PICTURES).round().astype(int)]
    rows = [np.concatenate(list(chosen[start : start + _SHEET_SIDE]), axis=1) for start in range(0, 16, _SHEET_SIDE)]
    return np.concatenate(rows, axis=0)


def _steps(work: Work) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        work.step((progress.step.index + 1) / progress.step.count)

    return report


def _hand_on(work: Work, latents: BaseLatents) -> Mapping[str, Any]:
    (work.folder / _LATENTS).write_bytes(to_bytes(latents))
    return {}


@contextmanager
def _refusals(files: Mapping[str, Path]) -> Iterator[None]:
    """Errors about the request, in its own words: fields as it calls them, and no path of this machine."""
    theirs = {ours: name for name, ours in _NAMES.items()}
    try:
        yield
    except (ValueError, ConfigError) as error:
        message = str(error)
        for path in files.values():
            message = message.replace(str(path), "the file")
        field = error.field if isinstance(error, RequestError) else None
        raise RequestRefused(theirs.get(field or "", field), message) from error


@contextmanager
def _failures() -> Iterator[None]:
    """What no new attempt would mend."""
    try:
        yield
    except NotFinite as error:
        raise StageFailed("not_finite", str(error)) from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        message = f"the clip does not fit into the device's memory ({error}): ask for fewer seconds or a smaller size"
        raise StageFailed("out_of_memory", message) from error
