"""A small dataset as curation leaves one: two clips, one of them silent, a picture and a sound; and tiny networks."""

import json
import shutil
from fractions import Fraction

import numpy as np
import pytest
import torch

from model.codecs.tiny_audio import TinyAudioCodec, TinyAudioConfig
from model.codecs.tiny_video import TinyVideoCodec, TinyVideoConfig
from model.config import load_preset
from model.prompt_encoder.tiny_encoder import build_tiny_encoder
from pipelines.curation.pool import tables
from pipelines.dataset.reader import open_dataset
from pipelines.dataset.tables import decode, encode, encode_members
from pipelines.training.latents.components import load_encoders
from pipelines.training.latents.job import CacheJob
from pipelines.training.latents.spec import LatentSpec
from skyreels.media.encode import write_flac, write_video
from skyreels.media.image import write_image
from skyreels.shards import open_shards
from skyreels.storage import Storage

SPEC = LatentSpec(sizes=(32,), seconds=(0.5,), fps=16, reference_seconds=0.3, part_samples=2, dtype="fp32")
CLIPS = {
    "clip": {"kind": "video", "fps": 24, "frames": 48, "has_audio": True},
    "silent": {"kind": "video", "fps": 30, "frames": 45, "has_audio": False},
    "picture": {"kind": "image", "fps": 0, "frames": 1, "has_audio": False},
    "sound": {"kind": "audio", "fps": 0, "frames": 0, "has_audio": True},
}


@pytest.fixture(scope="session")
def dataset_folder(tmp_path_factory):
    """Read only: tests that break things copy it."""
    folder = tmp_path_factory.mktemp("dataset")
    write_dataset(Storage(str(folder)), tmp_path_factory.mktemp("media"))
    return folder


@pytest.fixture
def own_dataset(dataset_folder, tmp_path):
    """A copy to break."""
    return shutil.copytree(dataset_folder, tmp_path / "own")


@pytest.fixture(scope="session")
def dataset(dataset_folder):
    return open_dataset(str(dataset_folder))


@pytest.fixture(scope="session")
def components(tmp_path_factory):
    """A folder of trained-once components, as a model's folder holds them."""
    folder = tmp_path_factory.mktemp("components")
    torch.manual_seed(0)
    TinyVideoCodec(TinyVideoConfig(width=32, patch_width=16)).save(folder / "video_codec")
    TinyAudioCodec(TinyAudioConfig(width=32, spectrum_width=16)).save(folder / "audio_codec")
    build_tiny_encoder(folder / "encoder")
    return folder


@pytest.fixture(scope="session")
def encoders(components):
    return load_encoders(str(components), load_preset("tiny"))


@pytest.fixture
def job(dataset_folder, components, tmp_path):
    """A job in this process over the shared dataset."""
    return CacheJob(
        output=str(tmp_path / "out"),
        spec=SPEC,
        preset=load_preset("tiny"),
        dataset=str(dataset_folder),
        components=str(components),
        workers=0,
    )


@pytest.fixture(scope="session")
def spec():
    return SPEC


def write_dataset(store, media):
    rows, described = [], {}
    for key, facts in CLIPS.items():
        seconds = facts["frames"] / facts["fps"] if facts["kind"] == "video" else 2.0 * (facts["kind"] == "audio")
        size = {"width": 0, "height": 0} if facts["kind"] == "audio" else {"width": 64, "height": 48}
        written = _media(key, facts, seconds, media)
        described[key] = {suffix: path.read_bytes() for suffix, path in written.items()} | {"json": b"{}"}
        row = {"key": key, "start_s": 0.0, "end_s": seconds, **size, **facts, "fps": float(facts["fps"])}
        captions = {"caption_short": f"A {key}.", "caption_long": f"A {key} that moves.", "caption_structured": ""}
        rows.append(row | captions | ({"caption_structured": f"Main subject: a {key}"} if key == "clip" else {}))
    with open_shards(store, "shards/all/pack") as shards:
        for key in sorted(described):
            shards.add(key, described[key])
    for row in rows:
        row["members"] = encode_members(shards.members[row["key"]])
    store.write("manifest.parquet", encode(tables.clip_table(sorted(rows, key=lambda row: row["key"]))))


def _media(key, facts, seconds, folder):
    written = {}
    if facts["kind"] == "video":
        written["mp4"] = folder / f"{key}.mp4"
        write_video(written["mp4"], (_frame(n) for n in range(facts["frames"])), Fraction(facts["fps"]), crf=10, gop=12)
    if facts["kind"] == "image":
        written["jpg"] = folder / f"{key}.jpg"
        write_image(written["jpg"], _frame(5))
    if facts["has_audio"]:
        written["flac"] = folder / f"{key}.flac"
        rate = 44100 if key == "clip" else 22050
        times = np.arange(round(seconds * rate)) / rate
        tone = 0.3 * np.sin(2 * np.pi * 440 * times, dtype=np.float64)
        channels = [tone, tone / 2] if key == "clip" else [tone]
        write_flac(written["flac"], np.stack(channels).astype(np.float32), rate)
    return written


def _frame(number):
    """A bright square on a gradient; where it stands tells the frame's number."""
    rows, columns = np.mgrid[:48, :64]
    frame = np.stack([rows * 4, columns * 3, (rows + columns) * 2], -1).astype(np.uint8)
    left = number % 40
    frame[8 + number // 40 * 20 : 24 + number // 40 * 20, left : left + 16] = (250, 240, 20)
    return frame


def damage(folder, key, extension, keep):
    """Overwrite all but the first `keep` bytes of a member with zeros; returns its shard."""
    rows = decode(Storage(str(folder)).read("manifest.parquet")).to_pylist()
    shard, offset, size = json.loads(next(row for row in rows if row["key"] == key)["members"])[extension][:3]
    with (folder / shard).open("r+b") as file:
        file.seek(offset + keep)
        file.write(bytes(size - keep))
    return folder / shard


@pytest.fixture(name="damage")
def damage_fixture():
    return damage
