"""A module under DeepSpeed ZeRO-3, and the flat partitions that this rank holds of its state."""

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from skyreels.training.config import EngineConfig
from skyreels.training.errors import TrainingError
from skyreels.training.partition import bounds
from skyreels.training.trainable import Trainable

T = TypeVar("T")
Settings = dict[str, Any]
Read = Callable[[str, str, int, int], Tensor | None]
"""(kind, parameter, start, stop) -> those elements of the flattened tensor, or None to keep what is there."""

_TEMPLATES = Path(__file__).parent / "deepspeed"


def load_settings(config: EngineConfig) -> Settings:
    """The DeepSpeed settings that `config.deepspeed` names: a file of cluster/deepspeed, or a path."""
    name = config.deepspeed
    if name == "auto":
        on_gpus = config.gpus_per_worker or (not config.workers and torch.cuda.is_available())
        name = "zero3" if on_gpus else "zero3-cpu"
    path = Path(name) if name.endswith(".json") else _TEMPLATES / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in _TEMPLATES.glob("*.json")))
        raise TrainingError(
            f"deepspeed={config.deepspeed}: there is no {path}; known are {known}, or give a .json file"
        )
    settings: Settings = json.loads(path.read_text())
    if settings.get("zero_optimization", {}).get("stage") != 3:
        raise TrainingError(f"{path}: zero_optimization.stage must be 3; checkpoints are made of ZeRO-3's partitions")
    return settings


def start_deepspeed() -> None:
    """On top of the process group that Ray has made."""
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
        # DeepSpeed counts CPU "devices" at every reduction; untold, it starts `numactl` for that each time.
        os.environ["LOCAL_SIZE"] = os.environ["LOCAL_WORLD_SIZE"]
    deepspeed = _import_deepspeed()
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # DeepSpeed 0.19.8 calls it under the name that torch 2.13 has replaced.
    old_name = r"`torch\.distributed\.all_gather_into_tensor` is deprecated"
    warnings.filterwarnings("ignore", old_name, FutureWarning, r"torch\.distributed\.c10d_logger")
    deepspeed.utils.nvtx.enable_nvtx = torch.cuda.is_available()  # ranges for a profiler of GPUs
    # Else a machine without a GPU compiles a shared-memory collective for a minute and a half, or fails without g++.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=torch.distributed.get_backend())


def _import_deepspeed() -> Any:
    """DeepSpeed's tuner, which nothing here calls, would import mlflow: two seconds of every worker's start."""
    unseen = {} if "mlflow" in sys.modules else {"mlflow": None}
    sys.modules.update(unseen)  # type: ignore[arg-type]
    try:
        import deepspeed
    finally:
        for name in unseen:
            del sys.modules[name]
    return deepspeed


def _import_muon_as_written() -> None:
    """DeepSpeed asks of every optimizer whether it is Muon, whose module has its kernels compiled as it is imported.

    Nothing here uses them, and torch's compiler is as long to import as torch itself: in every worker's start.
    """
    from deepspeed.runtime import compiler

    compiled = compiler.compile
    compiler.compile = lambda: compiler.dummy_decorator
    try:
        import deepspeed.runtime.zero.muon.original_muon  # noqa: F401
    finally:
        compiler.compile = compiled


def partitioned(module: nn.Module) -> list[tuple[str, Any]]:
    """Parameters by name, with the attributes that ZeRO-3 gives them: `ds_tensor`, `ds_shape`, `ds_numel`."""
    return list(module.named_parameters())


def shape_of(param: Any) -> torch.Size:
    """Of a parameter as it is when whole, partitioned or not."""
    return torch.Size(getattr(param, "ds_shape", param.shape))


class _Root(nn.Module):
    """What DeepSpeed takes for the model: whatever a Trainable calls of its module, it calls inside this forward."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, call: Callable[[nn.Module], Any]) -> Any:
        return call(self.module)


@dataclass(frozen=True)
class Place:
    """Where a trainable parameter's piece lies in the flat partitions."""

    group: int
    offset: int
    size: int


class ShardedModule:
    """The module, its optimizer, and views of this rank's pieces of every parameter by name."""

    def __init__(self, engine: Any, module: nn.Module, moments: tuple[str, ...] = ("exp_avg", "exp_avg_sq")) -> None:
        self._engine = engine
        self._zero = engine.optimizer
        self.module = module
        self._moments = moments
        self._resident = _kept_whole(self._zero, module)
        self._open_moments()

    def run(self, call: Callable[[nn.Module], T]) -> T:
        """`call(module)` inside one forward pass of the whole."""
        if self._resident:
            self._resident[0].all_gather(self._resident)  # of those that are whole already, nothing
        result: T = self._engine(call)
        return result

    def backward(self, loss: Tensor) -> None:
        self._engine.backward(loss)

    def step(self, learning_rate: float) -> None:
        """End a micro-step; the last one of an accumulation updates the weights, if the gate opens."""
        for group in self._zero.optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()

    def close(self) -> None:
        """Take DeepSpeed's hooks off, and the module out of its global stack, where it would outlive the run."""
        from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK

        self._engine.destroy()
        FWD_MODULE_STACK.clear()

    def set_gate(self, may_update: Callable[[float], bool]) -> None:
        """Ask `may_update(gradient norm)`, inf where it is not finite, before each update.

        DeepSpeed skips an update whose gradient norm is invalid, and drops the gradients, before it touches weights or
        moments; so an update is refused by handing it such a norm.
        """
        measure = self._zero._get_norm_groups
        invalid = torch.tensor(-1.0, device=self._zero.device)

        def norms() -> list[Tensor]:
            found = measure()
            values = torch.stack([torch.as_tensor(norm, dtype=torch.float64).reshape(()).cpu() for norm in found])
            norm = float(torch.linalg.vector_norm(values)) if bool((values >= 0).all()) else float("inf")
            return found if may_update(norm) else [invalid]

        self._zero._get_norm_groups = norms

    @torch.no_grad()
    def exchange(self, values: Sequence[Tensor]) -> None:
        """Swap `values`, laid out as `flat_weights`, with the trainable weights, bit by bit; once more swaps them back.

        Nothing may update in between.
        """
        self._zero._partition_all_parameters()
        for group, (weight, value) in enumerate(zip(self.flat_weights, values, strict=True)):
            before = weight.detach().clone()
            weight.detach().copy_(value)
            value.copy_(before)
            self._zero._reassign_or_swap_out_partitioned_parameters(group)
        kept = self._zero.persistent_parameters
        if kept:
            kept[0].all_gather(kept)

    @property
    def flat_weights(self) -> list[Tensor]:
        """The fp32 partitions that the optimizer updates in place."""
        return list(self._zero.fp32_partitioned_groups_flat)

    def flat_state(self) -> dict[str, list[Tensor]]:
        """Flat partitions by kind: weight, exp_avg, exp_avg_sq; each list by group."""
        states = self._zero.optimizer.state
        flats = {"weight": self.flat_weights}
        for moment in self._moments:
            flats[moment] = [states[flat][moment] for flat in self.flat_weights]
        return flats

    def places(self) -> dict[str, Place]:
        """Of every trainable parameter."""
        positions = self._zero.grad_position
        trainable = [(name, param) for name, param in partitioned(self.module) if param.requires_grad]
        return {name: Place(*map(int, positions[self._zero.get_param_id(param)])) for name, param in trainable}

    def frozen(self) -> dict[str, Tensor]:
        """This rank's pieces of the parameters that do not train."""
        return {name: param.ds_tensor for name, param in partitioned(self.module) if not param.requires_grad}

    def shapes(self) -> dict[str, torch.Size]:
        """Of all parameters, as they are when whole."""
        return {name: torch.Size(param.ds_shape) for name, param in partitioned(self.module)}

    def buffers(self) -> dict[str, Tensor]:
        """Those that belong to the module's state."""
        parameters = dict(self.module.named_parameters())
        return {name: value for name, value in self.module.state_dict().items() if name not in parameters}

    @property
    def updates(self) -> int:
        """Updates that the moments have seen."""
        state = next(iter(self._zero.optimizer.state.values()))
        return int(state["step"])

    @updates.setter
    def updates(self, count: int) -> None:
        for state in self._zero.optimizer.state.values():
            state["step"] = torch.tensor(float(count)) if isinstance(state["step"], Tensor) else count

    def state_bytes(self) -> int:
        """What this rank holds of weights and moments, in the training precision and in fp32."""
        sharded = [flat for flats in self.flat_state().values() for flat in flats]
        sharded += [param.ds_tensor for _, param in partitioned(self.module)]
        return sum(tensor.numel() * tensor.element_size() for tensor in sharded)

    def _open_moments(self) -> None:
        """Moments exist from the start, so that a checkpoint can be read into them."""
        optimizer = self._zero.optimizer
        counts_in_tensors = isinstance(optimizer, torch.optim.Optimizer) and type(optimizer) is torch.optim.AdamW
        for flat in self.flat_weights:
            zeros = {moment: torch.zeros_like(flat, requires_grad=False) for moment in self._moments}
            optimizer.state[flat] = {"step": torch.tensor(0.0) if counts_in_tensors else 0, **zeros}


def build(
    trainable: Trainable, config: EngineConfig, settings: Settings, accumulation: int
) -> tuple[nn.Module, Settings]:
    """The module with its parameters partitioned over the ranks, and the settings completed for `wrap`."""
    import deepspeed

    settings = {
        **settings,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": config.clip,
        "bf16": {"enabled": config.precision == "bf16"},
        "steps_per_print": None,
    }
    torch.manual_seed(config.seed)
    with deepspeed.zero.Init(config_dict_or_path=settings):
        module = trainable.build()
    copied = [name for name, param in module.named_parameters() if not hasattr(param, "ds_shape")]
    if copied:
        raise TrainingError(
            f"{len(copied)} parameters are not partitioned, first {copied[0]}: the module's build copies parts of it "
            "(copy.deepcopy), which DeepSpeed's zero.Init does not see; make each part anew"
        )
    return module.train(), settings


@torch.no_grad()
def load_pieces(module: nn.Module, read: Read, rank: int, world: int) -> None:
    """Fill this rank's piece of every parameter, in the training precision, before `wrap`."""
    for name, param in partitioned(module):
        start, stop = bounds(param.ds_numel, rank, world)
        values = read("weight" if param.requires_grad else "frozen", name, start, stop)
        if values is not None:
            param.ds_tensor[: stop - start].copy_(values)


def wrap(module: nn.Module, config: EngineConfig, settings: Settings) -> ShardedModule:
    """Optimizer and ZeRO-3 around a built module whose pieces hold the weights to start from."""
    import deepspeed

    options = config.optimizer
    groups = decay_groups(module, options.weight_decay)
    adam: dict[str, Any] = {"lr": options.learning_rate, "betas": options.betas, "eps": options.eps}
    if "optimizer" in settings:
        adam |= {"weight_decay": options.weight_decay, "adam_w_mode": True}
        settings = {**settings, "optimizer": {**settings["optimizer"], "params": adam}}
        engine, *_ = deepspeed.initialize(model=_Root(module), model_parameters=groups, config=settings)
    else:
        _import_muon_as_written()
        optimizer = torch.optim.AdamW(groups, **adam, fused=True)
        engine, *_ = deepspeed.initialize(model=_Root(module), optimizer=optimizer, config=settings)
    return ShardedModule(engine, module)


def _kept_whole(zero: Any, module: nn.Module) -> list[Any]:
    """All parameters, where the settings keep every one of them on all ranks between updates; else none.

    DeepSpeed's hooks before and behind every submodule then have nothing to gather and are taken off: on a CPU they
    cost a small model more than its arithmetic. Gradients, fp32 weights and moments stay partitioned.
    """
    params = [param for _, param in partitioned(module)]
    if not all(param.ds_persist for param in params):
        return []
    zero.parameter_offload.destroy()
    return params


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms and other vectors do not."""
    trainable = [param for _, param in partitioned(module) if param.requires_grad]
    if not trainable:
        raise TrainingError("nothing trains: every parameter of the module has requires_grad off")
    matrices = [param for param in trainable if len(shape_of(param)) > 1]
    vectors = [param for param in trainable if len(shape_of(param)) <= 1]
    if weight_decay == 0 or not matrices or not vectors:
        return [{"params": trainable, "weight_decay": weight_decay if matrices else 0.0}]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
