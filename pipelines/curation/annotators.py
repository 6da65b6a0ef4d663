"""The layers of curation: which models look at or listen to which clips, and what they leave in a row.

Each worker is built inside its actor from plain arguments, reads what it needs of a clip from the pool, and answers
for every clip it is given; what goes wrong with one clip becomes that clip's `error`.
"""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import cv2
import numpy as np
import ray
import soundfile
from numpy.typing import NDArray

from pipelines.curation.captions import ray_llm
from pipelines.curation.captions.captioners import CAPTIONERS, STREAMED
from pipelines.curation.captions.requests import CaptionRequest, CaptionResult
from pipelines.curation.embeddings.backends import make_aesthetics, make_backend
from pipelines.curation.embeddings.descriptor import Descriptor
from pipelines.curation.layers import Answers, Layer, read_layer
from pipelines.curation.recipe import AsrConfig, CaptionConfig, EmbeddingConfig, Recipe, TaggerConfig
from pipelines.curation.records import DAMAGE_REMEDY, Kind
from pipelines.dataset.tables import Row, members_of
from skyreels.leftovers import scratch_folder
from skyreels.media.decode import iter_video_frames
from skyreels.media.probe import probe
from skyreels.shards import read_member
from skyreels.storage import DamageError, Storage

T = TypeVar("T")

_VOICED = ("speech", "singing")


def before_selection(recipe: Recipe, root: Storage) -> list[Layer]:
    """Embeddings; sound classes and transcripts where the recipe names models for them."""
    layers = [embedding_layer(recipe.embedding, root)]
    if recipe.tagger.model:
        layers.append(tagger_layer(recipe.tagger, root))
    if recipe.asr.model:
        layers.append(transcript_layer(recipe.asr, root))
    return layers


def answers_before_selection(
    recipe: Recipe, clips: Sequence[Row], root: Storage, read: Answers | None = None
) -> dict[str, Row]:
    """What these layers say of clips, merged by key; a failed answer says nothing. `read` else reads them whole."""
    merged: dict[str, Row] = {}
    for layer in before_selection(recipe, root):
        answers = read(layer, clips) if read else read_layer(layer, clips, root)
        for key, row in answers.items():
            if row["error"] is None:
                merged.setdefault(key, {}).update({k: v for k, v in row.items() if k not in ("key", "error")})
    return merged


def provenance(recipe: Recipe) -> dict[str, Any]:
    """What made a sample, for its json."""
    return {
        "extract": recipe.extract.identity,
        "embedding": _embedding_made_by(recipe.embedding),
        "sound_class": recipe.tagger.model or "measured",
        "transcript": recipe.asr.model or None,
        "captions": recipe.captions.backend,
        "caption_model": recipe.captions.model or None,
    }


def embedding_layer(config: EmbeddingConfig, root: Storage) -> Layer:
    return Layer(
        name="embeddings",
        made_by=_embedding_made_by(config),
        wants=lambda clip: clip["kind"] != Kind.AUDIO,
        workers=config.workers,
        make_worker=EmbeddingWorker,
        arguments={"config": config, "pool": root.sub("pool")},
        holds_model=config.backend != "descriptor",
    )


def transcript_layer(config: AsrConfig, root: Storage) -> Layer:
    return Layer(
        name="transcripts",
        made_by={"model": config.model},
        wants=lambda clip: clip["has_audio"] and clip.get("audio.class") in _VOICED,
        workers=config.workers,
        make_worker=TranscriptWorker,
        arguments={"config": config, "pool": root.sub("pool")},
    )


def tagger_layer(config: TaggerConfig, root: Storage) -> Layer:
    return Layer(
        name="sound-classes",
        made_by={"model": config.model},
        wants=lambda clip: clip["has_audio"],
        workers=config.workers,
        make_worker=TaggerWorker,
        arguments={"config": config, "pool": root.sub("pool")},
    )


def caption_layer(config: CaptionConfig, root: Storage) -> Layer | None:
    """None where the recipe wants no captions."""
    if config.backend == "none":
        return None
    made_by = {name: getattr(config, name) for name in ("backend", "model", "frames", "short_side", "send_audio")}
    pool = root.sub("pool")
    if config.backend in STREAMED:
        return Layer("captions", made_by, _everything, config.workers, stream=partial(_vllm, config, pool))
    arguments = {"config": config, "pool": pool}
    holds_model = CAPTIONERS[config.backend].holds_model
    return Layer("captions", made_by, _everything, config.workers, CaptionWorker, arguments, holds_model=holds_model)


def _everything(clip: Row) -> bool:
    return True


class EmbeddingWorker:
    """A unit vector per clip from its sampled frames, and an aesthetics score where there is a head for it."""

    def __init__(self, config: EmbeddingConfig, pool: Storage) -> None:
        self._backend = make_backend(config, _device(config.workers.num_gpus))
        self._aesthetics = make_aesthetics(config)
        self._pool = pool

    def __call__(self, clips: Sequence[Row]) -> list[Row]:
        shown, rows = _readable(clips, lambda clip: sampled_frames(clip, self._pool, self._backend.draft_side))
        seen = [key for key, frames in shown.items() if frames]
        vectors = self._backend.many([shown[key] for key in seen]) if seen else np.empty((0, 0), np.float32)
        rows += [{"key": key, "error": "no frame of it was sampled"} for key, frames in shown.items() if not frames]
        for key, vector in zip(seen, vectors, strict=True):
            row = {"key": key, "error": None, "embedding": vector.tolist(), "embedding_by": self._backend.identity}
            if self._aesthetics is not None:
                row["visual.aesthetic"] = float(self._aesthetics(vector[None])[0])
            rows.append(row)
        return rows


class TaggerWorker:
    """What kind of sound it is, by a model that was trained to tell; lies over the measured class."""

    def __init__(self, config: TaggerConfig, pool: Storage) -> None:
        from pipelines.curation.audio.tagger import AudioTagger  # here: it imports torch and transformers

        self._tag = AudioTagger(config.model, device=_device(config.workers.num_gpus))
        self._pool = pool

    def __call__(self, clips: Sequence[Row]) -> list[Row]:
        answers, rows = _readable(clips, self._answer)
        return [*answers.values(), *rows]

    def _answer(self, clip: Row) -> Row:
        heard = self._tag(*clip_sound(clip, self._pool))
        scores = {"class": heard.label, "class_confidence": heard.confidence, "class_source": "model"}
        return {"key": clip["key"], "error": None, **{f"audio.{name}": value for name, value in scores.items()}}


class TranscriptWorker:
    """What is said or sung, by Whisper."""

    def __init__(self, config: AsrConfig, pool: Storage) -> None:
        from pipelines.curation.audio.asr import Transcriber  # here: it imports torch and transformers

        self._transcribe = Transcriber(config.model, device=_device(config.workers.num_gpus))
        self._pool = pool

    def __call__(self, clips: Sequence[Row]) -> list[Row]:
        answers, rows = _readable(clips, self._answer)
        return [*answers.values(), *rows]

    def _answer(self, clip: Row) -> Row:
        samples, rate = clip_sound(clip, self._pool)
        said = self._transcribe(samples, rate, speech=[tuple(span) for span in clip["speech"]])
        return {"key": clip["key"], "error": None, "transcript": said.text, "language": said.language}


class CaptionWorker:
    """Short, long and structured captions by the recipe's captioner; every answer is tied to its clip by key."""

    def __init__(self, config: CaptionConfig, pool: Storage) -> None:
        self._captioner = CAPTIONERS[config.backend].make(config, _device(config.workers.num_gpus))
        self._config, self._pool = config, pool

    def __call__(self, clips: Sequence[Row]) -> list[Row]:
        requests, rows = _readable(clips, lambda clip: caption_request(clip, self._config, self._pool))
        return [*(caption_row(result) for result in self._captioner.caption(list(requests.values()))), *rows]


def _readable(clips: Sequence[Row], read: Callable[[Row], T]) -> tuple[dict[str, T], list[Row]]:
    """What `read` makes of each clip, by key, and an error row for each whose files in the pool are damaged."""
    found: dict[str, T] = {}
    rows: list[Row] = []
    for clip in clips:
        try:
            found[clip["key"]] = read(clip)
        except DamageError as error:
            rows.append({"key": clip["key"], "error": f"damaged: {error}; {DAMAGE_REMEDY}"})
    return found, rows


def caption_request(clip: Row, config: CaptionConfig, pool: Storage) -> CaptionRequest:
    """What a captioner is shown of a clip; nothing is decoded for one that looks at numbers only."""
    facts = {"seconds": clip["end_s"] - clip["start_s"], **{n: clip[n] for n in ("kind", "width", "height", "fps")}}
    measurements = facts | {name: value for name, value in clip.items() if "." in name}
    backend = CAPTIONERS.get(config.backend)
    if backend is not None and not backend.looks:
        return CaptionRequest(clip["key"], measurements=measurements, transcript=clip["transcript"])
    sound = clip_sound(clip, pool) if clip["has_audio"] and config.send_audio else None
    frames = caption_frames(clip, config, pool)
    return CaptionRequest(clip["key"], frames, sound, measurements, clip["transcript"])


def caption_row(result: CaptionResult) -> Row:
    """A flat row; what the checks found in a caption travels with it."""
    if result.caption is None:
        return {"key": result.key, "error": str(result.error)}
    return {"key": result.key, "error": None, **result.caption.row(), "issues": "; ".join(result.issues)}


def caption_frames(clip: Row, config: CaptionConfig, pool: Storage) -> list[bytes]:
    """JPEGs at even times of the clip, at caption size; of an image, the image."""
    members = members_of(clip)
    with scratch_folder("caption") as folder:
        if "mp4" not in members:
            return [read_member(pool, members["jpg"])] if "jpg" in members else []
        path = folder / "clip.mp4"
        path.write_bytes(read_member(pool, members["mp4"]))
        scale = min(1.0, config.short_side / min(clip["width"], clip["height"]))
        size = (max(1, round(clip["width"] * scale)), max(1, round(clip["height"] * scale)))
        wanted = {round((i + 0.5) * clip["frames"] / config.frames - 0.5) for i in range(config.frames)}
        shown = (f.bgr(*size) for i, f in enumerate(iter_video_frames(path, probe(path))) if i in wanted)
        return [cv2.imencode(".jpg", bgr)[1].tobytes() for bgr in shown]


def _vllm(config: CaptionConfig, pool: Storage, clips: ray.data.Dataset, rows: Sequence[Row]) -> ray.data.Dataset:
    """Requests are built by CPU tasks, answered by vLLM engines, and read back under the keys they were asked by."""
    transcripts = {row["key"]: row["transcript"] for row in rows}
    engine = ray_llm.Engine(config.model, engines=config.workers.count, frames=config.frames, sound=config.send_audio)

    def ask(row: Row) -> list[Row]:
        readable, _ = _readable([json.loads(row["clip"])], lambda clip: caption_request(clip, config, pool))
        return [ray_llm.request_row(request) for request in readable.values()]

    def read(row: Row) -> Row:
        asked = CaptionRequest(row["key"], transcript=transcripts[row["key"]])
        return caption_row(ray_llm.results([asked], [row], engine)[0])

    return ray_llm.build_processor(engine)(clips.flat_map(ask, num_cpus=1)).map(read, num_cpus=0.5)


def sampled_frames(clip: Row, pool: Storage, draft_side: int | None = None) -> list[NDArray[np.uint8]]:
    """The frames kept beside a clip, (H, W, 3) RGB each; of an image, the image.

    With `draft_side` an image is decoded at the smallest of its JPEG's scales whose short side is not below.
    """
    members = members_of(clip)
    names = sorted(name for name in members if name.endswith(".jpg") or name == "jpg")
    flags = _draft(min(clip["width"], clip["height"]), draft_side) if names == ["jpg"] else cv2.IMREAD_COLOR
    coded = [np.frombuffer(read_member(pool, members[name]), np.uint8) for name in names]
    return [cv2.cvtColor(cv2.imdecode(data, flags), cv2.COLOR_BGR2RGB) for data in coded]


def _draft(side: int, enough: int | None) -> int:
    """How to decode a picture of that short side so that no less than `enough` is left of it."""
    scales = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
    fitting = (flag for scale, flag in scales.items() if enough is not None and side >= scale * enough)
    return next(fitting, cv2.IMREAD_COLOR)


def clip_sound(clip: Row, pool: Storage) -> tuple[NDArray[np.float32], int]:
    """(C, N) samples of a clip and their rate."""
    data = read_member(pool, members_of(clip)["flac"])
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return samples.T, rate


def _embedding_made_by(config: EmbeddingConfig) -> Mapping[str, Any]:
    if config.backend == "descriptor":
        return {"backend": Descriptor.identity}
    return {"backend": config.backend, "model": config.model, "pretrained": config.pretrained,
            "aesthetics": config.aesthetics}  # fmt: skip


def _device(num_gpus: float) -> str:
    return "cuda" if num_gpus > 0 else "cpu"
