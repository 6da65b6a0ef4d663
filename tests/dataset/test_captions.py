import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.dataset.captions import TAGS, Caption, StructuredCaption, Subject

LINES = st.text(min_size=1, max_size=60).filter(lambda text: text.split())
NASTY = LINES | st.sampled_from(
    ["</text>", "<sfx>", "a < b & c > d", "&lt;", "Subject: x", "Shot: y", "a\nb", "x\u2028y"]
)
SUBJECTS = st.builds(
    Subject,
    type=NASTY,
    appearance=NASTY,
    action=st.none() | NASTY,
    expression=st.none() | NASTY,
    position=st.none() | NASTY,
    is_main=st.booleans(),
)
CAPTIONS = st.builds(
    StructuredCaption,
    subjects=st.lists(SUBJECTS, max_size=3),
    shot_type=st.sampled_from([None, "close-up", "long shot"]),
    shot_angle=st.sampled_from([None, "low angle"]),
    shot_position=st.sampled_from([None, "over the shoulder"]),
    camera_motion=st.none() | NASTY,
    environment=st.none() | NASTY,
    lighting=st.none() | NASTY,
    **{tag: st.lists(NASTY, max_size=3) for tag in TAGS},
)


@given(CAPTIONS)
def test_what_is_rendered_is_read_back(caption):
    assert StructuredCaption.parse(caption.render()) == caption


@given(CAPTIONS)
def test_tags_come_in_their_order_and_only_from_the_form(caption):
    text = caption.render()
    opened = re.findall(r"<([a-z]+)>", text)
    assert opened == [tag for tag in TAGS for _ in getattr(caption, tag)]
    assert opened == re.findall(r"</([a-z]+)>", text)


def test_the_form_of_an_example():
    caption = StructuredCaption(
        subjects=[Subject(type="person, cook", appearance="white apron", action="flips a pancake", is_main=True)],
        shot_type="medium shot",
        environment="a kitchen",
        bgm=["slow jazz"],
        text=["MENU  <2>"],
        sfx=["sizzling"],
    )
    assert caption.render() == (
        "Main subject: white apron\nType: person, cook\nAction: flips a pancake\nShot: medium shot\n"
        "Environment: a kitchen\n<text>MENU &lt;2&gt;</text>\n<sfx>sizzling</sfx>\n<bgm>slow jazz</bgm>"
    )


def test_a_foreign_line_is_named():
    with pytest.raises(ValueError, match=r"line 2 .*'Mood: sad'"):
        StructuredCaption.parse("Lighting: dim\nMood: sad")
    with pytest.raises(ValueError, match="line 1"):
        StructuredCaption.parse("Action: an action of nobody")


def test_a_row_is_flat_and_whole():
    structured = StructuredCaption(environment="a kitchen", sfx=["sizzling"])
    caption = Caption(short="A  kitchen.", long="A kitchen.", structured=structured, caption_source="model", model="m")
    row = caption.row()
    assert row["short"] == "A kitchen."
    assert row["structured"] == caption.structured_text == "Environment: a kitchen\n<sfx>sizzling</sfx>"
    assert StructuredCaption.model_validate_json(row["structured_json"]) == structured
    assert all(isinstance(value, str) for value in row.values())


def test_tags_are_those_that_the_model_is_prompted_with():
    from model.generation import prompts

    assert TAGS == prompts.TAGS
