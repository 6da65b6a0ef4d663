"""The learned detector: its layout, its windows, what its probabilities mean, and that it can learn what a cut is."""

import json

import cv2
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from pipelines.curation.pool.measure import measure_source, probe_source
from pipelines.curation.recipe import ExtractConfig, ShotsConfig
from pipelines.curation.visual.decode_pass import DecodePassConfig, run_decode_pass
from pipelines.curation.visual.learned_shots import (
    LearnedDetector,
    ShotMeter,
    find_learned_shots,
    load_detector,
)
from pipelines.curation.visual.timeline import Cut, Transition
from pipelines.curation.visual.transnet import TransNetConfig, TransNetV2, load
from skyreels.media.encode import write_video
from skyreels.media.errors import MediaError
from skyreels.media.probe import probe

TINY = TransNetConfig(filters=2, blocks=3, cells=1, dense=64, similarity=32, window=51)
DETECTOR = LearnedDetector(lambda frames: np.zeros((len(frames), 2), np.float32))


def film(rng: np.random.Generator, frames: int, shots: int) -> tuple[np.ndarray, np.ndarray]:
    """(T, 27, 48, 3) of moving textures, and the first frames of the new shots; none is shorter than 6 frames."""
    while True:
        cuts = np.sort(rng.choice(np.arange(6, frames - 5), shots - 1, replace=False))
        if shots < 3 or np.diff(cuts).min() >= 6:
            break
    pictures = []
    for first, end in zip([0, *cuts], [*cuts, frames], strict=True):
        coarse = rng.integers(0, 256, (rng.integers(3, 9), rng.integers(4, 12), 3), dtype=np.uint8)
        texture = cv2.resize(coarse, (96, 54), interpolation=cv2.INTER_CUBIC)
        dx, dy = rng.uniform(-2, 2, 2)
        for n in range(end - first):
            moved = np.roll(texture, (round(dy * n), round(dx * n)), (0, 1))[:27, :48]
            pictures.append(np.clip(moved + rng.normal(0, 3, moved.shape), 0, 255))
    return np.array(pictures).astype(np.uint8), cuts


def f1(found: list[Cut], truth: np.ndarray) -> float:
    """Exact to the frame."""
    return 2 * len({cut.frame_index for cut in found} & set(truth.tolist())) / (len(found) + len(truth))


def cuts_of(model: TransNetV2, frames: np.ndarray) -> list[Cut]:
    meter = ShotMeter(model.predict)
    for frame in frames:
        meter.push(frame)
    times = np.arange(len(frames)) / 24
    return find_learned_shots(meter.probabilities(), times, [], LearnedDetector(model.predict), 0.2)[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The path of a tiny network's checkpoint after a few seconds of hard cuts, and the network it was before."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, untrained = TransNetV2(TINY), TransNetV2(TINY).eval()
    untrained.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters())
    rng = np.random.default_rng(0)
    model.train()
    for step in range(50):
        optimizer.param_groups[0]["lr"] = 6e-3 * (1 - step / 50)
        films = [film(rng, 24, 3) for _ in range(4)]
        wanted = torch.zeros(4, 24)
        for row, (_, cuts) in enumerate(films):
            wanted[row, cuts - 1] = 1.0  # the last frame of the old shot
        outputs = model(torch.from_numpy(np.stack([frames for frames, _ in films])))
        loss = sum(F.binary_cross_entropy_with_logits(o, wanted, pos_weight=torch.tensor(5.0)) for o in outputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("transnet") / "tiny.safetensors"
    model.save(path)
    return path, untrained


@pytest.mark.slow
def test_a_trained_network_finds_cuts_it_has_not_seen(trained):
    path, untrained = trained
    model = load(path)
    rng = np.random.default_rng(100)
    learned, before = [], []
    for _ in range(3):
        frames, truth = film(rng, 150, 12)
        learned.append(f1(cuts_of(model, frames), truth))
        before.append(f1(cuts_of(untrained, frames), truth))
    assert np.mean(learned) >= 0.85
    assert np.mean(before) <= 0.3


@pytest.mark.slow
def test_the_decode_pass_takes_its_cuts_from_the_network(trained, tmp_path):
    frames, truth = film(np.random.default_rng(7), 120, 8)
    path = tmp_path / "film.mp4"
    write_video(path, (cv2.resize(frame, (288, 162), interpolation=cv2.INTER_CUBIC) for frame in frames), 24)
    detector = load_detector(str(trained[0]), 0.5)
    assert load_detector(str(trained[0]), 0.5) is detector
    timeline = run_decode_pass(path, probe(path), config=DecodePassConfig(learned=detector))
    assert f1(timeline.cuts, truth) >= 0.85
    assert all(0.5 <= cut.strength <= 1 for cut in timeline.cuts)
    assert [cut.time_s * 24 for cut in timeline.cuts] == pytest.approx([cut.frame_index for cut in timeline.cuts])
    shots = ShotsConfig(backend="transnet", weights=str(trained[0]))
    request = {"path": str(path), "limits": {}, "extract": ExtractConfig(shots=shots).model_dump(), "source_id": "a"}
    request |= probe_source(request, tmp_path)
    assert measure_source(request, tmp_path)["cuts_s"] == [cut.time_s for cut in timeline.cuts]


@pytest.mark.parametrize("count", [1, 50, 75, 137])
def test_windows_over_a_stream_give_what_windows_over_the_whole_clip_give(count):
    torch.manual_seed(count)
    model = TransNetV2(TransNetConfig(filters=1, blocks=2, cells=2, dense=8, similarity=4)).eval()
    frames = film(np.random.default_rng(count), count, 1)[0]
    padded = np.concatenate([frames[:1].repeat(25, 0), frames, frames[-1:].repeat(100, 0)])
    direct = np.concatenate([model.predict(padded[at : at + 100])[25:75] for at in range(0, count, 50)])[:count]
    meter = ShotMeter(model.predict)
    for frame in frames:
        meter.push(frame)
        assert len(meter._kept) < 100
    np.testing.assert_array_equal(meter.probabilities(), direct)


def test_a_network_that_sees_no_further_than_the_margin_needs_no_windows():
    """It compares with 9 frames on either side, of which each is seen with 16 more: just the margin of 25."""
    torch.manual_seed(3)
    model = TransNetV2(TransNetConfig(filters=2, blocks=2, cells=1, dense=32, similarity=8, window=19)).eval()
    frames = film(np.random.default_rng(3), 130, 9)[0]
    meter = ShotMeter(model.predict)
    for frame in frames:
        meter.push(frame)
    whole = model.predict(np.concatenate([frames[:1].repeat(25, 0), frames, frames[-1:].repeat(45, 0)]))[25:155]
    assert np.ptp(whole, axis=0).min() > 1e-2  # it does tell frames apart
    np.testing.assert_allclose(meter.probabilities(), whole, atol=1e-6)


def test_layout_of_the_published_size():
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in TransNetV2().state_dict().items()}
    assert len(shapes) == 90  # of the authors' converted checkpoint
    assert shapes["SDDCNN.0.DDCNN.0.Conv3D_1.layers.0.weight"] == (32, 3, 1, 3, 3)
    assert shapes["SDDCNN.2.DDCNN.1.Conv3D_8.layers.1.weight"] == (64, 128, 3, 1, 1)
    assert shapes["SDDCNN.1.DDCNN.0.bn.running_var"] == (128,)
    assert shapes["frame_sim_layer.projection.weight"] == (128, 448)
    assert shapes["frame_sim_layer.fc.weight"] == shapes["color_hist_layer.fc.weight"] == (128, 101)
    assert shapes["fc1.weight"] == (1024, 4864)
    assert shapes["cls_layer1.weight"] == shapes["cls_layer2.weight"] == (1, 1024)


def test_outputs_follow_the_input_and_wrong_inputs_are_named():
    model = TransNetV2(TINY).eval()
    one, every = model(torch.zeros(2, 9, 27, 48, 3, dtype=torch.uint8))
    assert one.shape == every.shape == (2, 9)
    with pytest.raises(ValueError, match=r"\(2, 9, 48, 27, 3\).*give \(B, T, 27, 48, 3\) uint8"):
        model(torch.zeros(2, 9, 48, 27, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="float32"):
        model(torch.zeros(2, 9, 27, 48, 3))


def test_forward_by_hand_from_the_names_of_the_state_dict():
    """The published network written out step by step on a state dict: nothing of the module is used but its names."""
    torch.manual_seed(5)
    model = TransNetV2(TransNetConfig(filters=1, blocks=2, cells=2, dense=6, similarity=3, window=5)).eval()
    for name, tensor in model.state_dict().items():
        if ".bn." in name and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    w = model.state_dict()
    frames = torch.randint(0, 256, (1, 7, 27, 48, 3), dtype=torch.uint8)
    x, pooled = frames.float().div(255).movedim(-1, 1), []
    for block in range(2):
        cells = []
        for cell in range(2):
            at, parts = f"SDDCNN.{block}.DDCNN.{cell}", []
            for dilation in (1, 2, 4, 8):
                space = w[f"{at}.Conv3D_{dilation}.layers.0.weight"]
                time = w[f"{at}.Conv3D_{dilation}.layers.1.weight"][..., 0, 0]  # (out, in, 3)
                seen = F.pad(F.conv3d(x, space, padding=(0, 1, 1)), (0, 0, 0, 0, dilation, dilation))
                taps = [seen[:, :, k * dilation : k * dilation + 7] for k in range(3)]
                parts.append(sum(torch.einsum("oi,bithw->bothw", time[..., k], tap) for k, tap in enumerate(taps)))
            mean, var, gain, bias = (
                w[f"{at}.bn.{name}"][:, None, None, None] for name in ("running_mean", "running_var", "weight", "bias")
            )
            x = F.relu((torch.cat(parts, 1) - mean) / (var + 1e-3).sqrt() * gain + bias)
            cells.append(x)
        x = F.avg_pool3d(cells[0] + cells[1], (1, 2, 2))
        pooled.append(x.mean((3, 4))[0].T)
    projected = torch.cat(pooled, 1) @ w["frame_sim_layer.projection.weight"].T + w["frame_sim_layer.projection.bias"]
    cosines = F.pad(F.cosine_similarity(projected[:, None], projected[None], dim=2), (2, 2))
    around = torch.stack([cosines[t, t : t + 5] for t in range(7)])
    alike = F.relu(around @ w["frame_sim_layer.fc.weight"].T + w["frame_sim_layer.fc.bias"])
    features = torch.cat([model.color_hist_layer(frames)[0], alike, x[0].permute(1, 2, 3, 0).flatten(1)], 1)
    hidden = F.relu(features @ w["fc1.weight"].T + w["fc1.bias"])
    for head, output in zip(("cls_layer1", "cls_layer2"), model(frames), strict=True):
        torch.testing.assert_close(output[0], (hidden @ w[f"{head}.weight"].T + w[f"{head}.bias"])[:, 0])


def test_colour_histograms_against_loops():
    torch.manual_seed(1)
    model = TransNetV2(TransNetConfig(filters=1, blocks=1, cells=1, dense=4, similarity=3, window=5))
    frames = torch.randint(0, 256, (1, 7, 27, 48, 3), dtype=torch.uint8)
    histograms = np.zeros((7, 8, 8, 8))
    for t in range(7):
        for red, green, blue in (frames[0, t].reshape(-1, 3) // 32).tolist():
            histograms[t, red, green, blue] += 1
    unit = [h.ravel() / np.linalg.norm(h) for h in histograms]
    around = [[unit[t] @ unit[u] if 0 <= u < 7 else 0.0 for u in range(t - 2, t + 3)] for t in range(7)]
    layer = model.color_hist_layer
    expected = F.relu(layer.fc(torch.tensor(around, dtype=torch.float32)))
    torch.testing.assert_close(layer(frames)[0], expected)


@pytest.mark.parametrize("in_folder", [True, False])
def test_a_checkpoint_comes_back_as_it_was(tmp_path, in_folder):
    torch.manual_seed(2)
    made = TransNetV2(TINY).eval()
    path = tmp_path / "net.safetensors"
    made.save(path)
    if in_folder:
        path.rename(tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(vars(TINY)))
        path = tmp_path
    frames = film(np.random.default_rng(0), 20, 2)[0]
    np.testing.assert_array_equal(load(path).predict(frames), made.predict(frames))


def test_what_is_wrong_with_a_checkpoint_is_said(tmp_path):
    path = tmp_path / "net.safetensors"
    TransNetV2(TINY).save(path)
    tensors = load_file(path)
    tensors["fc1.bias"] = torch.zeros(5)
    tensors["fc9.bias"] = tensors.pop("cls_layer1.bias")
    save_file(tensors, path, {"config": json.dumps(vars(TINY))})
    with pytest.raises(ValueError, match=r"cls_layer1.bias is missing; fc9.bias is not part.*\(5,\), not \(64,\)"):
        load(path)
    save_file(tensors, path, {"config": '{"filters": 2, "depth": 3}'})
    with pytest.raises(ValueError, match="depth is not in it"):
        load(path)
    save_file(tensors, path, {"config": '{"filters": 0}'})
    with pytest.raises(ValueError, match="filters is 0"):
        load(path)
    save_file(tensors, path)
    with pytest.raises(ValueError, match="no `config` in its metadata"):
        load(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="no safetensors file"):
        load(path)
    with pytest.raises(MediaError, match=r"shot_weights.*extract.shots.weights"):
        load_detector(str(tmp_path / "missing"), 0.5)


def shots_of(one: dict[int, float], every: dict[int, float], measured=()) -> tuple[list, list]:
    """Of 100 frames at 10 per second."""
    probabilities = np.zeros((100, 2), np.float32)
    for column, given in enumerate((one, every)):
        probabilities[list(given), column] = list(given.values())
    cuts, transitions = find_learned_shots(probabilities, np.arange(100) / 10, list(measured), DETECTOR, 0.25)
    return [c.frame_index for c in cuts], [(t.kind, round(t.start_s, 6), round(t.end_s, 6)) for t in transitions]


def test_short_runs_are_cuts_and_long_ones_are_gradual():
    assert shots_of({30: 0.9}, {30: 0.8}) == ([31], [])
    assert shots_of({30: 0.6, 31: 0.9, 32: 0.6}, {}) == ([32], [])
    assert shots_of({34: 0.9}, dict.fromkeys(range(30, 40), 0.9)) == ([], [("gradual", 3.0, 4.0)])
    assert shots_of({}, dict.fromkeys(range(30, 40), 0.9)) == ([], [])
    assert shots_of({30: 0.4}, {30: 0.9}) == ([], [])
    assert shots_of({30: 0.9, 32: 0.9, 99: 0.9}, {}) == ([31], [])  # too short a shot, and none behind the last frame


def test_measured_transitions_and_those_of_the_network_are_united():
    fade = Transition("fade", 3.5, 4.5, 0.3)
    long = dict.fromkeys(range(30, 40), 0.9)
    assert shots_of({34: 0.9}, long, [fade]) == ([], [("fade", 3.0, 4.5)])
    assert shots_of({50: 0.9}, {}, [fade]) == ([51], [("fade", 3.5, 4.5)])
    assert shots_of({40: 0.9}, {}, [fade]) == ([], [("fade", 3.5, 4.5)])
    late = Transition("dissolve", 8.0, 8.5, 0.5)
    assert shots_of({34: 0.9}, long, [late]) == ([], [("gradual", 3.0, 4.0), ("dissolve", 8.0, 8.5)])


def test_the_recipe_asks_for_weights_and_knows_one_extraction_from_another():
    with pytest.raises(ValidationError, match="set weights to a checkpoint"):
        ShotsConfig(backend="transnet")
    learned = ExtractConfig(shots=ShotsConfig(backend="transnet", weights="net.safetensors"))
    assert learned.identity != ExtractConfig().identity
