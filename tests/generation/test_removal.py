"""Text and logos over a video are found and made anew; the rest of the picture, and the sound, stay as they were."""

import json

import httpx
import numpy as np
import pytest

from jobs import generate
from model.generation.components import read_spec
from pipelines.generation.media import MediaReader
from pipelines.generation.prepare import prepare
from pipelines.generation.removal import region_mask, with_regions
from pipelines.generation.request import GenerationRequest, Region, RequestError
from pipelines.generation.service import GenerationService, ModelSettings
from skyreels.media.encode import write_video
from skyreels.media.image import read_image, write_image
from skyreels.media.probe import probe
from skyreels.media.sound import decode_audio
from skyreels.serving.client import Client
from skyreels.serving.config import ServingConfig
from tests.overlays.scenes import HEIGHT, WIDTH, badge, lettered, views
from tests.skyreels.serving.conftest import running

FPS, FRAMES, RATE = 12, 37, 44_100
SUBTITLE = range(12, 28)
REGION = {"kind": "text", "box": (0, 0, 9, 9), "start": 0, "end": 1}
TONE = 0.3 * np.sin(np.arange(FRAMES * RATE // FPS) / 30, dtype=np.float32)[None]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Names to files: `laid` has a subtitle for a time and a logo always, `plain` nothing; `mute` is silent."""
    folder, plain, laid = tmp_path_factory.mktemp("clips"), [], []
    for n, view in enumerate(views(1, FRAMES, step=3.0)):
        plain.append(view)
        shown = lettered(view, "We left an hour ago", (90, 235))[0] if n in SUBTITLE else view
        laid.append(badge(shown, 400, 40)[0])
    files = {name: folder / f"{name}.mp4" for name in ("laid", "plain", "mute")}
    for name, shown in (("laid", laid), ("plain", plain), ("mute", laid)):
        sound = {} if name == "mute" else {"audio": TONE, "sample_rate": RATE}
        write_video(files[name], [np.repeat(one[..., None], 3, -1) for one in shown], FPS, crf=12, **sound)
    return files


@pytest.fixture(scope="module")
def reader():
    with MediaReader() as reader:
        yield reader


@pytest.fixture
def ready(model_folder, reader, clips):
    """ready(video, **asked): the prepared call of a removal at the video's own rate."""

    def call(video="laid", **asked):
        request = GenerationRequest(prompt="a wall", video=video, fps=FPS, **{"remove": ("text", "logo"), **asked})
        return prepare(request, clips, read_spec(model_folder), reader)

    return call


def test_what_is_laid_over_is_masked_where_and_while_it_is_there(ready):
    mask = ready(width=320, height=192).media.mask.numpy()
    frames, height, width = mask.shape
    assert frames == FRAMES
    ink = {"text": lettered(np.zeros((HEIGHT, WIDTH), np.uint8), "We left an hour ago", (90, 235))[1]}
    ink["logo"] = badge(np.full((HEIGHT, WIDTH), 99, np.uint8), 400, 40)[1]
    rows, columns = np.arange(height) * HEIGHT // height, np.arange(width) * WIDTH // width
    text, logo = (ink[kind][rows][:, columns] for kind in ("text", "logo"))
    assert mask[:, logo].mean() > 0.98
    assert mask[SUBTITLE.start : SUBTITLE.stop, text].mean() > 0.99
    assert not mask[: SUBTITLE.start - 6, text].any(), "before the subtitle came"
    assert not mask[SUBTITLE.stop + 6 :, text].any(), "after it went"
    assert mask.mean() < 0.12


def test_the_sound_is_the_videos_own_unless_told_otherwise(ready):
    kept = ready()
    assert np.corrcoef(kept.media.audio[0, : RATE * 2], TONE[0, : RATE * 2])[0, 1] > 0.99
    assert ready("mute").clip.audio is None, "what was silent stays silent"
    assert ready(sound=False).clip.audio is None


def test_a_mask_of_the_users_says_where_instead(clips, reader, model_folder, tmp_path):
    hole = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    hole[10:60, 20:90] = 255
    write_image(tmp_path / "hole.png", hole)
    clips = {**clips, "hole": tmp_path / "hole.png"}
    request = GenerationRequest(prompt="a wall", video="plain", mask="hole", remove=("logo",), width=96, height=64)
    call = prepare(request, clips, read_spec(model_folder), reader)
    marked = call.media.mask.numpy()[0]
    rows, columns = np.flatnonzero(marked.any(1)), np.flatnonzero(marked.any(0))
    scale = marked.shape[0] / HEIGHT
    assert rows[[0, -1]].tolist() == pytest.approx([10 * scale, 60 * scale], abs=1)
    assert columns[[0, -1]].tolist() == pytest.approx([20 * scale, 90 * scale], abs=1)
    assert call.media.audio is not None, "and the sound is kept all the same"


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"video": "plain", "remove": ("text", "logo")}, "no text or logo or watermark was found over the video: draw"),
        ({"video": "plain", "remove": ("logo",)}, "no logo or watermark was found"),
        ({"remove": ("text",)}, "give that too"),
        ({"video": "laid", "remove": ("text",), "video_use": "edit"}, "which is no edit"),
        ({"video": "laid", "mask": "x", "regions": [REGION]}, "the mask says where already"),
        ({"video": "laid", "remove": ("text",), "window": 1, "seconds": 2}, "window"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_away_is_told(asked, told, clips, reader, model_folder):
    request = GenerationRequest(prompt="a wall", **asked)
    with pytest.raises(RequestError, match=told):
        prepare(request, clips, read_spec(model_folder), reader)


def test_a_logo_before_a_scene_that_stands_still_wants_a_mask(tmp_path, reader):
    frame = np.repeat(badge(views(2, 1)[0], 400, 40)[0][..., None], 3, -1)
    write_video(tmp_path / "still.mp4", [frame] * 24, FPS)
    request = GenerationRequest(prompt="a wall", video="v", remove=("logo",))
    with pytest.raises(RequestError, match=r"cannot be told from a scene that stands still.*draw a mask"):
        with_regions(request, {"v": tmp_path / "still.mp4"}, reader)


def test_regions_are_pixels_of_the_video_and_seconds():
    region = Region(kind="text", box=(100, 50, 201, 80), start=0.5, end=1.0)
    mask = region_mask((region,), (400, 200), (20, 100, 200), 10)
    expected = np.zeros((20, 100, 200), bool)
    expected[5:11, 25:40, 50:101] = True
    assert np.array_equal(mask, expected)
    with pytest.raises(RequestError, match="cover nothing of the 3 frames"):
        region_mask((region,), (400, 200), (3, 100, 200), 10)


@pytest.mark.slow
def test_the_command_line_tells_what_goes_and_keeps_the_rest(model_folder, tmp_path, capsys):
    before, _ = lettered(views(3, 1, size=(192, 128))[0], "No entry", (30, 100), 0.6)
    before = np.repeat(before[..., None], 3, -1)
    write_image(tmp_path / "before.png", before)
    words = ["--model", str(model_folder), "--prompt", "a wall", "--seed", "3", "--quiet", "--size", "192x128"]
    words += ["--video", str(tmp_path / "before.png"), "--remove", "text", "--output", str(tmp_path / "after.png")]
    assert generate.main(words) == 0
    said = capsys.readouterr().out
    asked = json.loads((tmp_path / "after.json").read_text())["request"]
    (region,) = asked["regions"]
    left, top, right, bottom = map(int, region["box"])
    assert f"removes text at {left},{top} to {right},{bottom}" in said
    after, kept = read_image(tmp_path / "after.png"), np.ones((128, 192), bool)
    kept[top:bottom, left:right] = False
    assert np.array_equal(after[kept], before[kept])
    assert (after[~kept] != before[~kept]).any(-1).mean() > 0.9
    assert GenerationRequest.model_validate({**asked, "remove": asked["remove"]}).regions, "it can be asked again"


@pytest.mark.slow
def test_over_http_the_job_tells_what_was_removed(model_folder, clips, tmp_path):
    service = GenerationService(ModelSettings(folder=str(model_folder)))
    with running(service, ServingConfig(files=str(tmp_path / "served"))) as url:
        with Client(url) as client:
            clip = client("a wall", video=clips["laid"], remove=["text", "logo"], fps=FPS)
            record = json.loads(client.content(clip.video, "record"))
            failed = httpx.post(
                f"{url}/v1/videos", data={"prompt": "x", "remove": "text"}, files={"video": clips["plain"].read_bytes()}
            )
            beside = httpx.post(f"{url}/v1/videos", json={"prompt": "x", "remove": ["subtitles"]})
        facts = clip.video.facts
        assert (facts["task"], {region["kind"] for region in facts["removed"]}) == ("removal", {"text", "logo"})
        assert record["removed"] == facts["removed"]
        clip.save(tmp_path / "clip.mp4")
        heard = decode_audio(tmp_path / "clip.mp4").samples[0, RATE // 2 : RATE * 2]
        assert np.corrcoef(heard, TONE[0, RATE // 2 : RATE * 2])[0, 1] > 0.98
        assert probe(tmp_path / "clip.mp4").video.packets == FRAMES
        assert (failed.status_code, failed.json()["error"]["param"]) == (400, "remove")
        assert "no text was found" in failed.json()["error"]["message"]
        assert beside.json()["error"]["param"].startswith("remove")
