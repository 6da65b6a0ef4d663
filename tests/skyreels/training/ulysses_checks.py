"""What `test_ulysses.py` runs on four ranks: `python ulysses_checks.py FOLDER CHECK ...` writes one report per rank.

A report maps each check to null, or to the traceback of what failed, and is written anew as each check begins. A rank
that fails ends all of them, with or without a report. The ranks are forks of one process, so that PyTorch is imported
once.
"""

import dataclasses
import faulthandler
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from model.config import TransformerConfig
from model.network.keyframes import KeyframeInput
from model.network.mmdit import JointInputs, JointOutputs, MMDiT, predict
from model.network.parallel import Shards
from skyreels.training.ulysses import sequence_ranks

WORLD = 4
STUCK_S = 150
"""A check that takes longer has its rank's stack printed."""
TINY = TransformerConfig(
    width=48, heads=4, dual_blocks=1, single_blocks=1, text_width=20, video_channels=3, audio_channels=5, mlp_ratio=2.0
)
SPARSE = dataclasses.replace(TINY, sparse=True, sparse_min_tokens=1, sparse_cube=(1, 2, 2))


def build(config: TransformerConfig = TINY) -> MMDiT:
    """A model with nothing left at zero, the same on every rank."""
    torch.manual_seed(0)
    model = MMDiT(config)
    for parameter in model.parameters():
        if not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def joint_inputs(seed: int = 0, frames: int = 3, height: int = 4, width: int = 6) -> JointInputs:
    """18 video tokens, which four ranks cannot share evenly, 7 audio latents and 5 text tokens, one of them padding."""
    torch.manual_seed(seed)
    return JointInputs(
        text=torch.randn(2, 5, TINY.text_width),
        text_mask=torch.arange(5)[None] < torch.tensor([[5], [4]]),
        timesteps=torch.rand(2, 2),
        video=torch.randn(2, 2 * TINY.video_channels + 1, frames, height, width),
        audio=torch.randn(2, TINY.audio_channels, 7),
        audio_time_scale=frames / 7,
    )


def conditions() -> dict[str, object]:
    """References, each sample without one of them, and keyframes at twice the size."""
    return {
        "video_references": [torch.randn(2, 3, 1, 4, 6), torch.randn(2, 3, 2, 4, 6)],
        "audio_references": [torch.randn(2, 5, 2)],
        "reference_rows": torch.tensor([[True, True, False], [False, True, True]]),
        "keyframes": KeyframeInput(torch.randn(2, 7, 1, 8, 12), indices=(2,)),
    }


def parts(outputs: JointOutputs) -> Iterator[Tensor]:
    return (part for part in (outputs.video, outputs.audio, outputs.keyframes) if part is not None)


def loss_of(outputs: JointOutputs) -> Tensor:
    """Every value of the outputs weighs differently."""
    generator = torch.Generator().manual_seed(1)
    return torch.stack([(part * torch.randn(part.shape, generator=generator)).sum() for part in parts(outputs)]).sum()


def gradients(model: MMDiT, inputs: JointInputs) -> tuple[JointOutputs, dict[str, Tensor]]:
    """Outputs, and the gradient of every parameter."""
    model.zero_grad()
    outputs = model(inputs)
    loss_of(outputs).backward()
    return outputs, {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in model.named_parameters()
    }


def average(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean over all ranks, as a data-parallel engine takes it."""
    flat = torch.cat([tensor.flatten() for tensor in tensors.values()])
    dist.all_reduce(flat)
    pieces = (flat / WORLD).split([tensor.numel() for tensor in tensors.values()])
    return {name: piece.view_as(tensors[name]) for name, piece in zip(tensors, pieces, strict=True)}


def assert_same(actual: Tensor, expected: Tensor, what: str = "") -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4, msg=lambda text: f"{what}: {text}")


def compare(
    inputs: JointInputs, config: TransformerConfig = TINY, *, checkpointing: bool = False, keeping: bool = False
) -> None:
    """Outputs and averaged gradients of four ranks equal those of one."""
    model = build(config)
    expected, wanted = gradients(model, inputs)
    model.share_sequences(sequence_ranks(WORLD))
    model.gradient_checkpointing, model.keeps_attention = checkpointing, keeping
    outputs, found = gradients(model, inputs)
    for actual, part in zip(parts(outputs), parts(expected), strict=True):
        assert_same(actual, part)
    found = average(found)
    for name, gradient in wanted.items():
        scale = gradient.abs().max().clamp(min=1)
        assert_same(found[name] / scale, gradient / scale, name)


def joint() -> None:
    compare(joint_inputs())


def video_alone() -> None:
    compare(dataclasses.replace(joint_inputs(), audio=None, text_mask=None))


def audio_alone() -> None:
    compare(dataclasses.replace(joint_inputs(), video=None))


def references_and_keyframes() -> None:
    compare(dataclasses.replace(joint_inputs(), **conditions()))


def clips_of_several_lengths() -> None:
    lengths = {
        "video_mask": torch.arange(3)[None] < torch.tensor([[2], [3]]),
        "audio_mask": torch.arange(7)[None] < torch.tensor([[5], [7]]),
        "audio_time_scale": torch.tensor([2 / 5, 3 / 7]),
    }
    compare(dataclasses.replace(joint_inputs(), **lengths))


def branches_apart_per_sample() -> None:
    compare(dataclasses.replace(joint_inputs(), cross_modal=torch.tensor([True, False])))


def sparse_attention() -> None:
    compare(dataclasses.replace(joint_inputs(), sparsity=0.5, **conditions()), SPARSE)


def sparse_gates_over_dense_attention() -> None:
    compare(joint_inputs(), SPARSE)


def gradient_checkpointing() -> None:
    inputs = dataclasses.replace(joint_inputs(), sparsity=0.5, **conditions())
    compare(inputs, SPARSE, checkpointing=True)
    compare(inputs, SPARSE, checkpointing=True, keeping=True)


def fewer_tokens_than_ranks() -> None:
    compare(joint_inputs(frames=1, height=2, width=4))


def sampling_in_bfloat16_with_cached_text() -> None:
    model, inputs = build().bfloat16(), joint_inputs()
    expected = predict(model, inputs, model.cache(inputs))
    model.share_sequences(sequence_ranks(WORLD))
    for actual, part in zip(parts(predict(model, inputs, model.cache(inputs))), parts(expected), strict=True):
        assert (actual - part).norm() / part.norm() < 0.02


def two_groups_of_two() -> None:
    """Each group has a batch of its own; the average over all ranks is the average over both batches."""
    model = build()
    batches = [joint_inputs(seed=0), joint_inputs(seed=1)]
    wanted = [gradients(model, batch)[1] for batch in batches]
    model.share_sequences(sequence_ranks(2))
    found = average(gradients(model, batches[dist.get_rank() // 2])[1])
    for name, gradient in found.items():
        assert_same(gradient, (wanted[0][name] + wanted[1][name]) / 2, name)


def heads_and_tokens_are_dealt_out() -> None:
    """`Shards` against slices of a tensor that every rank knows whole: 10 media and 3 text tokens, 8 heads."""
    ranks = sequence_ranks(WORLD)
    shards = Shards(10, ranks)
    whole = torch.randn(2, 8, 13, 6, generator=torch.Generator().manual_seed(0))
    starts = [0, 3, 6, 8, 10]
    own = slice(starts[ranks.rank], starts[ranks.rank + 1])
    held = torch.cat((whole[:, :, own], whole[:, :, 10:]), 2)
    heads = whole[:, 2 * ranks.rank : 2 * ranks.rank + 2]
    assert torch.equal(shards.own(whole[:, 0, :10], 1), whole[:, 0, own])
    assert torch.equal(shards.whole(whole[:, 0, own], 1), whole[:, 0, :10])
    assert torch.equal(shards.to_heads(held, 3), heads)
    assert torch.equal(shards.to_tokens(heads, 3), held)
    assert torch.equal(shards.own_heads(whole), heads)
    assert torch.equal(shards.all_heads(heads), whole)


def backward_passes_are_adjoints() -> None:
    """<A x, y> = <x, A* y>, both summed over the ranks, for x and y that differ on every rank."""
    ranks = sequence_ranks(WORLD)
    own = ranks.shares(10)[ranks.rank]
    maps: list[tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = [
        (lambda x: ranks.split(x, 1), (2, 10, 3)),
        (lambda x: ranks.join(x, 1, 10), (2, own, 3)),
        (lambda x: ranks.exchange(x, split=2, join=1, total=10), (2, own, 7, 3)),
        (lambda x: ranks.exchange(x, split=0, join=2, total=6), (10, 3, ranks.shares(6)[ranks.rank])),
    ]
    torch.manual_seed(ranks.rank)
    for apply, shape in maps:
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        out = apply(x)
        y = torch.randn_like(out)
        (adjoint,) = torch.autograd.grad(out, x, y)
        products = torch.stack(((out * y).sum(), (x * adjoint).sum())).detach()
        dist.all_reduce(products)
        assert abs(products[0] - products[1]) < 1e-12 * products.abs().max().clamp(min=1)


def what_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="6 heads cannot be dealt out to 4 ranks"):
        build(dataclasses.replace(TINY, heads=6)).share_sequences(sequence_ranks(WORLD))
    with pytest.raises(ValueError, match="4 workers do not form groups of 3"):
        sequence_ranks(3)


def training_under_zero_three() -> None:
    """Two steps of two groups of two, every parameter partitioned, end in the weights that one process learns."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else it compiles one
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_clipping": 1.0,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0, "overlap_comm": False},
    }
    batches = [dataclasses.replace(joint_inputs(seed), sparsity=0.5, **conditions()) for seed in range(2)]
    alone, model = build(SPARSE), build(SPARSE)
    reference = adam(alone)
    model.share_sequences(sequence_ranks(2))
    model.gradient_checkpointing = True
    engine, *_ = deepspeed.initialize(model=model, optimizer=adam(model), config=settings)
    for _ in range(2):
        losses = torch.stack([loss_of(alone(batch)) for batch in batches])
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(alone.parameters(), 1.0)
        reference.step()
        reference.zero_grad()
        loss = loss_of(engine(batches[dist.get_rank() // 2]))
        assert_same(loss, losses[dist.get_rank() // 2], "loss")
        engine.backward(loss)
        engine.step()
    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        for (name, learned), expected in zip(model.named_parameters(), alone.parameters(), strict=True):
            assert_same(learned, expected, name)


def adam(model: MMDiT) -> torch.optim.AdamW:
    """Its `eps` keeps a first step from turning the rounding of a gradient near zero into a whole step."""
    return torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-3, weight_decay=0.01)


def run(rank: int, folder: Path, checks: list[str]) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD))  # read by DeepSpeed
    rendezvous = f"file://{folder / 'rendezvous'}"
    dist.init_process_group("gloo", rendezvous, timedelta(seconds=120), world_size=WORLD, rank=rank)
    report: dict[str, str | None] = dict.fromkeys(checks, "it did not come to this check")
    path = folder / f"rank-{rank}.json"
    try:
        for name in checks:
            report[name] = "it did not come to its end"
            path.write_text(json.dumps(report))
            faulthandler.dump_traceback_later(STUCK_S)
            globals()[name]()
            report[name] = None
        dist.barrier()
    except Exception:
        report[name] = traceback.format_exc()
        raise  # which ends the other ranks, that wait for this one
    finally:
        path.write_text(json.dumps(report))


if __name__ == "__main__":
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if "training_under_zero_three" in sys.argv:
        import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401  (these two take seconds: once, before the fork)
        import torch._dynamo
    mp.start_processes(run, (Path(sys.argv[1]), sys.argv[2:]), nprocs=WORLD, start_method="fork")
