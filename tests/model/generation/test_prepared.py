"""What a call is refused for before any network runs, and that no weights are needed to say so."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from model.codecs.oobleck import OobleckAudioCodec
from model.codecs.tiny_audio import TinyAudioCodec, TinyAudioConfig
from model.codecs.wan import WanVideoCodec
from model.conditioning import AudioReference, ImageReference
from model.generation.components import Components, read_spec
from model.generation.prepared import prepare
from model.generation.prompts import Shot
from model.prompt_encoder.tiny_encoder import build_tiny_encoder

NAN, INF = math.nan, math.inf
PICTURE = np.zeros((32, 32, 3), np.float32)
PICTURE[3, 4] = NAN
IMAGE, SOUND = ImageReference("@a", [torch.zeros(3, 8, 8)]), AudioReference("@b", torch.zeros(2, 20_000))


@pytest.fixture(scope="module")
def spec(build):
    return build().components.spec


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"guidance_scale": NAN}, "guidance scales must be finite"),
        ({"audio_guidance_scale": INF}, "guidance scales must be finite"),
        ({"reference_guidance_scale": {"@a": NAN}}, "guidance scales must be finite"),
        ({"guidance_rescale": NAN}, "guidance rescale is nan"),
        ({"fps": NAN}, "fps is nan"),
        ({"fps": -1}, "fps is -1"),
        ({"seconds": INF}, "seconds is inf"),
        ({"seconds": 1e9}, "billion pixels, at most 4.3 are made"),
        ({"size": (2**20, 2**20)}, "billion pixels"),
        ({"size": (40, 32)}, r"multiples of \(16, 16\)"),
        ({"num_inference_steps": 0}, "0 sampling steps"),
        ({"shift": 0.0}, "timestep shift is 0"),
        ({"image": PICTURE}, "image holds NaN"),
        ({"video": PICTURE[None]}, "video holds NaN"),
        ({"audio": torch.full((2, 9000), NAN)}, "audio holds NaN"),
        ({"keyframes": [(9.0, np.zeros((8, 8, 3), np.uint8))]}, "9.0 s lies outside the clip"),
        ({"keyframes": [(NAN, np.zeros((8, 8, 3), np.uint8))]}, "nan s lies outside the clip"),
        ({"references": [ImageReference("@a", [torch.full((3, 8, 8), INF)])]}, "reference @a holds NaN or infinite"),
        ({"audio_references": [AudioReference("@a", torch.zeros(2, 10))]}, "@a is shorter than one latent"),
        ({"reference_guidance_scale": {"@b": 2.0}}, "names @b, but the references are none"),
        ({"picture": False, "refine": True}, "no picture is generated"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_no_network_should_see_is_refused(spec, asked, told):
    with pytest.raises(ValueError, match=told):
        prepare(spec, "@a", **asked)


def test_shots_have_lengths(spec):
    for seconds in (NAN, INF, 0.0, -1.0):
        with pytest.raises(ValueError, match=r"shot 2 lasts .*: give it a length above 0"):
            prepare(spec, [Shot("wide", 1.0), Shot("close", seconds)])


def test_arguments_that_there_are_not_are_errors(spec):
    with pytest.raises(TypeError, match=r"there is no argument imgae: .*image"):
        prepare(spec, "x", imgae=None)


def test_a_large_clip_is_refused_before_it_is_allocated(spec):
    before = torch.ones(1)  # torch is warm
    with pytest.raises(ValueError, match="billion pixels"):
        prepare(spec, "x", size=(2**16, 2**16), seconds=1e6, refine=True)
    assert before.item() == 1


def test_bytes_stay_bytes(spec):
    frames = np.random.default_rng(0).integers(0, 256, (9, 40, 48, 4), np.uint8)
    prepared = prepare(spec, "x", video=frames, video_use="edit")
    assert prepared.media.video.dtype == torch.uint8
    assert np.array_equal(prepared.media.video.numpy(), frames[..., :3])
    assert (prepared.clip.height, prepared.clip.width) == (32, 48)


@pytest.mark.parametrize(
    ("given", "scale"),
    [
        ({"video_use": "edit"}, 2.0),
        ({"mask": np.ones((32, 32), bool)}, 2.0),
        ({"video_use": "edit", "guidance_scale": 7.0}, 7.0),
        ({"video_use": "extend"}, 5.0),
        ({"video_use": "add_sound"}, 5.0),
        ({"video": None}, 5.0),
    ],
)
def test_what_changes_a_video_is_guided_by_a_scale_of_its_own(spec, given, scale):
    """Where the model has one, and the call says nothing."""
    asked = {"video": np.zeros((9, 32, 32, 3), np.uint8), **given}
    for usual, expected in ((None, given.get("guidance_scale", 5.0)), (2.0, scale)):
        sampling = dataclasses.replace(spec.config.sampling, guidance_scale=5.0, edit_guidance_scale=usual)
        config = dataclasses.replace(spec.config, sampling=sampling)
        assert prepare(dataclasses.replace(spec, config=config), "x", **asked).scales.video == expected


@pytest.mark.parametrize(
    ("given", "scale"),
    [
        ({}, 5.0),
        ({"references": [IMAGE]}, 3.0),
        ({"references": [IMAGE], "guidance_scale": 7.0}, 7.0),
        ({"audio_references": [SOUND]}, 5.0),
        ({"references": [IMAGE], "video": np.zeros((9, 32, 32, 3), np.uint8), "video_use": "edit"}, 2.0),
    ],
)
def test_pictures_that_are_referred_to_are_guided_by_a_scale_of_their_own(spec, given, scale):
    """Where the model has one, and the call says nothing; an edit's goes before it."""
    words = " ".join(["x", *(one.tag for name in ("references", "audio_references") for one in given.get(name, ()))])
    for usual, expected in ((None, scale if scale in (2.0, 7.0) else 5.0), (3.0, scale)):
        scales = {"guidance_scale": 5.0, "edit_guidance_scale": 2.0, "referred_guidance_scale": usual}
        config = dataclasses.replace(spec.config, sampling=dataclasses.replace(spec.config.sampling, **scales))
        assert prepare(dataclasses.replace(spec, config=config), words, **given).scales.video == expected


def test_a_folder_says_what_a_model_takes_without_its_weights(build, tmp_path):
    made = build(build_tiny_encoder(tmp_path / "encoder", width=16))
    made.save_pretrained(tmp_path / "model")
    for weights in (tmp_path / "model").rglob("*.safetensors"):
        weights.unlink()
    assert read_spec(tmp_path / "model") == made.components.spec
    with pytest.raises(ValueError, match=r"is damaged: .*\.safetensors is missing"):
        Components.load(tmp_path / "model")


def test_codecs_of_others_say_their_shapes_without_weights(tmp_path):
    from diffusers import AutoencoderKLWan, AutoencoderOobleck

    statistics = {"latents_mean": [0.5] * 4, "latents_std": [2.0] * 4}
    AutoencoderKLWan(base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, **statistics).save_pretrained(
        tmp_path / "wan"
    )
    AutoencoderOobleck(8, [2, 4, 8], [1, 2, 2], 8, 4).save_pretrained(tmp_path / "oobleck")
    TinyAudioCodec(TinyAudioConfig(hop=512, window=512, stereo=False)).save(tmp_path / "tiny")
    for kind, name in ((WanVideoCodec, "wan"), (OobleckAudioCodec, "oobleck"), (TinyAudioCodec, "tiny")):
        with torch.device("meta"):
            described = kind.without_weights(tmp_path / name).spec
        assert described == kind.load(tmp_path / name).spec


def test_a_spec_follows_the_branches(build):
    made = build().components
    mute = dataclasses.replace(made, audio_codec=None, refiner=None).spec
    assert (mute.audio, mute.refines, mute.sounds) == (None, False, True)
    assert prepare(mute, "x").clip.audio is None
    with pytest.raises(ValueError, match="has no audio codec"):
        prepare(mute, "x", picture=False)
    with pytest.raises(ValueError, match="has no refiner"):
        prepare(mute, "x", refine=True)
