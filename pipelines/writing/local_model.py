"""A multimodal model in this process, through transformers (Qwen2.5-Omni, Qwen2.5-VL, Qwen3-VL)."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from scipy.signal import resample_poly

from pipelines.writing.chat_server import Answer, Message

_CLASSES = {  # model_type -> class; of Omni only the thinker is loaded, which writes text
    "qwen2_5_omni": "Qwen2_5OmniThinkerForConditionalGeneration",
    "qwen2_5_omni_thinker": "Qwen2_5OmniThinkerForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
}


Samples = tuple[np.ndarray, int]  # (C, N) in [-1, 1], rate in Hz


class LocalModel:
    """A model by folder or hub id: safetensors only, no code from the repository. Greedy.

    `settings` is what errors call where its name was given: of a recipe, `captions`.
    """

    def __init__(
        self, model: str, device: str = "cpu", dtype: str = "auto", max_tokens: int = 2048, settings: str = "captions"
    ) -> None:
        if not model:
            raise ValueError(
                f"{settings}.model is empty: give a folder or hub id of a Qwen2.5-Omni, Qwen2.5-VL or Qwen3-VL"
            )
        config = transformers.AutoConfig.from_pretrained(model, trust_remote_code=False)
        if config.model_type not in _CLASSES:
            raise ValueError(f"{model} is a {config.model_type}; {settings} know {', '.join(sorted(_CLASSES))}")
        _refuse_pickles(model)
        kind = getattr(transformers, _CLASSES[config.model_type])
        self.model = kind.from_pretrained(model, dtype=dtype, use_safetensors=True, trust_remote_code=False)
        self.model.to(device).eval().requires_grad_(False)
        self.processor: Any = transformers.AutoProcessor.from_pretrained(model, trust_remote_code=False)
        extractor = getattr(self.processor, "feature_extractor", None)
        self.audio_rate: int | None = getattr(extractor, "sampling_rate", None)
        self.name = Path(model).name if Path(model).is_dir() else model
        self._device, self._max_tokens = device, max_tokens

    @torch.inference_mode()
    def write(self, inputs: Any) -> Answer:
        """What the model says to `inputs`."""
        inputs = inputs.to(self._device)
        written = self.model.generate(**inputs, max_new_tokens=self._max_tokens, do_sample=False)
        new = written[0, inputs["input_ids"].shape[1] :]
        return Answer(self.processor.batch_decode(new[None], skip_special_tokens=True)[0], len(new))

    def inputs(self, messages: Sequence[Message], images: Sequence[bytes] = (), audio: Samples | None = None) -> Any:
        """What the processor makes of messages that name `images` (JPEG) and `audio` in order."""
        media: dict[str, Any] = {}
        if images:
            media["images"] = [Image.open(io.BytesIO(image)).convert("RGB") for image in images]
        if audio is not None and self.audio_rate is not None:
            media["audio"] = [_mono(audio, self.audio_rate)]
        text = self.processor.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        return self.processor(text=[text], return_tensors="pt", **media)


def _refuse_pickles(model: str) -> None:
    folder = Path(model)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        raise ValueError(f"{model} holds no .safetensors weights: convert the checkpoint first")


def _mono(audio: Samples, rate: int) -> np.ndarray:
    """(N,) at the model's sample rate."""
    samples, given = audio
    divisor = int(np.gcd(given, rate))
    return resample_poly(samples.mean(axis=0), rate // divisor, given // divisor).astype(np.float32)
