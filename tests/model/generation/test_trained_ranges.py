"""What a model was not trained on is told, and what is hopeless refused."""

import dataclasses
import re
import warnings

import pytest

from model.config import Trained
from model.generation.prepared import prepare

TRAINED = Trained(("short",), (32.0, 64.0), (0.5625, 1.0625), 16.0)


def spec_of(generator, trained=TRAINED):
    spec = generator.components.spec
    return dataclasses.replace(spec, config=dataclasses.replace(spec.config, trained=trained))


@pytest.fixture(scope="module")
def generator(build):
    return build()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"seconds": 3}, r"seconds: 3\.\d+ s are asked for, and the model was trained on 0\.5625 to 1\.0625"),
        ({"seconds": 0.3}, r"seconds: 0\.\d+ s are asked for, and the model was trained on 0\.5625 to 1\.0625"),
        ({"fps": 60}, "fps: 60 frames per second are asked for, and the model was trained on 16"),
        ({"fps": 8}, "fps: 8 frames per second"),
        ({"size": (96, 96)}, "size: 96 pixels on the short side are asked for, and the model was trained on 32 to 64"),
    ],
)
def test_what_lies_outside_is_told(generator, asked, told):
    found = prepare(spec_of(generator), "a ball", **asked).remarks
    assert any(re.match(told, remark) for remark in found), found


@pytest.mark.parametrize("asked", [{"seconds": 30}, {"fps": 300}, {"fps": 1, "seconds": 5}, {"size": (1024, 1024)}])
def test_what_is_hopeless_is_refused_with_the_range(generator, asked):
    with pytest.raises(ValueError, match=r"the model was trained on .*: it would make noise"):
        prepare(spec_of(generator), "a ball", **asked)


@pytest.mark.parametrize(
    "asked", [{}, {"seconds": 1}, {"size": (32, 128)}, {"seconds": 1 / 16}, {"seconds": 1, "picture": False, "fps": 50}]
)
def test_what_was_trained_passes_in_silence(generator, asked):
    assert prepare(spec_of(generator), "a ball", **asked).remarks == ()


def test_a_folder_that_does_not_tell_is_not_checked(generator):
    assert prepare(spec_of(generator, Trained()), "a ball", seconds=20, fps=60).remarks == ()


def test_in_python_it_is_a_warning(generator, monkeypatch):
    components = generator.components
    config = dataclasses.replace(components.config, trained=TRAINED)
    monkeypatch.setattr(generator, "components", dataclasses.replace(components, config=config))
    with pytest.warns(UserWarning, match="the model was trained on 16"):
        generator.prepare("a ball", fps=32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generator.prepare("a ball")
