"""A model that writes prompts: what it is asked, what it must keep, and what is said where it does not."""

import json

import pytest

from model.generation.enhancing import by_rules
from model.generation.prompts import render_prompt
from pipelines.dataset.captions import StructuredCaption
from pipelines.generation.enhance import EnhancerConfig, Written, enhancer
from pipelines.writing.chat_server import Answer
from pipelines.writing.failures import WriterFailed

GOOD = StructuredCaption.model_validate(
    {
        "subjects": [{"type": "shape, ball", "appearance": "a red ball", "action": "falls", "is_main": True}],
        "sfx": ["a thud"],
    }
)


class Model:
    """Answers in turn, the last one again and again."""

    def __init__(self, *answers):
        self.answers, self.seen = list(answers), []

    def ask(self, messages, name, schema):
        self.seen.append((messages, name, schema))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return Answer(answer if isinstance(answer, str) else json.dumps(answer), 1)


def structured(caption=GOOD):
    return {"structured": caption.model_dump()}


def test_the_fullest_form_that_the_model_knows_is_asked_for():
    model = Model(structured())
    assert Written(model)("一个红球落下", ("short", "structured"), True) == GOOD.render()
    assert "structured" in model.seen[0][2]["properties"]
    model = Model({"text": "A red ball falls."})
    assert Written(model)("一个红球落下", ("short", "long"), True) == "A red ball falls."
    assert "a paragraph" in model.seen[0][0][0]["content"][0]["text"]
    assert model.seen[0][0][1]["content"][0]["text"] == "一个红球落下"


def test_fences_are_taken_off():
    assert Written(Model(f"```json\n{json.dumps(structured())}\n```"))("a ball", ("structured",), True) == GOOD.render()


@pytest.mark.parametrize(
    ("first", "told"),
    [
        ({"text": "A dog runs."}, "it lacks @dog"),
        ({"text": "@dog runs with @cat."}, "nobody asked for @cat"),
        ({"text": "@dog runs past a sign."}, 'it lacks "GO & <b>"'),
        ({"text": '@dog runs past "GO & <b>" <smell>'}, "unknown tags"),
        ({"words": "@dog"}, "text: Field required"),
        ("I would love to help", "no JSON"),
    ],
)
def test_what_must_be_kept_is_asked_for_once_more_and_then_is_an_error(first, told):
    words, right = '@dog runs past "GO & <b>"', {"text": 'The dog, @dog, runs past the letters "GO & &lt;b&gt;".'}
    model = Model(first, right)
    assert Written(model)(words, ("long",), True) == right["text"]
    assert told in model.seen[1][0][-1]["content"][0]["text"]
    with pytest.raises(ValueError, match=r"the prompt was not rewritten.*--no-enhance"):
        Written(Model(first))(words, ("long",), True)


def test_a_server_that_fails_says_so():
    with pytest.raises(ValueError, match=r"was not rewritten: gone; start it, or give --no-enhance"):
        Written(Model(WriterFailed("gone", "start it")))("a ball", ("long",), True)


def test_backends():
    assert enhancer(EnhancerConfig()) is by_rules
    with pytest.raises(ValueError, match=r"enhancer\.url is ''"):
        enhancer(EnhancerConfig(backend="http"))
    for backend in ("transformers", "vllm"):
        with pytest.raises(ValueError, match=r"enhancer\.model is empty"):
            enhancer(EnhancerConfig(backend=backend))


def test_over_http_and_by_a_model_here(tmp_path, monkeypatch):
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            body = json.dumps({"choices": [{"message": {"content": json.dumps(structured())}}]}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    asked = []
    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        write = enhancer(EnhancerConfig(backend="http", model="m", url=f"http://127.0.0.1:{server.server_port}/v1"))
        assert render_prompt(write("ein roter Ball fällt", ("structured",), True)) == GOOD.render()
        assert (asked[0]["model"], asked[0]["response_format"]["json_schema"]["name"]) == ("m", "prompt")
    finally:
        server.shutdown()
        server.server_close()

    from model.prompt_encoder.tiny_encoder import build_tiny_encoder

    build_tiny_encoder(tmp_path / "omni")
    write = enhancer(EnhancerConfig(backend="transformers", model=str(tmp_path / "omni")))
    monkeypatch.setattr(
        write.model._model, "write", lambda inputs: Answer(json.dumps(structured()), inputs["input_ids"].shape[1])
    )
    assert write("ein roter Ball fällt", ("structured",), True) == GOOD.render()
