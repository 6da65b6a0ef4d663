"""Captions from a multimodal model in this process, through transformers (Qwen2.5-Omni, Qwen2.5-VL, Qwen3-VL)."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipelines.curation.captions import prompts
from pipelines.curation.captions.replies import UnreadableReply, read_reply, result_of
from pipelines.curation.captions.requests import (
    CaptionError,
    CaptionFailed,
    CaptionRequest,
    CaptionResult,
    check_keys,
)
from pipelines.writing.chat_server import Answer
from pipelines.writing.local_model import LocalModel


class LocalCaptioner:
    """A model by folder or hub id: safetensors only, no code from the repository. One clip at a time, greedy."""

    def __init__(
        self, model: str, device: str = "cpu", dtype: str = "auto", max_tokens: int = 2048, language: str = "en"
    ) -> None:
        self.writer = LocalModel(model, device, dtype, max_tokens)
        self._language = language

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
        return result_of(request, reply, self.writer.name, seconds=seconds, tokens=tokens, language=self._language)

    def _generate(self, request: CaptionRequest, refused: tuple[str, str] | None = None) -> Answer:
        """Text and number of new tokens; `refused` is an earlier reply and what was wrong with it."""
        return self.writer.write(self._inputs(request, refused))

    def _inputs(self, request: CaptionRequest, refused: tuple[str, str] | None) -> Any:
        """What the processor makes of the request; sound only for a model that hears."""
        heard = request.audio if self.writer.audio_rate is not None else None
        parts: list[dict[str, Any]] = [{"type": "image"} for _ in request.frames]
        parts += [{"type": "audio"}] if heard is not None else []
        parts.append({"type": "text", "text": prompts.facts(replace(request, audio=heard))})
        messages: list[prompts.Message] = [
            {"role": "system", "content": [{"type": "text", "text": prompts.instruction(self._language)}]},
            {"role": "user", "content": parts},
        ]
        if refused is not None:
            messages = prompts.repair(messages, *refused)
        return self.writer.inputs(messages, request.frames, None if heard is None else prompts.read_samples(heard))
