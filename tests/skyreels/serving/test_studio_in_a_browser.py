"""The page as people use it, in headless Chromium: create, paint, watch, play, vote. SCREENSHOTS=folder keeps some."""

import os
import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from skyreels.media.encode import write_video
from skyreels.media.image import write_image
from tests.skyreels.serving.browser import browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")]
OPEN = "document.getElementById({!r}).hidden === false"


@pytest.fixture(scope="module")
def page(address, tmp_path_factory):
    with browser(CHROMIUM, tmp_path_factory.mktemp("browser")) as tab:
        tab.ask("Emulation.setDeviceMetricsOverride", width=1100, height=860, deviceScaleFactor=1, mobile=False)
        tab.open(f"{address}/")
        yield tab


@pytest.fixture
def shot(page):
    def keep(name):
        if "SCREENSHOTS" in os.environ:
            page.screenshot(Path(os.environ["SCREENSHOTS"]) / f"studio-{name}.png")

    return keep


@pytest.fixture
def files(tmp_path):
    """A picture, and a video of moving squares."""
    write_image(tmp_path / "ball.png", np.full((24, 24, 3), 120, np.uint8))
    frames = [np.zeros((48, 64, 3), np.uint8) for _ in range(8)]
    for number, frame in enumerate(frames):
        frame[10:30, 4 * number : 4 * number + 20] = (200, 60, 40)
    write_video(tmp_path / "clip.mp4", frames, 8)
    return tmp_path


def created(page, prompt, arena=""):
    """A job from the form as it stands, to its end."""
    page.click("#tab-create")
    for selector, text in (("[name=prompt]", prompt), ("[name=arena]", arena)):
        page.run(f"document.querySelector('{selector}').value = ''")
        page.fill(selector, text)
    before = page.run("document.querySelectorAll('#job-list > li').length")
    page.click("#request [type=submit]")
    page.until(f"document.querySelectorAll('#job-list > li').length > {before}")
    page.until("document.querySelector('#job-list > li small').textContent.startsWith('completed')")


def test_a_clip_with_a_reference_and_a_painted_mask_is_made_and_played(page, http, files, shot):
    page.click("#add-reference")
    page.choose("#references input[type=file]", files / "ball.png")
    page.choose("#source", files / "clip.mp4")
    page.until("document.getElementById('mask').width === 64")
    pixel = "document.getElementById('mask').getContext('2d').getImageData(8, 20, 1, 1).data[0]"
    page.until(f"{pixel} > 100")  # the video's frame is under the mask
    page.drag("#mask", [(0.2, 0.3), (0.4, 0.5), (0.6, 0.5)])
    page.run("document.getElementById('mask').focus()")
    for _ in range(3):
        page.press("ArrowRight")
        page.press(" ", "Space")
    shot("create")
    created(page, "@ref_1 rolls, red", "ours")
    shot("jobs")
    job = http.get("/v1/videos").json()["data"][0]
    assert job["prompt"] == "@ref_1 rolls, red"
    page.click("#tab-gallery")
    page.until(f"{OPEN.format('gallery')} && document.querySelector('#clip-list video')?.poster.startsWith('blob:')")
    page.run(
        "[...document.querySelectorAll('#clip-list button')].find((b) => b.textContent === 'Load and play').click()"
    )
    page.until("document.querySelector('#clip-list video').currentTime > 0.2")
    shot("gallery")
    assert page.faults == []


def test_nothing_is_painted_until_the_video_that_was_chosen_tells_its_size(page, files):
    page.run("document.getElementById('request').reset()")
    page.click("#tab-create")
    page.choose("#source", files / "clip.mp4")
    page.until("document.getElementById('mask').width === 64")
    page.drag("#mask", [(0.2, 0.3), (0.3, 0.3)])
    assert page.run("document.getElementById('painted').textContent") == "painted at 0.00 s"
    page.choose("#source", files / "ball.png")  # no video, so that its size stays unknown
    for event in ("PointerEvent('pointermove', { buttons: 1 })", "KeyboardEvent('keydown', { key: ' ' })"):
        page.run(f"document.getElementById('mask').dispatchEvent(new {event})")
    assert page.run("document.getElementById('painted').textContent") == ""
    page.choose("#source", files / "clip.mp4")
    page.until("document.getElementById('mask').width === 64")
    assert page.run("document.getElementById('painted').textContent") == ""
    assert page.faults == []


def test_what_is_painted_on_two_frames_is_sent_with_their_times(page, http, files, kept_files):
    page.run("document.getElementById('request').reset(); document.getElementById('references').replaceChildren()")
    page.click("#tab-create")
    page.choose("#source", files / "clip.mp4")
    page.until("document.getElementById('mask').width === 64")
    page.drag("#mask", [(0.2, 0.3), (0.3, 0.3)])
    page.run("const m = document.getElementById('moment'); m.value = 0.5; m.dispatchEvent(new Event('input'))")
    page.drag("#mask", [(0.7, 0.6), (0.8, 0.6)])
    assert page.run("document.getElementById('painted').textContent") == "painted at 0.00, 0.50 s"
    created(page, "red, painted twice")
    job = http.get("/v1/videos").json()["data"][0]["id"]
    video = (files / "clip.mp4").read_bytes()
    sent = (path for path in kept_files.glob(f"videos/{job}/request-0/**/*") if path.is_file() and not path.suffix)
    (painted,) = (path for path in sent if path.read_bytes() != video)
    with av.open(str(painted)) as clip:
        mask = np.stack([frame.to_ndarray(format="gray") > 127 for frame in clip.decode(video=0)])
    assert (mask[0, 14, 16], mask[0, 29, 48]) == (True, False), "the second is not there yet"
    assert (mask[5, 14, 16], mask[5, 29, 48]) == (True, True), "it began as what held"
    assert page.faults == []


def test_what_is_laid_over_a_video_goes_without_a_painted_mask(page, http, files):
    page.run("document.getElementById('request').reset(); document.getElementById('references').replaceChildren()")
    page.choose("#source", files / "clip.mp4")
    page.run("document.querySelector('[name=task]').value = 'remove'")
    created(page, "red without letters")
    job = http.get("/v1/videos").json()["data"][0]
    assert (job["prompt"], job["task"]) == ("red without letters", "removal")
    assert page.faults == []


def test_frames_stand_on_the_time_of_the_clip(page, http, files, shot):
    page.run("document.getElementById('request').reset(); document.getElementById('references').replaceChildren()")
    page.click("#tab-create")
    page.fill("[name=prompt]", "blue with frames")
    page.fill("[name=seconds]", "2")
    page.choose("[name=first_frame]", files / "ball.png")
    page.drag("#timeline", [(0.75, 0.5)])
    page.until("document.querySelectorAll('#keyframes > .row').length === 1")
    assert float(page.run("document.querySelector('[data-of=time]').value")) == pytest.approx(1.5, abs=0.02)
    page.choose("#keyframes input[type=file]", files / "ball.png")
    page.until("document.querySelectorAll('#timeline img').length === 2")
    left = "[...document.querySelectorAll('#timeline img')].map((picture) => parseFloat(picture.style.left))"
    assert page.run(left) == pytest.approx([0, 75], abs=1)
    shot("frames")
    page.click("#request [type=submit]")
    page.until("document.getElementById('job-list').textContent.includes('blue with frames')")
    assert http.get("/v1/videos").json()["data"][0]["seconds"] == "2.0"
    page.click("#tab-create")
    page.run("[...document.querySelectorAll('#keyframes button')].find((b) => b.textContent === 'Remove').click()")
    assert page.run(left) == pytest.approx([0])
    assert page.faults == []


def test_what_the_model_is_asked_is_shown_changed_and_sent(page, http, shot):
    page.run("document.getElementById('request').reset(); document.getElementById('references').replaceChildren()")
    page.click("#tab-create")
    page.fill("[name=prompt]", "a red ball")
    page.click("#enhance")
    page.until("document.querySelector('[name=asked]').value === 'A clip of a red ball.'")
    page.fill("[name=asked]", " It rolls.")
    shot("asked")
    page.click("#request [type=submit]")
    page.until("document.getElementById('job-list').textContent.includes('A clip of a red ball. It rolls.')")
    job = http.get("/v1/videos").json()["data"][0]
    assert job["prompt"] == "A clip of a red ball. It rolls."
    page.click("#tab-create")
    page.fill("[name=prompt]", " falls")
    assert page.run("document.getElementById('rewritten').hidden"), "it is of other words"
    assert page.faults == []


def test_a_vote_waits_until_both_were_played_and_is_blind(page, http, shot):
    page.run("document.getElementById('request').reset(); document.getElementById('references').replaceChildren()")
    page.run("document.getElementById('source').dispatchEvent(new Event('change'))")
    for name in ("ours", "theirs"):
        created(page, "blue, judged", name)
    page.click("#tab-arena")
    page.until("document.getElementById('second').readyState >= 2")
    assert page.run("[...document.querySelectorAll('[data-verdict]')].every((button) => button.disabled)")
    assert "ours" not in page.run("document.getElementById('arena').innerText")
    page.click("#play-both")
    page.until("[...document.querySelectorAll('[data-verdict]')].every((button) => !button.disabled)")
    page.run("document.querySelector('[data-points=second]').value = '5'")
    shot("arena")
    page.click("#rate")
    page.until("document.getElementById('message').textContent === 'your points are counted'")
    page.click("[data-verdict=good]")
    page.until("document.getElementById('message').textContent === 'your vote is counted'")
    vote, points = http.get("/v1/arena/votes").text.splitlines()
    assert '"verdict": "good"' in vote
    assert '"points": 5' in points
    assert page.faults == []


def test_tabs_follow_the_arrow_keys_and_nothing_is_wider_than_a_phone(page, shot):
    page.ask("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True)
    page.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    page.run("document.getElementById('tab-create').click(); document.getElementById('tab-create').focus()")
    for name in ("jobs", "gallery", "arena"):
        page.press("ArrowRight")
        assert page.run(OPEN.format(name))
        assert page.run("document.documentElement.scrollWidth <= innerWidth"), name
    page.press("ArrowRight")
    assert page.run(OPEN.format("create"))
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    dark = page.run("getComputedStyle(document.body).backgroundColor")
    shot("phone")
    page.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
    assert page.run("getComputedStyle(document.body).backgroundColor") != dark
