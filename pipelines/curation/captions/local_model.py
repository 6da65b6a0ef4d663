"""Captions from a multimodal model in this process, through transformers (Qwen2.5-Omni, Qwen2.5-VL, Qwen3-VL)."""

import io
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from scipy.signal import resample_poly

from pipelines.curation.captions import prompts
from pipelines.curation.captions.replies import UnreadableReply, read_reply, result_of
from pipelines.curation.captions.requests import (
    CaptionError,
    CaptionFailed,
    CaptionRequest,
    CaptionResult,
    Samples,
    check_keys,
)

_CLASSES = {  # model_type -> class; of Omni only the thinker is loaded, which writes text
    "qwen2_5_omni": "Qwen2_5OmniThinkerForConditionalGeneration",
    "qwen2_5_omni_thinker": "Qwen2_5OmniThinkerForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
}


class LocalCaptioner:
    """A model by folder or hub id: safetensors only, no code from the repository. One clip at a time, greedy."""

    def __init__(
        self, model: str, device: str = "cpu", dtype: str = "auto", max_tokens: int = 2048, language: str = "en"
    ) -> None:
        if not model:
            raise ValueError(
                "captions.model is empty: give a folder or hub id of a Qwen2.5-Omni, Qwen2.5-VL or Qwen3-VL"
            )
        config = transformers.AutoConfig.from_pretrained(model, trust_remote_code=False)
        if config.model_type not in _CLASSES:
            raise ValueError(f"{model} is a {config.model_type}; captions know {', '.join(sorted(_CLASSES))}")
        _refuse_pickles(model)
        kind = getattr(transformers, _CLASSES[config.model_type])
        self._model = kind.from_pretrained(model, dtype=dtype, use_safetensors=True, trust_remote_code=False)
        self._model.to(device).eval().requires_grad_(False)
        self._processor: Any = transformers.AutoProcessor.from_pretrained(model, trust_remote_code=False)
        extractor = getattr(self._processor, "feature_extractor", None)
        self._audio_rate: int | None = getattr(extractor, "sampling_rate", None)
        self._name = Path(model).name if Path(model).is_dir() else model
        self._device, self._max_tokens, self._language = device, max_tokens, language

    def caption(self, requests: Sequence[CaptionRequest]) -> list[CaptionResult]:
        check_keys(requests)
        return [self._caption_one(request) for request in requests]

    def _caption_one(self, request: CaptionRequest) -> CaptionResult:
        started = time.monotonic()
        tokens = 0
        try:
            text, tokens = self._generate(request)
            try:
                reply = read_reply(text, request.key)
            except UnreadableReply as unreadable:
                text, more = self._generate(request, (text, unreadable.detail))
                tokens += more
                reply = read_reply(text, request.key)
        except CaptionFailed as failed:
            return CaptionResult(request.key, None, failed.error, time.monotonic() - started, tokens)
        except (OSError, ValueError) as error:
            reason = CaptionError(f"the clip could not be given to the model: {error}", "look at its frames and sound")
            return CaptionResult(request.key, None, reason, time.monotonic() - started, tokens)
        seconds = time.monotonic() - started
        return result_of(request, reply, self._name, seconds=seconds, tokens=tokens, language=self._language)

    @torch.inference_mode()
    def _generate(self, request: CaptionRequest, refused: tuple[str, str] | None = None) -> tuple[str, int]:
        """Text and number of new tokens; `refused` is an earlier reply and what was wrong with it."""
        inputs = self._inputs(request, refused).to(self._device)
        written = self._model.generate(**inputs, max_new_tokens=self._max_tokens, do_sample=False)
        new = written[0, inputs["input_ids"].shape[1] :]
        return self._processor.batch_decode(new[None], skip_special_tokens=True)[0], len(new)

    def _inputs(self, request: CaptionRequest, refused: tuple[str, str] | None) -> Any:
        """What the processor makes of the request; sound only for a model that hears."""
        heard = request.audio if self._audio_rate is not None else None
        parts: list[dict[str, Any]] = [{"type": "image"} for _ in request.frames]
        media: dict[str, Any] = {}
        if request.frames:
            media["images"] = [Image.open(io.BytesIO(frame)).convert("RGB") for frame in request.frames]
        if heard is not None and self._audio_rate is not None:
            parts.append({"type": "audio"})
            media["audio"] = [_mono(prompts.read_samples(heard), self._audio_rate)]
        parts.append({"type": "text", "text": prompts.facts(replace(request, audio=heard))})
        messages: list[prompts.Message] = [
            {"role": "system", "content": [{"type": "text", "text": prompts.instruction(self._language)}]},
            {"role": "user", "content": parts},
        ]
        if refused is not None:
            messages = prompts.repair(messages, *refused)
        text = self._processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self._processor(text=[text], return_tensors="pt", **media)


def _refuse_pickles(model: str) -> None:
    folder = Path(model)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        raise ValueError(f"{model} holds no .safetensors weights: convert the checkpoint first")


def _mono(audio: Samples, rate: int) -> np.ndarray:
    """(N,) at the model's sample rate."""
    samples, given = audio
    divisor = int(np.gcd(given, rate))
    return resample_poly(samples.mean(axis=0), rate // divisor, given // divisor).astype(np.float32)
