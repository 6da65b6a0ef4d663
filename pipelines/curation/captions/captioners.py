"""The captioner a recipe asks for."""

from pipelines.curation.captions.measured import MeasuredCaptioner
from pipelines.curation.captions.requests import Captioner
from pipelines.curation.captions.served import ServedCaptioner, Server
from pipelines.curation.recipe import CaptionConfig


def make_captioner(config: CaptionConfig, device: str = "cpu") -> Captioner | None:
    """None for "none". "vllm" runs as a Ray Data pipeline instead: see `ray_llm.py`."""
    match config.backend:
        case "none":
            return None
        case "measured":
            return MeasuredCaptioner()
        case "http":
            return ServedCaptioner(
                Server(
                    url=config.url,
                    model=config.model,
                    api_key_env=config.api_key_env,
                    concurrency=config.concurrency,
                    timeout_s=config.timeout_s,
                )
            )
        case "transformers":
            from pipelines.curation.captions.local_model import LocalCaptioner  # here: transformers takes seconds

            return LocalCaptioner(config.model, device)
        case "vllm":
            raise ValueError("captions.backend=vllm is a Ray Data pipeline: build it with ray_llm.build_processor")
