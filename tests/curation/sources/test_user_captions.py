"""Captions that came with the media: found wherever they stand, first in order of precedence, true of each clip."""

import io
import json
import tarfile

import pytest

from pipelines.curation.recipe import CaptionConfig
from pipelines.curation.sources.find import find_sources
from pipelines.curation.sources.user_captions import BadCaption, read_caption, user_caption
from pipelines.synthesis.sampler import sample_film
from pipelines.synthesis.studio import write_film
from skyreels.storage import Storage

STRUCTURED = {"subjects": [{"type": "toy", "appearance": "a blue toy", "is_main": True}], "sfx": ["a squeak"]}
RENDERED = "Main subject: a blue toy\nType: toy\n<sfx>a squeak</sfx>"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "toy.mp4").write_bytes(b"v")
    return tmp_path


def _told(source, start_s=0.0, end_s=5.0, *, fill=False, parts=()):
    clip = {"key": "k", "source_id": source.source_id, "start_s": start_s, "end_s": end_s, "parts": json.dumps(parts)}
    return user_caption(clip, {source.source_id: source.meta}, fill=fill)


def _only(*inputs):
    (source,) = find_sources([str(item) for item in inputs])
    return source


def test_a_text_beside_is_both_short_and_long(folder):
    (folder / "toy.txt").write_text("\ufeffsks_toy slides\n over a carpet \n")
    row = _told(_only(folder))
    assert (row["short"], row["long"]) == ("sks_toy slides over a carpet",) * 2
    assert (row["caption_source"], row["origin"], row["user_forms"]) == ("user", "text", "short,long")
    assert "structured" not in row


def test_a_text_in_the_structured_form_is_structured(folder):
    (folder / "toy.TXT").write_text(RENDERED)
    row = _told(_only(folder / "toy.mp4"))
    assert row["structured"] == RENDERED
    assert json.loads(row["structured_json"])["sfx"] == ["a squeak"]


@pytest.mark.parametrize(
    "said",
    [
        {"captions": {"short": "a", "long": "b", "structured": STRUCTURED}, "long": 13.4, "text": ["SALE"]},
        {"captions": {"short": "a", "long": "b", "structured": RENDERED}},
        {"caption": "b", "captions": {"short": "a", "structured": STRUCTURED}},
        {"caption_short": "a", "caption_long": "b", "caption_structured": json.dumps(STRUCTURED)},
    ],
)
def test_json_beside_may_give_each_form(folder, said):
    (folder / "toy.json").write_text(json.dumps({**said, "licence": "CC0", "boxes": [[[1, 2]]]}))
    source = _only(folder)
    row = _told(source)
    assert (row["short"], row["long"], row["structured"]) == ("a", "b", RENDERED)
    assert source.meta["json"]["licence"] == "CC0"
    assert "boxes" not in source.meta["json"]


@pytest.mark.parametrize("column", ["caption", "text", "txt", "Caption"])
def test_a_column_of_a_manifest(folder, column):
    (folder / "list.csv").write_text(f"path,{column}\ntoy.mp4,a toy\n")
    row = _told(_only(folder / "list.csv"))
    assert (row["short"], row["origin"]) == ("a toy", "text" if column == "txt" else "manifest")


def test_members_of_a_tar(folder):
    with tarfile.open(folder / "x.tar", "w") as tar:
        for name, data in {"k.mp4": b"v", "k.json": b'{"caption_short": "a toy"}', "k.txt": b"a long toy"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    row = _told(_only(folder / "x.tar"))
    assert (row["short"], row["long"], row["origin"]) == ("a toy", "a long toy", "json,text")


def test_of_each_form_the_manifest_comes_first_then_json_then_text(folder):
    (folder / "list.jsonl").write_text('{"path": "toy.mp4", "caption_short": "of the manifest"}')
    (folder / "toy.json").write_text('{"captions": {"short": "of the json", "structured": "a\\nb"}}')
    (folder / "toy.txt").write_text("of the text")
    row = _told(_only(folder / "list.jsonl"))
    assert (row["short"], row["long"], row["structured"]) == ("of the manifest", "of the text", "a\nb")


def test_forms_that_were_not_written_get_the_words_of_those_that_were(folder):
    (folder / "toy.json").write_text(json.dumps({"captions": {"structured": STRUCTURED, "short": "a toy"}}))
    row = _told(_only(folder), fill=True)
    assert (row["short"], row["long"], row["structured"]) == ("a toy", "a toy", RENDERED)
    assert row["user_forms"] == "short,structured"
    assert CaptionConfig().missing_forms == "user"


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("toy.json", '{"short": ', r"toy\.json is not JSON"),
        ("toy.json", '{"caption": ["a", "b"]}', "caption is a list: write it as one text"),
        ("toy.json", '{"caption_structured": {"subjects": [{"type": "x"}]}}', r"structured: subjects\.0\.appearance"),
        ("toy.json", '{"shots": [{"start_s": 3, "end_s": 1, "caption": "x"}]}', "ends at 1 s"),
        ("toy.json", '{"shots": [{"caption": "x"}]}', "a shot has a caption but no start_s"),
        (
            "toy.json",
            '{"fps": 24, "shots": [{"caption": "x", "first_frame": "a"}]}',
            "no first_frame and end_frame that",
        ),
        ("toy.json", '{"fps": "x", "shots": [{"caption": "x", "first_frame": 1}]}', "fps is 'x': write frames per"),
        ("toy.json", "[" * 100_000, "is not JSON: it is nested without end"),
        ("toy.txt", "x" * 30_000, "20000 characters"),
    ],
)
def test_what_cannot_be_used_is_told_and_never_replaced_by_a_guess(folder, name, text, why):
    (folder / name).write_text(text)
    with pytest.raises(BadCaption, match=why):
        _told(_only(folder))


def test_bytes_that_are_no_text_name_file_line_and_remedy(folder):
    (folder / "toy.txt").write_bytes("first\ncafé".encode("cp1252"))
    with pytest.raises(BadCaption, match=r"toy\.txt, line 2: byte 0xe9 is not UTF-8; save the file as UTF-8"):
        _told(_only(folder))


def test_json_that_says_nothing_of_the_picture_is_no_caption(folder):
    said = {"licence": "CC0", "lat": 52.5, "long": "13.4", "short": True}
    (folder / "toy.json").write_text(json.dumps(said))
    source = _only(folder)
    assert _told(source) is None
    assert source.meta["json"] == said


def test_what_is_read_can_be_stored(folder):
    (folder / "toy.json").write_text('{"caption": "half \\ud83d of a smile", "whole": "\\ud83d\\ude00", "score": NaN}')
    source = _only(folder)
    assert json.loads(source.model_dump_json())["meta"]["json"]["whole"] == "\U0001f600"
    assert source.meta["json"]["score"] is None
    assert _told(source)["short"] == "half ? of a smile"


def test_captions_beside_files_on_s3(s3_root):
    store = Storage(s3_root)
    for name, data in {"in/a.mp4": b"v", "in/a.txt": b"a toy", "in/sub/b.mp4": b"v"}.items():
        store.write(name, data)
    first, second = find_sources([f"{s3_root}/in"])
    assert (_told(first)["short"], _told(second)) == ("a toy", None)
    assert first.modified_ns > 0


def test_what_another_run_only_measured_is_no_user_s_caption():
    said = {"captions": {"short": "A square clip.", "caption_source": "measured"}}
    assert read_caption(said, "json") == []
    assert read_caption({"captions": {**said["captions"], "caption_source": "user"}}, "json")


def test_shots_in_seconds_are_cut_to_the_clip(folder):
    shots = [{"start": 0, "end": 3, "caption": "a fox"}, {"start": 3, "end": 9, "caption": "a den"}]
    (folder / "toy.json").write_text(json.dumps({"caption": "a fox, then a den", "shots": shots}))
    source = _only(folder)
    assert [_told(source, *span)["long"] for span in ((0.0, 3.0), (3.0, 8.9))] == ["a fox", "a den"]


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    folder = tmp_path_factory.mktemp("film")
    made = sample_film(9, size=(64, 64), seconds=6, shots=3, subjects=2)
    return write_film(made, folder, "film"), _only(folder)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_clip_of_a_shot_of_a_rendered_film_tells_that_shot_exactly(film, number):
    annotation, source = film
    edges = [0.0, *(cut["time"] for cut in annotation["cuts"]), annotation["frames"] / 24]
    row = _told(source, edges[number], edges[number + 1])
    assert row["structured"] == annotation["shots"][number]["structured"]
    subjects = annotation["shots"][number]["scene"]["subjects"]
    others = [s for n, shot in enumerate(annotation["shots"]) if n != number for s in shot["scene"]["subjects"]]
    for form, named in (("short", "{colour} {shape}"), ("long", "{colour} {material} {shape}")):
        assert all(named.format_map(subject) in row[form].lower() for subject in subjects)
        assert not any(named.format_map(subject) in row[form].lower() for subject in others)
    assert "Shot" not in row["long"]


def test_a_part_of_a_shot_is_told_the_sounds_of_its_time(film):
    annotation, source = film
    start, end = 0.3, 1.4
    heard = [e for e in annotation["audio_events"] if e["kind"] == "sfx" and start <= e["start"] < end]
    told = _told(source, start, end)["structured"]
    for label in {event["label"] for event in heard}:
        times = [f"{event['start'] - start:.2f}" for event in heard if event["label"] == label]
        assert (
            f"<sfx>{label} at {' and '.join([', '.join(times[:-1]), times[-1]] if times[1:] else times)} s</sfx>"
            in told
        )
    assert told.count("<sfx>") == len({event["label"] for event in heard})


def test_shots_that_are_counted_in_frames_are_cut_as_well(film, folder):
    annotation, _ = film
    old = {name: value for name, value in annotation.items() if name != "caption_parts"}
    (folder / "toy.json").write_text(json.dumps(old, default=float))
    row = _told(_only(folder), annotation["cuts"][0]["time"], annotation["cuts"][1]["time"])
    assert row["structured"] == annotation["shots"][1]["structured"]
    assert row["user_forms"] == "structured"


def test_a_joined_clip_is_told_where_all_its_pieces_are(folder):
    for name in ("a", "b"):
        (folder / f"{name}.wav").write_bytes(b"s")
    (folder / "a.txt").write_text("a bell")
    a, b = (source for source in find_sources([str(folder)]) if source.uri.endswith("wav"))
    clip = {"key": "k", "source_id": a.source_id, "start_s": 0.0, "end_s": 2.0,
            "parts": json.dumps([[a.source_id, 0.0, 1.0], [b.source_id, 0.0, 1.0]])}  # fmt: skip
    assert user_caption(clip, {a.source_id: a.meta, b.source_id: b.meta}, fill=True) is None
    (folder / "b.txt").write_text("a horn")
    a, b = (source for source in find_sources([str(folder)]) if source.uri.endswith("wav"))
    row = user_caption(clip, {a.source_id: a.meta, b.source_id: b.meta}, fill=True)
    assert row["short"] == "a bell; then a horn."
