"""Every captioner there is, by the name that a recipe's `captions.backend` gives it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipelines.curation.captions.requests import Captioner
from pipelines.curation.recipe import CaptionConfig
from skyreels.config import ConfigError, suggest


@dataclass(frozen=True)
class Backend:
    """How a captioner is made, on a device such as `cuda`, and what it wants.

    `make` imports what it needs itself: what models are made of takes seconds to import.
    """

    make: Callable[[CaptionConfig, str], Captioner]
    looks: bool = True
    """Is shown frames and sound; otherwise measurements alone, and nothing is decoded for it."""
    holds_model: bool = True
    """Takes a worker of its own, where it stays loaded."""


def _measured(config: CaptionConfig, device: str) -> Captioner:
    from pipelines.curation.captions.measured import MeasuredCaptioner

    return MeasuredCaptioner()


def _transformers(config: CaptionConfig, device: str) -> Captioner:
    from pipelines.curation.captions.local_model import LocalCaptioner

    return LocalCaptioner(config.model, device)


def _http(config: CaptionConfig, device: str) -> Captioner:
    from pipelines.curation.captions.served import ServedCaptioner
    from pipelines.writing.chat_server import Server

    return ServedCaptioner(
        Server(
            url=config.url,
            model=config.model,
            api_key_env=config.api_key_env,
            concurrency=config.concurrency,
            timeout_s=config.timeout_s,
        )
    )


CAPTIONERS: Mapping[str, Backend] = {
    "measured": Backend(_measured, looks=False, holds_model=False),
    "transformers": Backend(_transformers),
    "http": Backend(_http),
}

STREAMED = ("vllm",)
"""Captioners that are a Ray Data pipeline of their own (`ray_llm.py`)."""

NAMES = (*CAPTIONERS, *STREAMED, "none")
"""What `captions.backend` may be; `none`: no captions."""


def check_captioner(config: CaptionConfig) -> None:
    """Raises ConfigError for a name that no captioner has."""
    if config.backend not in NAMES:
        known = f"use {', '.join(NAMES)}{suggest(config.backend, NAMES)}"
        raise ConfigError(f"captions.backend: no captioner '{config.backend}': {known}")
