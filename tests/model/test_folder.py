import dataclasses
import json
import shutil

import pytest

from model.codecs.loading import load_audio_codec, load_video_codec
from model.config import GenerationConfig, RefinerConfig, SamplingConfig, Trained, UsualClip
from model.folder import AUDIO_CODEC, FROZEN, INDEX, PARTS, TRANSFORMER, ModelIndex, link_part, parts_in
from model.prompt_encoder.encoder import EncoderConfig

CONFIG = GenerationConfig(SamplingConfig(7, "heun", keyframes=True), UsualClip(8, 32, 48, 2.0), RefinerConfig(steps=3))


def test_an_index_says_again_what_was_written(tmp_path):
    index = ModelIndex((*FROZEN, TRANSFORMER), CONFIG, EncoderConfig(layer=-3))
    index.write(tmp_path)
    read = ModelIndex.read(tmp_path)
    assert set(read.parts) == set(index.parts)
    assert (read.config, read.encoder) == (CONFIG, EncoderConfig(layer=-3))
    keys = json.loads((tmp_path / INDEX).read_text()).keys()
    assert keys == {"components", "encoder", "sampling", "generation", "refiner", "trained"}


def test_a_folder_tells_what_its_model_was_trained_on_and_an_older_one_need_not(tmp_path):
    trained = Trained(("short", "structured"), (64.0, 128.0), (1.0625, 5.0625), 16.0)
    ModelIndex(FROZEN, dataclasses.replace(CONFIG, trained=trained)).write(tmp_path)
    assert ModelIndex.read(tmp_path).config.trained == trained
    values = json.loads((tmp_path / INDEX).read_text())
    del values["trained"], values["refiner"]["shift"]
    (tmp_path / INDEX).write_text(json.dumps(values))
    assert ModelIndex.read(tmp_path).config == CONFIG


def test_a_part_that_is_not_there_is_an_error(tmp_path):
    index = ModelIndex(FROZEN)
    with pytest.raises(FileNotFoundError, match=r"video_codec is missing, and model_index\.json names it"):
        index.part(tmp_path, "video_codec")
    with pytest.raises(FileNotFoundError, match="has no transformer: it holds audio_codec, encoder, video_codec"):
        index.part(tmp_path, "transformer")
    for load in (load_video_codec, load_audio_codec):
        with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
            load("somebody/codec")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"components": []}', "null"])
def test_a_damaged_index_is_told(tmp_path, text):
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(ValueError, match=r"model_index\.json is damaged .*copy the model again"):
        ModelIndex.read(tmp_path)


def test_unknown_settings_are_named_with_their_section(tmp_path):
    ModelIndex(FROZEN).write(tmp_path)
    values = json.loads((tmp_path / INDEX).read_text())
    (tmp_path / INDEX).write_text(json.dumps(values | {"sampling": {"stepz": 3}}))
    with pytest.raises(ValueError, match=r"model_index\.json: sampling: unknown keys \['stepz'\]"):
        ModelIndex.read(tmp_path)


def test_a_linked_part_is_the_same_file_and_outlives_its_source(tmp_path):
    source = tmp_path / "source" / AUDIO_CODEC
    source.mkdir(parents=True)
    (source / "weights").write_bytes(b"x")
    link_part(tmp_path / "source", tmp_path / "target", AUDIO_CODEC)
    assert (tmp_path / "target" / AUDIO_CODEC / "weights").samefile(source / "weights")
    shutil.rmtree(source)
    assert (tmp_path / "target" / AUDIO_CODEC / "weights").read_bytes() == b"x"
    assert list(parts_in(tmp_path / "target")) == [AUDIO_CODEC]
    assert set(PARTS) > set(FROZEN)
