"""The guided velocity of one sampling run: its passes as rows of batches, what no step changes computed once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from model.conditioning import VideoCondition
from model.network.inputs import AUDIO, VIDEO, JointInputs, JointOutputs
from model.network.keyframes import KeyframeInput
from model.network.mmdit import MMDiT, StepCache, predict
from model.sampling.guidance import GuidanceScales, Pass, Streams, guidance_passes, guide
from model.tiles import Tiles

TextPair = tuple[Tensor, Tensor]
"""Hidden states (B, S, D) of the MLLM and their mask (B, S)."""


@dataclass(frozen=True)
class RunInputs:
    """What stays the same at every step of one run: B samples, of the same shapes.

    `given` holds clean latents of streams that are conditions rather than generated (video-to-audio and back).
    References are by tag, in the order in which they stand before the clip.
    """

    prompt: TextPair
    negative: TextPair
    generates: frozenset[str]
    condition: VideoCondition | None = None
    given: Streams = field(default_factory=dict)
    video_references: Mapping[str, Tensor] = field(default_factory=dict)
    audio_references: Mapping[str, Tensor] = field(default_factory=dict)
    audio_time_scale: float = 0.0
    keyframe_condition: VideoCondition | None = None
    keyframe_indices: tuple[int, ...] = ()
    sparsity: float = 0.0

    @property
    def streams(self) -> frozenset[str]:
        """Generated and given ones."""
        return self.generates | self.given.keys()


class GuidedVelocity:
    """Callable (latents, t) -> velocities, for `sampler.sample`.

    `together` runs all passes of a step as rows of one batch, which pads texts to one length, masks references and
    closes gates: fewer kernels to launch. Otherwise only passes of one layout share a batch and nothing is computed
    that no output needs: less arithmetic. By default `runs_together` chooses.
    """

    def __init__(self, model: MMDiT, run: RunInputs, scales: GuidanceScales, together: bool | None = None) -> None:
        self.scales = scales
        passes = guidance_passes(
            scales,
            run.generates,
            references=(*run.video_references, *run.audio_references),
            joint={"video", "audio"} <= run.streams,
        )
        if together is None:
            texts = run.prompt[0].shape[1], run.negative[0].shape[1]
            together = runs_together(run.prompt[0].device.type, _video_tokens(model, run), abs(texts[0] - texts[1]))
        groups = [passes] if together else _by_layout(passes, run)
        self.batches = [PassBatch(model, run, group) for group in groups]

    def __call__(self, latents: Streams, t: float, condition: VideoCondition | None = None) -> Streams:
        """Of the run; `condition` takes the place of its own, for `latents` of the same shape."""
        velocities: dict[Pass, Streams] = {}
        for batch in self.batches:
            velocities.update(batch(latents, t, condition))
        return guide(velocities, self.scales)


class TiledVelocity:
    """Callable as `GuidedVelocity`, of a picture too large for one pass: each tile at every step by itself, as if it
    were the whole, and faded into its neighbours (MultiDiffusion, arXiv 2302.08113)."""

    def __init__(self, model: MMDiT, run: RunInputs, scales: GuidanceScales, tiles: Tiles) -> None:
        if run.condition is None or run.streams != {"video"} or run.video_references or run.keyframe_indices:
            raise ValueError("only a picture without references, keyframes and sound can be made in tiles")
        self.tiles = tiles
        cut = zip(tiles.cut(run.condition.latents), tiles.cut(run.condition.keep_mask), strict=True)
        self.conditions = [VideoCondition(latents, keep) for latents, keep in cut]
        self.velocity = GuidedVelocity(model, replace(run, condition=self.conditions[0]), scales)

    def __call__(self, latents: Streams, t: float) -> Streams:
        shown = zip(self.tiles.cut(latents["video"]), self.conditions, strict=True)
        return {"video": self.tiles.join([self.velocity({"video": part}, t, where)["video"] for part, where in shown])}


LONG_SEQUENCE = 8192
"""Video tokens from which launching kernels costs nothing beside what they compute."""


SHORT_SEQUENCE, SHORT_PADDING = 512, 64
"""Video tokens up to which calling operators costs a CPU more than what padding and closed gates compute for nothing,
and tokens that pad a text."""


def runs_together(device: str, video_tokens: int, padding: int = 0) -> bool:
    """Whether passes of all layouts share a batch: while sequences are short, on a CPU very short.

    In long ones the mask of what pads a text would keep attention from its fastest kernel, which takes none. `padding`
    is how many tokens the shorter text lacks.
    """
    if device == "cpu":
        return video_tokens <= SHORT_SEQUENCE and padding <= SHORT_PADDING
    return video_tokens < LONG_SEQUENCE


class PassBatch:
    """Some passes of every step as rows of one batch: the run's B samples once per pass."""

    def __init__(self, model: MMDiT, run: RunInputs, passes: Sequence[Pass]) -> None:
        self.model, self.run, self.passes = model, run, passes
        self.text, self.mask = stack_text([run.prompt if p.text else run.negative for p in passes])
        joined = [p.cross_modal for p in passes]
        self.cross_modal = joined[0] if len(set(joined)) == 1 else self._per_row(joined)
        # Apart, nothing that is generated reads a given stream.
        self.streams = run.streams if any(joined) else run.generates
        video = run.video_references if "video" in self.streams else {}
        audio = run.audio_references if "audio" in self.streams else {}
        shown = [[tag not in p.without for tag in (*video, *audio)] for p in passes]
        if not any(map(any, shown)):
            video, audio, shown = {}, {}, []
        self.video_references = [self._repeat(latents) for latents in video.values()]
        self.audio_references = [self._repeat(latents) for latents in audio.values()]
        self.reference_rows = None if all(map(all, shown)) else self._per_row(shown)
        self.cache: StepCache | None = None

    def __call__(self, latents: Streams, t: float, condition: VideoCondition | None = None) -> dict[Pass, Streams]:
        """The velocity of every generated stream, by pass."""
        inputs = self.inputs(latents, t, condition)
        if self.cache is None:
            self.cache = self.model.cache(inputs)
        predicted = predict(self.model, inputs, self.cache)
        by_stream = {name: velocity.chunk(len(self.passes)) for name, velocity in _streams(predicted, latents).items()}
        return {p: {name: chunks[row] for name, chunks in by_stream.items()} for row, p in enumerate(self.passes)}

    def inputs(self, latents: Streams, t: float, condition: VideoCondition | None = None) -> JointInputs:
        """The rows of one step, with `condition` in the place of the run's."""
        run, condition = self.run, condition or self.run.condition
        known = {name: part for name, part in {**run.given, **latents}.items() if name in self.streams}
        timesteps = torch.ones(1, 2, device=self.text.device)
        timesteps[:, VIDEO] = t if "video" in run.generates else 1.0
        timesteps[:, AUDIO] = t if "audio" in run.generates else 1.0
        video = keyframes = None
        if "video" in known and condition is not None:
            video = self._repeat(condition.channels(known["video"]))
        if "keyframes" in known and run.keyframe_condition is not None:
            channels = run.keyframe_condition.channels(known["keyframes"])
            keyframes = KeyframeInput(self._repeat(channels), run.keyframe_indices)
        return JointInputs(
            text=self.text,
            timesteps=timesteps,
            text_mask=self.mask,
            video=video,
            audio=self._repeat(known["audio"]) if "audio" in known else None,
            audio_time_scale=run.audio_time_scale,
            video_references=self.video_references,
            audio_references=self.audio_references,
            keyframes=keyframes,
            sparsity=run.sparsity,
            reference_rows=self.reference_rows,
            cross_modal=self.cross_modal,
        )

    def _repeat(self, latents: Tensor) -> Tensor:
        rows = self.text.shape[0]
        return latents.repeat(rows // latents.shape[0], *[1] * (latents.ndim - 1))

    def _per_row(self, values: Sequence[bool] | Sequence[Sequence[bool]]) -> Tensor:
        """One value per pass to one per row."""
        rows = torch.tensor(values, device=self.text.device)
        return rows.repeat_interleave(self.text.shape[0] // len(self.passes), 0)


def _video_tokens(model: MMDiT, run: RunInputs) -> int:
    if run.condition is None:
        return 0
    _, rows, columns = model.config.patch
    return run.condition.latents.shape[2:].numel() // (rows * columns)


def _by_layout(passes: Sequence[Pass], run: RunInputs) -> list[list[Pass]]:
    """Passes that can share a batch at no cost: texts of one length, the same exchanges, references shown alike."""
    references = len(run.video_references) + len(run.audio_references)
    groups: dict[tuple[object, ...], list[Pass]] = {}
    for p in passes:
        text, _ = run.prompt if p.text else run.negative
        masked = 0 < len(p.without) < references
        groups.setdefault((text.shape[1], p.cross_modal, bool(p.without), masked), []).append(p)
    return list(groups.values())


def stack_text(rows: Sequence[TextPair], multiple: int = 1) -> tuple[Tensor, Tensor | None]:
    """Join texts of several lengths along the batch, padded with zeros to a multiple of tokens; no mask where nothing
    is padded."""
    longest = -(-max(hidden.shape[1] for hidden, _ in rows) // multiple) * multiple
    text = torch.cat([padded(hidden, longest) for hidden, _ in rows])
    mask = torch.cat([padded(mask, longest) for _, mask in rows])
    return text, None if bool(mask.all()) else mask


def padded(tensor: Tensor, length: int) -> Tensor:
    """(B, S, ...) -> (B, length, ...), zeros or False after the end."""
    missing = tensor.new_zeros(tensor.shape[0], length - tensor.shape[1], *tensor.shape[2:])
    return torch.cat([tensor, missing], 1)


def _streams(outputs: JointOutputs, wanted: Streams) -> Streams:
    """The velocities of the streams that are generated."""
    found = {"video": outputs.video, "audio": outputs.audio, "keyframes": outputs.keyframes}
    return {name: velocity for name, velocity in found.items() if velocity is not None and name in wanted}
