"""The tiny encoder learns to name what it sees and hears, and its words stay as they were."""

import json

import torch

from model.prompt_encoder.senses import word_ids
from model.prompt_encoder.tiny_encoder import build_tiny_encoder
from pipelines.dataset.caption_parts import CaptionParts, ShotCaption, TimedLine
from pipelines.dataset.reader import Clip
from pipelines.training.data.windows import Windows
from pipelines.training.learners import perception
from pipelines.training.learners.perception import teach, words_heard, words_seen

STRUCTURED = "Main subject: a red wood ring\nType: shape, ring\nAction: bounces\nEnvironment: a flat blue background"
HIT = TimedLine(start_s=0.5, end_s=0.6, tag="sfx", text="wood impact", brief="wood impacts")
RAIN = TimedLine(start_s=1.5, end_s=2.3, text="rain", sentence="Rain is heard.", brief="rain")


def clip(short="A red ring bounces, flat blue background.", structured=STRUCTURED, timed=(HIT, RAIN)):
    shot = ShotCaption(end_s=2.3, short=short, structured=structured)
    parts = CaptionParts(shots=[shot], timed=list(timed))
    return Clip(
        key="k", kind="video", width=64, height=64, fps=32.0, frames=74, seconds=2.3, has_audio=True,
        captions=parts.forms(), members={}, caption_parts=json.dumps([parts.model_dump()]),
    )  # fmt: skip


def test_what_is_seen_is_named_in_the_fewest_words():
    assert words_seen(clip(), 0.0, 1.0) == "red ring"
    assert words_seen(clip(short="Nothing much happens."), 0.0, 1.0) == "red wood ring"
    empty = clip(short="Flat blue background.", structured="Environment: a flat blue background")
    assert words_seen(empty, 0.0, 1.0) == "flat blue background"
    assert words_seen(clip(short="Somebody's own words.", structured=None), 0.0, 1.0) == ""


def test_what_is_heard_is_what_is_told_of_the_window():
    assert words_heard(clip(), 0.4, 0.5) == "wood impacts"
    assert words_heard(clip(), 1.6, 0.5) == "rain"
    assert words_heard(clip(), 0.9, 0.5) == "silence"
    assert words_heard(clip(timed=()), 0.0, 0.5) == "", "nobody wrote down what is heard"


class Screens:
    """Windows of one of two colours with one of two tones, as a dataset gives them."""

    fps, sample_rate, frames, seed, has_pixels = 16.0, 44100, 5, 0, True

    def has_sounds(self, samples):
        return True

    def pixels(self, step, slot, count):
        red = step % 2 == 0
        told = clip(*(("A red ring.", STRUCTURED) if red else ("A blue ring.", STRUCTURED.replace("red", "blue"))))
        colour = torch.tensor([1.0, -1.0, -1.0] if red else [-1.0, -1.0, 1.0]).view(1, 3, 1, 1, 1)
        return Windows(colour.expand(1, 3, 5, 32, 32).clone(), (told,), (0.0,), ())

    def sounds(self, step, slot, count, samples):
        tone = torch.sin(torch.arange(samples) * (0.02 if step % 2 else 0.3)).expand(1, 2, -1).clone()
        return Windows(tone, (clip(),), (1.6 if step % 2 else 0.4,), ())


def test_a_few_steps_teach_two_colours_and_two_sounds(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(perception, "PICTURES", 8)
    monkeypatch.setattr(perception, "WINDOWS", 64)
    encoder = build_tiny_encoder(tmp_path)
    before = {name: weight.clone() for name, weight in encoder.model.named_parameters()}
    identity = encoder.identity
    learned = teach(encoder, Screens(), 60)
    assert learned.seen == 1.0
    assert learned.heard == 1.0
    assert "finds, of the words for held-out windows, 1.000 by sight and 1.000 by ear" in capsys.readouterr().out
    changed = {
        name.split(".")[1] for name, weight in encoder.model.named_parameters() if (weight != before[name]).any()
    }
    assert changed == {"visual", "audio_tower"}, "words mean what they did"
    assert encoder.identity != identity


def test_pictures_in_other_colours_are_held_to_their_noun_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(perception, "PICTURES", 8)
    encoder = build_tiny_encoder(tmp_path)
    lessons = perception._Lessons.of(encoder, Screens(), 20)
    references, words, of = lessons.draw(0, 3)
    ring = word_ids(encoder, "ring").tolist()
    others = [at for at, count in enumerate(of) if count > len(words[at])]
    assert len(others) == 4
    assert all(words[at].tolist() == ring for at in others)
    assert all(words[at].tolist()[-1:] == ring and len(words[at]) == 2 for at in range(4))
    shown = {tuple(references[at].images[0].mean((1, 2)).round(decimals=2).tolist()) for at in others}
    assert len(shown) == 4, "each in a colour of its own"
    assert all(map(torch.equal, lessons.draw(0, 3)[1], words)), "a function of seed and step"


def test_captions_that_name_nothing_teach_nothing(tmp_path, capsys):
    class Unnamed(Screens):
        def pixels(self, step, slot, count):
            return Windows(super().pixels(step, slot, count).values, (clip("Somebody's own.", None),), (0.0,), ())

        def has_sounds(self, samples):
            return False

    encoder = build_tiny_encoder(tmp_path)
    identity = encoder.identity
    assert teach(encoder, Unnamed(), 5) == perception.Learned(None, None)
    assert "not taught: no caption names" in capsys.readouterr().out
    assert encoder.identity == identity
