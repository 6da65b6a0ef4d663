import json
from typing import get_args

import numpy as np
import pytest
import soundfile

from pipelines.curation.captions import prompts
from pipelines.curation.captions.requests import CaptionRequest
from pipelines.dataset.captions import TAGS, ShotAngle, ShotPosition, ShotType


def test_the_instruction_names_every_word_of_the_vocabulary_and_every_tag():
    text = prompts.instruction("zh")
    for word in (*get_args(ShotType), *get_args(ShotAngle), *get_args(ShotPosition), *(f"{tag}:" for tag in TAGS)):
        assert word in text
    assert "Write in Chinese" in text
    assert json.loads(text.split("\n")[-1])["title"] == "Reply"


def test_facts_say_only_what_is_known():
    plain = CaptionRequest("clip-7", [b""] * 8, None, {"seconds": 5.0, "visual.camera": None})
    assert prompts.facts(plain) == (
        "id: clip-7\npicture: 8 frames, evenly spaced\nlength in seconds: 5\n"
        "sound: none is attached; say nothing of sound"
    )
    sound = (np.zeros((1, 10), np.float32), 16_000)
    full = CaptionRequest("x", [b""], sound, {"kind": "image", "visual.camera": "pan_left"}, 'she said "hi"')
    assert prompts.facts(full) == (
        "id: x\npicture: one still image\ncamera, measured from optical flow: pan left\nsound: attached\n"
        'speech recognition heard: "she said \\"hi\\""'
    )


def test_sound_is_sent_as_wav(tmp_path, monkeypatch):
    samples = (np.random.default_rng(0).uniform(-1, 1, (2, 4000)) * 0.9).astype(np.float32)
    soundfile.write(tmp_path / "a.flac", samples.T, 8000)
    soundfile.write(tmp_path / "a.wav", samples.T, 8000)
    assert prompts.wav(tmp_path / "a.wav") == (tmp_path / "a.wav").read_bytes()
    (tmp_path / "back.wav").write_bytes(prompts.wav(tmp_path / "a.flac"))
    back, rate = prompts.read_samples(tmp_path / "back.wav")
    assert rate == 8000
    assert np.allclose(back, samples, atol=1e-3)
    monkeypatch.setattr(prompts, "_MAX_AUDIO_BYTES", 1000)
    with pytest.raises(ValueError, match="cut it first"):
        prompts.wav(tmp_path / "a.wav")
