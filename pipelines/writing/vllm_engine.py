"""A vLLM engine in this process. Needs CUDA and the `gpu` extra; no test of this project, without a GPU, ran it."""

import importlib.util
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.writing.chat_server import Answer, Message


class VllmEngine:
    """A model by folder or hub id, which writes JSON of a schema. Greedy."""

    def __init__(self, model: str, max_tokens: int = 2048, settings: str = "captions") -> None:
        if not model:
            raise ValueError(f"{settings}.model is empty: give a folder or hub id of a model that vLLM serves")
        if importlib.util.find_spec("vllm") is None:
            raise ValueError(
                f"{settings}: vllm wants vLLM and a CUDA machine: pip install 'skyreels-platform[gpu]', or use http "
                "with a server"
            )
        import vllm

        self._vllm, self._max_tokens = vllm, max_tokens
        self._engine: Any = vllm.LLM(model, trust_remote_code=False)

    def ask(self, messages: Sequence[Message], name: str, schema: Mapping[str, Any]) -> Answer:
        """One answer; `name` is for servers, and not used."""
        outputs = self._vllm.sampling_params.StructuredOutputsParams(json=json.dumps(schema))
        settings = self._vllm.SamplingParams(temperature=0.0, max_tokens=self._max_tokens, structured_outputs=outputs)
        (written,) = self._engine.chat(list(messages), settings, use_tqdm=False)
        return Answer(written.outputs[0].text, len(written.outputs[0].token_ids))
