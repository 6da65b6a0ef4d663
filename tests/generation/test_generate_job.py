"""The command line, from arguments to files that another decoder plays."""

import functools
import json
import shutil
from contextlib import nullcontext, suppress

import av
import numpy as np
import pytest
import torch
from PIL import Image

from jobs import generate
from model.generator import Generator
from pipelines.generation.media import MediaReader
from skyreels.media.decode import iter_video_frames
from skyreels.media.encode import write_video
from skyreels.media.image import read_image, write_image
from skyreels.media.probe import probe
from skyreels.media.sound import decode_audio
from skyreels.storage import Storage

pytestmark = pytest.mark.slow

LOADED = functools.cache(Generator.from_pretrained)


@pytest.fixture(scope="module")
def reader():
    with MediaReader() as reader:
        yield reader


@pytest.fixture
def run(model_folder, media, reader, tmp_path, monkeypatch, capsys):
    """Runs the job on words in which {m} is the media folder; what it gives is (output, record) or the error."""
    monkeypatch.setattr(generate.Generator, "from_pretrained", LOADED)
    monkeypatch.setattr(generate, "MediaReader", lambda: nullcontext(reader))  # one child process for all tests

    def call(*words, output="clip.mp4", fails=False):
        words = [word.format(m=media) for word in words]
        given = ["--model", str(model_folder), "--output", str(tmp_path / output), "--seed", "3", "--quiet", *words]
        code = generate.main(given)
        said = capsys.readouterr()
        assert code == int(fails), said.err
        if fails:
            assert not (tmp_path / output).exists()
            return said.err
        assert f"clip    {tmp_path / output} (" in said.out
        return tmp_path / output, json.loads((tmp_path / output).with_suffix(".json").read_text())

    return call


def frames_of(path):
    return np.stack([frame.rgb() for frame in iter_video_frames(path, probe(path))])


TASKS = {
    "words": ([], (32, 32), 9),
    "negative": (["--negative-prompt", "blue"], (32, 32), 9),
    "length and size": (["--seconds", "0.8", "--size", "48x32"], (48, 32), 13),
    "image": (["--image", "{m}/picture.png"], (32, 32), 9),
    "first and last": (["--image", "{m}/picture.png", "--last-image", "{m}/hole.png", "--size", "48x32"], (48, 32), 9),
    "keyframes": (["--keyframe", "0.2={m}/picture.png", "--keyframe", "0.4={m}/hole.png"], (32, 32), 9),
    "extend": (["--video", "{m}/clip.mp4", "--seconds", "1"], (32, 32), 17),
    "lead up": (["--video", "{m}/clip.mp4", "--video-use", "lead_up", "--seconds", "1"], (32, 32), 17),
    "edit": (["--video", "{m}/clip.mp4", "--video-use", "edit"], (32, 32), 9),
    "add sound": (["--video", "{m}/clip.mp4", "--video-use", "add_sound"], (32, 32), 9),
    "inpaint": (["--video", "{m}/clip.mp4", "--mask", "{m}/hole.png"], (32, 32), 9),
    "picture for sound": (["--audio", "{m}/voice.flac"], (32, 32), 9),
    "refine": (["--refine"], (64, 64), 17),
}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_makes_a_clip_that_plays(run, task):
    words, size, frames = TASKS[task]
    path, record = run("--prompt", "a red ball", *words)
    found = probe(path)
    fps = 32 if task == "refine" else 16
    assert found.video.display_size == size
    assert (found.video.packets, found.video.fps_float) == (frames, fps)
    assert found.audio.duration_s == pytest.approx(frames / fps, abs=1e-3)
    assert frames_of(path).shape == (frames, size[1], size[0], 3)
    assert record["clip"]["frames"] == frames
    assert record["request"]["prompt"] == "a red ball"


def test_several_clips_are_those_of_their_seeds(run, model_folder, tmp_path):
    words = ["--prompt", "a red ball", "--steps", "2"]
    alone, _ = run(*words, "--seed", "4", output="alone.mp4")
    place = ["--model", str(model_folder), "--output", str(tmp_path / "clip.mp4"), "--quiet"]
    assert generate.main([*words, *place, "--seed", "3", "--clips", "2"]) == 0
    assert [json.loads((tmp_path / f"clip-{n}.json").read_text())["request"]["seed"] for n in (1, 2)] == [3, 4]
    assert (tmp_path / "clip-2.mp4").read_bytes() == alone.read_bytes()
    assert (tmp_path / "clip-1.mp4").read_bytes() != alone.read_bytes()
    assert not (tmp_path / "clip.mp4").exists()


def test_av1_with_opus_shows_what_h264_does(run):
    plain, _ = run("--prompt", "x", output="plain.mp4")
    made, _ = run("--prompt", "x", "--codec", "av1")
    with av.open(str(made)) as container:
        assert [stream.codec.canonical_name for stream in container.streams] == ["av1", "opus"]
        assert json.loads(container.metadata["comment"])["made_by_ai"]
    shown = [frames_of(path).astype(float) for path in (plain, made)]
    assert shown[0].shape == shown[1].shape
    assert np.corrcoef(*(frames.ravel() for frames in shown))[0, 1] > 0.9, "noise, which both lose a part of"


def test_sound_alone_and_one_picture_follow_the_suffix(run):
    for output in ("clip.wav", "clip.flac"):
        path, _ = run("--prompt", "rain", "--seconds", "1", output=output)
        heard = decode_audio(path)
        assert heard.samples.shape == (2, round(17 / 16 * 44_100))
        assert heard.samples.std() > 0
    path, record = run("--prompt", "a ball", "--size", "48x32", output="clip.png")
    assert read_image(path).shape == (32, 48, 3)
    assert "fps" not in record["clip"]
    path, _ = run("--prompt", "a ball", "--no-sound")
    assert probe(path).audio is None


def test_inpainting_makes_the_white_part_and_keeps_the_black_one(run, media):
    path, _ = run("--prompt", "grass", "--video", "{m}/hole.png", "--mask", "{m}/hole.png", output="clip.png")
    before, after = read_image(media / "hole.png"), read_image(path)
    white = before[..., 0] == 255
    assert np.array_equal(after[~white], before[~white])
    assert not np.array_equal(after[white], before[white])


def test_what_is_kept_of_a_refined_clip_is_the_source_enlarged(run, media, tmp_path):
    source = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    write_image(tmp_path / "source.png", source)
    given = ["--prompt", "grass", "--video", str(tmp_path / "source.png"), "--mask", "{m}/hole.png"]
    path, record = run(*given, "--refine", output="refined.png")
    assert record["request"]["refine"]
    enlarged = np.asarray(Image.fromarray(source).resize((64, 64), Image.Resampling.BILINEAR)).astype(int)
    off = np.abs(read_image(path).astype(int) - enlarged).max(-1)
    hole = np.zeros((64, 64), bool)
    hole[15:49, 7:41] = True  # twice 8:24 by 4:20, and the pixels that are blended from both sides of its border
    assert off[~hole].max() <= 1
    assert off[16:48, 8:40].mean() > 10


def test_a_large_source_is_shrunk_with_its_mask(run, media, tmp_path):
    big = np.kron(read_image(media / "hole.png"), np.ones((3, 6, 1), np.uint8))
    write_image(tmp_path / "big.png", big)
    write_video(tmp_path / "big.mp4", [big] * 9, 16)
    path, _ = run("--prompt", "grass", "--video", str(tmp_path / "big.mp4"), "--mask", str(tmp_path / "big.png"))
    made = frames_of(path)
    assert made.shape == (9, 16, 48, 3)  # the model's 32 x 32 pixels in the shape of the source, in whole tokens
    assert made[:, :, 32:].max() < 40, "the black right part was to be kept"


def test_references_of_every_kind_reach_the_model(run):
    given = ["@who={m}/picture.png", "@who={m}/hole.png", "@where={m}/clip.mp4", "@voice={m}/voice.flac"]
    made = []
    for left_out in (None, "@who={m}/hole.png"):
        words = [word for reference in given if reference != left_out for word in ("--reference", reference)]
        made.append(run("--prompt", "@who in @where says it as @voice", *words, output=f"{len(made)}.mp4"))
    assert [len(files) for files in made[0][1]["request"]["references"].values()] == [2, 1, 1]
    assert not np.array_equal(frames_of(made[0][0]), frames_of(made[1][0]))
    scales = ["--reference-guidance-scale", "@who=2", "--reference-guidance-scale", "@voice=1.5"]
    words = [word for reference in given for word in ("--reference", reference)]
    guided, record = run("--prompt", "@who in @where says it as @voice", *words, *scales, output="guided.mp4")
    assert record["request"]["reference_guidance_scale"] == {"@who": 2.0, "@voice": 1.5}
    assert not np.array_equal(frames_of(made[0][0]), frames_of(guided))
    told = run("--prompt", "@who", "--reference", given[0], "--reference", given[2], fails=True)
    assert "the prompt does not mention @where" in told


def test_shots_and_structured_prompts_come_from_yaml(run, tmp_path):
    (tmp_path / "shots.yaml").write_text(
        "- {prompt: wide shot, seconds: 0.5}\n- {prompt: {picture: close-up, sfx: [thud]}, seconds: 0.5}\n"
    )
    path, record = run("--shots", str(tmp_path / "shots.yaml"), "--no-sound")
    assert probe(path).video.packets == 17
    assert record["request"]["prompt"][1]["prompt"]["sfx"] == ["thud"]
    (tmp_path / "one.yaml").write_text("picture: a ball\nsfxx: [thud]\n")
    assert "prompt.StructuredPrompt.sfxx" in run("--structured", str(tmp_path / "one.yaml"), output="x.mp4", fails=True)


def test_a_seed_gives_the_same_bytes_and_the_record_makes_them_again(run):
    first, record = run("--prompt", "a ball")
    again, _ = run("--prompt", "a ball", output="again.mp4")
    other, _ = run("--prompt", "a ball", "--seed", "4", output="other.mp4")
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()
    assert record["request"]["seed"] == 3
    assert set(record["model"]) >= {"transformer", "video_codec", "audio_codec", "encoder", "folder"}


REFUSED = {
    "missing": (["--image", "nowhere.png"], "image: nowhere.png: unreadable"),
    "not a picture": (["--image", "{m}/voice.flac"], "voice.flac (flac) holds audio: give image"),
    "not media": (["--video", __file__], "playlist_refused"),
    "image under a clip's tag": (
        ["--reference", "@a={m}/clip.mp4", "--reference", "@a={m}/hole.png"],
        "references @a: ",
    ),
    "mask size": (
        ["--video", "{m}/clip.mp4", "--mask", "{m}/picture.png"],
        "picture.png is 96x64 pixels and the video 32x32: draw it at that size",
    ),
    "mask alone": (["--mask", "{m}/hole.png"], "a mask needs the video"),
    "both": (["--video", "{m}/clip.mp4", "--image", "{m}/hole.png"], "cannot be combined with image"),
    "size": (["--size", "40x32"], "multiples of (16, 16)"),
    "steps": (["--steps", "0"], "'steps': Input should be greater than or equal to 1"),
    "guidance": (["--guidance-scale", "nan"], "'guidance_scale': Input should be a finite number"),
    "fps": (["--fps", "inf"], "'fps': Input should be a finite number"),
    "huge": (["--size", "8192x8192", "--seconds", "60"], "billion pixels, at most 4.3 are made"),
    "lora scale": (["--lora", "x", "--lora-scale", "nan"], "lora_scale is nan"),
    "scales": (["--reference-guidance-scale", "2", "--reference-guidance-scale", "@a=2"], "one for all references"),
    "scale of nothing": (["--reference-guidance-scale", "@b=2"], "@b"),
    "keyframe after the end": (["--keyframe", "9=" + "{m}/hole.png"], "9.0 s lies outside the clip of 0.5625 s"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_mistakes_are_named_with_what_to_do(run, mistake):
    words, told = REFUSED[mistake]
    assert told in run("--prompt", "@a", *words, fails=True)


def test_a_suffix_that_contradicts_the_rest_is_refused(run):
    assert "'clip.gif' must end in" in run("--prompt", "a", "--output", "clip.gif", fails=True)
    told = run("--prompt", "a", "--video", "{m}/clip.mp4", output="clip.png", fails=True)
    assert "clip.mp4 is a video, and one picture is asked for" in told
    assert "picture is switched off" in run("--prompt", "a", "--image", "{m}/hole.png", output="clip.wav", fails=True)


def test_files_that_are_no_records_are_never_replaced(run, tmp_path, media):
    shots = tmp_path / "shots.json"
    shots.write_text('[{"prompt": "a ball", "seconds": 0.5}]')
    assert "shots.json would replace what the clip is made from" in run(
        "--shots", str(shots), output="shots.mp4", fails=True
    )
    for text in ('{"prompt": "mine"}', "not JSON", "[1]"):
        (tmp_path / "mine.json").write_text(text)
        told = run("--prompt", "a", output="mine.mp4", fails=True)
        assert "mine.json is there and no record of a clip, and would be replaced" in told
        assert (tmp_path / "mine.json").read_text() == text
    assert shots.read_text() == '[{"prompt": "a ball", "seconds": 0.5}]'
    picture = tmp_path / "a.png"
    picture.write_bytes((media / "hole.png").read_bytes())
    link = tmp_path / "b.png"
    link.symlink_to(picture)
    before = picture.read_bytes()
    words = ["--model", "m", "--prompt", "a", "--video", str(picture), "--output"]
    for output in (picture, link):
        assert generate.main([*words, str(output)]) == 1
        assert picture.read_bytes() == before
    path, _ = run("--prompt", "a")
    again, _ = run("--prompt", "b")  # a record of ours may be written anew
    assert path == again


class Unused:
    def __init__(self):
        pytest.fail("a file was read, or a model, before the output was tried")


def test_the_output_is_tried_before_anything_is_read(tmp_path, monkeypatch, capsys, small_disk):
    monkeypatch.setattr(generate, "MediaReader", Unused)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.mp4").mkdir()
    with (small_disk / "full").open("wb", buffering=0) as full, suppress(OSError):
        while True:
            full.write(b"x" * 4096)
    places = {
        tmp_path / "file/clip.mp4": "nothing can be written to",
        "/proc/clip.mp4": "nothing can be written to /proc",
        small_disk / "clip.mp4": "nothing can be written to small (No space left on device)",
        tmp_path / "folder.mp4": "folder.mp4 is a folder: name a file",
    }
    for output, told in places.items():
        assert generate.main(["--model", "nowhere", "--prompt", "a", "--output", str(output)]) == 1
        assert f"error: output: {told}" in capsys.readouterr().err.replace(f"{tmp_path}/", "")


def test_a_bucket_that_is_not_there_is_told_before_anything_is_read(s3_root, monkeypatch, capsys):
    monkeypatch.setattr(generate, "MediaReader", Unused)
    assert generate.main(["--model", "nowhere", "--prompt", "a", "--output", f"{s3_root}-not/clip.mp4"]) == 1
    assert f"nothing can be written to {s3_root}-not" in capsys.readouterr().err


def test_a_clip_and_its_record_are_published_in_a_bucket(model_folder, s3_root, monkeypatch):
    monkeypatch.setattr(generate.Generator, "from_pretrained", LOADED)
    words = ["--model", str(model_folder), "--prompt", "a", "--quiet", "--output", f"{s3_root}/a/clip.mp4"]
    assert generate.main(words) == 0
    assert Storage(s3_root).names() == ["a/clip.json", "a/clip.mp4"]


@pytest.mark.parametrize("part", ["transformer", "video_codec", "encoder"])
def test_a_model_that_lacks_a_part_is_an_error(model_folder, tmp_path, capsys, part):
    shutil.copytree(model_folder, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / part)
    words = ["--model", str(tmp_path / "model"), "--prompt", "a", "--output", str(tmp_path / "a.mp4")]
    assert generate.main(words) == 1
    assert f"{part} is missing, and model_index.json names it" in capsys.readouterr().err


def test_weights_that_are_no_numbers_end_in_an_error_and_write_nothing(model_folder, tmp_path, capsys):
    generator = Generator.from_pretrained(model_folder)
    with torch.no_grad():
        generator.components.transformer.get_parameter("video.head.weight")[0, 0] = float("nan")
    generator.save_pretrained(tmp_path / "model")
    output = tmp_path / "out/a.mp4"
    words = ["--model", str(tmp_path / "model"), "--prompt", "a", "--quiet", "--output", str(output)]
    assert generate.main(words) == 1
    told = capsys.readouterr().err
    assert "error: the video after step 1 of 2 of the base stage holds NaN" in told
    assert "transformer/video.head.weight" in told
    assert list(output.parent.iterdir()) == []


def test_progress_is_lines_where_there_is_no_terminal(model_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generate.Generator, "from_pretrained", LOADED)
    words = ["--model", str(model_folder), "--prompt", "a", "--steps", "30", "--output", str(tmp_path / "a.mp4")]
    assert generate.main(words) == 0
    said = capsys.readouterr().err
    assert "\r" not in said
    lines = said.splitlines()
    assert lines[0].startswith("base: 0/30 steps")
    assert lines[-1].startswith("base: 30/30 steps")


def test_wrong_media_are_refused_before_a_model_is_looked_for(run, capsys, media):
    words = ["--model", "nowhere", "--prompt", "a", "--image", str(media / "voice.flac"), "--output", "clip.mp4"]
    assert generate.main(words) == 1
    assert "holds audio" in capsys.readouterr().err
    assert generate.main([*words[:4], "--output", "clip.mp4"]) == 1
    assert "not the folder of a generator" in capsys.readouterr().err


def test_what_is_asked_in_the_end_is_said_and_recorded(structured_folder, tmp_path, capsys):
    given = ["--model", str(structured_folder), "--seed", "3", "--quiet", "--prompt", "A red ball falls with a thud"]
    assert generate.main([*given, "--output", str(tmp_path / "a.png"), "--fps", "30"]) == 0
    told = "Main subject: A red ball\nType: ball\nAction: falls\n<sfx>a thud</sfx>"
    assert f"asked   {told}".replace("\n", "\n        ") in capsys.readouterr().out
    record = json.loads((tmp_path / "a.json").read_text())
    assert (record["prompt"], record["request"]["prompt"]) == (told, "A red ball falls with a thud")
    assert generate.main([*given, "--output", str(tmp_path / "b.mp4"), "--no-enhance", "--fps", "32"]) == 0
    said = capsys.readouterr().out
    assert "asked" not in said.split("clip ")[0].split("note")[0]
    assert "note    fps: 32 frames per second are asked for, and the model was trained on 16" in said
    record = json.loads((tmp_path / "b.json").read_text())
    assert record["prompt"] == "A red ball falls with a thud"
    assert record["remarks"][0].startswith("fps: 32")


def test_elementwise_work_is_compiled_where_it_is_asked_for(run, compilations):
    plain, _ = run("--prompt", "x", output="plain.mp4")
    assert not compilations
    compiled, _ = run("--prompt", "x", "--compiled", output="compiled.mp4")
    assert set(compilations) == {"modulated_norm", "gated_residual", "rotate"}
    assert np.array_equal(frames_of(plain), frames_of(compiled))
