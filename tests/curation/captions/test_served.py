import base64
import io
import random

import numpy as np
import pytest
import soundfile

from pipelines.curation.captions.served import ServedCaptioner
from pipelines.writing.chat_server import Server

KEY = "sk-very-secret"


@pytest.fixture
def ask(chat_server, monkeypatch):
    """`ask(requests, **settings)` through a captioner that pauses hardly at all."""
    monkeypatch.setenv("TEST_CAPTION_KEY", KEY)

    def run(requests, **settings):
        quick = {"api_key_env": "TEST_CAPTION_KEY", "timeout_s": 5.0, "tries": 3, "backoff_s": 0.01, **settings}
        captioner = ServedCaptioner(Server(url=chat_server.url, model="tiny", **quick))
        try:
            return captioner.caption(requests)
        finally:
            captioner.close()

    return run


def test_frames_sound_and_facts_arrive(ask, chat_server, request_for, reply):
    chat_server.answer = lambda key, body, attempt: reply(key)
    samples = np.sin(np.arange(16_000) / 20)[None].astype(np.float32)
    [result] = ask([request_for("clip-1", audio=(samples, 16_000), transcript="hello")])
    assert result.caption.caption_source == "model"
    assert result.caption.model == "tiny"
    assert result.tokens == 11
    assert result.issues == ("the transcript has words, but <dialogue> and <singing> are empty",)
    _, body, headers = chat_server.seen[0]
    kinds = [part["type"] for part in body["messages"][1]["content"]]
    assert kinds == ["text", "image_url", "image_url", "input_audio"]
    sound = base64.b64decode(body["messages"][1]["content"][3]["input_audio"]["data"])
    heard, rate = soundfile.read(io.BytesIO(sound))
    assert rate == 16_000
    assert np.allclose(heard, samples[0], atol=1e-3)
    assert body["response_format"]["json_schema"]["schema"]["properties"]["id"]
    assert headers["Authorization"] == f"Bearer {KEY}"


def test_a_server_that_mixes_up_answers_gives_no_caption_to_the_wrong_clip(ask, chat_server, request_for, reply):
    keys = [f"clip-{i:02d}" for i in range(24)]
    answered = dict(zip(keys, random.Random(3).sample(keys, len(keys)), strict=True))
    chat_server.answer = lambda key, body, attempt: reply(answered[key])
    results = ask([request_for(key) for key in keys], concurrency=8)
    assert [result.key for result in results] == keys
    for result in results:
        assert (result.caption is not None) == (answered[result.key] == result.key)
        if result.caption is None:
            assert answered[result.key] in result.error.reason
    assert len(chat_server.seen) == len(keys)  # a foreign answer is not repaired


def test_order_and_concurrency_are_kept(ask, chat_server, request_for, reply):
    keys = [f"clip-{i}" for i in range(12)]
    chat_server.answer = lambda key, body, attempt: reply(key, short=f"A fox runs through {key} in snow.")
    results = ask([request_for(key) for key in keys], concurrency=3)
    assert [result.caption.short for result in results] == [f"A fox runs through {key} in snow." for key in keys]
    assert chat_server.most_active <= 3


def test_a_busy_server_is_asked_again(ask, chat_server, request_for, reply):
    chat_server.answer = lambda key, body, attempt: (503, 429, reply(key))[attempt - 1]
    [result] = ask([request_for("a")])
    assert result.caption is not None
    assert len(chat_server.seen) == 3


def test_a_broken_server_is_given_up_after_the_last_try(ask, chat_server, request_for, reply):
    chat_server.answer = lambda key, body, attempt: 500 if key == "bad" else reply(key)
    bad, good = ask([request_for("bad"), request_for("good")])
    assert good.caption is not None
    assert bad.caption is None
    assert "in 3 tries, at last: status 500" in bad.error.reason
    assert "server is up" in bad.error.remedy


def test_a_refusal_is_final_and_keeps_the_key_to_itself(ask, chat_server, request_for, caplog):
    chat_server.answer = lambda key, body, attempt: 401
    caplog.set_level("DEBUG")
    [result] = ask([request_for("a")])
    assert "answered 401" in result.error.reason
    assert "[key]" in result.error.reason  # the server quoted it
    assert "environment variable" in result.error.remedy
    assert len(chat_server.seen) == 1
    assert KEY not in repr(result) + caplog.text


def test_the_key_is_in_no_representation(monkeypatch):
    monkeypatch.setenv("TEST_CAPTION_KEY", KEY)
    captioner = ServedCaptioner(Server("http://user:pass@127.0.0.1:9/v1", "m", "TEST_CAPTION_KEY", tries=1))
    assert KEY not in repr(captioner)
    assert "pass" not in captioner._chat.place


def test_a_hanging_server_costs_no_more_than_the_timeouts(ask, chat_server, request_for):
    chat_server.answer = lambda key, body, attempt: 20.0
    [result] = ask([request_for("a")], timeout_s=0.2, tries=2)
    assert "ReadTimeout" in result.error.reason
    assert result.seconds < 5


def test_a_server_that_drips_or_floods_is_cut_off(ask, chat_server, request_for):
    chat_server.answer = lambda key, body, attempt: (0.02, b" ")
    [result] = ask([request_for("a")], timeout_s=0.3, tries=1)
    assert "longer than 0.3 s" in result.error.reason
    chat_server.answer = lambda key, body, attempt: (0.0, b" " * 100_000)
    [result] = ask([request_for("b")])
    assert "more than 4194304 bytes" in result.error.reason


def test_a_server_that_is_not_there(ask, chat_server, request_for):
    chat_server.close()
    [result] = ask([request_for("a")], tries=2)
    assert "ConnectError" in result.error.reason


@pytest.mark.parametrize("answer", [b"<html>busy</html>", b'{"choices": []}', b"[]", b'{"choices": [{"message": {}}]}'])
def test_what_is_no_completion_is_an_error(ask, chat_server, request_for, answer):
    chat_server.answer = lambda key, body, attempt: answer
    [result] = ask([request_for("a")])
    assert "sent no chat completion" in result.error.reason


def test_one_repair_is_tried_and_told_what_was_wrong(ask, chat_server, request_for, reply):
    chat_server.answer = lambda key, body, attempt: (
        reply(key, structured={"shot_type": "wobbly"}) if attempt == 1 else reply(key)
    )
    [result] = ask([request_for("a")])
    assert result.caption is not None
    assert result.tokens == 22
    assert "structured.shot_type" in chat_server.seen[1][1]["messages"][-1]["content"][0]["text"]


def test_a_second_unreadable_reply_is_the_end(ask, chat_server, request_for):
    chat_server.answer = lambda key, body, attempt: "I see a fox."
    [result] = ask([request_for("a")])
    assert "not JSON" in result.error.reason
    assert len(chat_server.seen) == 2


def test_sound_that_cannot_be_read_costs_its_clip_only(ask, chat_server, request_for, reply, tmp_path):
    chat_server.answer = lambda key, body, attempt: reply(key)
    (tmp_path / "bad.flac").write_bytes(b"no sound")
    bad, good = ask([request_for("bad", audio=tmp_path / "bad.flac"), request_for("good")])
    assert good.caption is not None
    assert "could not be sent" in bad.error.reason


def test_a_bad_address_is_refused_at_once():
    with pytest.raises(ValueError, match=r"captions\.url is 'file:///etc'"):
        ServedCaptioner(Server("file:///etc", "m"))
