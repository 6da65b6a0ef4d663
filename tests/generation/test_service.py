"""The generator behind the serving engine: every task over HTTP, and the same clip as the command line makes."""

import io
import itertools
import json

import av
import httpx
import numpy as np
import pytest
import torch

from jobs import generate
from model.generation.prepared import Prepared
from model.generation.steps import BaseLatents
from model.generation.wire import from_bytes
from pipelines.generation.service import GenerationService, ModelSettings
from pipelines.generation.translation import generation_request, task_of
from skyreels.config import ConfigError
from skyreels.media.decode import iter_video_frames
from skyreels.media.image import read_image
from skyreels.media.probe import probe
from skyreels.serving.config import ServingConfig
from skyreels.serving.request import VideoRequest
from skyreels.serving.servable import Cancelled, Servable, Work
from tests.skyreels.serving.conftest import running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def http(model_folder, tmp_path_factory):
    service: Servable = GenerationService(ModelSettings(folder=str(model_folder)))
    config = ServingConfig(files=str(tmp_path_factory.mktemp("served")), queue_per_owner=100)
    with running(service, config) as url, httpx.Client(base_url=url, timeout=120) as client:
        yield client


@pytest.fixture
def made(http, tmp_path):
    """made(values, files): the job when it is over, and its clip as a file."""

    def make(values, files=None):
        answer = http.post("/v1/videos", data=values, files=files or {"": b""} if files else None)
        assert answer.status_code == 200, answer.text
        identifier = answer.json()["id"]
        with http.stream("GET", f"/v1/videos/{identifier}/events") as stream:
            stream.read()
        job = http.get(f"/v1/videos/{identifier}").json()
        assert job["error"] is None, job
        path = tmp_path / f"{identifier}.mp4"
        path.write_bytes(http.get(f"/v1/videos/{identifier}/content").content)
        return job, path

    return make


def frames_of(path):
    return np.stack([frame.rgb() for frame in iter_video_frames(path, probe(path))])


REFERENCES = [
    {"type": "image", "tag": "@ball", "source": "ball"},
    {"type": "audio", "tag": "@tone", "source": "tone"},
]
TASKS = {
    "t2v": ({"seconds": "0.8", "size": "48x32"}, {}, (48, 32), 13),
    "shots": (
        {"prompt": None, "shots": json.dumps([{"prompt": p, "seconds": 0.5} for p in ("a red ball", "a blue one")])},
        {},
        (32, 32),
        17,
    ),
    "i2v": ({}, {"input_reference": "picture.png"}, (32, 32), 9),
    "keyframes": (
        {"keyframes": '[{"time": 0.2, "image": "one"}]', "size": "32x32"},
        {"one": "picture.png", "last_frame": "hole.png"},
        (32, 32),
        9,
    ),
    "extend": ({"task": "extend", "seconds": "1"}, {"video": "clip.mp4"}, (32, 32), 17),
    "lead_up": ({"task": "lead_up", "seconds": "1"}, {"video": "clip.mp4"}, (32, 32), 17),
    "edit": ({"task": "edit"}, {"video": "clip.mp4"}, (32, 32), 9),
    "v2a": ({"task": "add_sound"}, {"video": "clip.mp4"}, (32, 32), 9),
    "inpaint": ({"mask_mode": "edit_white"}, {"video": "clip.mp4", "mask": "hole.png"}, (32, 32), 9),
    "a2v": ({}, {"source_audio": "voice.flac"}, (32, 32), 9),
    "r2v": (
        {"prompt": "@ball to @tone", "references": json.dumps(REFERENCES)},
        {"ball": "picture.png", "tone": "voice.flac"},
        (32, 32),
        9,
    ),
}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_makes_a_clip_that_plays(made, media, task):
    values, files, size, frames = TASKS[task]
    parts = {name: (name, (media / file).read_bytes()) for name, file in files.items()}
    asked = {name: value for name, value in {"prompt": "a red ball", **values}.items() if value is not None}
    job, path = made(asked, parts)
    found = probe(path)
    assert (found.video.display_size, found.video.packets) == (size, frames)
    assert found.audio.duration_s == pytest.approx(frames / 16, abs=1e-3)
    assert (job["task"], job["size"], job["frames"]) == (
        "t2v" if task == "shots" else task,
        "{}x{}".format(*size),
        frames,
    )
    assert float(job["seconds"]) == pytest.approx(frames / 16, abs=1e-3)
    assert job["timings"].keys() == {"queue", "base", "decode"}


def test_it_is_the_clip_of_the_command_line(http, made, model_folder, tmp_path):
    job, path = made({"prompt": "a red ball", "seed": "5", "refine": "true", "num_inference_steps": "3"})
    assert (job["seed"], job["size"], job["fps"]) == (5, "64x64", 32)
    assert job["timings"].keys() == {"queue", "base", "refine", "decode"}
    words = ["--model", str(model_folder), "--prompt", "a red ball", "--seed", "5", "--refine", "--steps", "3"]
    assert generate.main([*words, "--output", str(tmp_path / "clip.mp4"), "--quiet"]) == 0
    assert path.read_bytes() == (tmp_path / "clip.mp4").read_bytes()
    record = json.loads((tmp_path / "clip.json").read_text())
    assert {name: record["model"][name] for name in job["provenance"]} == job["provenance"]
    with av.open(str(path)) as clip:
        said = json.loads(clip.metadata["comment"])
    assert said == {"made_by_ai": True, "model": job["provenance"]["transformer"], "seed": 5}
    beside = http.get(f"/v1/videos/{job['id']}/content", params={"variant": "record"}).json()
    assert said.items() <= beside.items()
    assert beside["prompt"] == "a red ball"


SHOTS = [{"prompt": "a red ball", "seconds": 0.7}, {"prompt": "a blue one", "seconds": 0.8}]
WINDOWED = {
    "words": ({}, [], 25, "1.5625", {"queue", "base", "decode"}),
    "refined": ({"refine": "true"}, ["--refine"], 49, "1.5312", {"queue", "base", "refine", "decode"}),
    "a video": ({"task": "extend"}, ["--video", "{m}/clip.mp4"], 25, "1.5625", {"queue", "base", "decode"}),
    "shots": (
        {"prompt": None, "seconds": None, "shots": json.dumps(SHOTS)},
        [],
        25,
        "1.5625",
        {"queue", "base", "decode"},
    ),
}


@pytest.mark.parametrize("case", WINDOWED)
def test_a_clip_in_windows_is_the_one_of_the_command_line(made, model_folder, media, tmp_path, case):
    values, more, frames, seconds, stages = WINDOWED[case]
    asked = {"prompt": "a red ball", "seed": "5", "seconds": "1.5", "window_seconds": "0.8", "overlap_seconds": "0.25"}
    parts = {"video": ("clip.mp4", (media / "clip.mp4").read_bytes())} if case == "a video" else None
    job, path = made({name: value for name, value in (asked | values).items() if value is not None}, parts)
    assert (job["frames"], job["seconds"], job["timings"].keys()) == (frames, seconds, stages)
    (tmp_path / "shots.json").write_text(json.dumps(SHOTS))
    told = (
        ["--shots", str(tmp_path / "shots.json")] if case == "shots" else ["--prompt", "a red ball", "--seconds", "1.5"]
    )
    words = ["--model", str(model_folder), "--seed", "5", *told]
    words += ["--window", "0.8", "--overlap", "0.25", *(word.format(m=media) for word in more)]
    assert generate.main([*words, "--output", str(tmp_path / "clip.mp4"), "--quiet"]) == 0
    assert path.read_bytes() == (tmp_path / "clip.mp4").read_bytes()


def test_several_clips_in_windows_have_seeds_of_their_own(http):
    asked = {"prompt": "x", "seed": 5, "seconds": 1.0, "window_seconds": 0.5, "n": 2}
    clips = http.post("/v1/videos", json=asked).json()["clips"]
    for name in clips:
        http.get(f"/v1/videos/{name}/events")
    jobs = [http.get(f"/v1/videos/{name}").json() for name in clips]
    assert [(job["state"], job["seed"], job["frames"]) for job in jobs] == [("completed", seed, 17) for seed in (5, 6)]
    contents = {http.get(f"/v1/videos/{name}/content").content for name in clips}
    assert len(contents) == 2


def test_windows_whose_fields_contradict_each_other_are_refused_by_their_names(http):
    answer = http.post("/v1/videos", json={"prompt": "x", "seconds": 1, "window_seconds": 0.5, "overlap_seconds": 0.5})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "overlap_seconds")
    answer = http.post("/v1/videos", json={"prompt": "x", "window_seconds": 0.5})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "window_seconds")


def test_a_clip_has_pictures_that_tell_of_it(http, made):
    job, path = made({"prompt": "x"})
    shown = frames_of(path)
    pictures = {}
    for variant in ("thumbnail", "spritesheet"):
        content = http.get(f"/v1/videos/{job['id']}/content", params={"variant": variant})
        file = path.with_suffix(".jpg")
        file.write_bytes(io.BytesIO(content.content).getvalue())
        pictures[variant] = read_image(file)
    assert pictures["spritesheet"].shape == (128, 128, 3)
    places = {"thumbnail": len(shown) // 2, "spritesheet": 0}
    for variant, place in places.items():
        far = [np.abs(pictures[variant][:32, :32].mean(-1) - frame.mean(-1)).mean() for frame in shown]
        assert np.argmin(far) == place, "brightness, for colours are stored coarsely"


@pytest.fixture
def planned(model_folder, tmp_path):
    """planned(**fields of a request): (the plan, work on its base) by a service of its own."""
    service = GenerationService(ModelSettings(folder=str(model_folder)))
    folders = (tmp_path / str(number) for number in itertools.count())

    def plan(step=lambda _: None, **values):
        folder, made = next(folders), next(folders)
        folder.mkdir()
        made.mkdir()
        plan = service.plan(VideoRequest(**{"prompt": "x", **values}), {}, folder)
        return plan, Work("base", {path.name: path for path in plan.files}, made, step)

    plan.service = service
    return plan


def test_bases_of_one_shape_are_sampled_together_as_they_are_alone(planned):
    def stop(_):
        raise Cancelled

    asked = [{"prompt": "a red ball", "seed": 1}, {"prompt": "x", "seed": 2, "step": stop}, {"prompt": "y", "seed": 3}]
    plans = [planned(**values) for values in asked]
    assert len({plan.together["base"] for plan, _ in plans}) == 1
    works = [work for _, work in plans]
    told = planned.service.run_together(works)
    assert [facts is None for facts in told] == [False, True, False]
    for values, together in ((asked[0], works[0]), (asked[2], works[2])):
        _, alone = planned(**values)
        planned.service.run(alone)
        pair = [from_bytes(BaseLatents, (w.folder / "latents.safetensors").read_bytes()) for w in (together, alone)]
        for name, latents in pair[1].streams.items():
            torch.testing.assert_close(pair[0].streams[name], latents, rtol=1e-3, atol=1e-3)
    with pytest.raises(Cancelled):
        planned.service.run_together([planned(step=stop)[1] for _ in range(2)])


def test_a_plan_of_another_seed_is_what_that_seed_plans(planned, tmp_path):
    first, _ = planned(seed=4)
    asked, _ = planned(seed=5)
    (tmp_path / "other").mkdir()
    other = planned.service.reseeded(first, 5, tmp_path / "other")
    assert other.files[0].read_bytes() == asked.files[0].read_bytes()
    assert (other.facts, other.together) == (asked.facts, asked.together)


def test_as_many_go_together_as_fit_beside_each_other(model_folder, planned):
    plan, _ = planned()
    demand = planned.service._demand
    needed = demand.demand(from_bytes(Prepared, plan.files[0].read_bytes())).memory
    room = (demand.weights + 3.5 * (needed - demand.weights)) / 1e9
    service = GenerationService(ModelSettings(folder=str(model_folder), memory_gb=room))
    assert service.plan(VideoRequest(prompt="x"), {}, plan.files[0].parent).together["base"].most == 3


@pytest.mark.parametrize(
    ("values", "field", "told"),
    [
        ({"size": "50x32"}, None, "50"),
        ({"seconds": 61}, None, "60"),
        ({"guidance_scale": 1000}, "guidance_scale", "100"),
        ({"prompt": "x" * 20_001}, "prompt", "20,000"),
    ],
)
def test_what_the_model_cannot_do_is_refused_before_it_is_queued(http, values, field, told):
    answer = http.post("/v1/videos", json={"prompt": "x", **values})
    error = answer.json()["error"]
    assert (answer.status_code, told in error["message"]) == (400, True), error
    if field is not None:
        assert error["param"] == field


def test_errors_name_fields_as_they_were_sent_and_no_path_of_the_server(http, media):
    files = {"source_audio": ("a.png", (media / "picture.png").read_bytes())}
    error = http.post("/v1/videos", data={"prompt": "x"}, files=files).json()["error"]
    assert (error["param"], error["code"]) == ("source_audio", "invalid_media")
    files = {"video": (media / "clip.mp4").read_bytes(), "mask": (media / "picture.png").read_bytes()}
    error = http.post("/v1/videos", data={"prompt": "x", "mask_mode": "edit_white"}, files=files).json()["error"]
    assert error["param"] == "mask"
    assert "/" not in error["message"]


def test_what_is_asked_is_what_the_generator_is_asked():
    asked = VideoRequest(
        prompt="@a", first_frame="m0", seconds="2", num_inference_steps=7, audio=False, size="64x32", seed=3,
        references=[{"type": "image", "tag": "@a", "source": name} for name in ("m1", "m2")],
    )  # fmt: skip
    request = generation_request(asked)
    assert (request.image, request.seconds, request.steps, request.sound) == ("m0", 2.0, 7, False)
    assert (request.width, request.height, request.references) == (64, 32, {"@a": ("m1", "m2")})
    assert task_of(asked) == "i2v"
    with pytest.raises(ConfigError, match="less than or equal to 60"):
        generation_request(VideoRequest(prompt="x", seconds=61))


def test_a_plan_tells_what_is_asked_in_the_end(structured_folder, tmp_path):
    def facts(fps=None, **changes):
        request = VideoRequest(prompt="A red ball falls with a thud", seconds=0.5, fps=fps)
        service = GenerationService(ModelSettings(folder=str(structured_folder), **changes))
        return service.plan(request, {}, tmp_path).facts

    assert facts()["asked"] == "Main subject: A red ball\nType: ball\nAction: falls\n<sfx>a thud</sfx>"
    assert not {"asked", "remarks"} & facts(enhancer=None).keys()
    assert "trained on 16" in facts(fps=30)["remarks"][0]


def test_words_are_asked_as_they_are_where_a_request_says_so_and_what_they_become_is_told(structured_folder, tmp_path):
    words = "A red ball falls with a thud"
    service = GenerationService(ModelSettings(folder=str(structured_folder)))

    def asked(**fields):
        (prepared,) = service.plan(VideoRequest(seconds=0.5, **fields), {}, tmp_path).files
        return from_bytes(Prepared, prepared.read_bytes()).prompt

    becomes = service.asked(words)
    assert becomes == asked(prompt=words) != words
    assert asked(prompt=words, enhance_prompt=False) == words
    assert asked(prompt=becomes) == asked(prompt=becomes, enhance_prompt=False) == becomes


def test_a_preview_changes_nothing_and_resembles_the_clip(model_folder, tmp_path):
    made, shown = {}, []
    for name, after in (("plain", 1e9), ("shown", 0.0)):
        folder = tmp_path / name
        folder.mkdir()
        service = GenerationService(ModelSettings(folder=str(model_folder), preview_after_s=after))
        plan = service.plan(VideoRequest(prompt="x", seed=3, num_inference_steps=4), {}, folder)
        (folder / "made").mkdir()
        files = {path.name: path for path in plan.files}
        service.run(Work("base", files, folder / "made", lambda _: None, shown.append))
        made[name] = (folder / "made/latents.safetensors").read_bytes()
    assert made["plain"] == made["shown"]
    assert [picture.shape for picture in shown][:1] == [(32, 32, 3)]


def test_a_service_compiles_elementwise_work_where_its_settings_say_so(model_folder, compilations, tmp_path):
    for compiled in (False, True):
        service = GenerationService(ModelSettings(folder=str(model_folder), compiled=compiled))
        folder = tmp_path / str(compiled)
        folder.mkdir()
        plan = service.plan(VideoRequest(prompt="a red ball"), {}, folder)
        service.run(Work("base", {path.name: path for path in plan.files}, folder, step=lambda _: None))
        assert set(compilations) == ({"modulated_norm", "gated_residual", "rotate"} if compiled else set())
