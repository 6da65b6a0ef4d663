import dataclasses
import fnmatch

import av
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from model.codecs.tiny_audio import TinyAudioCodec, TinyAudioConfig
from model.codecs.tiny_video import TinyVideoCodec, TinyVideoConfig
from pipelines.training.data.assembler import Assembler, SparsitySchedule
from pipelines.training.latents.index import LatentError
from pipelines.training.learners.network import PARAMETER_GROUPS, STREAMS, frozen
from pipelines.training.learners.preview import PreviewSettings
from pipelines.training.learners.transformer import COMPARED, TransformerStage
from pipelines.training.tasks import TASKS, TaskSettings
from skyreels.training.one_device.captured import layout_of, tensors_of
from skyreels.training.trainable import Slot

USABLE = {
    "video": ["t2i", "t2v", "i2v", "extend", "inpaint", "image_inpaint", "edit", "image_ref", "video_ref"],
    "audio": ["t2a", "audio_ref"],
    "joint": sorted(TASKS.keys() - {"refine", "refine_inpaint"}),
    "refiner": ["refine", "refine_inpaint"],
}


@pytest.fixture
def stage_of(small_preset, latents, draws):
    def make(branches, mix=None, index=latents, sparsity=None, **options):
        settings = TaskSettings(refiner=small_preset.refiner)
        assembler = Assembler(small_preset, branches, index, settings, sparsity=sparsity)
        mix = dict.fromkeys(mix or USABLE[branches], 1.0)
        return TransformerStage(assembler, draws(index, mix, branches), **options)

    return make


def test_elementwise_work_is_compiled_where_the_recipe_says_so(stage_of, compilations):
    for compiled in (False, True):
        stage = stage_of("video", compiled=compiled)
        stage.loss(stage.build(), stage.batch(Slot(0, 0)))
        assert set(compilations) == ({"modulated_norm", "gated_residual", "rotate"} if compiled else set())


def same(one, other):
    """Equal to the bit, everything that goes into the model and all that is learned."""
    for field in dataclasses.fields(one.inputs):
        ours, theirs = (getattr(batch.inputs, field.name) for batch in (one, other))
        if isinstance(ours, torch.Tensor) and not torch.equal(ours, theirs):
            return False
    return all(torch.equal(target.velocity, other.targets[name].velocity) for name, target in one.targets.items())


def test_a_batch_is_a_function_of_step_and_slot(stage_of):
    stage, again = stage_of("joint"), stage_of("joint")
    for step in range(6):
        for index in range(stage.slots):
            assert same(again.batch(Slot(step, index)), stage.batch(Slot(step, index)))
    assert stage.batch(Slot(0, 0)).keys == again.batch(Slot(0, 0)).keys
    assert not same(stage.batch(Slot(0, 0)), dataclasses.replace(stage, seed=1).batch(Slot(0, 0)))


def test_slots_of_a_step_share_the_task_and_not_the_samples(stage_of):
    stage = stage_of("joint", ["t2av", "t2i", "i2v"])
    for step in range(12):
        one, other = stage.batch(Slot(step, 0)), stage.batch(Slot(step, 1))
        assert one.task == other.task == stage.sampler.task(step)
        assert not set(one.keys) & set(other.keys)
        assert not torch.equal(one.inputs.timesteps, other.inputs.timesteps)


def test_unreadable_samples_are_replaced_alike_and_named(stage_of, damaged):
    stage, again = (stage_of("video", ["t2v"], damaged) for _ in range(2))
    told = set()
    for step in range(4):
        for index in range(2):
            batch = stage.batch(Slot(step, index))
            assert same(again.batch(Slot(step, index)), batch)
            assert len(batch.keys) == 2
            assert not {"video-1", "video-2"} & set(batch.keys)
            told |= set(batch.skipped)
    assert told == {f"shard-0.tar: video-{number}: the sample is damaged" for number in (1, 2)}
    damaged.broken |= set(damaged.samples)
    with pytest.raises(LatentError, match="is damaged"):
        stage.batch(Slot(0, 0))


@pytest.mark.parametrize("branches", sorted(USABLE))
def test_every_parameter_learns(stage_of, branches):
    stage = stage_of(branches)
    torch.manual_seed(0)
    module = stage.build()
    for parameter in module.parameters():  # gates and heads start at zero and let no gradient through
        torch.nn.init.normal_(parameter, std=0.1)
    for task in USABLE[branches]:
        samples = stage.assembler.first(task, 2)
        batch = stage.assembler.batch(task, samples, torch.Generator().manual_seed(0), step=1000)
        stage.loss(module, batch).loss.backward()
    idle = [name for name, parameter in module.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    lone = "video.keyframe_embedding"  # of the keyframes task, which only joint networks are taught
    assert idle == ([lone] if branches in ("video", "refiner") else [])


def test_frozen_parameters_stay_and_the_rest_moves(stage_of):
    stage = stage_of("joint", ["t2av"], freeze=["video.*", "layers.*.video.*"])
    module = stage.build()
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    for step in range(3):
        stage.loss(module, stage.batch(Slot(step, 0))).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, parameter in module.named_parameters() if not torch.equal(parameter, before[name])}
    frozen = {name for name in before if name.startswith("video.") or ".video." in name}
    assert not moved & frozen
    assert {"audio.head.weight", "layers.0.audio_reads_video.gate"} <= moved


@pytest.mark.parametrize("branches", list(STREAMS))
def test_every_parameter_is_of_one_group(stage_of, branches):
    names = [name for name, _ in stage_of(branches).build().named_parameters()]
    groups = PARAMETER_GROUPS if branches == "joint" else STREAMS[branches]
    parts = {name: {found for p in PARAMETER_GROUPS[name] for found in fnmatch.filter(names, p)} for name in groups}
    assert sorted(name for part in parts.values() for name in part) == sorted(names)


def test_groups_are_the_branches_as_they_are_alone_and_what_is_between(stage_of):
    names = {kind: {name for name, _ in stage_of(kind).build().named_parameters()} for kind in STREAMS}
    for branch in ("video", "audio"):
        assert frozen(names["joint"], [branch]) == names[branch]
    assert frozen(names["joint"], ["between"]) == names["joint"] - names["video"] - names["audio"]
    assert frozen(names["joint"], ["video", "layers.0.audio.*"]) > names["video"]


def test_a_joint_network_may_learn_only_what_is_between_its_branches(stage_of):
    module = stage_of("joint", freeze=["video", "audio"]).build()
    learn = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert learn == frozen([name for name, _ in module.named_parameters()], ["between"])


def test_freezing_nothing_or_everything_is_an_error(stage_of):
    with pytest.raises(
        ValueError, match=r"no parameter of this network matches 'vidoe'; groups: .* did you mean 'video'"
    ):
        stage_of("joint", freeze=["vidoe"]).build()
    with pytest.raises(ValueError, match="matches 'audio'"):
        stage_of("video", freeze=["audio"]).build()
    for everything in (["*"], ["video", "audio", "between"]):
        with pytest.raises(ValueError, match="leave no parameter to learn"):
            stage_of("joint", freeze=everything).build()


@pytest.mark.parametrize("task", sorted(TASKS))
def test_all_ranks_call_the_same_modules_in_the_same_order(stage_of, task):
    """Whatever the samples are and whatever was dropped: ZeRO-3 gathers weights module by module."""
    stage = stage_of("refiner" if task in USABLE["refiner"] else "joint", [task])
    module = stage.build()
    called = []
    for name, part in module.named_modules():
        part.register_forward_hook(lambda *_, name=name: called.append(name))
    orders = set()
    for step in range(6):
        for index in range(stage.slots):
            stage.loss(module, stage.batch(Slot(step, index)))
            orders.add(tuple(called))
            called.clear()
    assert len(orders) == 1


def test_sound_alone_lies_on_the_time_that_a_clip_of_its_length_would(stage_of):
    assembler = stage_of("joint", ["t2a"]).assembler
    alone, of_clip = (
        assembler.batch("t2a", assembler.first("t2a", 1, bucket), torch.Generator()) for bucket in ("audio-1s", "video")
    )
    assert alone.inputs.audio_time_scale == of_clip.inputs.audio_time_scale == 5 / 45


def test_sparsity_rises_with_the_step(stage_of):
    stage = stage_of("refiner", sparsity=SparsitySchedule(0.0, 0.25, 2, 0.6))
    levels = [stage.batch(Slot(step, 0)).inputs.sparsity for step in range(8)]
    assert levels == [0, 0, 0.25, 0.25, 0.5, 0.5, 0.6, 0.6]


@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_batch_of_any_task_is_learned(stage_of, task):
    torch.manual_seed(0)
    stage = stage_of("refiner" if task in USABLE["refiner"] else "joint", [task])
    module, batch = stage.build(), stage.batch(Slot(0, 0))
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        losses.append(stage.loss(module, batch).loss)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.6 * losses[0]


def test_samples_are_written_as_media_that_plays(stage_of, tmp_path):
    video = TinyVideoCodec(TinyVideoConfig(channels=4, width=16, patch_width=8, depth=1))
    audio = TinyAudioCodec(TinyAudioConfig(channels=6, width=16, spectrum_width=8, vocoder_iterations=2))
    video.save(tmp_path / "components/video_codec")
    audio.save(tmp_path / "components/audio_codec")
    mix = ["t2av", "t2i", "t2a", "v2a", "keyframes", "edit"]
    stage = stage_of("joint", mix, components=tmp_path / "components", previews=PreviewSettings(steps=2))
    module, out = stage.build(), tmp_path / "samples"
    out.mkdir()
    stage.write_samples(module, 0, out)
    assert sorted(path.name for path in out.iterdir()) == [
        "edit-pair-0.mp4",
        "keyframes-video-0.mp4",
        "t2a-video-0.flac",
        "t2av-video-0.mp4",
        "t2i-image-0.png",
        "v2a-video-0.mp4",
    ]
    with av.open(str(out / "t2av-video-0.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 17
        assert container.streams.audio[0].rate == 44100
    files = {path.name: path.read_bytes() for path in out.iterdir()}
    stage.write_samples(module, 5, None)  # the other ranks run forward and write nothing
    stage.write_samples(module, 5, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == files


def test_weights_are_compared_on_what_is_held_out_and_always_on_the_same_noise(stage_of):
    held = frozenset({"video-3", "image-0"})
    one, again = (stage_of("joint", ["t2av", "i2v", "t2i", "edit"], held=held).held_out() for _ in range(2))
    assert len(one) == len(again)
    assert all(same(*pair) for pair in zip(one, again, strict=True))
    assert sum(len(batch.keys) for batch in one) == COMPARED
    for batch in one:
        if batch.task == "edit":  # no pair is held out
            assert set(batch.keys) <= {f"pair-{number}" for number in range(4)}
        else:
            assert set(batch.keys) == {"image-0" if batch.task == "t2i" else "video-3"}
    noises = {float(batch.inputs.timesteps[0, 0]) for batch in one if batch.task == "t2av"}
    assert len(noises) == sum(batch.task == "t2av" for batch in one)


def test_what_an_unreadable_sample_would_have_said_is_said_by_another(stage_of, damaged):
    batches = stage_of("video", ["t2v"], damaged, held=frozenset({"video-1", "video-3"})).held_out()
    assert {key for batch in batches for key in batch.keys} == {"video-3"}


class HostAsked(TorchDispatchMode):
    """Notes what a CUDA graph cannot record: values read back, shapes that depend on them, tensors made of numbers."""

    BARRED = {"aten._local_scalar_dense", "aten.lift_fresh", "aten.nonzero", "aten.masked_select", "aten.item"}

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function).rsplit(".", 1)[0]
        if name in self.BARRED:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("branches", sorted(USABLE))
def test_a_step_of_any_task_can_be_recorded(stage_of, branches):
    sparsity = SparsitySchedule(0.5) if branches == "refiner" else None
    for task in USABLE[branches]:
        stage = stage_of(branches, [task], sparsity=sparsity)
        module = stage.build()
        batch = stage.batch(Slot(0, 0))
        with HostAsked() as host:
            stage.loss(module, batch).loss.backward()
        assert not host.found, task


def test_batches_of_a_task_have_one_layout_and_may_be_pinned(stage_of):
    stage = stage_of("joint", ["t2av"])
    stage = dataclasses.replace(stage, assembler=dataclasses.replace(stage.assembler, text_multiple=64))
    batches = [stage.batch(Slot(step, 0)) for step in range(3)]
    assert {batch.inputs.text.shape[1] for batch in batches} == {64}
    assert len({layout_of(batch) for batch in batches}) == 1
    assert layout_of(batches[0]) != layout_of(stage_of("joint", ["t2v"]).batch(Slot(0, 0)))
    tensors = list(tensors_of(batches[0]))
    assert len(tensors) >= 6
    for mine, moved in zip(tensors, tensors_of(batches[0].to(torch.device("cpu"))), strict=True):
        assert torch.equal(mine, moved)
