import json
import re
import zlib
from base64 import b64decode
from dataclasses import replace

import av
import numpy as np
import pytest

from pipelines.synthesis.film import Overlay
from pipelines.synthesis.masks import masks_at
from pipelines.synthesis.sampler import sample_film
from pipelines.synthesis.studio import render, write_film

FILM = sample_film(11, size=(96, 64), seconds=1.5, shots=2, transition="dissolve")


def test_two_renders_write_the_same_bytes(tmp_path):
    for folder in ("a", "b"):
        write_film(FILM, tmp_path / folder, "film", masks=True)
    for name in ("film.mp4", "film.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_another_seed_is_another_film():
    one, other = (next(render(sample_film(seed, size=(64, 64), seconds=0.5)).frames()) for seed in (1, 2))
    assert (one != other).mean() > 0.5


def test_the_file_holds_what_was_rendered(tmp_path):
    annotation = write_film(FILM, tmp_path, "film", crf=8)
    rendered = render(FILM)
    with av.open(str(tmp_path / "film.mp4")) as container:
        shown = [
            frame.reformat(format="rgb24", src_colorspace="ITU709").to_ndarray() for frame in container.decode(video=0)
        ]
    assert len(shown) == annotation["frames"] == FILM.frames
    for decoded, drawn in zip(shown, rendered.frames(), strict=True):
        assert np.abs(decoded.astype(int) - drawn).mean() < 6
    assert json.loads((tmp_path / "film.json").read_text("utf-8"))["captions"] == annotation["captions"]


def test_boxes_and_packed_masks_are_those_of_the_picture():
    annotation = render(FILM, masks=True).annotation
    ready = render(FILM).set
    width, height = FILM.size
    for index in (0, 12, FILM.shot_frames[1] + 1, FILM.frames - 1):
        masks = masks_at(ready, index)
        for name, subject in annotation["subjects"].items():
            box, packed = subject["boxes"][index], subject["masks"][index]
            if name not in masks:
                assert box is None
                assert packed is None
                continue
            bits = np.frombuffer(zlib.decompress(b64decode(packed)), np.uint8)
            mask = np.unpackbits(bits)[: width * height].reshape(height, width).astype(bool)
            assert (mask == masks[name]).all()
            rows, columns = np.nonzero(mask)
            assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_cuts_are_listed_with_their_span():
    cuts = {
        transition: render(sample_film(3, size=(64, 64), seconds=4, shots=2, transition=transition)).annotation["cuts"][
            0
        ]
        for transition in ("cut", "dissolve", "fade")
    }
    for kind, cut in cuts.items():
        assert cut["kind"] == kind
        assert cut["time"] == pytest.approx(cut["frame"] / 24)
    assert cuts["cut"]["first_frame"] == cuts["cut"]["end_frame"] == cuts["cut"]["frame"]
    assert cuts["dissolve"]["first_frame"] == cuts["dissolve"]["frame"] < cuts["dissolve"]["end_frame"]
    assert cuts["fade"]["first_frame"] < cuts["fade"]["frame"] < cuts["fade"]["end_frame"]


def test_captions_name_what_is_seen_read_and_heard():
    film = replace(sample_film(2, size=(64, 64), seconds=3.0, sound="speech"), overlays=(Overlay("text", "Bonjour"),))
    annotation = render(film).annotation
    captions = annotation["captions"]
    for subject in film.shots[0].scene.subjects:
        for form in ("long", "structured"):
            assert f"{subject.colour} {subject.material} {subject.shape}" in captions[form].lower()
        assert f"{subject.colour} {subject.shape}" in captions["short"].lower()
    assert captions["short"].endswith(", speech.")
    line = film.sound.lines[0].text
    assert line in captions["long"]
    assert re.search(f'<dialogue>.+, in \\w+: "{re.escape(line)}"</dialogue>', captions["structured"])
    assert "<text>Bonjour</text>" in captions["structured"]
    assert len(captions["short"]) < len(captions["long"])


@pytest.mark.parametrize(
    ("sound", "present", "absent"),
    [
        ("full", ("<sfx>", "<bgm>"), ("<dialogue>", "<singing>")),
        ("singing", ("<singing>",), ("<dialogue>", "<bgm>")),
        ("music", ("<bgm>",), ("<sfx>", "<singing>")),
    ],
)
def test_structured_captions_tag_every_sound(sound, present, absent):
    film = sample_film(0, size=(64, 64), seconds=3.0, subjects=5, sound=sound)
    structured = render(film).annotation["captions"]["structured"]
    assert all(tag in structured and tag.replace("<", "</") in structured for tag in present)
    assert not any(tag in structured for tag in absent)
