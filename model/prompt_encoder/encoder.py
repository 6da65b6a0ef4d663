"""The frozen MLLM that reads prompt and references: hidden states of one of its layers condition both branches.

Any of Qwen2.5-Omni, Qwen3-Omni and Qwen3-VL, by hub id or path, through transformers. `tiny_encoder` makes a folder
that the same class loads.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from model.checksums import check, seal
from model.codecs.latents import weights_identity
from model.conditioning.references import AudioReference, ImageReference, Reference, VideoReference, check_tags

MODEL_CLASSES = {
    "qwen2_5_omni": "Qwen2_5OmniThinkerForConditionalGeneration",
    "qwen2_5_omni_thinker": "Qwen2_5OmniThinkerForConditionalGeneration",
    "qwen3_omni_moe": "Qwen3OmniMoeThinkerForConditionalGeneration",
    "qwen3_omni_moe_thinker": "Qwen3OmniMoeThinkerForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
}
"""transformers class by `model_type`. Of the Omni models only the thinker is loaded: it reads, the rest speaks."""

BARS_AFTER_S = 5.0
"""How long transformers reads or writes before it draws a bar of it."""

Embedding = tuple[Tensor, Tensor]
"""Hidden states (S, D) in float32 and their mask (S,), True for tokens."""


class PromptEncoder(Protocol):
    """Prompts with tagged references to hidden states."""

    @property
    def width(self) -> int:
        """D of the hidden states."""

    @property
    def identity(self) -> str:
        """Changes with weights, layer or media limits; caches of embeddings carry it."""

    def encode(self, prompt: str, references: Sequence[Reference] = ()) -> Embedding:
        """Hidden states of one prompt with its references."""


@dataclass(frozen=True)
class EncoderConfig:
    """What is read from the MLLM and how much of the media it sees.

    `layer` counts transformers' hidden states: 0 is the embeddings, -1 the last layer, which is shaped for the next
    token rather than for meaning. Media are scaled down to `max_pixels` per frame and `max_frames` per clip. `fps` and
    `sample_rate` are those of the references' frames and waveforms.
    """

    layer: int = -2
    max_pixels: int = 512 * 512
    max_frames: int = 16
    fps: float = 16.0
    sample_rate: int = 44100


class MLLMEncoder:
    """A transformers MLLM with its processor, frozen. Not an nn.Module: it never trains and is never sharded."""

    def __init__(self, model: Any, processor: Any, config: EncoderConfig = EncoderConfig()) -> None:
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.config = config
        text = model.config.get_text_config()
        self.width: int = text.hidden_size
        if not -text.num_hidden_layers - 1 <= config.layer <= text.num_hidden_layers:
            raise ValueError(f"layer {config.layer} does not exist: this MLLM has {text.num_hidden_layers} layers")
        self.hears = getattr(processor, "feature_extractor", None) is not None

    @classmethod
    def load(cls, source: str | Path, config: EncoderConfig = EncoderConfig(), **options: Any) -> "MLLMEncoder":
        """From a folder or a hub id; `options` (revision, dtype, device_map) go to transformers."""
        import transformers

        check(source)
        revision = {"revision": options["revision"]} if "revision" in options else {}
        kind = transformers.AutoConfig.from_pretrained(source, **revision).model_type
        if kind not in MODEL_CLASSES:
            raise ValueError(f"{source} is a {kind!r} model: use one of {', '.join(sorted(MODEL_CLASSES))}")
        with _bars_of_slow_work():
            model, report = getattr(transformers, MODEL_CLASSES[kind]).from_pretrained(
                source, output_loading_info=True, **options
            )
        if report["missing_keys"]:  # transformers would go on with random weights in their place
            missing = sorted(report["missing_keys"])
            raise ValueError(f"{source} lacks {len(missing)} weights of {type(model).__name__}, such as {missing[0]}")
        return cls(model, transformers.AutoProcessor.from_pretrained(source, **revision), config)

    def save(self, directory: str | Path) -> None:
        """Write the model and its processor as transformers does."""
        with _bars_of_slow_work():
            self.model.save_pretrained(directory)
        self.processor.save_pretrained(directory)
        seal(directory)

    @property
    def identity(self) -> str:
        """From the configuration, every tensor's shape and a sample of its elements, layer, limits and template."""
        settings = {"encoder": asdict(self.config), "template": self.processor.chat_template}
        config = {**self.model.config.to_dict(), **settings}
        volatile = ("_name_or_path", "transformers_version", "dtype", "architectures")
        kept = {key: value for key, value in config.items() if key not in volatile}
        return weights_identity(kept, self.model.state_dict(), elements=1024)

    @torch.no_grad()
    def encode(self, prompt: str, references: Sequence[Reference] = ()) -> Embedding:
        """Hidden states (S, width) at unit mean square per token, and an all-True mask (S,).

        References stand before the prompt, each behind its tag. An MLLM without ears (Qwen3-VL) reads the tag of an
        audio reference and not its sound. Raises ValueError where a tag is not in the prompt.
        """
        check_tags(prompt, references)
        inputs = self._inputs(prompt, references).to(self.model.device)
        outputs = self.model(**inputs, output_hidden_states=True, use_cache=False)
        hidden = outputs.hidden_states[self.config.layer][0].float()
        hidden = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + 1e-6)
        return hidden, torch.ones(hidden.shape[0], dtype=torch.bool, device=hidden.device)

    def _inputs(self, prompt: str, references: Sequence[Reference]) -> Any:
        content: list[dict[str, str]] = []
        media: dict[str, list[Any]] = {"image": [], "video": [], "audio": []}
        for reference in references:
            content.append({"type": "text", "text": f"{reference.tag}: "})
            for kind, medium in self.media_of(reference):
                media[kind].append(medium)
                content.append({"type": kind})
            content.append({"type": "text", "text": "\n"})
        content.append({"type": "text", "text": prompt})
        text = self.processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
        given: dict[str, Any] = {}
        if media["image"]:
            given["images"] = media["image"]
        if media["video"]:
            shown = [self._shown_fps(reference) for reference in references if isinstance(reference, VideoReference)]
            given["videos"] = media["video"]
            given["videos_kwargs"] = {
                "do_sample_frames": False,
                "fps": shown[0],
                "size": dict(self.processor.video_processor.size),
                "video_metadata": [
                    {"fps": fps, "total_num_frames": len(frames), "frames_indices": list(range(len(frames)))}
                    for fps, frames in zip(shown, media["video"], strict=True)
                ],
            }
        if media["audio"]:
            given["audio"] = media["audio"]
        return self.processor(text=[text], return_tensors="pt", **given)

    def media_of(self, reference: Reference) -> Iterator[tuple[str, Any]]:
        """(kind, what the processor takes) of one reference."""
        if isinstance(reference, ImageReference):
            for image in reference.images:
                yield "image", _as_bytes(image[:, None], self.config.max_pixels)[0]
        elif isinstance(reference, VideoReference):
            frames = reference.frames[:, self._frame_indices(reference.frames.shape[1])]
            yield "video", _as_bytes(frames, self.config.max_pixels)
        elif isinstance(reference, AudioReference) and self.hears:
            rate = self.processor.feature_extractor.sampling_rate
            yield "audio", _resampled(reference.waveform.mean(0), self.config.sample_rate, rate)

    def _frame_indices(self, frames: int) -> list[int]:
        shown = min(frames, self.config.max_frames)
        return torch.linspace(0, frames - 1, shown).round().long().tolist()

    def _shown_fps(self, reference: VideoReference) -> float:
        frames = reference.frames.shape[1]
        return self.config.fps * min(frames, self.config.max_frames) / frames


@contextmanager
def _bars_of_slow_work() -> Iterator[None]:
    """Bars that are full at once only break the lines of whoever loads a small encoder again and again; where output
    is no terminal (`disable=None`) any bar does."""
    from transformers.utils.logging import set_tqdm_hook

    settings = {"delay": BARS_AFTER_S, "disable": None}
    before = set_tqdm_hook(lambda bar, args, options: bar(*args, **{**settings, **options}))
    try:
        yield
    finally:
        set_tqdm_hook(before)


def _as_bytes(frames: Tensor, max_pixels: int) -> Tensor:
    """(3, F, H, W) in [-1, 1] -> (F, 3, h, w) uint8 with h * w <= max_pixels, at least 28 a side."""
    height, width = frames.shape[-2:]
    scale = min(1.0, (max_pixels / (height * width)) ** 0.5)
    size = (max(28, int(height * scale)), max(28, int(width * scale)))
    flat = frames.transpose(0, 1).float()
    if size != (height, width):
        flat = F.interpolate(flat, size, mode="bilinear", antialias=True)
    return ((flat.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()


def _resampled(waveform: Tensor, rate: int, target: int) -> Any:
    """Mono samples at the rate of the MLLM's ears, as numpy."""
    from scipy.signal import resample_poly

    samples = waveform.detach().float().cpu().numpy()
    return samples if rate == target else resample_poly(samples, target, rate).astype("float32")
