"""The generator as the serving engine takes it: a request is prepared where it comes in, and rendered in stages.

What stages hand on is `model.generation.wire`: the prepared call, the base's latents, the refined ones.
"""

import dataclasses
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import torch
from pydantic import Field

from model.folder import AUDIO_CODEC, ENCODER, INDEX, REFINER, TRANSFORMER, VIDEO_CODEC
from model.generation.components import read_spec
from model.generation.enhancing import enhanced
from model.generation.prepared import Prepared
from model.generation.prompts import render_prompt
from model.generation.steps import BaseLatents, Generated, NotFinite, Progress
from model.generation.together import shape_key
from model.generation.wire import from_bytes, to_bytes
from model.generator import Generator, read_adapter
from model.network.elementwise import compile_elementwise
from model.network.lora import Lora, merged
from model.sampling import sampler
from pipelines.generation.costs.demand import Demand, DemandModel
from pipelines.generation.enhance import EnhancerConfig, enhancer
from pipelines.generation.finishing import FinishFailed, finished, load_finish
from pipelines.generation.media import MediaReader
from pipelines.generation.prepare import prepare
from pipelines.generation.ranks import Voted, meet, share
from pipelines.generation.removal import with_regions
from pipelines.generation.render import clip_facts, contact_sheet, origin, write_clip
from pipelines.generation.request import MAX_PROMPT, MAX_SECONDS
from pipelines.generation.translation import generation_request, refusals, task_of
from pipelines.generation.windows import Windows, decode_windows, refine_windows, sample_windows, windows_of
from skyreels.config import Config
from skyreels.media.encode import VideoCodec
from skyreels.media.image import write_image
from skyreels.media.limits import MediaLimits
from skyreels.serving.request import VideoRequest
from skyreels.serving.servable import Cancelled, ModelCard, Plan, RequestRefused, StageFailed, Together, Work
from skyreels.training.ulysses import UlyssesRanks

BASE, REFINE, DECODE = STAGES = ("base", "refine", "decode")

_PREPARED, _LATENTS, _MADE_BY = "prepared.safetensors", "latents.safetensors", "made_by.json"
_RECORD, _ADAPTER, _WINDOWS, _REMOVED = "record.json", "adapter.json", "windows.json", "removed.json"
_GB = 1e9
_MOST_TOGETHER = 64
_PREVIEW_SHARE = 19  # of the time that one took, before the next
_LIMITS = MediaLimits(max_file_bytes=4 * 2**30, max_frames=3600, max_duration_s=MAX_SECONDS, wall_s=120.0, cpu_s=120.0)

_PARTS = {
    BASE: (TRANSFORMER, ENCODER, VIDEO_CODEC, AUDIO_CODEC),
    REFINE: (REFINER, VIDEO_CODEC),
    DECODE: (VIDEO_CODEC, AUDIO_CODEC),
}
"""What of the model each stage needs."""


class ModelSettings(Config):
    """Which model is served, and how."""

    folder: str = Field(description="of a model, as training exports it")
    name: str = Field("skyreels", max_length=128, description="what it is called in requests")
    device: str = Field("", description='"" is cuda where there is one, else cpu')
    dtype: Literal["float32", "bfloat16"] | None = Field(None, description="of the transformers; as saved")
    stream_layers: bool = Field(False, description="layers lie on the host, and come to the device one by one")
    compiled: bool = Field(False, description="elementwise work as one kernel each: takes triton or g++")
    memory_gb: float | None = Field(
        None, gt=0, description="of the devices that render; what needs more is refused. None: this process's device's"
    )
    preview_after_s: float = Field(
        3.0, ge=0, description="how long a stage runs before it is shown; pictures take a twentieth of its time at most"
    )
    enhancer: EnhancerConfig | None = Field(
        EnhancerConfig(), description="what puts prompts into a form that the model was trained on; None: nothing does"
    )
    codec: VideoCodec = Field("h264", description="of the clips' pictures; with av1 their sound is Opus")
    finish: str = Field(
        "", description="module:function that is given each clip's file and record before they are published: to sign"
    )
    loras: Mapping[str, str] = Field({}, description="folders of adapters, by the names that requests may give")


def _share(progress: Progress) -> float:
    """Of a stage's steps, those that are done."""
    return (progress.step.index + 1) / progress.step.count


class GenerationService:
    """A `Servable` over a model's folder. Weights of the parts that `stages` need are read when the first one runs.

    `ranks` tells how many processes share a stage's clip, where that is more than one. Raises ValueError where the
    network's heads cannot be dealt out to them.
    """

    def __init__(
        self, settings: ModelSettings, stages: Sequence[str] = STAGES, ranks: Mapping[str, int] | None = None
    ) -> None:
        self.settings, self.folder = settings, Path(settings.folder)
        self.spec = read_spec(self.folder)
        self._parts = {part for stage in stages for part in _PARTS[stage]}
        self._enhance = None if settings.enhancer is None else enhancer(settings.enhancer, _device(settings))
        self._demand = DemandModel.of(self.folder, self.spec, ranks, settings.stream_layers)
        self._ranks: UlyssesRanks | None = None
        self._follows = False  # another rank is the one that tells, shows and writes
        self._memory = _memory_of(settings, here=bool(stages))
        self._finish = load_finish(settings.finish) if DECODE in stages else None
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
            "loras": sorted(self.settings.loras),
        }
        return [ModelCard(self.settings.name, int((self.folder / INDEX).stat().st_mtime), told)]

    @property
    def stages(self) -> Sequence[str]:
        return STAGES if self.spec.refines else (BASE, DECODE)

    def load(self, stages: Sequence[str]) -> None:
        """As `Servable.load`."""
        assert {part for stage in stages for part in _PARTS[stage]} <= self._parts
        with self._running:
            self._generator  # noqa: B018 (reads the weights)
            if BASE in stages:
                self._adapters  # noqa: B018

    def join(self, folder: Path, number: int, count: int) -> None:
        """As `Servable.join`."""
        with self._running:
            self._ranks = meet(folder, number, count, torch.device(_device(self.settings)).type)
            self._follows = number > 0
            share(self._generator, self._ranks)

    def asked(self, prompt: str) -> str:
        """As `Servable.asked`."""
        with refusals({}):
            return render_prompt(enhanced(prompt, self.spec.config.trained.captions, self._enhance))

    def plan(self, request: VideoRequest, files: Mapping[str, Path], folder: Path) -> Plan:
        """As `Servable.plan`."""
        if request.lora is not None and request.lora not in self.settings.loras:
            known = ", ".join(sorted(self.settings.loras)) or "none"
            raise RequestRefused("lora", f"no adapter {request.lora!r} is served here; there are: {known}")
        with refusals(files):
            asked = with_regions(generation_request(request), files, self._reader)
            prepared = prepare(asked, files, self.spec, self._reader, self._enhance if request.enhance_prompt else None)
            windows = windows_of(asked, prepared)
        demand = self._demand.demand(prepared) if windows is None else self._demand.of_windows(windows)
        self._check_memory(prepared, demand.memory, windows)
        path = folder / _PREPARED
        path.write_bytes(to_bytes(prepared))
        clip = (prepared.refined or prepared.clip) if windows is None else windows.shown
        facts = {
            "model": self.settings.name,
            "task": task_of(request),
            "size": f"{clip.width}x{clip.height}",
            "seconds": round(clip.seconds, 4),
            "fps": clip.fps,
            "seed": prepared.seed,
            **({} if prepared.prompt == render_prompt(asked.prompt) else {"asked": prepared.prompt}),
            **({"remarks": list(prepared.remarks)} if prepared.remarks else {}),
        }
        handed = [path]
        if asked.regions:
            facts["removed"] = asked.model_dump(mode="json")["regions"]
            handed.append(folder / _REMOVED)
            handed[-1].write_text(json.dumps(facts["removed"]))
        if request.lora is not None:
            facts |= {"lora": request.lora, "lora_scale": request.lora_scale}
            handed.append(folder / _ADAPTER)
            handed[-1].write_text(json.dumps({"name": request.lora, "scale": request.lora_scale}))
        stages = STAGES if prepared.refined is not None else (BASE, DECODE)
        if windows is not None:
            handed.append(folder / _WINDOWS)
            handed[-1].write_text(json.dumps({"frames": windows.frames, "overlap": windows.overlap}))
            return Plan(stages, tuple(handed), facts, demand.work)
        return Plan(stages, tuple(handed), facts, demand.work, {BASE: self._company(request, prepared, demand)})

    def reseeded(self, plan: Plan, seed: int, folder: Path) -> Plan:
        """As `Servable.reseeded`."""
        prepared, *others = plan.files
        path = folder / _PREPARED
        path.write_bytes(to_bytes(dataclasses.replace(from_bytes(Prepared, prepared.read_bytes()), seed=seed)))
        return dataclasses.replace(plan, files=(path, *others), facts={**plan.facts, "seed": seed})

    def _company(self, request: VideoRequest, prepared: Prepared, demand: Demand) -> Together:
        """With whom the base may be sampled: as many as fit beside each other into the device's memory."""
        own = max(1.0, demand.memory - self._demand.weights)
        most = _MOST_TOGETHER if self._memory is None else int((self._memory - self._demand.weights) // own)
        adapter = f"{request.lora} {request.lora_scale}" if request.lora is not None else ""
        key = hashlib.sha256(f"{shape_key(prepared)} {adapter}".encode()).hexdigest()
        return Together(key, max(1, min(_MOST_TOGETHER, most)))

    def _check_memory(self, prepared: Prepared, needed: float, windows: Windows | None) -> None:
        """Raises RequestRefused for what can never fit, with what would."""
        if self._memory is None or needed <= self._memory:
            return
        longest, clip = self._demand.longest(prepared, self._memory), prepared.clip
        told = f"needs about {needed / _GB:.1f} GB and a device here has {self._memory / _GB:.1f}"
        if windows is not None and self._demand.demand(prepared).memory <= self._memory:
            raise RequestRefused("seconds", f"the clip {told}, though a window of it fits: ask for fewer seconds")
        if longest is None:
            fits = f"no clip of {clip.width}x{clip.height} fits: ask for a smaller size, without references"
            raise RequestRefused("size", f"the clip {told}; {fits}")
        shorter = "fewer seconds" if windows is None else "a shorter window"
        fits = f"{longest:.3g} s fit at this size: ask for {shorter} or a smaller size"
        raise RequestRefused("seconds" if windows is None else "window_seconds", f"the clip {told}; {fits}")

    def run(self, work: Work) -> Mapping[str, Any]:
        """As `Servable.run`: one stage at a time, for they share the generator."""
        if self._follows and work.stage == DECODE:
            return {}
        prepared = from_bytes(Prepared, work.files[_PREPARED].read_bytes())
        with self._running, _failures():
            if _WINDOWS in work.files:
                windows = Windows(prepared, **json.loads(work.files[_WINDOWS].read_text()))
                return self._run_windows(work, windows)
            if work.stage == BASE:
                with self._adapted(work):
                    latents = self._generator.sample_base(prepared, callback_on_step_end=self._steps(work))
                return self._hand_on(work, {_LATENTS: latents})
            latents = from_bytes(BaseLatents, work.files[_LATENTS].read_bytes())
            if work.stage == REFINE:
                streams = self._generator.refine(prepared, latents, callback_on_step_end=self._steps(work))
                return self._hand_on(work, {_LATENTS: dataclasses.replace(latents, streams=streams)})
            work.step(0.0)
            return self._decoded(work, prepared, self._generator.decode(prepared, latents.streams))

    def _run_windows(self, work: Work, windows: Windows) -> Mapping[str, Any]:
        """A stage of a clip in windows, of all of them: each goes on from the one before."""
        names = [f"latents_{number}.safetensors" for number in windows.working]
        watched = self._steps(work, lambda progress: progress.progress)
        if work.stage == BASE:
            with self._adapted(work):
                made = sample_windows(self._generator, windows, watched)
            return self._hand_on(work, dict(zip(names, made, strict=True)))
        latents = [from_bytes(BaseLatents, work.files[name].read_bytes()) for name in names]
        if work.stage == REFINE:
            made = refine_windows(self._generator, windows, latents, watched)
            return self._hand_on(work, dict(zip(names, made, strict=True)))
        work.step(0.0)
        whole = decode_windows(self._generator, windows, latents)
        return self._decoded(work, windows.first, dataclasses.replace(whole, frames=np.stack(list(whole.frames))))

    def run_together(self, works: Sequence[Work]) -> Sequence[Mapping[str, Any] | None]:
        """As `Servable.run_together`, of the base."""
        calls = [from_bytes(Prepared, work.files[_PREPARED].read_bytes()) for work in works]
        with self._running, _failures(), self._adapted(works[0]):
            reports = [_cancelled_alone(self._steps(work)) for work in works]
            made = self._generator.sample_together(calls, reports)
        return [
            None if one is None else self._hand_on(work, {_LATENTS: one}) for work, one in zip(works, made, strict=True)
        ]

    def _steps(self, work: Work, done: Callable[[Progress], float] = _share) -> Callable[[Progress], None]:
        """Tells of each step, and now and then shows how the clip stands. Ranks that share it stop together."""
        if self._ranks is not None and self._follows:
            return Voted(self._ranks)
        due = time.monotonic() + self.settings.preview_after_s

        def report(progress: Progress) -> None:
            nonlocal due
            work.step(done(progress))
            start = time.monotonic()
            if start < due or progress.step.index + 1 == progress.step.count:
                return
            frames = progress.preview()
            if frames is not None:
                work.show(np.ascontiguousarray(frames[len(frames) // 2]))
            due = time.monotonic() + _PREVIEW_SHARE * (time.monotonic() - start)

        return report if self._ranks is None else Voted(self._ranks, _cancelled_alone(report))

    @contextmanager
    def _adapted(self, work: Work) -> Iterator[None]:
        """The transformer with the adapter that was asked for; nothing is loaded again for the next request."""
        if _ADAPTER not in work.files:
            yield
            return
        asked = json.loads(work.files[_ADAPTER].read_text())
        transformer = self._generator.components.transformer
        assert transformer is not None
        with merged(transformer, self._adapters[asked["name"]], asked["scale"]):
            yield

    @cached_property
    def _adapters(self) -> Mapping[str, Lora]:
        """All that may be asked for, held in the host's memory."""
        return {name: read_adapter(self.folder, folder) for name, folder in self.settings.loras.items()}

    @cached_property
    def _generator(self) -> Generator:
        compile_elementwise(self.settings.compiled)
        dtype = None if self.settings.dtype is None else getattr(torch, self.settings.dtype)
        device, stream = _device(self.settings), self.settings.stream_layers
        return Generator.from_pretrained(self.folder, device, dtype, stream=stream, only=self._parts)

    @cached_property
    def _identities(self) -> Mapping[str, str]:
        return self._generator.components.identities()

    def _hand_on(self, work: Work, latents: Mapping[str, BaseLatents]) -> Mapping[str, Any]:
        if self._follows:
            return {}
        for name, made in latents.items():
            (work.folder / name).write_bytes(to_bytes(made))
        (work.folder / _MADE_BY).write_text(json.dumps({**_made_by(work), **self._identities}))
        return {}

    def _decoded(self, work: Work, prepared: Prepared, made: Generated) -> Mapping[str, Any]:
        work.step(0.5)
        identities = {**_made_by(work), **self._identities}
        adapter = work.files.get(_ADAPTER)
        lora = None if adapter is None else json.loads(adapter.read_text())["name"]
        told = origin(identities, prepared.seed, lora=lora)
        write_clip(made, "video", work.folder / "video.mp4", told, self.settings.codec)
        write_image(work.folder / "thumbnail.jpg", made.frames[len(made.frames) // 2])
        write_image(work.folder / "spritesheet.jpg", contact_sheet(made.frames))
        facts = {**clip_facts(made, "video"), "provenance": identities}
        asked = {"prompt": prepared.prompt}
        if _REMOVED in work.files:
            asked["removed"] = json.loads(work.files[_REMOVED].read_text())
        record = finished(self._finish, work.folder / "video.mp4", {**told, **facts, **asked})
        (work.folder / _RECORD).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        return {name: value for name, value in facts.items() if name not in ("width", "height")}


def _device(settings: ModelSettings) -> str:
    return settings.device or ("cuda" if torch.cuda.is_available() else "cpu")


def _memory_of(settings: ModelSettings, *, here: bool) -> float | None:
    """Bytes on the device that renders; None where that is another process's, and nobody said."""
    if settings.memory_gb is not None:
        return settings.memory_gb * _GB
    if not here:
        return None
    if (settings.device or "cuda").startswith("cuda") and torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(0).total_memory)
    return float(psutil.virtual_memory().total)


def _cancelled_alone(report: Callable[[Progress], None]) -> Callable[[Progress], None]:
    """The report, with the engine's Cancelled as the model's: it ends one call of several."""

    def reported(progress: Progress) -> None:
        try:
            report(progress)
        except Cancelled as end:
            raise sampler.Cancelled from end

    return reported


def _made_by(work: Work) -> dict[str, str]:
    """Identities of the parts that earlier stages ran."""
    path = work.files.get(_MADE_BY)
    return {} if path is None else json.loads(path.read_text())


@contextmanager
def _failures() -> Iterator[None]:
    """What ends a stage in the engine's words: a cancel, and what no new attempt would mend."""
    try:
        yield
    except sampler.Cancelled as end:
        raise Cancelled from end
    except NotFinite as error:
        raise StageFailed("not_finite", str(error)) from error
    except FinishFailed as error:
        raise StageFailed("finish_failed", str(error)) from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        message = f"the clip does not fit into the device's memory ({error}): ask for fewer seconds or a smaller size"
        raise StageFailed("out_of_memory", message) from error
