"""Calls as rows of one batch: each comes out as it would alone."""

import numpy as np
import pytest
import torch

from model.generation.together import shape_key
from model.generator import Generator
from model.sampling.sampler import Cancelled
from tests.generation.conftest import model_folder  # noqa: F401 (a fixture)


@pytest.fixture(scope="module")
def generator(model_folder):  # noqa: F811
    return Generator.from_pretrained(model_folder)


def picture(value):
    return np.full((32, 32, 3), value, np.uint8)


def video(value):
    return np.full((9, 32, 32, 3), value, np.uint8)


def sound(seed):
    return torch.randn(2, 22_050, generator=torch.Generator().manual_seed(seed)) / 10


KINDS = {
    "words": [{}, {}, {}],
    "refined": [{"refine": True}, {"refine": True}],
    "first frames": [{"image": picture(20)}, {"image": picture(220)}],
    "to extend": [{"video": video(20), "seconds": 1.0}, {"video": video(220), "seconds": 1.0}],
    "to edit": [{"video": video(20), "video_use": "edit"}, {"video": video(220), "video_use": "edit"}],
    "to inpaint": [{"video": video(v), "mask": picture(v)[..., 0] > 0} for v in (20, 220)],
    "for sound": [{"video": video(20), "video_use": "add_sound"}, {"video": video(220), "video_use": "add_sound"}],
    "from sound": [{"audio": sound(1)}, {"audio": sound(2)}],
}
PROMPTS = ("a red ball", "a blue square that falls with a very long thud, and then another", "x")


def prepared(generator, kind, **more):
    return [
        generator.prepare(prompt, seed=seed, num_inference_steps=3, **{**asked, **more})
        for seed, (prompt, asked) in enumerate(zip(PROMPTS, KINDS[kind], strict=False))
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_each_is_what_it_is_alone(generator, kind):
    calls = prepared(generator, kind)
    assert len({shape_key(call) for call in calls}) == 1
    steps = [[] for _ in calls]
    told = [lambda progress, heard=heard: heard.append(progress.step.index) for heard in steps]
    for call, made in zip(calls, generator.sample_together(calls, told), strict=True):
        alone = generator.sample_base(call)
        assert made.streams.keys() == alone.streams.keys()
        for name, latents in alone.streams.items():
            torch.testing.assert_close(made.streams[name], latents, rtol=1e-3, atol=1e-3)
        assert torch.equal(made.random_state, alone.random_state)
        assert torch.equal(made.prompt[0], alone.prompt[0])
    assert steps == [[0, 1, 2]] * len(calls)


def test_one_that_is_cancelled_leaves_the_others(generator):
    calls = prepared(generator, "words")

    def stop(progress):
        raise Cancelled

    heard = []
    one, two, _ = generator.sample_together(calls, [None, stop, heard.append])
    assert two is None
    torch.testing.assert_close(
        one.streams["video"], generator.sample_base(calls[0]).streams["video"], rtol=1e-3, atol=1e-3
    )
    assert len(heard) == 3
    assert heard[0].preview().shape == (9, 32, 32, 3)
    with pytest.raises(Cancelled):
        generator.sample_together(calls, [stop] * 3)


def test_what_differs_in_shape_or_settings_is_not_taken_together(generator):
    calls = [
        generator.prepare("x", seed=1),
        generator.prepare("x", seed=1, seconds=1.0),
        generator.prepare("x", seed=1, num_inference_steps=3),
        generator.prepare("x", seed=1, guidance_scale=2.0),
        generator.prepare("x", seed=1, image=picture(3)),
        generator.prepare("x", seed=1, sound=False),
    ]
    assert len({shape_key(call) for call in calls}) == len(calls)
    assert shape_key(calls[0]) == shape_key(generator.prepare("y", "z", seed=2))
    with pytest.raises(ValueError, match="sample each alone"):
        generator.sample_together(calls[:2], [None, None])
