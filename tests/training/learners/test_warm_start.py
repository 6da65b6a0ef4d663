import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.checkpoint import save_transformer
from model.checksums import CheckpointError
from model.network.inputs import JointInputs
from model.network.mmdit import MMDiT
from pipelines.training.learners.network import network_config
from pipelines.training.learners.warm_start import warm_start


@pytest.fixture
def stored(tmp_path, small_preset):
    """A trained network of each kind in a folder: every weight moved off its initial value."""

    def make(branches, preset=small_preset):
        torch.manual_seed(len(branches))
        model = MMDiT(network_config(preset, branches))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        save_transformer(model, tmp_path / branches, max_shard_bytes=20_000)
        return tmp_path / branches, model.eval()

    return make


def started(preset, branches, folders):
    """A network as the engine starts it: built, then given what the warm start holds."""
    torch.manual_seed(9)
    model = MMDiT(network_config(preset, branches))
    weights = warm_start(model.config, folders)
    model.load_state_dict({**model.state_dict(), **{name: weights[name] for name in weights}})
    return model.eval(), weights


def inputs(preset, *, sound=True, picture=True):
    torch.manual_seed(1)
    channels = preset.transformer.video_channels
    text = torch.randn(2, 3, preset.transformer.text_width)
    video = torch.randn(2, 2 * channels + 1, 3, 4, 4)
    audio = torch.randn(2, preset.transformer.audio_channels, 10)
    return JointInputs(
        text=text,
        timesteps=torch.tensor([[0.2, 0.2], [0.7, 0.7]]),
        video=video if picture else None,
        audio=audio if sound else None,
        audio_time_scale=0.3,
    )


@torch.no_grad()
def test_a_joint_network_starts_as_its_two_branches(stored, small_preset):
    (video, pictured), (audio, heard) = stored("video"), stored("audio")
    model, weights = started(small_preset, "joint", [video, audio])
    made = model(inputs(small_preset))
    assert torch.allclose(made.video, pictured(inputs(small_preset, sound=False)).video, atol=1e-5)
    assert torch.allclose(made.audio, heard(inputs(small_preset, picture=False)).audio, atol=1e-5)
    left_out = {name for name, _ in model.named_parameters()} - set(weights)
    assert left_out
    assert all("_reads_" in name or name.endswith("cross_table") for name in left_out)


@torch.no_grad()
def test_a_refiner_starts_as_the_video_branch_of_its_base(stored, small_preset):
    joint, base = stored("joint")
    model, _ = started(small_preset, "refiner", [joint])
    given = inputs(small_preset, sound=False)
    assert torch.allclose(model(given).video, base(given).video, atol=1e-5)


@pytest.fixture
def deep_preset(small_preset):
    """With a refiner of fewer layers, which states residuals."""
    refiner = dataclasses.replace(small_preset.refiner, dual_blocks=1, single_blocks=2, prediction="residual")
    transformer = dataclasses.replace(small_preset.transformer, dual_blocks=2, single_blocks=3)
    return dataclasses.replace(small_preset, transformer=transformer, refiner=refiner)


def test_a_shallow_refiner_starts_as_some_layers_of_its_base_and_states_nothing_yet(stored, deep_preset):
    joint, base = stored("joint", deep_preset)
    model, weights = started(deep_preset, "refiner", [joint])
    theirs, mine = base.state_dict(), model.state_dict()
    for layer, of_base in ((0, 0), (1, 3), (2, 4)):
        names = [name for name in mine if name.startswith(f"layers.{layer}.") and "coarse_gate" not in name]
        assert len(names) > 20
        for name in names:
            assert torch.equal(mine[name], theirs[name.replace(f"layers.{layer}.", f"layers.{of_base}.", 1)]), name
    assert not any(name.startswith("video.head.") for name in weights)
    assert not mine["video.head.weight"].any()
    assert torch.equal(mine["video.media_in.weight"], theirs["video.media_in.weight"])


def test_a_refiner_goes_on_from_itself_alone_as_it_was(stored, deep_preset):
    folder, before = stored("refiner", deep_preset)
    model, _ = started(deep_preset, "refiner", [folder])
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in model.state_dict().items())
    other = dataclasses.replace(deep_preset, refiner=dataclasses.replace(deep_preset.refiner, single_blocks=1))
    with pytest.raises(CheckpointError, match="single_blocks 2 instead of 1"):
        warm_start(network_config(other, "refiner"), [folder])


@torch.no_grad()
def test_a_stage_goes_on_from_the_one_before(stored, small_preset):
    folder, before = stored("video")
    model, weights = started(small_preset, "video", [folder])
    given = inputs(small_preset, sound=False)
    assert torch.equal(model(given).video, before(given).video)
    assert set(weights) == {name for name, _ in model.named_parameters()}


def test_nothing_to_start_from_is_no_weights(small_preset):
    assert dict(warm_start(network_config(small_preset, "video"), [])) == {}


@pytest.mark.parametrize(
    ("branches", "sources", "words"),
    [
        ("video", ["joint"], r"kind video cannot start from .*joint \(joint\): it takes a video one"),
        ("audio", ["video"], "kind audio cannot start from"),
        ("joint", ["video"], "it takes a joint one, or one of video and one of audio"),
        ("joint", ["video", "video"], "kind joint cannot start from"),
        ("refiner", ["audio"], "it takes a joint, video or refiner one"),
    ],
)
def test_folders_that_do_not_make_up_the_network_are_refused(stored, small_preset, branches, sources, words):
    folders = [stored(source)[0] for source in sources]
    with pytest.raises(CheckpointError, match=words):
        warm_start(network_config(small_preset, branches), folders)


def test_another_preset_is_refused_by_name(stored, small_preset):
    larger = dataclasses.replace(small_preset, transformer=dataclasses.replace(small_preset.transformer, width=64))
    folder, _ = stored("video", larger)
    with pytest.raises(CheckpointError, match=r"another preset: width 64 instead of 32"):
        warm_start(network_config(small_preset, "video"), [folder])


@pytest.mark.parametrize("branches", ["joint", "refiner"])
def test_pieces_are_those_of_the_whole_tensors(stored, small_preset, branches):
    """Of modulations too, which gain rows in a joint network and lose them in a refiner."""
    kinds = ("video", "audio") if branches == "joint" else ("joint",)
    weights = warm_start(network_config(small_preset, branches), [stored(kind)[0] for kind in kinds])
    fitted = 0
    for name in weights:
        whole = weights[name].reshape(-1)
        assert weights.shape(name) == tuple(weights[name].shape)
        size = -(-len(whole) // 3)
        bounds = [(min(at, len(whole)), min(at + size, len(whole))) for at in range(0, 3 * size, size)]
        assert torch.equal(torch.cat([weights.piece(name, *span) for span in bounds]), whole)
        fitted += ".media_modulation." in name
    assert fitted


@pytest.mark.slow
def test_two_ranks_start_from_their_halves_of_the_weights_and_read_no_more(stored, tmp_path):
    stored("video")
    program = Path(__file__).with_name("start_on_ranks.py")
    done = subprocess.run([sys.executable, str(program), str(tmp_path)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        read, there = map(int, (tmp_path / f"read-{rank}").read_text().split())
        assert read < 2 * 0.6 * there  # each piece twice: in the training precision and in fp32
