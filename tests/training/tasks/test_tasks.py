import dataclasses

import pytest
import torch

from model.network.keyframes import keyframe_indices
from model.network.refiner import upsample_latents
from pipelines.training.data.assembler import Assembler
from pipelines.training.learners.network import STREAMS
from pipelines.training.tasks import TASKS, Dropout, TaskSettings

CHANNELS = 4
REFINING = ("refine", "refine_inpaint")
NAMES = sorted(TASKS)
NOTHING = Dropout(0, 0)


@pytest.fixture
def assemble(latents, small_preset):
    """A batch of one task from its first samples, nothing dropped unless told."""

    def make(task, *, branches=None, count=2, seed=0, dropout=NOTHING, change=None, **settings):
        plain = {"refiner": small_preset.refiner, "low_noise": 0.0, "keyframes_from_image": 0.0}
        settings = TaskSettings(dropout=dropout, **{**plain, **settings})
        assembler = Assembler(small_preset, branches or ("refiner" if task in REFINING else "joint"), latents, settings)
        samples = assembler.first(task, count)
        if change:
            samples = [change(one) for one in samples]
        return assembler.batch(task, samples, torch.Generator().manual_seed(seed)), samples

    return make


def condition(batch):
    """I and M of a batch's video, taken apart by channel."""
    return batch.inputs.video[:, CHANNELS:-1], batch.inputs.video[:, -1]


KEPT = {
    "t2i": [0],
    "t2v": [0, 0, 0, 0, 0],
    "t2av": [0, 0, 0, 0, 0],
    "a2v": [0, 0, 0, 0, 0],
    "v2a": [1, 1, 1, 1, 1],
    "i2v": [1, 0, 0, 0, 0],
    "start_end": [1, 0, 0, 0, 1],
    "image_ref": [0, 0, 0, 0, 0],
    "video_ref": [0, 0, 0, 0, 0],
    "audio_ref": [0, 0, 0, 0, 0],
    "image_audio_ref": [0, 0, 0, 0, 0],
    "keyframes": [0, 0, 0, 0, 0],
}


@pytest.mark.parametrize("task", sorted(KEPT))
def test_whole_frames_are_kept_as_the_paper_says(assemble, latents, task):
    batch, samples = assemble(task)
    latent, mask = condition(batch)
    expected = torch.tensor(KEPT[task]).float()
    assert torch.equal(mask, expected.view(1, -1, 1, 1).expand_as(mask))
    black = latents.black(samples[0].bucket)
    for row, one in enumerate(samples):
        given = one.video if task == "v2a" else one.stills
        for frame, kept in enumerate(KEPT[task]):
            assert torch.equal(latent[row, :, frame], given[:, frame] if kept else black[:, 0])


def test_any_frames_are_kept_where_they_belong(assemble, latents):
    counts = set()
    for seed in range(20):
        batch, samples = assemble("keyframes_at", seed=seed)
        latent, mask = condition(batch)
        for row, one in enumerate(samples):
            places = mask[row].flatten(1).mean(1)
            assert set(places.tolist()) <= {0.0, 1.0}
            counts.add(int(places.sum()))
            for frame in range(5):
                assert torch.equal(
                    latent[row, :, frame], one.stills[:, frame] if places[frame] else latents.black("video")[:, 0]
                )
    assert counts == {1, 2, 3, 4}


def test_extensions_keep_what_was_encoded_alone_at_either_end(assemble):
    seen = set()
    for seed in range(12):
        batch, samples = assemble("extend", seed=seed)
        latent, mask = condition(batch)
        for row, one in enumerate(samples):
            places = mask[row, :, 0, 0].tolist()
            at_end = places[-1] == 1
            given = one.extensions[1 if at_end else 0].latents
            assert places == ([0, 0, 0, 0, 1] if at_end else [1, 1, 0, 0, 0])
            assert torch.equal(latent[row, :, -1:] if at_end else latent[row, :, :2], given)
            seen.add(at_end)
    assert seen == {True, False}


@pytest.mark.parametrize("task", ["inpaint", "image_inpaint"])
def test_regions_keep_all_but_themselves(assemble, task):
    batch, samples = assemble(task)
    latent, mask = condition(batch)
    for row, one in enumerate(samples):
        assert torch.equal(latent[row], one.regions[0].latents)
        assert torch.equal(mask[row].bool(), one.regions[0].keep_mask[0])


def test_an_edit_is_within_its_region_or_of_the_clip_before(assemble):
    """Which lies where the new one will, and of which nothing is kept."""
    batch, samples = assemble("edit", count=4)
    latent, mask = condition(batch)
    for row, one in enumerate(samples):
        if one.regions:
            assert torch.equal(latent[row], one.regions[0].latents)
            assert torch.equal(mask[row].bool(), one.regions[0].keep_mask[0])
        else:
            assert torch.equal(latent[row], one.references["video"])
            assert not mask[row].any()
    assert [bool(one.regions) for one in samples] == [False, True, False, True]
    assert not batch.inputs.video_references


@pytest.mark.parametrize("task", ["image_ref", "image_audio_ref"])
def test_every_picture_is_shown_whatever_the_others_of_the_batch_have(assemble, task):
    """Samples have 1 to 4; what is missing comes first, is closed, and leaves the others the times they have alone."""
    batch, samples = assemble(task, count=4)
    images, rows = batch.inputs.video_references, batch.inputs.reference_rows
    assert [tuple(image.shape) for image in images] == [(4, 4, 1, 4, 4)] * 4
    assert rows.shape == (4, 5 if task == "image_audio_ref" else 4)
    for row, one in enumerate(samples):
        own = {tuple(frame.flatten().tolist()) for frame in one.references["image"].unbind(1)}
        shown = [image[row, :, 0] for image, seen in zip(images, rows[row, :4].tolist(), strict=True) if seen]
        assert rows[row, :4].tolist() == [False] * (3 - row) + [True] * (row + 1)
        assert {tuple(frame.flatten().tolist()) for frame in shown} == own
    if task == "image_audio_ref":
        (voice,) = batch.inputs.audio_references
        assert rows[:, 4].all()
        assert all(torch.equal(voice[row], one.references["audio"]) for row, one in enumerate(samples))
        expected = [one.texts["structured+image_audio"] for one in samples]
        assert all(torch.equal(batch.inputs.text[row, : len(text)], text) for row, text in enumerate(expected))
    dropped, _ = assemble(task, count=4, dropout=Dropout(0, 1.0))
    assert not dropped.inputs.reference_rows.any()


def test_references_are_clean_and_of_one_length(assemble):
    (clip,) = assemble("video_ref")[0].inputs.video_references
    batch, samples = assemble("audio_ref")
    (voice,) = batch.inputs.audio_references
    assert torch.equal(voice[0], samples[0].references["audio"])
    assert clip.shape == (2, 4, 3, 4, 4)


def test_keyframes_are_noised_with_the_sequence_and_take_black_at_their_own_size(assemble, latents, small_preset):
    batch, samples = assemble("keyframes")
    indices = keyframe_indices(5, small_preset.refiner.keyframe_spacing)
    given = batch.inputs.keyframes
    assert given.indices == indices == (0, 2, 4)
    clean = torch.stack([one.large[:, list(indices)] for one in samples])
    assert torch.equal(given.latents[:, CHANNELS:-1], latents.black("video", large=True).expand(2, -1, 3, -1, -1))
    assert not given.latents[:, -1].any()
    t = batch.inputs.timesteps[:, 0].view(-1, 1, 1, 1, 1)
    eps = clean - batch.targets["keyframes"].velocity
    assert torch.allclose(given.latents[:, :CHANNELS], t * clean + (1 - t) * eps, atol=1e-5)


def test_keyframes_may_start_from_an_image_at_both_sizes(assemble):
    batch, samples = assemble("keyframes", keyframes_from_image=1.0)
    latent, mask = condition(batch)
    large = batch.inputs.keyframes.latents
    for row, one in enumerate(samples):
        assert torch.equal(latent[row, :, 0], one.video[:, 0])
        assert torch.equal(large[row, CHANNELS:-1, 0], one.large[:, 0])
        assert mask[row].flatten(1).mean(1).tolist() == [1, 0, 0, 0, 0]
        assert large[row, -1].flatten(1).mean(1).tolist() == [1, 0, 0]
        assert batch.targets["keyframes"].weight[row, 0, :, 0, 0].tolist() == pytest.approx([0.1, 1, 1])


def test_the_refiner_is_shown_upsampled_latents_and_keyframes(assemble, small_preset):
    batch, samples = assemble("refine")
    latent, mask = condition(batch)
    assert not mask.any()
    for row, one in enumerate(samples):
        expected = upsample_latents(one.video[None], (9, 8, 8))[0]
        for frame, place in ((0, 0), (2, 4), (4, 8)):
            expected[:, place] = one.large[:, frame]
        assert torch.allclose(latent[row], expected, atol=1e-6)
    without, samples = assemble("refine", dropout=Dropout(0, 1))
    expected = upsample_latents(samples[0].video[None], (9, 8, 8))[0]
    assert torch.allclose(condition(without)[0][0], expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["video", "image"])
def test_what_a_source_keeps_lies_over_what_is_refined(latents, small_preset, kind):
    settings = TaskSettings(dropout=NOTHING, refiner=small_preset.refiner, low_noise=0.0)
    assembler = Assembler(small_preset, "refiner", latents, settings)
    samples = [latents.read(one) for one in latents.buckets[kind][:2]]
    plain, kept = (
        assembler.batch(task, samples, torch.Generator().manual_seed(0)) for task in ("refine", "refine_inpaint")
    )
    (refined, _), (latent, mask) = condition(plain), condition(kept)
    for row, one in enumerate(samples):
        source = one.refined_regions[0]
        assert torch.equal(mask[row].bool(), source.keep_mask[0])
        assert torch.equal(latent[row], torch.where(source.keep_mask, source.latents, refined[row]))
        expected = torch.where(source.keep_mask, 0.1, 1.0)
        assert torch.allclose(kept.targets["video"].weight[row], expected)


def test_a_cache_without_refined_regions_is_named(assemble):
    with pytest.raises(ValueError, match="video-0 holds no regions at the refiner's size: make the cache anew"):
        assemble("refine_inpaint", change=lambda one: dataclasses.replace(one, refined_regions=()))


def test_a_refined_picture_is_not_shown_itself_as_keyframe(latents, small_preset):
    assembler = Assembler(small_preset, "refiner", latents, TaskSettings(dropout=Dropout(0, 0), low_noise=0.0))
    pictures = [latents.read(one) for one in latents.buckets["image"][:2]]
    batch = assembler.batch("refine", pictures, torch.Generator().manual_seed(0))
    expected = upsample_latents(torch.stack([one.video for one in pictures]), (1, 8, 8))
    assert torch.allclose(condition(batch)[0], expected, atol=1e-6)


STREAM_OF = {
    **{task: {"video"} for task in ("t2i", "t2v", "a2v", *REFINING, "image_inpaint")},
    **{task: {"audio"} for task in ("t2a", "v2a")},
    "keyframes": {"video", "audio", "keyframes"},
}


@pytest.mark.parametrize("task", NAMES)
def test_targets_are_velocities_and_given_streams_are_clean_and_unlearned(assemble, task):
    batch, samples = assemble(task)
    assert set(batch.targets) == STREAM_OF.get(task, {"video", "audio"})
    inputs = batch.inputs
    clean = {
        "video": [one.refined if task in REFINING else one.video for one in samples],
        "audio": [one.audio for one in samples],
    }
    noisy = {"video": None if inputs.video is None else inputs.video[:, :CHANNELS], "audio": inputs.audio}
    for column, stream in enumerate(("video", "audio")):
        if noisy[stream] is None:
            continue
        truth = torch.stack(clean[stream])
        t = inputs.timesteps[:, column].view(-1, *[1] * (truth.ndim - 1))
        if stream not in batch.targets:
            assert torch.equal(noisy[stream], truth)
            assert (t == 1).all()
            continue
        assert (t < 1).all()
        eps = truth - batch.targets[stream].velocity
        assert torch.allclose(noisy[stream], t * truth + (1 - t) * eps, atol=1e-5)
        assert abs(eps.std().item() - 1) < 0.15
    if {"video", "audio"} <= set(batch.targets):
        assert torch.equal(inputs.timesteps[:, 0], inputs.timesteps[:, 1])


@pytest.mark.parametrize("task", NAMES)
def test_conditions_hold_nothing_of_what_is_to_be_made(assemble, task):
    """Other clean latents behind the same noise change the noisy latents and the targets, and nothing else."""

    def other(one):
        swapped = {"refined": one.refined} if task in REFINING else {"video": one.video, "audio": one.audio}
        if task == "keyframes":
            swapped["large"] = one.large
        given = {"v2a": "video", "a2v": "audio"}.get(task)
        return dataclasses.replace(
            one,
            **{
                name: latents.flip(-1) + 1 for name, latents in swapped.items() if latents is not None and name != given
            },
        )

    (batch, _), (changed, _) = assemble(task), assemble(task, change=other)
    for stream, target in batch.targets.items():
        assert not torch.allclose(target.velocity, changed.targets[stream].velocity)
        assert torch.equal(target.weight, changed.targets[stream].weight)
    ours, theirs = batch.inputs, changed.inputs
    assert torch.equal(ours.text, theirs.text)
    assert torch.equal(ours.timesteps, theirs.timesteps)
    for one, two in zip(
        (*ours.video_references, *ours.audio_references),
        (*theirs.video_references, *theirs.audio_references),
        strict=True,
    ):
        assert torch.equal(one, two)
    channels = [(ours.video, theirs.video)]
    if ours.keyframes is not None:
        channels.append((ours.keyframes.latents, theirs.keyframes.latents))
    for one, two in channels:
        assert one is None or torch.equal(one[:, CHANNELS:], two[:, CHANNELS:])


def test_text_is_drawn_by_form_and_dropped_by_share(assemble, latents):
    counts = {"short": 0, "long": 0, "structured": 0, "null": 0}
    for seed in range(300):
        shares = {"short": 0.25, "long": 0.75}
        batch, samples = assemble("t2v", seed=seed, dropout=Dropout(0.2, 0), captions=shares)
        for row, one in enumerate(samples):
            mask = torch.ones(batch.inputs.text.shape[1], dtype=torch.bool)
            mask = mask if batch.inputs.text_mask is None else batch.inputs.text_mask[row]
            told = batch.inputs.text[row][mask]
            candidates = {
                **{form: one.texts[form] for form in ("short", "long", "structured")},
                "null": latents.null_text,
            }
            (form,) = [
                name for name, text in candidates.items() if text.shape == told.shape and torch.equal(text, told)
            ]
            counts[form] += 1
    assert counts["structured"] == 0
    assert abs(counts["null"] / 600 - 0.2) < 0.05
    assert abs(counts["short"] / (600 - counts["null"]) - 0.25) < 0.06


def shown(batch):
    """Which samples attend to their reference; all, where no mask is passed."""
    rows = batch.inputs.reference_rows
    return [True] * len(batch.keys) if rows is None else rows[:, 0].tolist()


def test_dropped_references_stay_in_place_but_are_not_attended_to(assemble):
    rows = [row for seed in range(100) for row in shown(assemble("video_ref", seed=seed, dropout=Dropout(0, 0.3))[0])]
    assert abs(rows.count(False) / len(rows) - 0.3) < 0.1
    kept, dropped = (assemble("video_ref", dropout=Dropout(0, share))[0] for share in (0, 1))
    assert torch.equal(kept.inputs.video_references[0], dropped.inputs.video_references[0])
    assert torch.equal(kept.inputs.text, dropped.inputs.text)
    assert all(shown(kept))
    assert not any(shown(dropped))


def test_a_reference_task_reads_the_text_that_was_read_with_it(assemble):
    batch, samples = assemble("image_ref", captions={"long": 1.0})
    assert torch.equal(batch.inputs.text[0], samples[0].texts["structured+image"])


def test_an_edit_is_made_within_its_region_half_of_the_time(assemble):
    within = []
    for seed in range(40):
        batch, samples = assemble("edit", count=4, seed=seed, dropout=Dropout(0, 0))
        for row, (one, mask) in enumerate(zip(samples, condition(batch)[1], strict=True)):
            inside = bool(mask.any())
            told = one.texts["instruction" if inside else "instruction+video"]  # outside a region its pixels are shown
            assert torch.equal(batch.inputs.text[row, : len(told)], told)
            assert one.regions or not inside
            within += [inside] if one.regions else []
    assert abs(sum(within) / len(within) - 0.5) < 0.15


def test_kept_latents_weigh_a_tenth(assemble):
    batch, samples = assemble("inpaint")
    weight = batch.targets["video"].weight
    for row, one in enumerate(samples):
        expected = torch.where(one.regions[0].keep_mask, 0.1, 1.0)
        assert torch.allclose(weight[row], expected)
    assert (assemble("t2av")[0].targets["audio"].weight == 1).all()


def test_a_sample_without_the_captions_asked_for_is_named(assemble):
    with pytest.raises(ValueError, match=r"video-0 has .*short.* but none of poem"):
        assemble("t2v", captions={"poem": 1.0})


@pytest.mark.parametrize(
    ("task", "kinds"),
    [
        ("t2i", {"image"}),
        ("t2v", {"video"}),
        ("t2a", {"audio", "video"}),
        ("edit", {"pair"}),
        ("refine", {"image", "video"}),
        ("refine_inpaint", {"image", "video"}),
    ],
)
def test_tasks_take_the_kinds_they_can_use(latents, task, kinds):
    streams = STREAMS["joint"]
    found = {one.kind for entries in latents.buckets.values() for one in entries if TASKS[task].usable(one, streams)}
    assert found == kinds


def test_what_a_task_needs_depends_on_the_branches(latents):
    clip = latents.buckets["video"][0]
    silent = dataclasses.replace(clip, has_audio=False)
    video, audio, joint = (STREAMS[name] for name in ("video", "audio", "joint"))
    assert TASKS["i2v"].usable(silent, video)
    assert not TASKS["i2v"].usable(silent, joint)
    assert not TASKS["t2av"].usable(clip, video)
    assert not TASKS["t2v"].usable(clip, audio)
    assert TASKS["audio_ref"].usable(clip, audio)
    assert not TASKS["audio_ref"].usable(clip, video)
    assert not TASKS["i2v"].usable(clip, audio), "a given picture, and no branch for it"
    assert not TASKS["image_ref"].usable(dataclasses.replace(clip, references=("video",)), video)
    assert not TASKS["image_ref"].usable(dataclasses.replace(clip, texts=("short",)), video)
    assert not TASKS["extend"].usable(dataclasses.replace(clip, extensions=0), video)
    assert not TASKS["refine_inpaint"].usable(dataclasses.replace(clip, regions=0), video)
    assert not TASKS["refine_inpaint"].usable(dataclasses.replace(clip, refined=False), video)


@pytest.mark.parametrize("task", NAMES)
def test_a_batch_is_a_function_of_the_generator(assemble, task):
    (one, _), (again, _), (other, _) = assemble(task, seed=3), assemble(task, seed=3), assemble(task, seed=4)
    for stream, target in one.targets.items():
        assert torch.equal(target.velocity, again.targets[stream].velocity)
        assert not torch.equal(target.velocity, other.targets[stream].velocity)
    assert one.tokens > 0
    assert one.flops > 0
