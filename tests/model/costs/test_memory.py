import dataclasses
import json
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from peft import inject_adapter_in_model

from model.config import TransformerConfig, load_preset
from model.costs.flops import Workload
from model.costs.memory import (
    SAVED_BYTES,
    Precision,
    SamplingSetup,
    TrainingSetup,
    count_parameters,
    meta_model,
    parameter_counts,
    sampling_memory,
    training_memory,
)
from model.network.mmdit import JointInputs, MMDiT
from model.network.sparse.attention import select_cubes
from pipelines.training.learners.lora import LoraSettings, lora_config
from tests.model.costs.fake_memory import peak_bytes

ZERO = Path(__file__).parents[3] / "cluster" / "deepspeed" / "zero3-cpu.json"
WORK = Workload(text=512, grid=(21, 34, 60), audio=109)


def saved_bytes(config: TransformerConfig, audio: int, precision: Precision, rank: int = 0) -> int:
    """What autograd keeps for one forward pass, weights left out; of an adapter of `rank` alone, where there is one."""
    model: torch.nn.Module = MMDiT(config)
    if rank:
        model = inject_adapter_in_model(lora_config(LoraSettings(rank=rank)), model)
    model.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    inputs = JointInputs(
        text=torch.randn(1, 16, config.text_width),
        timesteps=torch.rand(1, 2),
        video=torch.randn(1, 2 * config.video_channels + 1, 4, 16, 16),
        audio=torch.randn(1, config.audio_channels, audio) if audio else None,
        audio_time_scale=0.1,
    )
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(inputs)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.fixture(autouse=True)
def as_on_gpus(monkeypatch):
    """GPUs keep attention in the precision of the layer, where a CPU takes fp32 for its backward pass."""
    monkeypatch.setattr("model.network.attention.TRAINS_IN_FP32_ON_CPU", False)


WIDE = TransformerConfig(
    width=2048, heads=16, dual_blocks=1, single_blocks=1, text_width=64, video_channels=16, audio_channels=64
)
SILENT = dataclasses.replace(WIDE, audio_channels=0)
SPARSE = dataclasses.replace(SILENT, sparse=True, sparse_min_tokens=1, sparse_kernel="triton")
STEPS = {
    "dense": (SILENT, Workload(512, (21, 34, 60))),
    "an edit: as much reference as clip": (SILENT, Workload(512, (21, 34, 60), video_references=21 * 34 * 60)),
    "joint, three references": (WIDE, Workload(512, (21, 34, 60), audio=109, video_references=3 * 34 * 60)),
    "joint, keyframes": (WIDE, Workload(512, (21, 34, 60), audio=109, keyframes=3 * 4 * 34 * 60)),
    "sparse": (SPARSE, Workload(512, (21, 34, 60), sparsity=0.875)),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_holds_what_is_said_at_its_height(name: str) -> None:
    """Every storage of a step on tensors without values, at sizes of a GPU."""
    config, work = STEPS[name]
    if config.sparse:
        pytest.importorskip("triton", reason="needs triton: pip install triton==3.9.0")
    for checkpointing in (True, False):
        said = training_memory(config, work, TrainingSetup(1, checkpointing=checkpointing)).activations
        assert said == pytest.approx(peak_bytes(config, work, train=True, checkpointing=checkpointing), rel=0.1)
    sampled = sampling_memory(config, work, SamplingSetup())
    assert sampled.total - sampled.weights == pytest.approx(peak_bytes(config, work, train=False), rel=0.1)


@pytest.mark.parametrize("name", ["dense", "joint, keyframes"])
def test_what_kept_attention_adds_to_every_layer(name: str) -> None:
    config, work = STEPS[name]
    deep = dataclasses.replace(config, single_blocks=5)
    said = training_memory(deep, work, TrainingSetup(1, keep_attention=True)).activations
    assert said == pytest.approx(peak_bytes(deep, work, train=True, keeping=True), rel=0.1)


def test_a_step_in_fp32_holds_what_is_said() -> None:
    config, work = STEPS["dense"]
    said = training_memory(config, work, TrainingSetup(1, precision="fp32")).activations
    assert said == pytest.approx(peak_bytes(config, work, train=True, fp32=True), rel=0.1)


def test_what_sampling_shares_out_and_what_streaming_leaves_on_the_host() -> None:
    config = load_preset("v4").transformer
    work = Workload(512, (61, 68, 120), audio=323)
    one, eight = (sampling_memory(config, work, SamplingSetup(ranks=ranks)) for ranks in (1, 8))
    assert (one.weights, one.latents) == (eight.weights, eight.latents)
    assert 7 < one.activations / eight.activations < 8
    streamed = sampling_memory(config, work, SamplingSetup(ranks=8, streamed=True))
    assert streamed.weights < 0.1 * eight.weights
    assert streamed.activations == eight.activations


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize(("audio", "kind"), [(0, "alone"), (200, "joint")])
def test_activation_memory_is_what_a_layer_really_keeps(audio: int, kind: str, precision: Precision) -> None:
    shallow = TransformerConfig(
        width=256, heads=4, dual_blocks=1, single_blocks=1, text_width=32, video_channels=4, audio_channels=8
    )
    deep = dataclasses.replace(shallow, single_blocks=3)
    tokens = 4 * 8 * 8 + 16 + (audio + 16 if audio else 0)
    kept = saved_bytes(deep, audio, precision) - saved_bytes(shallow, audio, precision)
    assert kept / 2 / tokens / shallow.width == pytest.approx(SAVED_BYTES[precision][kind], rel=0.1)


def test_what_an_adapter_keeps_is_somewhat_less() -> None:
    shallow = TransformerConfig(
        width=256, heads=4, dual_blocks=1, single_blocks=1, text_width=32, video_channels=4, audio_channels=8
    )
    deep = dataclasses.replace(shallow, single_blocks=3)
    whole, adapter = (
        saved_bytes(deep, 200, "bf16", rank) - saved_bytes(shallow, 200, "bf16", rank) for rank in (0, 16)
    )
    assert 0.7 * whole < adapter < whole


def test_states_are_sharded_and_activations_are_not() -> None:
    config = load_preset("base").transformer
    few, many = (training_memory(config, WORK, TrainingSetup(gpus)) for gpus in (8, 64))
    assert few.states == 8 * many.states == 18 * count_parameters(meta_model(config)) / 8
    assert few.activations == many.activations > 0
    assert training_memory(config, WORK, TrainingSetup(8, batch=2)).activations == 2 * few.activations
    assert few.total < 80 * 2**30


def test_what_each_setting_saves() -> None:
    config = load_preset("base").transformer
    plain = training_memory(config, WORK, TrainingSetup(8, average=True))
    kept = training_memory(config, WORK, TrainingSetup(8, average=True, checkpointing=False))
    assert kept.activations / plain.activations == pytest.approx((30 * 92 + 27) / (2 * 30 + 92 + 27))
    split = training_memory(config, WORK, TrainingSetup(8, average=True, sequence_parallel=4))
    assert (split.states, 4 * split.activations) == (plain.states, plain.activations)
    away = training_memory(config, WORK, TrainingSetup(8, average=True, offload=True))
    assert away.host == plain.states - away.states == plain.optimizer + plain.average
    frozen = training_memory(config, WORK, TrainingSetup(8, average=True, trainable=0.0))
    assert frozen.states == frozen.weights == plain.weights


def test_the_selection_of_sparse_attention_is_counted_by_kept_pairs() -> None:
    """The whole difference that sparsity makes; against what `select_cubes` returns for that many cubes."""
    config = dataclasses.replace(load_preset("base").transformer, sparse=True)
    work = dataclasses.replace(WORK, grid=(21, 68, 120))
    sparse = dataclasses.replace(work, sparsity=0.875)
    cubes = 6 * 17 * 30
    means = torch.randn(1, 1, cubes, 4)
    selected = select_cubes(means, means, math.ceil(cubes / 8))
    one_layer = config.heads * selected.nbytes
    for checkpointing, layers in ((True, 1), (False, config.layers)):
        setup = TrainingSetup(8, batch=2, checkpointing=checkpointing)
        both = [training_memory(config, each, setup).activations for each in (work, sparse)]
        assert both[1] - both[0] == pytest.approx(2 * layers * one_layer)


DEEPSPEED = """
    import gc, json, sys
    import torch
    import deepspeed

    width, kept = 512, []
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    deepspeed.init_distributed(dist_backend="gloo")

    def state_bytes(precision):
        config = json.load(open(sys.argv[1]))
        config["train_micro_batch_size_per_gpu"] = 1
        config["zero_optimization"]["reduce_bucket_size"] = 1000
        config["bf16"] = {"enabled": precision == "bf16"}
        with deepspeed.zero.Init(config_dict_or_path=config):
            model = torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(6)))
        count = sum(parameter.ds_numel for parameter in model.parameters())
        engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(model.parameters()), config=config)
        for _ in range(2):
            inputs = torch.randn(1, width, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
            engine.backward(engine(inputs).float().square().mean())
            engine.step()
        kept.append((model, engine))
        return live_bytes() / count

    def live_bytes():
        gc.collect()
        tensors = [item for item in gc.get_objects() if type(item) in (torch.Tensor, torch.nn.Parameter)]
        held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
        return sum(held.values())

    print(json.dumps([state_bytes("bf16"), state_bytes("fp32")]))
"""


@pytest.mark.slow
def test_states_are_what_deepspeed_allocates() -> None:
    """Every live tensor of one rank of ZeRO-3 after two steps, in bf16 and then, beside it, in fp32."""
    variables = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DEEPSPEED), str(ZERO)],
        env=os.environ | variables | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    measured = json.loads(run.stdout.strip().splitlines()[-1])
    config = load_preset("tiny").transformer
    memory = {kind: training_memory(config, WORK, TrainingSetup(1, precision=kind)) for kind in ("bf16", "fp32")}
    bf16, fp32 = (memory[kind].states / parameter_counts(config)[0] for kind in ("bf16", "fp32"))
    assert measured == pytest.approx([bf16, bf16 + fp32], rel=0.01)
