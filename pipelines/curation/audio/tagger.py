"""Sound classes heard by a model: an audio tagger such as AST, in place of the measured class."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

from pipelines.curation.audio.classify import LABELS, Label, SoundClass
from pipelines.curation.audio.resample import mono_at

WINDOW_S = 10.0

# A tag belongs to the first class one of whose words it holds; what no class claims is a sound effect.
AUDIOSET_WORDS: Mapping[Label, tuple[str, ...]] = {
    "silence": ("silence",),
    "singing": ("singing", "choir", "yodel", "chant", "mantra", "rapping", "humming", "vocal music", "a capella"),
    "speech": ("speech", "conversation", "narration", "babbling", "whispering", "shout"),
    "music": (
        *(
            "music",
            "song",
            "lullaby",
            "instrument",
            "orchestra",
            "jazz",
            "rock and roll",
            "hip hop",
            "techno",
            "reggae",
        ),
        *(
            "guitar",
            "piano",
            "drum",
            "violin",
            "cello",
            "bass",
            "organ",
            "synthesizer",
            "flute",
            "saxophone",
            "trumpet",
        ),
        *("banjo", "sitar", "mandolin", "zither", "ukulele", "harp", "harmonica", "accordion", "bagpipes", "strum"),
        *(
            "clarinet",
            "trombone",
            "french horn",
            "marimba",
            "glockenspiel",
            "vibraphone",
            "steelpan",
            "tabla",
            "cymbal",
        ),
    ),
}


class AudioTagger:
    """An audio-classification checkpoint by local path or hub id (`MIT/ast-finetuned-audioset-10-10-0.4593`).

    `words` says which tags make which class, by parts of their names.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        words: Mapping[Label, Sequence[str]] = AUDIOSET_WORDS,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._extractor = AutoFeatureExtractor.from_pretrained(checkpoint)
        self._model = AutoModelForAudioClassification.from_pretrained(checkpoint, dtype=dtype, use_safetensors=True)
        self._model.to(device).eval()
        tags = self._model.config.id2label
        self._classes = [class_of_tag(tags[index], words) for index in range(len(tags))]

    @torch.inference_mode()
    def __call__(self, samples: np.ndarray, sample_rate: int) -> SoundClass:
        """The class of samples (C, N), from its best tag over windows of 10 s, tags being independent of each other."""
        rate = self._extractor.sampling_rate
        mono = mono_at(samples, sample_rate, rate)
        step = round(WINDOW_S * rate)
        windows = [mono[first : first + step] for first in range(0, max(1, len(mono) - rate), step)]
        inputs = self._extractor(windows, sampling_rate=rate, return_tensors="pt", padding=True)
        inputs = inputs.to(self._model.device, self._model.dtype)
        heard = self._model(**inputs).logits.float().sigmoid().mean(dim=0).tolist()
        best = dict.fromkeys((*LABELS, "silence"), 0.0)
        for name, probability in zip(self._classes, heard, strict=True):
            best[name] = max(best[name], probability)
        total = sum(best.values())
        label = max(best, key=lambda name: best[name])
        scores: dict[str, float] = {name: best[name] / total for name in LABELS}
        return SoundClass(label, best[label] / total, scores)


def class_of_tag(tag: str, words: Mapping[Label, Sequence[str]] = AUDIOSET_WORDS) -> Label:
    """The class whose words the tag holds, first match first; `sound_effect` if none does."""
    return next((name for name, parts in words.items() if any(part in tag.lower() for part in parts)), "sound_effect")
