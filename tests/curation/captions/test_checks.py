import json

import pytest

from pipelines.curation.captions import checks
from pipelines.dataset.captions import Caption


@pytest.fixture
def caption(reply):
    def make(**changes):
        values = json.loads(reply("x"))
        del values["id"]
        structured = {**values["structured"], **changes.pop("structured", {})}
        return Caption(**{**values, "structured": structured, "caption_source": "model", "model": "m", **changes})

    return make


def test_a_good_caption_has_no_issues(caption):
    assert checks.issues(caption()) == []


@pytest.mark.parametrize(
    ("changes", "issue"),
    [
        ({"structured": {"environment": None}}, "structured.environment is missing"),
        ({"structured": {"subjects": []}}, "structured.subjects is empty"),
        ({"structured": {"subjects": [{"type": "a", "appearance": "b"}]}}, "exactly one main subject"),
        ({"short": "Fox."}, "short has 1 words"),
        ({"long": "A fox runs through snow."}, "long has 5 words"),
        ({"short": "<|im_start|>A fox runs in snow."}, "'<|im_start|>'"),
        ({"short": "Here is the caption: a fox runs."}, "'Here is'"),
        ({"structured": {"lighting": "as an AI I see no light"}}, "structured holds text"),
    ],
)
def test_faults_are_named(caption, changes, issue):
    assert any(issue in found for found in checks.issues(caption(**changes)))


def test_dialogue_must_quote_what_was_heard(caption):
    heard = "Good morning, how are you today?"
    assert checks.issues(caption(), heard) == ["the transcript has words, but <dialogue> and <singing> are empty"]
    wrong = caption(structured={"dialogue": ['a man: "nice weather"']})
    assert checks.issues(wrong, heard) == ["<dialogue> quotes 0% of the transcript's words"]
    right = caption(structured={"dialogue": ['a man, softly: "Good morning! How are you?"']})
    assert checks.issues(right, heard) == []
    assert checks.issues(caption(), "  ...  ") == []


def test_scripts_without_spaces_are_counted_and_compared(caption):
    short, long = (
        "一只红色的狐狸在雪地里奔跑。",
        "一只红色的狐狸在黄昏的雪地里从左向右奔跑，身后的松树随风摇摆，镜头跟随着它。",
    )
    assert checks.issues(caption(short=short, long=long, structured={"dialogue": ["女人：“早上好”"]}), "早上好。") == []


def test_tags_of_foreign_texts():
    assert checks.tag_issues("A fox.\n<text>EXIT</text><sfx>wind</sfx>\n<bgm>jazz</bgm>") == []
    assert checks.tag_issues("<bgm>jazz</bgm><sfx>wind</sfx>") == ["tags are out of order"]
    assert checks.tag_issues("<sfx>wind") == ["tags are not closed one by one"]
    assert checks.tag_issues("<music>jazz</music>") == ["unknown tags: music"]
