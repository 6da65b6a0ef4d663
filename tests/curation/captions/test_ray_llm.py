import importlib.util
import json

import pytest

from pipelines.curation.captions import ray_llm
from pipelines.curation.captions.prompts import chat
from pipelines.curation.captions.replies import reply_schema

ENGINE = ray_llm.Engine("org/model", engines=2, tensor_parallel=4, frames=6)


def test_the_config_is_what_ray_data_understands():
    from ray.data.llm import vLLMEngineProcessorConfig

    config = ray_llm.processor_config(ENGINE)
    assert isinstance(config, vLLMEngineProcessorConfig)
    assert config.model_source == "org/model"
    assert config.concurrency == 2
    assert config.should_continue_on_error
    assert config.engine_kwargs["tensor_parallel_size"] == 4
    assert config.engine_kwargs["limit_mm_per_prompt"] == {"image": 6, "audio": 1, "video": 0}
    assert config.engine_kwargs["trust_remote_code"] is False


def test_a_model_must_be_named():
    with pytest.raises(ValueError, match=r"captions\.model is empty"):
        ray_llm.processor_config(ray_llm.Engine(""))


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_extra_is_named():
    with pytest.raises(RuntimeError, match=r"skyreels-platform\[gpu\]"):
        ray_llm.build_processor(ENGINE)


def test_answers_find_their_clips(request_for, reply):
    requests = [request_for(key) for key in "abc"]
    rows = [
        ray_llm.reply_row({"key": key, "generated_text": reply(key), "num_generated_tokens": 5, "prompt": "..."})
        for key in "ca"
    ]
    rows.append({"key": "b", "__inference_error__": "prompt too long", "messages": []})  # as Ray Data leaves it
    a, b, c = ray_llm.results(requests, rows, ENGINE)
    assert a.caption is not None
    assert c.caption is not None
    assert (a.tokens, c.tokens) == (5, 5)
    assert b.error.reason == "prompt too long"


@pytest.mark.slow
def test_prompts_pass_through_ray_data_unchanged(ray_cluster, request_for):
    import ray

    requests = [request_for(key) for key in ("a", "b")]
    rows = ray.data.from_items([ray_llm.request_row(request) for request in requests])
    came = {row["key"]: row for row in rows.map(lambda row: ray_llm.prompt_row(row, ENGINE)).take_all()}
    for request in requests:
        assert came[request.key]["messages"] == chat(request)
        assert json.loads(came[request.key]["sampling_params"]["structured_outputs"]["json"]) == reply_schema()
