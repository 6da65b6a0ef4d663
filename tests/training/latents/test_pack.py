"""Samples to bytes and back, also through the webdataset library."""

import dataclasses

import pytest
import torch
import webdataset
from safetensors.torch import load

from pipelines.training.latents.cache import cache
from pipelines.training.latents.encode import encode_sample
from pipelines.training.latents.index import open_latents
from pipelines.training.latents.sample import pack, unpack
from pipelines.training.latents.spec import RefinedSpec, place

TOLERANCE = {"fp32": 0.0, "fp16": 5e-3, "bf16": 4e-2}


@pytest.fixture(scope="module")
def sample(dataset, spec, encoders):
    """With all that a sample can hold."""
    spec = spec.model_copy(update={"sizes": (16,), "refined": RefinedSpec(), "regions": 2})
    clip = next(clip for clip in dataset.clips if clip.key == "clip")
    return encode_sample(place(clip, spec, encoders.video.spec)[0], dataset.storage, spec, encoders)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_a_sample_comes_back(sample, dtype):
    files = pack(sample, dtype)
    back = unpack(files)
    assert files == pack(sample, dtype)
    assert_equal(back, sample, TOLERANCE[dtype])
    assert back.video.dtype == torch.float32


def test_words_that_forms_share_are_stored_once(sample):
    one, other = sample.texts["short"], torch.randn(3, sample.texts["short"].shape[1])
    forms = {"short": one, "long": one.clone(), "structured": other, "structured+image": other}
    files = pack(dataclasses.replace(sample, texts=forms), "fp32")
    assert sum(name.startswith("text/") for name in load(files["safetensors"])) == 2
    assert_equal(unpack(files), dataclasses.replace(sample, texts=forms))
    assert b"same_texts" not in pack(sample, "fp32")["json"]  # where all differ, bytes are as they were


def assert_equal(back, sample, tolerance=0.0):
    """Every field: texts, latents, masks."""
    for field in dataclasses.fields(sample):
        one, other = getattr(back, field.name), getattr(sample, field.name)
        if isinstance(other, torch.Tensor):
            assert torch.allclose(one, other, rtol=tolerance, atol=tolerance), field.name
        elif field.name in ("texts", "references"):
            assert one.keys() == other.keys()
            assert all(torch.allclose(one[k], other[k], rtol=tolerance, atol=tolerance) for k in other)
        elif field.name in ("extensions", "regions", "refined_regions"):
            for ours, theirs in zip(one, other, strict=True):
                assert torch.allclose(ours.latents, theirs.latents, rtol=tolerance, atol=tolerance), field.name
        else:
            assert one == other, field.name
    assert [e.at_end for e in back.extensions] == [e.at_end for e in sample.extensions]
    for ours, theirs in ((back.regions, sample.regions), (back.refined_regions, sample.refined_regions)):
        assert all(torch.equal(one.keep_mask, other.keep_mask) for one, other in zip(ours, theirs, strict=True))


def test_the_webdataset_library_reads_a_cache(job):
    index = open_latents(cache(job, quiet=True).location)
    entries = {entry.key: entry for entries in index.buckets.values() for entry in entries}
    shards = [index.storage.location(shard) for shard in sorted({entry.shard for entry in entries.values()})]
    read = {row["__key__"]: unpack(row) for row in webdataset.WebDataset(shards, shardshuffle=False, empty_check=False)}
    assert read.keys() == entries.keys() == {"clip", "silent", "picture", "sound"}
    for key, sample in read.items():
        assert_equal(sample, index.read(entries[key]))
