"""What a call is predicted to take, beside what it takes: operations by PyTorch's own counter."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.folder import REFINER, TRANSFORMER
from model.generation.components import read_spec
from model.generation.prepared import prepare
from model.generator import Generator
from pipelines.generation.costs.demand import DemandModel
from pipelines.generation.service import GenerationService, ModelSettings
from pipelines.generation.windows import Windows
from skyreels.serving.request import VideoRequest
from skyreels.serving.servable import RequestRefused


@pytest.mark.parametrize("asked", [{}, {"refine": True}, {"seconds": 1.0, "guidance_scale": 1.0}])
def test_work_grows_as_the_operations_that_are_counted(model_folder, asked):
    spec = read_spec(model_folder)
    generator = Generator.from_pretrained(model_folder)
    model = DemandModel.of(model_folder, spec)

    def ratio(asked, stage):
        prepared = prepare(spec, "a red ball", seed=1, **asked)
        base = generator.sample_base(prepared)
        with FlopCounterMode(display=False) as counter:
            generator.sample_base(prepared) if stage == "base" else generator.refine(prepared, base)
        return model.demand(prepared).work[stage] / counter.get_total_flops()

    for stage in ("base", "refine") if asked.get("refine") else ("base",):
        plain = {"refine": True} if stage == "refine" else {}
        assert ratio(asked, stage) == pytest.approx(ratio({**plain, "size": (64, 64)}, stage), rel=0.5)


def test_memory_grows_with_the_clip_and_what_never_fits_is_refused_with_what_would(model_folder, tmp_path):
    spec = read_spec(model_folder)
    model = DemandModel.of(model_folder, spec)
    long = prepare(spec, "x", seconds=8.0)
    assert model.demand(long).memory > model.demand(prepare(spec, "x", seconds=1.0)).memory > model.weights
    room = model.demand(prepare(spec, "x", seconds=4.0)).memory
    longest = model.longest(long, room)
    assert 3.5 < longest < 4.5
    service = GenerationService(ModelSettings(folder=str(model_folder), memory_gb=room / 1e9), ())
    with pytest.raises(RequestRefused, match=rf"needs about .* GB .*{longest:.3g} s fit at this size") as caught:
        service.plan(VideoRequest(prompt="x", seconds=8.0), {}, tmp_path)
    assert caught.value.field == "seconds"
    plan = service.plan(VideoRequest(prompt="x", seconds=longest), {}, tmp_path)
    assert plan.work.keys() == {"base", "decode"}
    small = dataclasses.replace(model, weights=0.0)
    with pytest.raises(RequestRefused, match="no clip of 256x256 fits"):
        tight = ModelSettings(folder=str(model_folder), memory_gb=1.01 * model.demand(prepare(spec, "x")).memory / 1e9)
        GenerationService(tight, ()).plan(VideoRequest(prompt="x", size="256x256"), {}, tmp_path)
    assert small.demand(long).memory < model.demand(long).memory


def test_ranks_that_share_a_clip_and_layers_that_are_streamed_need_less_of_each_device(model_folder):
    spec = read_spec(model_folder)
    clip = prepare(spec, "x", seconds=8.0)
    alone = DemandModel.of(model_folder, spec)
    alone = dataclasses.replace(alone, base=dataclasses.replace(alone.base, width=512))  # more than the clip's pixels
    shared, other = (dataclasses.replace(alone, ranks=ranks) for ranks in ({"base": 2}, {"refine": 2}))
    held, held_shared = (model.demand(clip).memory - model.weights for model in (alone, shared))
    assert 0.5 * held < held_shared < 0.9 * held, "latents, sound and text are whole on each"
    assert other.demand(clip).memory == alone.demand(clip).memory
    assert shared.demand(clip).work == alone.demand(clip).work
    streamed = DemandModel.of(model_folder, spec, streamed=True)
    networks = sum(
        (model_folder / part / "diffusion_pytorch_model.safetensors").stat().st_size for part in (TRANSFORMER, REFINER)
    )
    assert alone.weights - streamed.weights == pytest.approx(networks / 2), "both have two layers"


def test_an_edit_works_as_much_as_a_clip_from_words(model_folder):
    """Its source lies where the clip will (decision 0158)."""
    spec = read_spec(model_folder)
    model, source = DemandModel.of(model_folder, spec), torch.zeros(3, 17, 64, 64)
    edit = prepare(spec, "x", video=source, video_use="edit", reference_guidance_scale=3.0)
    words = prepare(spec, "x", seconds=edit.clip.seconds, size=(64, 64))
    assert model.demand(edit).work == model.demand(words).work


def test_a_clip_in_windows_needs_what_a_window_needs_and_works_as_much_as_all(model_folder, tmp_path):
    spec = read_spec(model_folder)
    model, first = DemandModel.of(model_folder, spec), prepare(spec, "x", seconds=4.0)
    window, whole = model.demand(first), model.demand(prepare(spec, "x", seconds=8.0))
    long = model.of_windows(Windows(first, 129, 17))
    assert window.memory < long.memory < whole.memory
    last = model.demand(prepare(spec, "x", seconds=33 / 16))  # 65 frames, 48 new ones, and 16 new ones behind 17
    assert long.work["base"] == pytest.approx(2 * window.work["base"] + last.work["base"])

    refined = prepare(spec, "x", seconds=4.0, refine=True)
    finer, at_once = model.demand(refined), model.demand(prepare(spec, "x", seconds=8.0, refine=True))
    long_refined = model.of_windows(Windows(refined, 129, 17))
    last = model.demand(prepare(spec, "x", seconds=33 / 16, refine=True))
    assert long_refined.work["refine"] == pytest.approx(2 * finer.work["refine"] + last.work["refine"])
    assert finer.memory < long_refined.memory < at_once.memory
    shown = dataclasses.replace(refined.media, video=torch.zeros(97, 32, 32, 3, dtype=torch.uint8))
    going_on = Windows(dataclasses.replace(refined, media=shown), 129, 17)  # the first window shows the video alone
    assert model.of_windows(going_on).work["refine"] == pytest.approx(finer.work["refine"] + last.work["refine"])

    def plan(memory, **fields):
        folder = tmp_path / f"{memory}{fields}"
        folder.mkdir()
        service = GenerationService(ModelSettings(folder=str(model_folder), memory_gb=memory / 1e9), ())
        return service.plan(VideoRequest(prompt="x", seconds=8.0, **fields), {}, folder)

    assert plan(long.memory, window_seconds=4.0).facts["seconds"] == 129 / 16
    for memory, blamed, fields in (
        (long.memory, "seconds", {}),
        (long.memory, "window_seconds", {"window_seconds": 7.0}),
        (1.001 * window.memory, "seconds", {"window_seconds": 4.0}),
    ):
        with pytest.raises(RequestRefused, match="needs about") as caught:
            plan(memory, **fields)
        assert caught.value.field == blamed
