"""Reading a model's reply: JSON of one schema, for the clip that was asked about, or a reason why not."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.curation.captions import checks
from pipelines.curation.captions.requests import CaptionError, CaptionFailed, CaptionRequest, CaptionResult
from pipelines.dataset.captions import Caption, StructuredCaption

_FENCE = re.compile(r"^```(?:json)?\s*\n(.*?)\n?```$", re.DOTALL)
_MAX_CHARACTERS = 200_000


class Reply(BaseModel):
    """What a model is asked to write. The id comes first: a model that lost track says so before anything else."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(description="the id from the request, unchanged")
    short: Annotated[str, Field(min_length=1, max_length=600, description="one sentence on picture and sound")]
    long: Annotated[str, Field(min_length=1, max_length=6000, description="every visual detail, in order of time")]
    structured: StructuredCaption


class UnreadableReply(CaptionFailed):
    """The reply is not the JSON that was asked for; `detail` is fit to be shown to the model once more."""

    def __init__(self, detail: str) -> None:
        super().__init__(f"the reply is not a caption: {detail}", "ask again, or use a model that follows the schema")
        self.detail = detail


class ForeignReply(CaptionFailed):
    """The reply is about another clip. It is not repaired: nobody knows which half of it is right."""

    def __init__(self, key: str, given: str) -> None:
        super().__init__(
            f"the reply for clip {key} names clip {given[:80]!r}", "run again; if it recurs the server mixes up answers"
        )


def reply_schema() -> dict[str, Any]:
    """JSON schema of a reply, for guided decoding."""
    return Reply.model_json_schema()


def read_reply(text: str, key: str) -> Reply:
    """The reply to the request for `key`. Raises UnreadableReply or ForeignReply."""
    reply = _reply(text)
    if reply.id != key:
        raise ForeignReply(key, reply.id)
    return reply


def result_of(
    request: CaptionRequest, reply: Reply, model: str, *, seconds: float = 0.0, tokens: int = 0, language: str = "en"
) -> CaptionResult:
    """A reply, checked, as the request's result."""
    caption = Caption(
        short=reply.short,
        long=reply.long,
        structured=reply.structured,
        caption_source="model",
        model=model,
        language=language,
    )
    found = tuple(checks.issues(caption, request.transcript))
    return CaptionResult(request.key, caption, None, seconds, tokens, found)


def match_replies(
    requests: Sequence[CaptionRequest], rows: Iterable[Mapping[str, Any]], model: str, language: str = "en"
) -> list[CaptionResult]:
    """Results of a batch whose answers come back in any order: rows {`key`, `text`, `error`, `tokens`}.

    The row's key and the id inside the reply must both be the request's. No row, several rows, or a foreign id is
    an error of that clip; a row of nobody's key raises ValueError.
    """
    by_key: dict[str, list[Mapping[str, Any]]] = {request.key: [] for request in requests}
    for row in rows:
        if row["key"] not in by_key:
            raise ValueError(f"an answer came back for clip {row['key']}, which was not asked about in this batch")
        by_key[row["key"]].append(row)
    return [_matched(request, by_key[request.key], model, language) for request in requests]


def _matched(request: CaptionRequest, rows: list[Mapping[str, Any]], model: str, language: str) -> CaptionResult:
    if len(rows) != 1:
        error = CaptionError(f"{len(rows)} answers came back for the clip, wanted one", "run again")
        return CaptionResult(request.key, None, error)
    row = rows[0]
    tokens = int(row.get("tokens") or 0)
    if row.get("error"):
        return CaptionResult(request.key, None, CaptionError(str(row["error"])[:500], "run again"), tokens=tokens)
    try:
        return result_of(request, read_reply(row["text"], request.key), model, tokens=tokens, language=language)
    except CaptionFailed as failed:
        return CaptionResult(request.key, None, failed.error, tokens=tokens)


def _reply(text: str) -> Reply:
    if len(text) > _MAX_CHARACTERS:
        raise UnreadableReply(f"it is {len(text)} characters long, at most {_MAX_CHARACTERS} are read")
    bare = text.strip()
    fenced = _FENCE.match(bare)
    try:
        return Reply.model_validate(json.loads(fenced.group(1) if fenced else bare))
    except json.JSONDecodeError as error:
        raise UnreadableReply(f"not JSON: {error}; it begins {bare[:60]!r}") from None
    except RecursionError:
        raise UnreadableReply("its JSON is nested without end") from None
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:6])
        raise UnreadableReply(found) from None
