"""Who puts prompts into the form that a model was trained on: rules, or a model that writes."""

import json
import re
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.conditioning.references import TAG
from model.generation.enhancing import QUOTED, Write, by_rules
from model.generation.prompts import StructuredPrompt
from pipelines.dataset.caption_parts import FORMS
from pipelines.dataset.captions import TAGS, StructuredCaption
from pipelines.writing.chat_server import Answer, ChatServer, Message, Server
from pipelines.writing.failures import WriterFailed
from skyreels.config import Config

Backend = Literal["rules", "transformers", "http", "vllm"]

_PROSE = {"short": "one sentence on what happens and how it sounds", "long": "a paragraph with every detail given"}
_TRIES = 2
_QUOTED = 20_000  # characters of a refused answer that are shown to the model again


class EnhancerConfig(Config):
    """As of captions. `model` is a folder or hub id, or what a server calls it; `url` ends before /chat/completions."""

    backend: Backend = "rules"
    model: str = ""
    url: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    timeout_s: float = Field(60.0, gt=0)


class Asks(Protocol):
    """A model that writes JSON of a schema. Raises WriterFailed."""

    def ask(self, messages: Sequence[Message], name: str, schema: Mapping[str, Any]) -> Answer: ...


def enhancer(config: EnhancerConfig, device: str = "cpu") -> Write:
    """What `prepare` takes as `enhance`. Raises ValueError for settings that do not go together."""
    if config.backend == "rules":
        return by_rules
    if config.backend == "http":
        server = Server(config.url, config.model, config.api_key_env, timeout_s=config.timeout_s, settings="enhancer")
        return Written(ChatServer(server))
    if config.backend == "vllm":
        from pipelines.writing.vllm_engine import VllmEngine

        return Written(VllmEngine(config.model, settings="enhancer"))
    return Written(_Local(config.model, device))


@dataclass(frozen=True)
class Written:
    """Implements `Write`: a model writes the fullest form that the other one knows, in English, of any language.

    What it writes must keep every tag and quotation. Raises ValueError where it does not, or writes nothing.
    """

    model: Asks

    def __call__(self, words: str, forms: Sequence[str], picture: bool) -> str | StructuredPrompt:
        form = [name for name in FORMS if name in forms][-1]
        reply: type[_Prose] | type[_Structured] = _Structured if form == "structured" else _Prose
        messages = _messages(words, form, picture)
        wrong = ""
        for _ in range(_TRIES):
            try:
                answer = self.model.ask(messages, "prompt", reply.model_json_schema())
            except WriterFailed as failed:
                raise ValueError(f"the prompt was not rewritten: {failed}, or give --no-enhance") from failed
            try:
                written = reply.model_validate(_json(answer.text)).prompt
            except ValueError as error:
                wrong = _first_problem(error)
            else:
                wrong = _lost(words, written)
                if not wrong:
                    return written
            correction = f"That is not right: {wrong}\nWrite the whole object again, corrected."
            messages = [*messages, _said("assistant", answer.text[:_QUOTED]), _said("user", correction)]
        raise ValueError(
            f"the prompt was not rewritten, for the model's answer is not right: {wrong}; leave it as it is "
            "(--no-enhance), or use a model that follows instructions"
        )


class _Prose(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: str = Field(min_length=1, max_length=6000)

    @property
    def prompt(self) -> str:
        return self.text


class _Structured(BaseModel):
    model_config = ConfigDict(extra="forbid")

    structured: StructuredCaption

    @property
    def prompt(self) -> str:
        return self.structured.render()


class _Local:
    """A model in this process, as `Asks`."""

    def __init__(self, model: str, device: str) -> None:
        from pipelines.writing.local_model import LocalModel

        self._model = LocalModel(model, device, settings="enhancer")

    def ask(self, messages: Sequence[Message], name: str, schema: Mapping[str, Any]) -> Answer:
        asked = [*messages[:1], _said("system", f"The JSON schema: {json.dumps(schema)}"), *messages[1:]]
        return self._model.write(self._model.inputs(asked))


def add_enhancer(parser: ArgumentParser) -> None:
    """Options that `asked_enhancer` reads."""
    words = parser.add_argument_group("the words")
    words.add_argument("--no-enhance", action="store_true", help="ask for exactly the prompt's words")
    told = "what puts them into the form that the model was trained on (default: %(default)s)"
    words.add_argument("--enhancer", choices=get_args(Backend), default="rules", help=told)
    words.add_argument("--enhancer-model", default="", metavar="NAME", help="a folder or hub id, or a server's model")
    words.add_argument("--enhancer-url", default="", metavar="URL", help="of a server, up to /v1")


def asked_enhancer(arguments: Namespace, device: str) -> Write | None:
    """As the command line says; None leaves the words alone."""
    config = asked_config(arguments)
    return None if config is None else enhancer(config, device)


def asked_config(arguments: Namespace) -> EnhancerConfig | None:
    """The same as a configuration, for another process."""
    if arguments.no_enhance:
        return None
    return EnhancerConfig(backend=arguments.enhancer, model=arguments.enhancer_model, url=arguments.enhancer_url)


def _messages(words: str, form: str, picture: bool) -> list[Message]:
    wanted = f'"text": {_PROSE[form]}' if form in _PROSE else '"structured": the same field by field'
    seen = "a clip with its sound" if picture else "a sound without a picture"
    return [
        _said(
            "system",
            f"You rewrite what people type into the form that a generator of {seen} was trained on. Add no subject, "
            "object, word or event that is not asked for; where nothing is said, use null or []. Write in English, but "
            "keep everything in quotation marks letter by letter, and every word that begins with @ as it is, where it "
            f"belongs. Exactly one subject is the main one. One JSON object and nothing else, with {wanted}.",
        ),
        _said("user", words),
    ]


def _said(role: str, text: str) -> Message:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def _json(text: str) -> Any:
    fenced = re.fullmatch(r"```(?:json)?\s*\n(.*?)\n?```", text.strip(), re.DOTALL)
    return json.loads(fenced[1] if fenced else text)


def _first_problem(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:4])
    return f"no JSON: {error}"


def _lost(words: str, written: str) -> str:
    """What had to be kept and is not there, or is there and was not asked for."""
    plain = written.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    quoted = [quote[1:-1] for quote in QUOTED.findall(words) if quote[1:-1] not in plain]
    given, told = Counter(TAG.findall(words)), Counter(TAG.findall(plain))
    tags = sorted(given.keys() - told.keys())
    strange = sorted(told.keys() - given.keys())
    problems = [f"it lacks {', '.join(tags)}"] if tags else []
    problems += [f"it lacks {json.dumps(quoted[0], ensure_ascii=False)}"] if quoted else []
    problems += [f"nobody asked for {', '.join(strange)}"] if strange else []
    unknown = sorted(set(re.findall(r"</?(\w+)>", written)) - set(TAGS))
    problems += [f"unknown tags {', '.join(unknown)}"] if unknown else []
    return "; ".join(problems)
