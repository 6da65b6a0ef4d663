import json

import pytest

from pipelines.curation.captions.replies import ForeignReply, UnreadableReply, match_replies, read_reply, reply_schema


def test_a_good_reply_is_read_fenced_or_not(reply):
    assert read_reply(reply("a"), "a").structured.shot_type == "long shot"
    assert read_reply(f"```json\n{reply('a')}\n```", "a") == read_reply(reply("a"), "a")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "not JSON"),
        ("The clip shows a fox.", "begins 'The clip"),
        ("{", "not JSON"),
        ("[1]", "model|dictionary|object"),
        ("[" * 150_000, "nested|not JSON"),
        ("x" * 200_001, "200001 characters"),
    ],
)
def test_what_is_no_reply_is_refused_with_the_reason(text, named):
    with pytest.raises(UnreadableReply, match=named):
        read_reply(text, "a")


def test_a_wrong_field_is_named(reply):
    with pytest.raises(UnreadableReply, match=r"structured\.shot_type"):
        read_reply(reply("a", structured={"shot_type": "wobbly"}), "a")
    with pytest.raises(UnreadableReply, match="mood"):
        read_reply(reply("a", mood="sad"), "a")


def test_another_clips_reply_is_never_taken(reply):
    with pytest.raises(ForeignReply, match="for clip a names clip 'b'"):
        read_reply(reply("b"), "a")


def test_the_schema_lists_every_part_of_a_reply(reply):
    schema = reply_schema()
    assert set(schema["properties"]) == set(json.loads(reply("a")))
    assert schema["additionalProperties"] is False


def test_a_batch_is_matched_by_key_and_by_id(request_for, reply):
    requests = [request_for(key) for key in "abcdef"]
    rows = [
        {"key": "c", "text": reply("c"), "error": "", "tokens": 7},
        {"key": "a", "text": reply("b"), "error": ""},  # ids crossed inside the replies
        {"key": "b", "text": reply("a"), "error": ""},
        {"key": "d", "text": reply("d"), "error": ""},
        {"key": "d", "text": reply("d"), "error": ""},
        {"key": "f", "text": "", "error": "the engine ran out of memory"},
    ]
    results = match_replies(requests, rows, "m")
    assert [result.key for result in results] == list("abcdef")
    assert [result.caption is not None for result in results] == [False, False, True, False, False, False]
    assert results[2].tokens == 7
    assert "names clip 'b'" in results[0].error.reason
    assert results[3].error.reason.startswith("2 answers")
    assert results[4].error.reason.startswith("0 answers")
    assert "out of memory" in results[5].error.reason


def test_an_answer_about_nobody_stops_the_batch(request_for, reply):
    with pytest.raises(ValueError, match="clip z"):
        match_replies([request_for("a")], [{"key": "z", "text": reply("z"), "error": ""}], "m")
