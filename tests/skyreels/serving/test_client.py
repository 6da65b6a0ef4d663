"""Our own client against a service on loopback: the generator's names, and jobs that it does not lose."""

import inspect
import io
import itertools

import av
import numpy as np
import pytest
from PIL import Image

from model.generation.prepared import Media, prepare
from model.generator import Generator
from skyreels.media.encode import write_video
from skyreels.serving.client import Client, JobFailed, RequestFailed
from skyreels.serving.request import VideoRequest
from tests.skyreels.serving.faulty import failing


@pytest.fixture
def client(address):
    with Client(address) as client:
        yield client


def picture(path, colour="red"):
    Image.new("RGB", (16, 12), colour).save(path)
    return path


def test_a_call_ends_in_a_clip(client, tmp_path):
    told = []
    clip = client("a green room", seconds=2, size=(64, 96), seed=5, on_progress=told.append)
    with av.open(str(clip.save(tmp_path / "clip.mp4"))) as video:
        assert sum(1 for _ in video.decode(video=0)) == 16
        assert (video.streams.video[0].width, video.streams.video[0].height) == (96, 64)
    assert (clip.video.progress, clip.video.facts["seed"]) == (100, 5)
    assert [event["number"] for event in told] == list(range(1, len(told) + 1))
    assert told[-1]["state"] == "completed"
    thumbnail = client.download(clip.video, tmp_path / "small.jpg", "thumbnail")
    assert Image.open(thumbnail).size == (96, 64)


def test_several_clips_come_in_the_order_of_their_seeds(client):
    clips = client.several("a green room", 3, seed=5)
    assert [clip.video.facts["seed"] for clip in clips] == [5, 6, 7]
    assert {clip.video.id for clip in clips} == set(clips[0].video.clips)
    assert list(client("red").video.clips) == [client.videos(limit=1)[0].id]
    with pytest.raises(JobFailed) as failed:
        client.several("refuse", 2)
    assert len(failed.value.video.clips) == 2


def test_media_are_paths_bytes_uploads_and_earlier_clips(client, tmp_path):
    first, last = picture(tmp_path / "first.png"), io.BytesIO()
    Image.new("RGB", (16, 12)).save(last, "PNG")
    upload = client.upload(first)
    made = client.create("x", image=first, last_image=last.getvalue(), keyframes=[(0.5, upload)])
    assert made.facts["task"] == "i2v"
    clip = client("red", seconds=1)
    for use in ("extend", "edit"):
        assert client.wait(client.create("green", video=clip.video, video_use=use)).state == "completed"
    mask = {"type": "bbox", "box": [0, 0, 8, 8]}
    assert client.wait(client.create("green", video=clip.data, mask=mask)).state == "completed"
    white = picture(tmp_path / "mask.png", "white")
    assert client.wait(client.create("green", video=clip.data, mask=white)).state == "completed"


def test_a_list_of_shots_is_a_prompt(client):
    made = client.create([{"prompt": "red", "seconds": 1}, {"prompt": "blue", "seconds": 1}])
    assert made.facts["prompt"] == "red\nblue"


def test_references_are_told_by_their_tags(client, tmp_path):
    ball, side = picture(tmp_path / "ball.png"), picture(tmp_path / "side.jpg")
    write_video(tmp_path / "walk.mp4", (np.zeros((16, 16, 3), np.uint8) for _ in range(4)), 4)
    made = client.create("@ball as in @walk", references={"@ball": [ball, side], "@walk": tmp_path / "walk.mp4"})
    assert client.wait(made).state == "completed"
    with pytest.raises(ValueError, match="@ball: whether it is an image"):
        client.create("@ball", references={"@ball": b"x"})


def test_what_is_refused_says_why_and_what_fails_says_how_it_ended(client):
    with pytest.raises(RequestFailed, match="both sides must be even") as refused:
        client.create("x", size=(63, 64))
    assert (refused.value.status, refused.value.field, refused.value.code) == (400, "size", "invalid_value")
    with pytest.raises(RequestFailed, match="'speed' is no field here"):
        client.create("x", speed=2)
    with pytest.raises(JobFailed, match="this clip does not fit") as failed:
        client("refuse")
    assert failed.value.code == "out_of_memory"


def test_a_job_is_watched_cancelled_listed_and_forgotten(client):
    video = client.create("slow red", metadata={"shot": "1"})
    for event in client.events(video):
        if event["state"] == "running":
            client.cancel(video)
    assert client.video(video).state == "cancelled"
    assert video.id in [found.id for found in client.videos(limit=3)]
    client.delete(video)
    with pytest.raises(RequestFailed, match="there is no video"):
        client.video(video.id)
    assert [model["id"] for model in client.models()] == ["clips"]


def test_answers_that_are_lost_make_no_second_job_and_lose_no_event(address):
    turns = itertools.cycle([False, True])  # the list, and every second call from there on, is answered
    with failing(address, lambda: next(turns), status=503, reaches=True) as (url, counts), Client(url) as client:
        before = {video.id for video in client.videos(limit=100)}
        made = client.create("brief red")
        told = list(client.events(made))
        assert {video.id for video in client.videos(limit=100)} - before == {made.id}
    assert [event["number"] for event in told] == list(range(1, len(told) + 1))
    assert counts["failed"] >= 3, "the job, its events, the list"


def test_it_takes_what_the_generator_takes():
    """Of both calls the names are the same; `enhance` and `picture` are the service's to say."""
    from skyreels.serving import client

    ours = {client._NAMES.get(name, name) for name in client._NAMES} | set(VideoRequest.model_fields)
    named = {name for kind in (Generator.__call__, prepare) for name in inspect.signature(kind).parameters}
    named |= set(Media.__dataclass_fields__)
    left_out = {"self", "asked", "more", "generator", "callback_on_step_end", "output_type", "spec"}
    left_out |= {"enhance", "picture", "audio_references"}
    assert {client._NAMES.get(name, name) for name in named - left_out} <= ours
