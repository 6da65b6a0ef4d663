"""Captions at scale: vLLM engines inside Ray Data (ray.data.llm). Needs CUDA and the `gpu` extra.

Everything but the engine is plain data and tested without it: the config, the row that goes in, the row that comes out.
The engine itself has not been run by this project's tests, which have no GPU.
"""

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.curation.captions import prompts
from pipelines.curation.captions.replies import match_replies, reply_schema
from pipelines.curation.captions.requests import CaptionRequest, CaptionResult
from pipelines.dataset.tables import Row


@dataclass(frozen=True)
class Engine:
    """One kind of vLLM engine and how many of them. `frames` bounds the images of a prompt."""

    model: str
    engines: int = 1
    tensor_parallel: int = 1
    max_model_len: int = 16_384
    max_tokens: int = 2048
    batch_size: int = 32
    frames: int = 8
    sound: bool = True  # the model hears: Qwen2.5-Omni, Qwen3-Omni
    language: str = "en"


def processor_config(engine: Engine) -> Any:
    """The `vLLMEngineProcessorConfig`. A row that fails becomes an error row and does not stop the run."""
    from ray.data.llm import vLLMEngineProcessorConfig

    if not engine.model:
        raise ValueError("captions.model is empty: give a folder or hub id of a model that vLLM serves")
    return vLLMEngineProcessorConfig(
        model_source=engine.model,
        engine_kwargs={
            "tensor_parallel_size": engine.tensor_parallel,
            "max_model_len": engine.max_model_len,
            "limit_mm_per_prompt": {"image": engine.frames, "audio": int(engine.sound), "video": 0},
            "enable_prefix_caching": True,  # the instruction is the same for every clip
            "trust_remote_code": False,
        },
        concurrency=engine.engines,
        batch_size=engine.batch_size,
        should_continue_on_error=True,
        prepare_multimodal_stage={"enabled": True},
        chat_template_stage={"enabled": True},
        tokenize_stage={"enabled": False},
        detokenize_stage={"enabled": False},
    )


def build_processor(engine: Engine) -> Callable[[Any], Any]:
    """Dataset of `request_row`s -> Dataset of rows for `results`. Raises RuntimeError where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise RuntimeError(
            "captions.backend=vllm needs vLLM and a CUDA machine: pip install 'skyreels-platform[gpu]', or use "
            "captions.backend=http with a server"
        )
    from ray.data.llm import build_processor as build

    return build(processor_config(engine), preprocess=lambda row: prompt_row(row, engine), postprocess=reply_row)


def request_row(request: CaptionRequest, language: str = "en") -> Row:
    """A request for Ray Data; the messages as JSON, as Arrow would fill each part with the other parts' fields."""
    return {"key": request.key, "messages": json.dumps(prompts.chat(request, language))}


def prompt_row(row: Mapping[str, Any], engine: Engine) -> Row:
    """What the engine reads: messages, greedy sampling, and the schema that guides decoding."""
    return {
        "key": row["key"],
        "messages": json.loads(row["messages"]),
        "sampling_params": {
            "temperature": 0.0,
            "max_tokens": engine.max_tokens,
            "structured_outputs": {"json": json.dumps(reply_schema())},
        },
    }


def reply_row(row: Mapping[str, Any]) -> Row:
    """What is kept of an engine's answer."""
    return {"key": row["key"], "text": row["generated_text"], "tokens": row.get("num_generated_tokens", 0), "error": ""}


def results(
    requests: Sequence[CaptionRequest], rows: Sequence[Mapping[str, Any]], engine: Engine
) -> list[CaptionResult]:
    """Answers in the requests' order. Rows of failed inference bypass `reply_row` and say why themselves."""
    read = [
        {"key": row["key"], "text": "", "error": row["__inference_error__"]} if row.get("__inference_error__") else row
        for row in rows
    ]
    return match_replies(requests, read, engine.model, engine.language)
