"""What the models are shown: the right frames of the right clip, the right sound, and a row for every clip."""

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile

from pipelines.curation.annotators import (
    EmbeddingWorker,
    before_selection,
    caption_frames,
    caption_layer,
    caption_request,
    caption_row,
    clip_sound,
    embedding_layer,
    sampled_frames,
    transcript_layer,
)
from pipelines.curation.captions.requests import CaptionError, CaptionResult
from pipelines.curation.embeddings.descriptor import Descriptor
from pipelines.curation.pool import tables
from pipelines.curation.recipe import AsrConfig, CaptionConfig, EmbeddingConfig, Recipe
from pipelines.curation.records import Clip, Kind
from pipelines.dataset.captions import Caption, StructuredCaption
from skyreels.media.encode import write_flac, write_video
from skyreels.shards import open_shards
from skyreels.storage import Storage

FRAMES, BITS = 61, 8
SIZE = (256, 128)  # width, height


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """A film whose frames carry their number as black and white columns, a picture, a sound, a clip without files."""
    folder = tmp_path_factory.mktemp("annotators")
    tone = 0.5 * np.sin(np.arange(44_100) * 0.05, dtype=np.float32)
    write_video(folder / "film.mp4", (_numbered(i) for i in range(FRAMES)), Fraction(24), crf=12)
    write_flac(folder / "film.flac", np.stack([tone, -tone]), 44_100)
    reds = {f"f{i}.jpg": cv2.imencode(".jpg", np.full((64, 96, 3), (0, 0, 60 * i + 60), np.uint8))[1] for i in range(3)}
    still = cv2.imencode(".jpg", _numbered(5)[..., ::-1])[1].tobytes()
    store = Storage(str(folder))
    with open_shards(store.sub("pool"), "shards/p") as shards:
        shards.add("film", {"mp4": folder / "film.mp4", "flac": folder / "film.flac",
                            **{name: data.tobytes() for name, data in reds.items()}})  # fmt: skip
        shards.add("sound", {"flac": folder / "film.flac"})
        shards.add("still", {"jpg": still})
    film = Clip(key="film", source_id="s", kind=Kind.VIDEO, end_s=FRAMES / 24, width=SIZE[0], height=SIZE[1],
                fps=24.0, frames=FRAMES, has_audio=True, scores={"visual.camera": "static", "audio.class": "speech"},
                transcript="hello there")  # fmt: skip
    still = Clip(key="still", source_id="s", kind=Kind.IMAGE, width=SIZE[0], height=SIZE[1], frames=1)
    sound = Clip(key="sound", source_id="s", kind=Kind.AUDIO, end_s=1.0, has_audio=True)
    bare = Clip(key="bare", source_id="s", kind=Kind.VIDEO, end_s=1.0, width=8, height=8)
    rows = {row["key"]: row for row in tables.clip_rows("part", [film, still, sound, bare], shards.members)}
    return store.sub("pool"), rows


def _numbered(index):
    """(H, W, 3): column b is white where bit b of the number is set."""
    bits = [(index >> b) & 1 for b in range(BITS)]
    return (
        np.repeat(np.array(bits, np.uint8) * 200 + 20, SIZE[0] // BITS)[None, :, None].repeat(SIZE[1], 0).repeat(3, 2)
    )


def _number_of(jpeg):
    gray = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE)
    columns = np.array_split(gray.mean(axis=0), BITS)
    return sum(1 << b for b, column in enumerate(columns) if column[len(column) // 2] > 120)


@pytest.mark.parametrize("count", [1, 2, 8, 61])
def test_a_captioner_sees_frames_at_even_times(pool, count):
    store, rows = pool
    shown = caption_frames(rows["film"], CaptionConfig(frames=count, short_side=128), store)
    numbers = [_number_of(jpeg) for jpeg in shown]
    middles = (np.arange(count) + 0.5) * FRAMES / count - 0.5
    assert len(numbers) == count
    assert np.abs(np.array(numbers) - middles).max() <= 0.5


def test_asked_for_more_frames_than_there_are_it_sees_each_once(pool):
    store, rows = pool
    shown = caption_frames(rows["film"], CaptionConfig(frames=200, short_side=64), store)
    assert [_number_of(jpeg) for jpeg in shown] == list(range(FRAMES))


def test_caption_frames_are_made_small_and_never_larger(pool):
    store, rows = pool
    for side, expected in ((64, (64, 128)), (500, (128, 256))):
        (jpeg,) = caption_frames(rows["film"], CaptionConfig(frames=1, short_side=side), store)
        assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape[:2] == expected


def test_of_an_image_the_image_and_of_sound_nothing(pool):
    store, rows = pool
    assert [_number_of(jpeg) for jpeg in caption_frames(rows["still"], CaptionConfig(), store)] == [5]
    assert caption_frames(rows["sound"], CaptionConfig(), store) == []


def test_a_request_carries_frames_sound_scores_and_transcript(pool):
    store, rows = pool
    request = caption_request(rows["film"], CaptionConfig(backend="http", frames=3), store)
    assert (request.key, len(request.frames), request.transcript) == ("film", 3, "hello there")
    samples, rate = request.audio
    assert (samples.shape, rate) == ((2, 44_100), 44_100)
    assert request.measurements["visual.camera"] == "static"
    assert request.measurements["seconds"] == pytest.approx(FRAMES / 24)


def test_sound_is_kept_back_where_the_recipe_says_so(pool):
    store, rows = pool
    assert caption_request(rows["film"], CaptionConfig(backend="http", send_audio=False), store).audio is None
    assert caption_request(rows["still"], CaptionConfig(backend="http"), store).audio is None


def test_the_measured_captioner_is_shown_numbers_alone(pool, tmp_path):
    _, rows = pool
    request = caption_request(rows["film"], CaptionConfig(), Storage(str(tmp_path / "no pool is read")))
    assert request.measurements["visual.camera"] == "static"
    assert (len(request.frames), request.audio) == (0, None)


def test_caption_rows_are_flat_and_carry_what_is_wrong():
    caption = Caption(short="A fox.", long="A fox runs.", structured=StructuredCaption(sfx=["steps"]),
                      caption_source="model", model="m")  # fmt: skip
    row = caption_row(CaptionResult("k", caption, None, issues=("too short", "no subject")))
    assert (row["key"], row["error"], row["issues"]) == ("k", None, "too short; no subject")
    assert StructuredCaption.parse(row["structured"]) == caption.structured
    failed = caption_row(CaptionResult("k", None, CaptionError("the server is down", "start it")))
    assert failed.keys() == {"key", "error"}
    assert "the server is down" in failed["error"]


def test_sampled_frames_come_in_order_as_rgb(pool):
    store, rows = pool
    frames = sampled_frames(rows["film"], store)
    assert [frame.shape for frame in frames] == [(64, 96, 3)] * 3
    assert np.abs(np.array([frame[..., 0].mean() for frame in frames]) - [60, 120, 180]).max() < 4
    assert max(frame[..., 2].mean() for frame in frames) < 4


@pytest.mark.parametrize(("draft_side", "height"), [(None, 400), (201, 400), (200, 200), (64, 100), (50, 50)])
def test_a_picture_is_decoded_no_larger_than_it_has_to_be(tmp_path, draft_side, height):
    rng = np.random.default_rng(1)
    picture = cv2.resize(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8), (600, 400), interpolation=cv2.INTER_CUBIC)
    coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    with open_shards(Storage(str(tmp_path)), "p") as shards:
        shards.add("still", {"jpg": coded})
    clip = Clip(key="still", source_id="s", kind=Kind.IMAGE, width=600, height=400, frames=1)
    row = tables.clip_rows("part", [clip], shards.members)[0]
    (shown,) = sampled_frames(row, Storage(str(tmp_path)), draft_side)
    assert shown.shape == (height, height * 3 // 2, 3)
    whole = Descriptor()([cv2.cvtColor(cv2.imdecode(np.frombuffer(coded, np.uint8), 1), cv2.COLOR_BGR2RGB)])
    if draft_side == Descriptor.draft_side or height >= Descriptor.draft_side:
        assert float(Descriptor()([shown]) @ whole) > 0.995


def test_sound_is_read_as_it_was_written(pool):
    store, rows = pool
    samples, rate = clip_sound(rows["sound"], store)
    written, _ = soundfile.read(Path(store.root).parent / "film.flac", dtype="float32")
    assert rate == 44_100
    assert np.array_equal(samples, written.T)


def test_embeddings_answer_for_every_clip_also_without_frames(pool):
    store, rows = pool
    clips = [rows["bare"], rows["film"], rows["still"]]
    answers = {row["key"]: row for row in EmbeddingWorker(EmbeddingConfig(), store)(clips)}
    assert answers.keys() == {"bare", "film", "still"}
    assert answers["bare"]["error"] == "no frame of it was sampled"
    for key in ("film", "still"):
        expected = Descriptor()(sampled_frames(rows[key], store))
        assert answers[key]["embedding"] == pytest.approx(expected.tolist(), abs=1e-6)
        assert answers[key]["embedding_by"] == Descriptor.identity
    assert "visual.aesthetic" not in answers["film"]


def test_clips_without_any_frame_are_answered_as_well(pool):
    store, rows = pool
    assert [row["error"] for row in EmbeddingWorker(EmbeddingConfig(), store)([rows["bare"]])] == [
        "no frame of it was sampled"
    ]


def test_layers_are_for_the_clips_they_can_answer(pool, tmp_path):
    _, rows = pool
    root = Storage(str(tmp_path))
    embeds = embedding_layer(EmbeddingConfig(), root)
    hears = transcript_layer(AsrConfig(model="w"), root)
    assert {key for key, row in rows.items() if embeds.wants(row)} == {"film", "still", "bare"}
    assert {key for key, row in rows.items() if hears.wants(row)} == {"film"}
    assert [layer.name for layer in before_selection(Recipe(), root)] == ["embeddings"]
    assert caption_layer(CaptionConfig(backend="none"), root) is None


@pytest.mark.parametrize(
    "changes", [{"model": "other"}, {"frames": 4}, {"short_side": 100}, {"send_audio": False}, {"backend": "http"}]
)
def test_what_changes_captions_makes_another_layer(tmp_path, changes):
    root = Storage(str(tmp_path))
    first = caption_layer(CaptionConfig(backend="transformers", model="m"), root)
    other = caption_layer(CaptionConfig(**{"backend": "transformers", "model": "m", **changes}), root)
    patient = caption_layer(CaptionConfig(backend="transformers", model="m", timeout_s=5, concurrency=9), root)
    assert first.identity != other.identity
    assert first.identity == patient.identity
