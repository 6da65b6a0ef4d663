"""What the plan knows of the machines: a calibration file, each fact with where it comes from, and how many of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
from pydantic import Field

from model.costs.memory import Precision
from skyreels.config import Config, load_config

CALIBRATIONS = Path(__file__).parent / "calibration"


class Fact(Config):
    """A number, and whether its vendor publishes it, we assume it, or it was measured on such a machine."""

    value: float = Field(ge=0)
    basis: Literal["vendor", "assumed", "measured"]
    source: str


class Calibration(Config):
    """One device (a GPU, or the cores of one worker) of a kind of machine. Bandwidths: bytes/s in one direction."""

    about: str
    devices_per_node: int = Field(ge=1)
    peak_flops: dict[Precision, Fact]
    compute_efficiency: dict[Precision, Fact] = Field(description="share of it that products and attention reach")
    layer_overhead: Fact = Field(description="seconds of a layer, forward and backward, that no size of it hides")
    memory_bytes: Fact | None = Field(None, description="null: what is free on this machine, over its devices")
    process_bytes: Fact = Field(description="what a process takes before any tensor")
    usable_memory: Fact = Field(description="share of it that tensors can fill")
    memory_bandwidth: Fact
    memory_efficiency: Fact = Field(description="share of the bandwidth that elementwise kernels reach")
    device_link: Fact = Field(description="between devices of a node")
    node_link: Fact = Field(description="between nodes, for each device")
    link_efficiency: Fact = Field(description="share of the links that collectives reach")
    overlap: Fact = Field(description="share of gathering and reading that is hidden behind computing")
    host_link: Fact | None = Field(None, description="between a device and its host's memory")
    host_memory: Fact | None = Field(None, description="bytes of it for each device")
    host_rate: Fact | None = Field(
        None, description="bytes/s that an offloaded optimizer moves on a device's share of the host"
    )
    storage_bandwidth: Fact = Field(description="of reading samples, for each device")
    availability: Fact = Field(description="share of the time that is spent training")
    price_per_hour: Fact | None = Field(None, description="of one device")

    def facts(self) -> Iterator[tuple[str, Fact]]:
        """Every fact by name."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Fact):
                yield name, value
            elif isinstance(value, dict):
                yield from ((f"{name}.{precision}", fact) for precision, fact in value.items())


@dataclass(frozen=True)
class ClusterSpec:
    """`devices` of one kind, in full nodes unless there are fewer than one holds."""

    name: str
    devices: int
    calibration: Calibration
    price_per_hour: float | None = None

    def __post_init__(self) -> None:
        per_node = self.calibration.devices_per_node
        if self.devices < 1 or (self.devices > per_node and self.devices % per_node):
            raise ValueError(f"{self.devices} of {self.name}: give at most {per_node}, or full nodes of {per_node}")

    @property
    def memory_limit(self) -> float:
        """Bytes that the tensors of one device may fill."""
        fact = self.calibration.memory_bytes
        held = fact.value if fact else psutil.virtual_memory().available / min(self.devices, self._per_node)
        return held * self.calibration.usable_memory.value

    @property
    def shares_host(self) -> bool:
        """Whether the devices are the host's own cores."""
        return self.calibration.memory_bytes is None

    @property
    def host_limit(self) -> float:
        """Bytes of host memory that may be filled for each device."""
        if self.calibration.host_memory is None:
            return self.memory_limit
        return self.calibration.host_memory.value * self.calibration.usable_memory.value

    @property
    def process_bytes(self) -> float:
        """Bytes that a process takes before any tensor."""
        return self.calibration.process_bytes.value

    @property
    def copy_rate(self) -> float:
        """Bytes/s from the host to a device."""
        link = self.calibration.host_link
        return self.memory_rate if link is None else link.value

    @property
    def memory_rate(self) -> float:
        """Bytes/s of elementwise work."""
        return self.calibration.memory_bandwidth.value * self.calibration.memory_efficiency.value

    def compute_rate(self, precision: Precision) -> float:
        """FLOP/s of the products and the attention of a step."""
        return self.peak(precision) * self.calibration.compute_efficiency[precision].value

    def peak(self, precision: Precision) -> float:
        """FLOP/s of one device."""
        return self.calibration.peak_flops[precision].value

    def link_rate(self, group: int) -> float:
        """Bytes/s per device of a ring over `group` devices.

        A ring enters and leaves a node once, and each adapter of the node carries a ring of its own: over several
        nodes the devices of a node together are as fast as its adapters together.
        """
        facts, inside = self.calibration, min(group, self._per_node)
        links = facts.device_link.value
        if group > self._per_node:
            links = min(links, inside * facts.node_link.value)
        return links * facts.link_efficiency.value

    def larger(self, most: int) -> list[int]:
        """Numbers of devices, each twice the one before, that fill their nodes."""
        doubled = (self.devices * 2**power for power in range(1, most.bit_length()))
        return [count for count in doubled if count <= most and (count <= self._per_node or not count % self._per_node)]

    @property
    def _per_node(self) -> int:
        return self.calibration.devices_per_node


def cluster_of(name: str | Path, devices: int, *, price_per_hour: float | None = None) -> ClusterSpec:
    """`devices` of the kind that `cluster/calibration/<name>.yaml`, or the YAML file `name`, describes."""
    calibration = load_config(Calibration, name, search=CALIBRATIONS)
    if price_per_hour is None and calibration.price_per_hour is not None:
        price_per_hour = calibration.price_per_hour.value
    return ClusterSpec(Path(name).stem, devices, calibration, price_per_hour)


def machine_for(workers: int, gpu: str | None, gpus_per_worker: float) -> ClusterSpec | None:
    """What a run may use: `workers` of kind `gpu`, or of the cores here; None for GPUs that nobody has named."""
    if gpus_per_worker and gpu is None:
        return None
    return cluster_of(gpu or "cpu", max(1, workers))
