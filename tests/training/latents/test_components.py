"""The frozen networks of a model's folder, and what is made of those that it lacks."""

import shutil

import pytest

from model.config import GenerationConfig, load_preset
from model.folder import AUDIO_CODEC, EncoderConfig, ModelIndex
from pipelines.training.latents.components import load_encoders


@pytest.fixture
def silent(components, tmp_path):
    """The folder of a model that makes no sound."""
    folder = tmp_path / "model"
    shutil.copytree(components, folder, ignore=shutil.ignore_patterns(AUDIO_CODEC))
    ModelIndex(("encoder", "video_codec"), GenerationConfig(), EncoderConfig()).write(folder)
    return folder


def test_a_model_without_sound_encodes_silent_samples(silent, encoders):
    tiny = load_preset("tiny")
    found = load_encoders(str(silent), tiny, sound=False)
    assert found.video.identity == encoders.video.identity
    assert found.audio.spec == tiny.audio


def test_a_model_without_sound_is_refused_where_sound_is_to_be_encoded(silent):
    with pytest.raises(FileNotFoundError, match="has no audio_codec"):
        load_encoders(str(silent), load_preset("tiny"))
