"""What a request may hold before anything is read: names instead of paths, and bounds."""

from pathlib import Path

import pytest

from pipelines.generation.request import MAX_PROMPT, GenerationRequest, RequestError
from skyreels.config import ConfigError, build


def request(**values):
    return build(GenerationRequest, {"prompt": "a ball", **values}, "a test")


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("guidance_scale", (float("nan"), float("inf"), -1.0, 101.0)),
        ("audio_guidance_scale", (float("nan"), 1e6)),
        ("cross_modal_guidance_scale", (float("inf"),)),
        ("reference_guidance_scale", (float("nan"), 1e3)),
        ("guidance_rescale", (float("nan"), 1.1)),
        ("fps", (float("nan"), float("inf"), 0.0, 0.5, 1000.0)),
        ("seconds", (float("nan"), float("inf"), 0.0, 61.0)),
        ("width", (0, 10_000)),
        ("steps", (0, 10_000)),
        ("negative_prompt", ("x" * (MAX_PROMPT + 1),)),
    ],
)
def test_values_out_of_bounds_are_refused_by_name(field, values):
    for value in values:
        with pytest.raises(ConfigError, match=f"'{field}"):
            request(**{field: value})


def test_scales_by_tag_have_the_same_bounds():
    for value in (float("nan"), float("inf"), 101.0):
        with pytest.raises(ConfigError, match="reference_guidance_scale"):
            request(reference_guidance_scale={"@a": value})
    with pytest.raises(ConfigError, match="keyframes"):
        request(keyframes=[{"seconds": float("inf"), "image": "a"}])


def test_prompts_are_bounded_as_a_whole():
    for prompt in ("x" * (MAX_PROMPT + 1), {"picture": "x" * MAX_PROMPT, "sfx": ["thud"]}):
        with pytest.raises(RequestError, match=r"prompt: 20,0\d\d characters, at most 20,000"):
            request(prompt=prompt).check()
    shots = [{"prompt": "wide", "seconds": 40.0}, {"prompt": "close", "seconds": 30.0}]
    with pytest.raises(RequestError, match="the shots last 70 s, at most 60"):
        request(prompt=shots).check()
    with pytest.raises(ConfigError, match="finite number"):
        request(prompt=[{"prompt": "wide", "seconds": float("nan")}])


def test_a_name_is_looked_up_and_never_opened(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"x")
    asked = request(image=str(secret), last_image="b", prompt="@a", references={"@a": ("c", "d")})
    assert asked.names() == [str(secret), "b", "c", "d"]
    with pytest.raises(RequestError, match=r"image: no file '.*secret\.png' came with the request"):
        asked.files({})
    given = {str(secret): Path("/1"), "b": Path("/2"), "c": Path("/3"), "d": Path("/4")}
    found = asked.files(given)
    assert [(file.where, str(file.path), file.tag) for file in found] == [
        ("image", "/1", None),
        ("last_image", "/2", None),
        ("references @a", "/3", "@a"),
        ("references @a", "/4", "@a"),
    ]
    with pytest.raises(RequestError, match="references @a: no file 'd'") as told:
        asked.files({name: path for name, path in given.items() if name != "d"})
    assert told.value.field == "references @a"


def test_what_sets_the_shape_of_the_clip_comes_first():
    asked = request(video="v", mask="m", audio="a")
    named = {name: Path(name) for name in asked.names()}
    assert [file.field for file in asked.files(named)] == ["video", "mask", "audio"]
    framed = request(image="i", last_image="l", keyframes=[{"seconds": 1, "image": "k"}])
    assert framed.names() == ["i", "k", "l"]


def test_more_references_than_a_model_can_hold_are_refused():
    with pytest.raises(ConfigError, match="references"):
        request(references={f"@a{number}": ("x",) for number in range(13)})
