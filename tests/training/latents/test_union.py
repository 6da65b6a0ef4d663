"""Several datasets read together: each cached by itself, their samples told apart, drawn as one."""

import dataclasses
from collections import Counter
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import save_file

from jobs import train
from pipelines.curation.pool import tables
from pipelines.dataset.reader import member_bytes, open_dataset
from pipelines.dataset.tables import decode, encode
from pipelines.training.curriculum.request import Request, TrainingPlan
from pipelines.training.curriculum.resolve import sampler_for
from pipelines.training.data.datasets import Datasets, open_together, together
from pipelines.training.latents.cache import cache
from pipelines.training.latents.index import LatentError, open_latents
from pipelines.training.latents.job import NothingFits
from pipelines.training.latents.union import LatentUnion, open_caches
from pipelines.training.stages import train as run
from pipelines.training.stages.caching import make_caches
from pipelines.training.stages.prune import find_caches
from skyreels.commits import describe
from skyreels.config import ConfigError
from skyreels.storage import Storage
from skyreels.tracking import TrackedRun
from skyreels.training.checkpoints import CheckpointFacts, Checkpoints, rank_file
from skyreels.training.fit import Outcome

KINDS = {"pictures": ("image",), "clips": ("video", "image"), "sounds": ("audio",)}


@pytest.fixture(scope="module")
def world(dataset_folder, components, tmp_path_factory):
    """Datasets of the same shards, told apart by their captions. The key `picture` is in two of them."""
    folder = tmp_path_factory.mktemp("world")
    rows = decode(Storage(str(dataset_folder)).read("manifest.parquet")).to_pylist()
    for name, kinds in KINDS.items():
        mine = [row | {"caption_short": f"{name}: {row['key']}."} for row in rows if row["kind"] in kinds]
        store = Storage(str(folder / "data" / "datasets" / name))
        store.write("manifest.parquet", encode(tables.clip_table(mine)))
        for file in Storage(str(dataset_folder)).names("shards"):
            store.write(file, (dataset_folder / file).read_bytes())
    (folder / "runs").mkdir()
    (folder / "runs" / "components").symlink_to(components)
    return folder


@pytest.fixture(scope="module")
def training(world):
    request = Request("video-2", world / "runs", str(world / "data"), settings=("workers=0", "tokens_per_slot=16"))
    return TrainingPlan.of(dataclasses.replace(request, quiet=True))


@pytest.fixture(scope="module")
def stage(training):
    return training.stage("video-2")


def named(training, *names):
    return dataclasses.replace(training, request=dataclasses.replace(training.request, datasets=names))


def made(training, stage, *names):
    return make_caches(training, stage, named(training, *names).datasets(stage))


@pytest.fixture(scope="module")
def caches(training, stage):
    return made(training, stage, "pictures", "clips")


@pytest.fixture(scope="module")
def union(caches):
    return open_caches(caches)


def sampler_over(stage, index):
    return sampler_for(stage, index, lambda task, bucket: 8)


def keys(draw):
    return [entry.key for slot in draw.slots for entry in slot]


def test_keys_that_two_datasets_share_lead_to_each_ones_own_sample(union, caches):
    (bucket,) = (name for name in union.buckets if name.startswith("image"))
    shared = [entry for entry in union.buckets[bucket] if entry.key.endswith(".picture")]
    assert [entry.key for entry in shared] == ["clips.picture", "pictures.picture"]
    texts = {}
    for entry in shared:
        name = entry.key.split(".")[0]
        alone = open_latents(caches[name])
        (own,) = (one for one in alone.buckets[bucket] if one.key == "picture")
        sample = union.read(entry)
        assert sample.key == entry.key
        assert torch.equal(sample.video, alone.read(own).video)
        texts[name] = sample.texts["short"]
        assert torch.equal(texts[name], alone.read(own).texts["short"])
    assert texts["clips"].shape != texts["pictures"].shape or not torch.equal(texts["clips"], texts["pictures"])


def test_the_union_holds_all_samples_in_the_buckets_that_they_have_alone(union, caches):
    alone = {name: open_latents(location) for name, location in caches.items()}
    expected = Counter()
    for index in alone.values():
        expected.update({bucket: len(entries) for bucket, entries in index.buckets.items()})
    assert {bucket: len(entries) for bucket, entries in union.buckets.items()} == expected
    assert union.shapes == {bucket: shape for index in alone.values() for bucket, shape in index.shapes.items()}
    for bucket in (name for name in union.buckets if name.startswith(("image", "video"))):
        held = next(index for index in alone.values() if bucket in index.buckets)
        assert torch.equal(union.black(bucket), held.black(bucket))
    assert torch.equal(union.null_text, alone["clips"].null_text)


def test_an_epoch_goes_through_the_samples_of_all_datasets(stage, union):
    sampler = sampler_over(stage, union)
    every = {entry.key for entries in union.buckets.values() for entry in entries if entry.kind in ("image", "video")}
    seen = {key for step in range(60) for key in keys(sampler.draw(step))}
    assert seen == every
    assert {key.split(".")[0] for key in seen} == {"pictures", "clips"}


def test_a_draw_is_a_function_of_seed_and_step_whatever_the_datasets_order(stage, union, caches):
    again = open_caches(dict(reversed(caches.items())))
    one, other = sampler_over(stage, union), sampler_over(stage, again)
    assert again.fingerprint == union.fingerprint
    assert [one.draw(step) for step in range(40)] == [other.draw(step) for step in reversed(range(40))][::-1]


def test_the_fingerprint_is_of_all(union, caches):
    alone = {name: open_latents(location).fingerprint for name, location in caches.items()}
    assert union.fingerprints == alone
    assert union.fingerprint not in alone.values()
    assert together({**alone, "clips": "f" * 12}) != union.fingerprint
    assert together({"clips": alone["clips"]}) == alone["clips"]


def test_one_dataset_is_read_as_it_is(training, stage, caches):
    location = made(training, stage, "clips")
    index = open_caches(location)
    assert location == caches["clips"]  # what was cached for several serves a stage of one
    again = open_latents(location)
    assert {name: list(rows) for name, rows in index.buckets.items()} == {
        name: list(rows) for name, rows in again.buckets.items()
    }
    assert not any("." in entry.key for entries in index.buckets.values() for entry in entries)


def test_a_cached_dataset_is_used_again_and_the_stage_names_what_it_reads(training, caches, monkeypatch):
    monkeypatch.setattr("pipelines.training.latents.cache.write_part", None)
    first = training.stage("video-1")
    assert made(training, first, "clips", "pictures") == caches
    readers = {found.name: found.stages for found in find_caches(training.request.output)}
    assert {name for name, stages in readers.items() if "video-1" in stages} == {
        location.rpartition("/")[2] for location in caches.values()
    }


def test_a_dataset_without_a_sample_that_fits_matters_only_where_no_other_has_one(training, stage, caches, capsys):
    assert made(training, stage, "pictures", "sounds", "clips") == caches
    assert "none of sounds" in capsys.readouterr().out
    with pytest.raises(NothingFits, match=r"sounds holds 1 samples \(audio\)"):
        made(training, stage, "sounds")


def test_a_sample_that_is_damaged_is_named_by_its_cache(training, stage, caches, union, monkeypatch):
    entry = next(entry for entry in union.buckets["image-32p-1x1"] if entry.key == "clips.picture")
    with pytest.raises(LatentError, match=rf"{caches['clips']}/shards/.*: the sample is damaged"):
        union.read(dataclasses.replace(entry, crc32=0))


def test_caches_that_do_not_go_together_are_refused(job, union, caches, spec):
    with pytest.raises(LatentError, match="datasets again and clips hold the same samples"):
        open_caches({"clips": caches["clips"], "again": caches["clips"]})
    other = cache(dataclasses.replace(job, spec=spec.model_copy(update={"kinds": ("audio",)})), quiet=True)
    with pytest.raises(LatentError, match=r"clips and other differ in .*kinds.*python jobs/cache\.py"):
        LatentUnion({"clips": open_latents(caches["clips"]), "other": open_latents(other.location)})


def test_clips_of_several_datasets_are_read_from_their_own_shards(world):
    datasets = Datasets(str(world / "data" / "datasets"), ("sounds", "clips"))
    both = open_together(datasets)
    assert [clip.key for clip in both.clips] == ["clips.clip", "clips.picture", "clips.silent", "sounds.sound"]
    for clip in both.clips:
        name, _, key = clip.key.partition(".")
        alone = open_dataset(datasets.locations[name])
        own = next(one for one in alone.clips if one.key == key)
        for extension in clip.members:
            assert member_bytes(both.storage, clip, extension) == member_bytes(alone.storage, own, extension)
    one = Datasets(datasets.folder, ("clips",))
    assert open_together(one) == open_dataset(one.locations["clips"])


def test_a_stage_takes_what_is_asked_for_else_what_its_recipe_names_else_default(training, stage, world, tmp_path):
    with pytest.raises(
        ConfigError, match=r"wants dataset images-256 and clips-256 below \S+, which has clips, pictures"
    ):
        training.datasets(stage)
    assert named(training, "clips", "pictures", "clips").datasets(stage).names == ("clips", "pictures")
    moved = dataclasses.replace(training, request=dataclasses.replace(training.request, data=str(tmp_path)))
    store = Storage(str(tmp_path / "datasets"))
    store.write("default/manifest.parquet", b"")
    assert moved.datasets(stage).names == ("default",)
    store.write("images-256/manifest.parquet", b"")
    with pytest.raises(ConfigError, match="wants dataset images-256 and clips-256"):
        moved.datasets(stage)
    store.write("clips-256/manifest.parquet", b"")
    assert moved.datasets(stage).names == ("images-256", "clips-256")
    assert named(moved, "default").datasets(stage).names == ("default",)


def test_the_command_line_names_several_and_says_which_is_absent(world, capsys):
    words = ["--stage", "codecs", "--data", str(world / "data"), "--output", str(world / "other")]
    assert train.main([*words, "--dataset", "clips,missing"]) == 1
    assert "wants dataset clips and missing below" in capsys.readouterr().err
    assert train.main([*words, "--dataset", "clips,pictures", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert f"{world}/data/datasets/clips, {world}/data/datasets/pictures" in said


def test_the_record_the_run_and_the_plan_tell_all_datasets(training, stage, caches, union, monkeypatch, capsys):
    """Training itself is left out."""
    told = {}

    @contextmanager
    def tracked(experiment, *, params, **options):
        told.update(params)
        yield TrackedRun()

    both = named(training, "pictures", "clips")
    for parent in ("codecs", "video-1"):
        both.curriculum.mark_finished(parent, step=1, export=str(training.request.output / parent), data="0")
    monkeypatch.setattr(run.tracking, "track", tracked)
    monkeypatch.setattr(run, "warm_start", lambda network, starts: {})
    monkeypatch.setattr(run, "fit_observed", _fitted)
    monkeypatch.setattr(run, "_export", lambda *arguments: training.request.output / "export")
    assert run._run_transformer(both, stage)
    record = both.curriculum.finished("video-2")
    assert record.datasets == union.fingerprints
    assert record.data == union.fingerprint == told["data_fingerprint"]
    assert all(location in told["latents"] for location in caches.values())
    assert all(f"datasets/{name}" in told["datasets"] for name in caches)
    pictures = sum(len(found) for name, found in union.buckets.items() if name.startswith("image"))
    assert f"{pictures} pictures, 2 clips, 0 h of sound from pictures and clips" in capsys.readouterr().out


def _fitted(make, engine, folder, stage, run, *, quiet):
    """What training leaves: a checkpoint of its second step."""
    checkpoints = Checkpoints.of(str(folder))
    with checkpoints.storage.staged(rank_file(2, 0)) as path:
        save_file({"weight/a": torch.zeros(3)}, path)
        file = describe(rank_file(2, 0), path)
    checkpoints.commit(
        CheckpointFacts(step=2, world=1, updates=2, norms=(), shapes={"a": (3,)}, frozen=(), ema=False), [file]
    )
    return Outcome(2, False, "", 0)
