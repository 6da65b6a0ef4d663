"""What goes wrong for real: processes that are killed, files that are hostile or damaged, a store that is away."""

import base64
import io
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import av
import httpx
import numpy as np
import pytest
from PIL import Image

from skyreels.media.encode import write_video
from skyreels.serving.config import ServingConfig
from skyreels.serving.dispatch.dispatcher import Dispatcher
from skyreels.serving.dispatch.housekeeping import sweep
from skyreels.serving.dispatch.work import work_on
from skyreels.serving.store.artifacts import Artifacts, new_id
from skyreels.serving.store.jobs import JobStore
from skyreels.serving.store.leases import Leases
from skyreels.serving.store.records import NewJob, State
from skyreels.storage import Storage
from tests.plain_http import HTTP
from tests.skyreels.serving.clips import Clips
from tests.skyreels.serving.conftest import running
from tests.skyreels.serving.faulty import failing

SERVER = """
import sys
from pathlib import Path
from skyreels.serving.config import ServingConfig
from skyreels.serving.server import serve
from tests.skyreels.serving.clips import Clips

config = ServingConfig(files=sys.argv[1], port=0, lease_s=2, grace_s=float(sys.argv[2]))
serve(Clips(Path(sys.argv[1]) / "log"), config, lambda url, keyed: print(url, flush=True))
"""


@pytest.fixture
def start(tmp_path):
    """`start(grace_s)`: (process, url) of a service of its own over one folder."""
    processes = []

    def run(grace_s=30):
        words = [sys.executable, "-c", SERVER, str(tmp_path / "files"), str(grace_s)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": "."})
        processes.append(process)
        url = process.stdout.readline().strip()
        assert url, "the service did not start"
        return process, url

    yield run
    for process in processes:
        process.kill()
        process.wait()


def at_progress(url, job, least):
    until(lambda: HTTP.get(f"{url}/v1/videos/{job}").json()["progress"] >= least)


def until(holds):
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["base", "refine"])
def test_a_killed_service_goes_on_where_it_was_when_it_is_started_again(start, tmp_path, stage):
    process, url = start()
    jobs = [HTTP.post(f"{url}/v1/videos", json={"prompt": f"slow red {n}"}).json()["id"] for n in range(2)]
    at_progress(url, jobs[0], 12 if stage == "base" else 62)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, url = start()
    for job in jobs:
        until(lambda job=job: HTTP.get(f"{url}/v1/videos/{job}").json()["status"] == "completed")
        assert HTTP.get(f"{url}/v1/videos/{job}/content").status_code == 200
    log = (tmp_path / "files/log").read_text().splitlines()
    runs = {name: log.count(f"{name} slow red 0") for name in ("base", "refine")}
    assert runs == ({"base": 2, "refine": 1} if stage == "base" else {"base": 1, "refine": 2})
    numbers = [event.number for event in store_at(tmp_path).events(jobs[0])]
    assert numbers == list(range(1, len(numbers) + 1))


def store_at(tmp_path):
    return JobStore(f"sqlite:///{tmp_path}/files/jobs.db")


@pytest.mark.slow
def test_a_service_that_is_asked_to_end_finishes_what_runs(start, tmp_path):
    process, url = start(grace_s=30)
    job = HTTP.post(f"{url}/v1/videos", json={"prompt": "slow"}).json()["id"]
    at_progress(url, job, 12)
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    assert store_at(tmp_path).job("local", job).state is State.QUEUED, "its stage is committed, the next one waits"
    assert store_at(tmp_path).job("local", job).stage == "refine"


@pytest.mark.slow
def test_what_is_not_done_in_time_is_given_back_and_costs_no_attempt(start, tmp_path):
    process, url = start(grace_s=0)
    job = HTTP.post(f"{url}/v1/videos", json={"prompt": "slow"}).json()["id"]
    at_progress(url, job, 12)
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    left = store_at(tmp_path).job("local", job)
    assert (left.state, left.stage, left.attempts, left.progress >= 12) == (State.QUEUED, "base", 0, True)


@pytest.fixture
def place(tmp_path):
    """(store, artifacts) of a test of its own."""
    store = JobStore(f"sqlite:///{tmp_path}/jobs.db")
    yield store, Artifacts(Storage(str(tmp_path / "videos")))
    store.close()


def accepted(store, artifacts, tmp_path, prompt="red"):
    job = new_id()
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"prompt": prompt, "size": "32x32", "seconds": 1, "fps": 4}))
    return store.accept(NewJob(job, "me", {}, {}, Clips.stages, (artifacts.keep(job, plan),)))


def test_two_dispatchers_share_the_work_and_commit_each_stage_once(place, tmp_path):
    store, artifacts = place
    jobs = [accepted(store, artifacts, tmp_path) for _ in range(6)]
    clips = Clips(tmp_path / "log")
    both = [Dispatcher(store, artifacts, clips, [["base"], ["refine"]]) for _ in range(2)]
    for dispatcher in both:
        dispatcher.start()
    until(lambda: store.counts()[State.COMPLETED] == 6)
    for dispatcher in both:
        dispatcher.stop(10)
    assert len((tmp_path / "log").read_text().splitlines()) == 12
    assert all(store.job("me", job.id).attempts == 2 for job in jobs)


def test_a_worker_that_was_taken_for_dead_commits_nothing(place, tmp_path):
    store, artifacts = place
    job = accepted(store, artifacts, tmp_path, "slow red")
    now = [time.time()]
    store.clock = lambda: now[0]
    late = Leases(store, "late").claim(["base"])
    working = threading.Thread(
        target=work_on, args=(late, Leases(store, "late"), artifacts, Clips(), threading.Event())
    )
    now[0] += 31
    fresh = Leases(store, "fresh").claim(["base"])
    working.start()
    work_on(fresh, Leases(store, "fresh"), artifacts, Clips(), threading.Event())
    working.join()
    made = [file.place for file in store.files(job.id) if file.stage == "base"]
    assert made == [f"{job.id}/base-2/latents.npy"]


def test_a_file_that_has_changed_on_disk_is_noticed_before_it_is_used(place, tmp_path):
    store, artifacts = place
    job = accepted(store, artifacts, tmp_path)
    leases = Leases(store, "w")
    work_on(leases.claim(["base"]), leases, artifacts, Clips(), threading.Event())
    (latents,) = (file for file in store.files(job.id) if file.stage == "base")
    path = tmp_path / "videos" / latents.place
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    for _ in range(3):
        work_on(leases.claim(["refine"]), leases, artifacts, Clips(), threading.Event())
    failed = store.job("me", job.id)
    assert failed.state is State.FAILED
    assert "is not what was stored" in failed.error_message


def test_a_full_disk_ends_an_attempt_and_not_the_worker(place, small_disk, tmp_path):
    store, _ = place
    artifacts = Artifacts(Storage(str(small_disk)))
    job = accepted(store, artifacts, tmp_path)
    (small_disk / "ballast").write_bytes(bytes(900_000))
    with pytest.raises(OSError, match="No space"):
        (small_disk / "more").write_bytes(bytes(900_000))
    leases = Leases(store, "w")
    work_on(leases.claim(["base"]), leases, artifacts, Clips(), threading.Event())
    waiting = store.job("me", job.id)
    assert (waiting.state, waiting.stage_attempts) == (State.QUEUED, 1)
    assert "No space" in waiting.error_message
    for name in ("ballast", "more"):
        (small_disk / name).unlink(missing_ok=True)
    work_on(leases.claim(["base"]), leases, artifacts, Clips(), threading.Event())
    assert store.job("me", job.id).stage == "refine"


def test_files_go_with_what_is_over(place, tmp_path):
    store, artifacts = place
    failing, good = (accepted(store, artifacts, tmp_path, prompt) for prompt in ("refuse", "red"))
    leases = Leases(store, "w")
    while (lease := leases.claim(Clips.stages)) is not None:
        work_on(lease, leases, artifacts, Clips(), threading.Event())
    sweep(store, artifacts)
    assert artifacts.jobs() == {good.id}
    assert store.job("me", failing.id).state is State.FAILED
    store.clock = lambda: time.time() + 8 * 86400
    sweep(store, artifacts)
    assert (artifacts.jobs(), store.job("me", good.id).state) == (set(), State.EXPIRED)
    assert list((tmp_path / "videos").iterdir()) == []


def test_a_bucket_holds_the_files_of_jobs_and_loses_them_with_the_jobs(s3_root, tmp_path):
    config = ServingConfig(files=f"{s3_root}/serve", database=f"sqlite:///{tmp_path}/jobs.db", grace_s=5)
    store, artifacts = config.open_store(), config.open_artifacts()
    with running(Clips(), config) as url, httpx.Client(timeout=60) as client:  # the bucket is in this process as well
        sent = client.post(f"{url}/v1/files", files={"file": red_picture()}).json()["id"]
        job = client.post(f"{url}/v1/videos", json={"prompt": "red", "first_frame": sent}).json()["id"]
        until(lambda: client.get(f"{url}/v1/videos/{job}").json()["status"] == "completed")
        whole = client.get(f"{url}/v1/videos/{job}/content").content
        part = client.get(f"{url}/v1/videos/{job}/content", headers={"range": "bytes=5-20"})
        assert (part.status_code, part.content) == (206, whole[5:21])
        assert artifacts.jobs() == {sent, job}
        client.delete(f"{url}/v1/files/{sent}")
        client.delete(f"{url}/v1/videos/{job}")
        sweep(store, artifacts)
    assert artifacts.jobs() == set()
    store.close()


@pytest.mark.slow
@pytest.mark.parametrize(("lease_s", "attempts"), [(60, 2), (1.5, 3)])
def test_a_store_that_is_away_for_a_while_loses_no_job(tmp_path, lease_s, attempts):
    """Within the lease what was made is committed when it is back; past it another attempt is made."""
    config = ServingConfig(files=str(tmp_path), lease_s=lease_s, grace_s=5)
    with running(Clips(), config) as url, httpx.Client(base_url=url, timeout=60) as client:
        job = client.post("/v1/videos", json={"prompt": "slow red"}).json()["id"]
        until(lambda: client.get(f"/v1/videos/{job}").json()["progress"] >= 12)
        database = sqlite3.connect(tmp_path / "jobs.db", timeout=30)
        database.execute("ALTER TABLE jobs RENAME TO away")
        database.commit()
        refused = client.get(f"/v1/videos/{job}")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")
        assert client.post("/v1/videos", json={"prompt": "x"}).status_code == 503
        time.sleep(3)  # its stage ends meanwhile
        database.execute("ALTER TABLE away RENAME TO jobs")
        database.commit()
        database.close()
        until(lambda: client.get(f"/v1/videos/{job}").json()["status"] == "completed")
        told = client.get(f"/v1/videos/{job}").json()
        assert (told["attempts"], client.get("/readyz").status_code) == (attempts, 200)
        with httpx.stream("GET", f"{url}/v1/videos/{job}/events") as events:
            states = [json.loads(line[6:])["state"] for line in events.iter_lines() if line.startswith("data: ")]
        assert states.count("completed") == 1


@pytest.mark.slow
def test_a_bucket_that_fails_half_of_its_calls_loses_no_job(s3_root, s3_endpoint, tmp_path, monkeypatch):
    draw = random.Random(7)
    config = ServingConfig(files=f"{s3_root}/serve", database=f"sqlite:///{tmp_path}/jobs.db", grace_s=5)
    with failing(s3_endpoint, lambda: draw.random() < 0.5) as (url, counts):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with running(Clips(), config) as url, httpx.Client(base_url=url, timeout=120) as client:
            jobs = [client.post("/v1/videos", json={"prompt": f"red {n}"}).json()["id"] for n in range(2)]
            told = {}
            for job in jobs:
                until(lambda job=job: client.get(f"/v1/videos/{job}").json()["stage"] is None)
                told[job] = client.get(f"/v1/videos/{job}").json()
                content = client.get(f"/v1/videos/{job}/content").content
                with av.open(io.BytesIO(content)) as clip:
                    assert sum(1 for _ in clip.decode(video=0)) == 8
                client.delete(f"/v1/videos/{job}")
    assert {(job["status"], job["attempts"]) for job in told.values()} == {("completed", 2)}, "no attempt was lost"
    assert counts["failed"] > counts["all"] / 3


def red_picture():
    buffer = io.BytesIO()
    Image.new("RGB", (16, 12), (200, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def playlist(tmp_path):
    (tmp_path / "secret.ts").write_bytes(b"G" * 188)
    return b"#EXTM3U\n#EXTINF:1,\nfile://" + str(tmp_path / "secret.ts").encode() + b"\n#EXT-X-ENDLIST\n"


def concatenation(tmp_path):
    return b"ffconcat version 1.0\nfile part_0\n"


def bomb(tmp_path):
    """A little file of huge frames."""
    with av.open(str(tmp_path / "bomb.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 8192, 4320, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((4320, 8192, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return (tmp_path / "bomb.mp4").read_bytes()


def long(tmp_path):
    write_video(tmp_path / "long.mp4", (np.zeros((16, 16, 3), np.uint8) for _ in range(70)), 1)
    return (tmp_path / "long.mp4").read_bytes()


def wide(tmp_path):
    Image.new("1", (12_000, 12_000)).save(tmp_path / "wide.png")
    return (tmp_path / "wide.png").read_bytes()


ATTACKS = {
    "playlist": (playlist, "source_video", "playlist_refused"),
    "concat": (concatenation, "source_video", "playlist_refused"),
    "bomb": (bomb, "source_video", "scale it down"),
    "long": (long, "source_video", "too_long"),
    "wide picture": (wide, "first_frame", "too_many_pixels"),
    "script": (lambda _: b"<svg onload='x'/>", "first_frame", "playlist_refused"),
    "nothing": (lambda _: b"", "first_frame", "empty_file"),
    "noise": (lambda _: bytes(range(256)) * 9, "first_frame", "unknown_container"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_media_are_refused_before_anything_is_queued(http, tmp_path, attack):
    make, field, told = ATTACKS[attack]
    data = make(tmp_path)
    values = {"prompt": "x"} | ({"task": "edit"} if field == "source_video" else {})
    before = len(http.get("/v1/videos").json()["data"])
    answers = [
        http.post("/v1/videos", data=values, files={field: ("clip.mp4", data, "video/mp4")}),
        http.post("/v1/videos", json={**values, field: "data:video/mp4;base64," + base64.b64encode(data).decode()}),
    ]
    for answer in answers:
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["code"]) == (400, field, "invalid_media"), error
        assert told in error["message"]
        assert "/tmp" not in error["message"]
    assert len(http.get("/v1/videos").json()["data"]) == before


@pytest.mark.parametrize("name", ["../x", "a/b", "A", "", ".x", "x" * 70, "a\0", "é"])
def test_no_name_but_ours_becomes_a_path(place, tmp_path, name):
    _, artifacts = place
    file = tmp_path / "x.bin"
    file.write_bytes(b"x")
    for job, stage in ((name, ""), (new_id(), name or "../y")):
        with pytest.raises(ValueError, match="plain lower-case words"):
            artifacts.keep(job, file, stage=stage)
    assert not (tmp_path / "videos").exists()
