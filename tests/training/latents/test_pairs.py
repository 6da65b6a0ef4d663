"""Edit pairs: what came before as reference and outside the region, the instruction as text."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from model.conditioning import Editing, Inpainting, edited_reference, tagged
from model.media import cover_mask
from pipelines.dataset.reader import VideoFile
from pipelines.synthesis.__main__ import main as synthesise
from pipelines.synthesis.pairs import make_pair, write_pair
from pipelines.synthesis.sampler import sample_film
from pipelines.training.latents.cache import cache
from pipelines.training.latents.encode import encode_sample, frame_times
from pipelines.training.latents.index import open_latents
from pipelines.training.latents.pairs import keep_mask_at, open_pairs
from pipelines.training.latents.spec import place

FILM = sample_film(21, size=(64, 64), seconds=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    for kind in ("recolour", "restyle"):
        write_pair(make_pair(FILM, kind), folder, kind)
    return folder


@pytest.fixture(scope="module")
def samples(folder, spec, encoders):
    pairs = open_pairs(str(folder))
    placed = [place(clip, spec, encoders.video.spec)[0] for clip in pairs.clips]
    made = [(one, encode_sample(one, pairs.storage, spec, encoders)) for one in placed]
    return {one.clip.key: (one, sample) for one, sample in made}


def test_a_pair_in_a_sample(folder, samples, encoders):
    placed, sample = samples["pair-recolour"]
    shape = sample.shape
    times = frame_times(placed.start_s, shape.frames, shape.fps)
    before, after = (VideoFile((folder / f"recolour.{role}.mp4").read_bytes(), role) for role in ("before", "after"))
    old, new = (video.read(times, shape.height, shape.width) for video in (before, after))
    assert torch.allclose(sample.video, encoders.video.encode(new[None])[0], atol=1e-5)
    assert torch.allclose(sample.references["video"], encoders.video.encode(old[None])[0], atol=1e-5)
    edit = json.loads((folder / "recolour.edit.json").read_text())
    assert torch.equal(sample.texts["instruction"], encoders.text.encode(edit["instruction"])[0])
    source = edited_reference(Editing(old[None]).prepare(shape, encoders.video.encode).edited[0], ())
    read = encoders.text.encode(tagged(edit["instruction"], source), [source])[0]
    assert torch.allclose(sample.texts["instruction+video"], read, atol=1e-5)
    assert len(read) > len(sample.texts["instruction"])
    assert sample.audio.shape == shape.audio_latent_shape
    keep = cover_mask(keep_mask_at(edit, before.shown_at(times)), shape.height, shape.width)
    condition = Inpainting(old[None], keep[None]).prepare(shape, encoders.video.encode).condition
    (region,) = sample.regions
    assert torch.allclose(region.latents, condition.latents[0], atol=1e-5)
    assert torch.equal(region.keep_mask, condition.keep_mask[0].bool())
    assert 0 < region.keep_mask.float().mean() < 1


def test_an_edit_of_everything_has_no_region(samples):
    _, sample = samples["pair-restyle"]
    assert sample.regions == ()
    assert "video" in sample.references


def test_masks_are_those_of_the_pair(folder):
    edit = json.loads((folder / "recolour.edit.json").read_text())
    masks = np.stack(list(make_pair(FILM, "recolour").masks()))
    assert torch.equal(keep_mask_at(edit, [3, 0, 3])[0], torch.from_numpy(~masks[[3, 0, 3]]))
    assert edit["frames"] == len(masks) == 24
    assert edit["fps"] == "24"


def test_pairs_beside_a_dataset(job, folder):
    index = open_latents(cache(dataclasses.replace(job, pairs=str(folder)), quiet=True).location)
    entries = {entry.key: entry for entries in index.buckets.values() for entry in entries}
    assert entries.keys() == {"clip", "silent", "picture", "sound", "pair-recolour", "pair-restyle"}
    recolour = entries["pair-recolour"]
    assert (recolour.kind, recolour.bucket) == ("pair", "pair-32p-1x1-0.5s")
    assert recolour.texts == ("instruction", "instruction+video")
    assert "--pairs" in index.record.command


def test_a_pair_without_its_clip_is_named(job, folder, tmp_path):
    (tmp_path / "recolour.edit.json").write_bytes((folder / "recolour.edit.json").read_bytes())
    (tmp_path / "recolour.before.mp4").write_bytes((folder / "recolour.before.mp4").read_bytes())
    alone = dataclasses.replace(job, dataset=None, pairs=str(tmp_path))
    with pytest.raises(Exception, match="missing_shard") as caught:
        cache(alone, quiet=True)
    assert "1 of 1 samples could not be read" in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"holds no NAME\.edit\.json.*--pairs"):
        open_pairs(str(tmp_path / "empty"))


def test_the_command_that_makes_pairs(tmp_path, capsys):
    synthesise(["--output", str(tmp_path), "--pairs", "2", "--size", "64x64", "--seconds", "1"])
    assert "2 edit pairs" in capsys.readouterr().out
    pairs = open_pairs(str(tmp_path))
    assert [clip.key for clip in pairs.clips] == ["pair-000000-insert", "pair-000001-delete"]
    assert all(clip.edited is not None and clip.has_audio and clip.frames == 24 for clip in pairs.clips)
