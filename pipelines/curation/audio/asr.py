"""Transcripts of speech and singing, by Whisper."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from pipelines.curation.audio.chunks import chunk_spans
from pipelines.curation.audio.resample import mono_at
from pipelines.curation.audio.vad import Interval

WINDOW_S = 30.0  # what Whisper hears at once


@dataclass(frozen=True)
class Segment:
    """A phrase; seconds from the start of the sound."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True)
class Transcript:
    """`text` is the segments joined; `language` a code such as `en`, None if the checkpoint knows only one."""

    text: str
    segments: tuple[Segment, ...]
    language: str | None


class Transcriber:
    """A Whisper checkpoint by local path or hub id, ready to transcribe.

    >>> transcribe = Transcriber("openai/whisper-large-v3", device="cuda", dtype=torch.bfloat16)
    >>> transcribe(samples, sample_rate, speech=scores.speech).text
    """

    def __init__(
        self, checkpoint: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32, batch_size: int = 8
    ) -> None:
        self._processor = WhisperProcessor.from_pretrained(checkpoint)
        model = WhisperForConditionalGeneration.from_pretrained(checkpoint, dtype=dtype, use_safetensors=True)
        self._model = model.to(torch.device(device)).eval()  # type: ignore[arg-type]
        self._batch_size = batch_size

    def __call__(
        self,
        samples: np.ndarray,
        sample_rate: int,
        *,
        speech: Sequence[Interval] = (),
        language: str | None = None,
        max_new_tokens: int = 400,
    ) -> Transcript:
        """Transcribe samples (C, N) of any length.

        Sound beyond 30 s is cut at the pauses between the `speech` intervals, so that no word is split where there is
        a pause, and the windows are decoded in batches. The language is the given one, or is heard from the first
        window with speech in it.
        """
        rate = self._processor.feature_extractor.sampling_rate
        mono = mono_at(samples, sample_rate, rate)
        spans = chunk_spans(0.0, len(mono) / rate, speech, longest_s=WINDOW_S)
        windows = [mono[round(start * rate) : round(end * rate)] for start, end in spans]
        language = language or self._detect_language(windows[_first_with_speech(spans, speech)])
        segments: list[Segment] = []
        for first in range(0, len(windows), self._batch_size):
            batch = slice(first, first + self._batch_size)
            segments += self._decode(windows[batch], spans[batch], language, max_new_tokens)
        return Transcript(" ".join(segment.text for segment in segments), tuple(segments), language)

    def _features(self, windows: list[np.ndarray]) -> torch.Tensor:
        rate = self._processor.feature_extractor.sampling_rate
        features = self._processor(windows, sampling_rate=rate, return_tensors="pt").input_features
        return features.to(self._model.device, self._model.dtype)

    @torch.inference_mode()
    def _detect_language(self, window: np.ndarray) -> str | None:
        languages = getattr(self._model.generation_config, "lang_to_id", None)
        if not languages:
            return None
        token = int(self._model.detect_language(self._features([window]))[0])
        return next(name.strip("<|>") for name, index in languages.items() if index == token)

    @torch.inference_mode()
    def _decode(
        self, windows: list[np.ndarray], spans: list[Interval], language: str | None, max_new_tokens: int
    ) -> list[Segment]:
        spoken = {} if language is None else {"language": language, "task": "transcribe"}
        decoded = self._model.generate(
            self._features(windows),
            return_timestamps=True,
            return_segments=True,
            max_new_tokens=max_new_tokens,
            **spoken,
        )
        segments = []
        for (start, end), phrases in zip(spans, decoded["segments"], strict=True):
            for phrase in phrases:
                text = self._processor.decode(phrase["tokens"], skip_special_tokens=True).strip()
                if text:
                    began, ended = (min(end, start + float(phrase[edge])) for edge in ("start", "end"))
                    segments.append(Segment(began, ended, text))
        return segments


def _first_with_speech(spans: list[Interval], speech: Sequence[Interval]) -> int:
    for index, (start, end) in enumerate(spans):
        if any(a < end and b > start for a, b in speech):
            return index
    return 0
