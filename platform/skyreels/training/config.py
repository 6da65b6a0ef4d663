"""Settings of the engine. What is trained, on which data and for how many steps is the `Trainable`'s caller's."""

from typing import Literal, Self

from pydantic import Field, model_validator

from skyreels.config import Config


class OptimizerConfig(Config):
    """AdamW."""

    learning_rate: float = Field(1e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.0, ge=0)
    eps: float = Field(1e-8, gt=0)


class ScheduleConfig(Config):
    """Learning rate over steps: linear warm-up, then `kind` down to `final` times the peak at the last step."""

    kind: Literal["constant", "cosine", "linear"] = "constant"
    warmup_steps: int = Field(0, ge=0)
    final: float = Field(0.0, ge=0, le=1)


class GuardConfig(Config):
    """A step whose loss or gradient is not finite, or whose gradient norm is above `spike_factor` times the running
    median, changes nothing; `max_skipped` of them in a row end the run."""

    spike_factor: float = Field(20.0, gt=1)
    max_skipped: int = Field(10, ge=1)
    max_unreadable: float = Field(0.05, ge=0, le=1, description="share of samples that may be unreadable")


class CheckpointConfig(Config):
    """A checkpoint every `every_steps` and at the end; the last `keep` stay."""

    every_steps: int = Field(500, ge=1)
    keep: int = Field(2, ge=1)
    background: bool = Field(True, description="write while training goes on")
    frozen: bool = Field(
        True, description="hold what does not train as well; false: a resume takes it from the initial weights again"
    )


class EngineConfig(Config):
    """One run of the engine."""

    steps: int = Field(ge=1)
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "bf16"
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    clip: float = Field(1.0, gt=0)
    ema: float | None = Field(None, ge=0, lt=1, description="decay of the averaged weights; null: none are kept")
    activation_checkpointing: bool = False
    checkpoint: CheckpointConfig = CheckpointConfig()
    guard: GuardConfig = GuardConfig()
    samples_every_steps: int | None = Field(None, ge=1, description="and at the end; null: never")
    deepspeed: str = Field("auto", description="a file of cluster/deepspeed by name, or a path; auto: by the device")
    workers: int = Field(1, ge=0, description="0: one rank in this process, without Ray's workers")
    min_workers: int | None = Field(None, ge=1, description="go on with as few as this many when nodes are lost")
    cpus_per_worker: float = Field(1.0, gt=0)
    gpus_per_worker: float = Field(0.0, ge=0)
    sequence_parallel: int = Field(1, ge=1, description="workers that share one sequence (Ulysses)")
    max_failures: int = Field(3, ge=-1, description="restarts after lost workers; -1: without limit")
    prefetch: int = Field(4, ge=1, description="micro-batches that are read ahead; by each reader, where there are any")
    readers: int = Field(0, ge=0, description="processes that make batches; 0: threads, which share one core")
    captured: bool = Field(
        False, description="with workers=0 on a GPU, replay each step as one CUDA graph; on a CPU nothing changes"
    )

    @model_validator(mode="after")
    def _captured_alone(self) -> Self:
        if self.captured and self.workers:
            raise ValueError(f"captured=true and workers={self.workers}: a step is captured with workers=0 alone")
        return self
