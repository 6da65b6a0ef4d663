"""A clip on two gloo ranks is that of one, stops on both, and fails with the reason of one."""

import numpy as np
import pytest
import torch

from jobs import generate
from model.generation.wire import to_bytes
from model.generator import Generator
from pipelines.generation.ranks import RankFailed, run_on_ranks
from skyreels.media.decode import iter_video_frames
from skyreels.media.probe import probe
from tests.generation import ranks_work

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone(model_folder):
    return Generator.from_pretrained(model_folder)


@pytest.fixture(scope="module")
def call(alone):
    """One and a half seconds in 3 steps of guided passes, refined."""
    return alone.prepare("a ball falls", "dull", seconds=1.5, seed=4, refine=True, num_inference_steps=3)


@pytest.fixture(scope="module")
def made(model_folder, call, tmp_path_factory):
    """What two ranks left behind."""
    folder = tmp_path_factory.mktemp("ranks")
    run_on_ranks(2, "cpu", ranks_work.make_and_stop, str(model_folder), to_bytes(call), str(folder))
    return folder


def test_two_ranks_make_the_latents_of_one_from_a_share_of_its_tokens(alone, call, made):
    expected = alone.refine(call, alone.sample_base(call))
    found = [torch.load(made / f"{rank}.pt") for rank in (0, 1)]
    assert sum(latents.pop("tokens") for latents in found) == call.clip.latent_frames * 4
    for latents in found:
        assert latents.keys() == expected.keys()
        for name, values in expected.items():
            torch.testing.assert_close(latents[name], values, atol=1e-3, rtol=1e-3)


def test_one_rank_that_stops_stops_all_after_the_same_step(made):
    said = [(made / f"{rank}.txt").read_text() for rank in (0, 1)]
    assert said == ["[0] another rank stopped after step 1", "[0] enough"]


def test_what_one_rank_says_is_the_error():
    with pytest.raises(RankFailed, match="no such tone"):
        run_on_ranks(2, "cpu", ranks_work.fail_alone)


def test_the_command_writes_one_clip_from_two_ranks(model_folder, tmp_path):
    words = ["--model", str(model_folder), "--prompt", "a ball", "--seed", "3", "--quiet", "--refine"]
    made = []
    for ranks in (1, 2):
        path = tmp_path / f"{ranks}.mp4"
        assert generate.main([*words, "--output", str(path), "--ranks", str(ranks), "--stream-layers"]) == 0
        made.append(np.stack([frame.rgb() for frame in iter_video_frames(path, probe(path))]).astype(int))
        assert path.with_suffix(".json").is_file()
    assert np.abs(made[0] - made[1]).mean() < 1
