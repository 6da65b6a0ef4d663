"""The cache job: the same bytes however it was run, what is stale refused, what is broken left out by name."""

import dataclasses
import json
import re
import shutil
import zlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from jobs import cache as command
from model.codecs.tiny_video import TinyVideoCodec, TinyVideoConfig
from model.config import load_preset
from pipelines.dataset.tables import decode
from pipelines.training.latents import cache as run
from pipelines.training.latents.cache import cache
from pipelines.training.latents.index import LatentError, StaleLatents, open_latents
from pipelines.training.latents.job import CacheJob, cache_location, plan_cache
from pipelines.training.stages.verify import find_damage
from skyreels.commits import CommitLog, verify
from skyreels.parts import Incomplete
from skyreels.storage import Storage


def _shards(location):
    storage = Storage(location)
    commits = list(CommitLog(storage).all())
    assert [verify(storage, commit) for commit in commits] == [[]] * len(commits)
    return {file.name: file.sha256 for commit in commits for file in commit.files}


@pytest.fixture(scope="module")
def made(dataset_folder, components, spec, tmp_path_factory):
    """A finished cache to read from."""
    output = str(tmp_path_factory.mktemp("made"))
    return cache(
        CacheJob(output, spec, load_preset("tiny"), str(dataset_folder), components=str(components), workers=0),
        quiet=True,
    )


@pytest.fixture
def own(made, tmp_path):
    """A copy of it to break."""
    return str(shutil.copytree(made.location, tmp_path / "cache"))


def test_what_an_index_tells(made, encoders, spec, one_thread):
    index = open_latents(made.location, **encoders.identities.model_dump())
    counted = {name: len(entries) for name, entries in index.buckets.items()}
    assert counted == made.buckets == {
        "audio-0.5s": 1, "image-32p-4x3": 1, "video-32p-4x3-0.5s": 2
    }  # fmt: skip
    clip, silent = index.buckets["video-32p-4x3-0.5s"]
    assert (clip.key, clip.kind, clip.has_audio, silent.has_audio) == ("clip", "video", True, False)
    assert (clip.extensions, clip.regions, clip.seconds) == (2, 1, 0.5)
    assert clip.references == ("audio", "image", "video")
    shape = index.clip_shape("video-32p-4x3-0.5s")
    assert index.read(clip).video.shape == shape.video_latent_shape
    assert index.read(clip).audio.shape[1] == shape.audio_latent_length == index.audio_latents("audio-0.5s")
    assert index.shapes["image-32p-4x3"].width == 48
    black = torch.full((1, 3, 1, 32, 48), -1.0)
    assert torch.allclose(index.black("video-32p-4x3-0.5s"), encoders.video.encode(black)[0], atol=1e-5)
    assert torch.equal(index.null_text, encoders.text.encode("")[0])


@pytest.mark.slow
def test_ray_and_a_plain_loop_give_the_same_bytes(job, made, ray_cluster):
    on_ray = cache(dataclasses.replace(job, workers=1), quiet=True)
    assert _shards(on_ray.location) == _shards(made.location)
    one, other = open_latents(on_ray.location), open_latents(made.location)
    assert one.fingerprint == other.fingerprint
    assert {name: list(rows) for name, rows in one.buckets.items()} == {
        name: list(rows) for name, rows in other.buckets.items()
    }


@pytest.mark.parametrize("parts", [1, 2])
def test_a_job_killed_between_parts_goes_on_to_the_same_bytes(job, made, monkeypatch, parts):
    finished = []

    def until_killed(*arguments):
        if len(finished) == parts:
            raise KeyboardInterrupt
        finished.append(original(*arguments))
        return finished[-1]

    original = run.write_part
    monkeypatch.setattr(run, "write_part", until_killed)
    with pytest.raises(KeyboardInterrupt):
        cache(job, quiet=True)
    location = plan_cache(job).location
    with pytest.raises(LatentError, match="not finished"):
        open_latents(location)
    monkeypatch.undo()
    summary = cache(job, quiet=True)
    assert summary.location == location
    assert summary.new_samples == made.samples - sum(result.samples for result in finished) < made.samples
    assert _shards(location) == _shards(made.location)
    assert open_latents(location).fingerprint == open_latents(made.location).fingerprint


def test_a_finished_cache_is_left_alone(job, monkeypatch):
    first = cache(job, quiet=True)
    monkeypatch.setattr(run, "write_part", None)
    again = cache(job, quiet=True)
    assert again.new_samples == 0
    assert dataclasses.replace(again, wall_s=0, cpu_s=0, new_samples=4) == dataclasses.replace(first, wall_s=0, cpu_s=0)


def test_a_cache_of_other_components_is_stale(job, made, components, tmp_path, encoders):
    other = shutil.copytree(components, tmp_path / "other")
    torch.manual_seed(1)
    codec = TinyVideoCodec(TinyVideoConfig(width=32, patch_width=16))
    codec.save(other / "video_codec")
    with pytest.raises(StaleLatents) as caught:
        open_latents(made.location, video_codec=codec.identity, encoder=encoders.text.identity)
    assert f"video codec {encoders.video.identity}, not {codec.identity}" in str(caught.value)
    assert "encoder" not in str(caught.value).split(". Make it anew")[0]
    assert "python jobs/cache.py --dataset" in str(caught.value)
    assert plan_cache(dataclasses.replace(job, components=str(other))).location.split("/")[-1] not in made.location


def test_a_cache_of_other_data_is_stale(made):
    with pytest.raises(StaleLatents, match=r"data \w+, not ffff"):
        open_latents(made.location, data="ffff")


def test_every_setting_but_the_name_makes_another_cache(made, encoders, spec):
    def folder(**settings):
        return cache_location("/out", spec.model_copy(update=settings), encoders.identities, "d").partition("-")[2]

    assert folder() == folder(name="other")
    others = ({"fps": 8.0}, {"seed": 1}, {"regions": 2}, {"sizes": (48,)}, {"region_kinds": ("image",)})
    assert len({folder(), *(folder(**settings) for settings in others)}) == 6
    assert "region_kinds" not in spec.identity  # as they were before there was a choice, caches keep their names


@pytest.mark.parametrize("found", [b"", b"{}", b'{"spec": 1}'])
def test_a_record_that_is_none(own, found):
    Storage(own).write("cache.json", found)
    with pytest.raises(LatentError, match=r"cache\.json is not of this version .*: run jobs/cache\.py again"):
        open_latents(own)


def test_a_damaged_sample_is_named(own):
    index = open_latents(own)
    entry = index.buckets["audio-0.5s"][0]
    shard = index.storage.location(entry.shard)
    with open(shard, "r+b") as file:
        file.seek(entry.offset + entry.size - 4)
        file.write(b"\xff\xff")
    with pytest.raises(LatentError, match=f"{shard}: sound: the sample is damaged"):
        index.read(entry)
    with open(shard, "r+b") as file:
        file.truncate(entry.offset + 10)
    with pytest.raises(LatentError, match=rf"{shard}: sound: .*\d+ of \d+ bytes .*it is cut short"):
        index.read(entry)
    Storage(own).delete(entry.shard)
    with pytest.raises(LatentError, match=f"{shard}: sound: the shard is missing"):
        index.read(entry)


def test_the_remedy_for_a_damaged_sample_works(job, made):
    location = cache(job, quiet=True).location
    index = open_latents(location)
    entry = index.buckets["audio-0.5s"][0]
    Storage(location).write(entry.shard, b"rotten")
    with pytest.raises(LatentError) as caught:
        index.read(entry)
    commit = re.search(r"delete (\S+) and run: python jobs/cache.py", str(caught.value))[1]
    Path(commit).unlink()
    assert cache(job, quiet=True).new_samples == 1
    assert open_latents(location).read(entry).key == "sound"
    assert _shards(location) == _shards(made.location)


@pytest.mark.parametrize(
    "name",
    [
        "cache.json",
        "index.json",
        "rejects.parquet",
        "constants.safetensors",
        "index/audio-0.5s.rows.arrow",
        "index/audio-0.5s.shards.arrow",
        "index/audio-0.5s.blocks.arrow",
    ],
)
@pytest.mark.parametrize("content", [None, b"", b"\xff\x00garbage" * 9])
def test_a_caches_own_files_are_written_again(job, made, name, content):
    location = cache(job, quiet=True).location
    storage = Storage(location)
    whole = storage.read(name)
    storage.delete(name) if content is None else storage.write(name, content)
    assert cache(job, quiet=True).new_samples == 0
    assert storage.read(name) == whole
    assert len(open_latents(location).null_text)
    assert _shards(location) == _shards(made.location)


def test_a_cache_that_has_another_index_is_given_this_one_and_nothing_is_encoded_anew(job, made, monkeypatch):
    """As caches had one before: a table in one file, which `cache.json` did not name."""
    location = cache(job, quiet=True).location
    storage = Storage(location)
    record = json.loads(storage.read("cache.json"))
    del record["index"]
    storage.write("cache.json", json.dumps(record).encode())
    shutil.rmtree(f"{location}/index")
    storage.delete("index.json")
    monkeypatch.setattr(run, "write_part", None)
    assert cache(job, quiet=True).new_samples == 0
    one, other = open_latents(location), open_latents(made.location)
    assert [list(rows) for rows in one.buckets.values()] == [list(rows) for rows in other.buckets.values()]


def test_verify_reads_every_byte_of_the_index_and_the_next_run_mends_it(job):
    location = cache(job, quiet=True).location
    assert find_damage(job.output) == []
    rows = Path(location) / "index" / "audio-0.5s.rows.arrow"
    whole = rows.read_bytes()
    at = whole.index(b"sound")
    rows.write_bytes(whole[:at] + b"z" + whole[at + 1 :])
    (damage,) = find_damage(job.output)
    assert f"{rows} differs from its committed checksum" in damage.problem
    damage.mend()
    assert cache(job, quiet=True).new_samples == 0
    assert rows.read_bytes() == whole
    assert find_damage(job.output) == []


def test_a_flipped_bit_in_the_constants_is_seen(own):
    data = bytearray(Storage(own).read("constants.safetensors"))
    data[-1] ^= 1
    Storage(own).write("constants.safetensors", bytes(data))
    with pytest.raises(LatentError, match=r"constants\.safetensors is damaged.*differs from its committed checksum"):
        _ = open_latents(own).null_text


@pytest.mark.parametrize("damage", ["record", "shard", "cut"])
def test_parts_that_are_not_there_as_committed_are_made_again(job, made, damage):
    location = Path(cache(job, quiet=True).location)
    if damage == "record":
        next(path for path in (location / "_commits").iterdir() if path.stem != "constants").write_bytes(b"")
    else:
        shard = next(location.rglob("*.tar"))
        shard.unlink() if damage == "shard" else shard.write_bytes(shard.read_bytes()[:-1])
    assert cache(job, quiet=True).new_samples > 0
    assert _shards(str(location)) == _shards(made.location)


def test_a_clip_that_cannot_be_read_is_left_out_with_its_reason(job, own_dataset, dataset_folder, damage):
    shard = damage(own_dataset, "clip", "mp4", keep=40)
    broken = dataclasses.replace(job, dataset=str(own_dataset), max_unreadable=0.5)
    summary = cache(broken, quiet=True)
    assert summary.rejected == {"read:damaged_shard": 1}
    assert summary.samples == 3
    storage = Storage(summary.location)
    (row,) = decode(storage.read("rejects.parquet")).to_pylist()
    assert (row["key"], row["stage"]) == ("clip", "read")
    assert str(shard) in row["detail"]
    assert "clip.mp4" in row["detail"]
    assert row["remedy"]
    shutil.copy(dataset_folder / shard.relative_to(own_dataset), shard)
    repaired = cache(broken, replay_rejects=True, quiet=True)
    assert (repaired.samples, repaired.new_samples, repaired.rejected) == (4, 2, {})


def test_too_many_unreadable_clips_end_the_job(job, own_dataset, damage):
    damage(own_dataset, "clip", "mp4", keep=40)
    broken = dataclasses.replace(job, dataset=str(own_dataset), max_unreadable=0.2)
    with pytest.raises(LatentError, match=r"(?s)1 of 4 samples could not be read.*--replay-rejects") as caught:
        cache(broken, quiet=True)
    assert "damaged_shard" in str(caught.value)
    with pytest.raises(LatentError, match="not finished"):
        open_latents(plan_cache(broken).location)


def test_nothing_fits(job, spec, dataset_folder):
    large = dataclasses.replace(job, spec=spec.model_copy(update={"sizes": (512,), "seconds": (60.0,)}))
    with pytest.raises(LatentError) as caught:
        cache(large, quiet=True)
    assert f"none of the 4 samples of {dataset_folder} fits the spec" in str(caught.value)
    assert "too_small: add a smaller size to sizes" in str(caught.value)
    assert not list(Storage(job.output).names())
    with pytest.raises(LatentError, match=r"none of kinds=\['pair'\]"):
        cache(dataclasses.replace(job, spec=spec.model_copy(update={"kinds": ("pair",)})), quiet=True)


def test_a_dataset_that_kept_nothing_says_where_to_look(job, dataset_folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    pq.write_table(pq.read_table(f"{dataset_folder}/manifest.parquet").slice(0, 0), empty / "manifest.parquet")
    with pytest.raises(LatentError, match=r"empty holds no samples: its rejects\.parquet says why none was kept"):
        cache(dataclasses.replace(job, dataset=str(empty)), quiet=True)


def test_a_store_that_fails_fails_the_part_and_no_sample(job, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run, "write_part", full)
    with pytest.raises(Incomplete, match=r"(?s)3 of 4 parts could not be written.*No space left"):
        cache(job, quiet=True)
    monkeypatch.undo()
    assert cache(job, quiet=True).samples == 4


def test_on_s3(job, dataset_folder, made, s3_root):
    source = Storage(f"{s3_root}/data")
    for name in Storage(str(dataset_folder)).names():
        source.write(name, (dataset_folder / name).read_bytes())
    summary = cache(dataclasses.replace(job, dataset=source.root, output=s3_root), quiet=True)
    assert summary.location.startswith(f"{s3_root}/latents/default-")
    assert _shards(summary.location) == _shards(made.location)
    index = open_latents(summary.location)
    entry = index.buckets["video-32p-4x3-0.5s"][0]
    assert index.read(entry).key == "clip"
    assert zlib.crc32(Storage(summary.location).read(entry.shard)[entry.offset :][: entry.size]) == entry.crc32


def test_the_command(dataset_folder, components, tmp_path, capsys):
    words = ["--dataset", str(dataset_folder), "--output", str(tmp_path), "--components", str(components)]
    settings = ["--workers", "0", "--quiet", "sizes=[32]", "seconds=[0.5]"]
    assert command.main([*words, *settings, "--dry-run"]) == 0
    assert "parts     3, of which 3 to do" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert command.main([*words, *settings]) == 0
    out = capsys.readouterr().out
    assert "4 samples, 4 of them new" in out
    index = open_latents(next(line.split()[1] for line in out.splitlines() if line.startswith("latents")))
    assert "sizes=[32]" in index.record.command.replace("'", "")
    assert command.main([*words, "--workers", "0", "sizes=[512]", "kinds=[image]"]) == 1
    assert "too_small: add a smaller size to sizes" in capsys.readouterr().err
    assert command.main([*words, "colour=red"]) == 1
    assert "unknown key 'colour'" in capsys.readouterr().err
