"""Captions from an OpenAI-compatible server (vLLM, SGLang, a hosted API) over HTTP."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pipelines.curation.captions import prompts
from pipelines.curation.captions.replies import UnreadableReply, read_reply, reply_schema, result_of
from pipelines.curation.captions.requests import CaptionError, CaptionFailed, CaptionRequest, CaptionResult, check_keys
from pipelines.writing.chat_server import Answer, ChatServer, Server
from pipelines.writing.failures import WriterFailed


@dataclass
class ServedCaptioner:
    """Asks for up to `concurrency` clips at a time; one bad clip costs only itself."""

    server: Server
    _chat: ChatServer = field(init=False)

    def __post_init__(self) -> None:
        self._chat = ChatServer(self.server)

    def caption(self, requests: Sequence[CaptionRequest]) -> list[CaptionResult]:
        check_keys(requests)
        with ThreadPoolExecutor(self.server.concurrency) as pool:
            return list(pool.map(self._caption_one, requests))

    def close(self) -> None:
        self._chat.close()

    def _caption_one(self, request: CaptionRequest) -> CaptionResult:
        started = time.monotonic()
        tokens = 0
        try:
            messages = prompts.chat(request, self.server.language)
            answer = self._ask(messages)
            tokens = answer.tokens
            try:
                reply = read_reply(answer.text, request.key)
            except UnreadableReply as unreadable:
                answer = self._ask(prompts.repair(messages, answer.text, unreadable.detail))
                tokens += answer.tokens
                reply = read_reply(answer.text, request.key)
        except CaptionFailed as failed:
            return CaptionResult(request.key, None, failed.error, time.monotonic() - started, tokens)
        except (OSError, ValueError) as error:  # the clip's own sound could not be read
            reason = CaptionError(f"the clip could not be sent: {error}", "look at its frames and its sound")
            return CaptionResult(request.key, None, reason, time.monotonic() - started, tokens)
        seconds = time.monotonic() - started
        model, language = self.server.model, self.server.language
        return result_of(request, reply, model, seconds=seconds, tokens=tokens, language=language)

    def _ask(self, messages: Sequence[prompts.Message]) -> Answer:
        try:
            return self._chat.ask(messages, "caption", reply_schema())
        except WriterFailed as failed:
            raise CaptionFailed(failed.reason, failed.remedy) from failed
