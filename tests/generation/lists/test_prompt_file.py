"""A list of prompts: each line a request, media beside the list, and what is said of lines that are none."""

import json
import shutil

import pytest

from model.generation.components import read_spec
from model.generation.prepared import Prepared
from model.generation.wire import from_bytes
from pipelines.generation.lists.prompt_file import Prompts, read_prompts
from skyreels.config import ConfigError


def written(folder, *lines):
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_lines_become_prepared_calls_with_fixed_seeds_and_their_media(model_folder, media, tmp_path):
    for name in ("picture.png", "clip.mp4", "hole.png"):
        shutil.copy(media / name, tmp_path / name)
    path = written(
        tmp_path,
        {"prompt": "a red ball"},
        "",
        {"name": "from-picture", "prompt": "it rolls on", "image": "picture.png", "seed": 7},
        {"name": "filled", "prompt": "grass", "video": "clip.mp4", "mask": "hole.png"},
    )
    prompts = Prompts(str(path))
    prompts.check()
    calls = {name: from_bytes(Prepared, data) for name, data in prompts(read_spec(model_folder)).items()}
    assert {name: call.seed for name, call in calls.items()} == {"prompt-001": 0, "from-picture": 7, "filled": 0}
    assert calls["from-picture"].media.image is not None
    assert calls["filled"].media.mask is not None


def test_what_a_model_cannot_make_is_told_and_left_out(model_folder, media, tmp_path, capsys):
    shutil.copy(media / "voice.flac", tmp_path / "voice.flac")
    path = written(
        tmp_path, {"name": "heard", "prompt": "@v speaks", "references": {"@v": ["voice.flac"]}}, {"prompt": "x"}
    )
    spec = read_spec(model_folder)
    mute = type(spec)(**{**vars(spec), "audio": None, "sounds": False})
    assert set(Prompts(str(path))(mute)) == {"prompt-002"}
    assert "heard is left out of the samples here" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["{"], r"line 1: no JSON"),
        (["[1]"], "line 1: wants an object such as"),
        ([{"prompt": "a"}, {"promt": "b"}], "line 2.*promt"),
        ([{"prompt": "a", "name": "../x"}], "line 1: the name '../x' names files"),
        ([{"prompt": "a", "name": "x"}, {"prompt": "b", "name": "x"}], "line 2: the name 'x' is there before"),
        ([{"prompt": "a", "image": "none.png"}], "none.png"),
        ([{"prompt": "a", "seconds": 2, "window": 1}], "line 1: samples are made at once"),
        ([""], "holds no prompt"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(lines, told, tmp_path):
    with pytest.raises(ValueError, match=f"(?s){told}"):
        read_prompts(written(tmp_path, *lines))


def test_a_list_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="does not exist: give a file with one JSON object a line"):
        read_prompts(tmp_path / "none.jsonl")
