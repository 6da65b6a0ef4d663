import dataclasses

import psutil
import pytest

from pipelines.training.cost import cluster_of, machine_for
from pipelines.training.cost.cluster import CALIBRATIONS
from skyreels.config import ConfigError


@pytest.mark.parametrize("name", sorted(path.stem for path in CALIBRATIONS.glob("*.yaml")))
def test_every_calibration_says_where_its_figures_come_from(name):
    facts = dict(cluster_of(name, 1).calibration.facts())
    assert {"peak_flops.bf16", "compute_efficiency.bf16", "memory_bandwidth", "device_link"} <= facts.keys()
    assert all(fact.source for fact in facts.values())
    shares = [name for name in facts if name.split(".")[0].endswith(("efficiency", "overlap", "availability"))]
    assert shares
    assert all(0 <= facts[name].value <= 1 for name in shares)


def test_published_peaks_stand_in_their_known_order():
    peaks = [cluster_of(name, 8).peak("bf16") for name in ("a100", "h100", "h200", "b200")]
    assert peaks == sorted(peaks)
    assert peaks[1] == peaks[2] == 989.4e12
    assert cluster_of("h200", 8).memory_limit < 141e9 < 1.1 * cluster_of("h200", 8).memory_limit


def test_several_nodes_are_as_fast_as_their_adapters_together():
    facts = cluster_of("a100", 64).calibration
    alone, together = (cluster_of("a100", 64).link_rate(group) for group in (8, 64))
    assert alone == facts.device_link.value * facts.link_efficiency.value
    assert together == 8 * facts.node_link.value * facts.link_efficiency.value < alone


def test_devices_come_in_full_nodes():
    with pytest.raises(ValueError, match="full nodes of 8"):
        cluster_of("h100", 12)
    assert cluster_of("h100", 3).larger(64) == [6, 24, 48]
    assert cluster_of("h100", 8).larger(64) == [16, 32, 64]


def test_an_unknown_machine_is_named_with_those_there_are():
    with pytest.raises(ConfigError, match=r"h300.*shipped here: a100, b200, cpu, h100, h200"):
        cluster_of("h300", 8)


def test_workers_of_this_machine_share_what_is_free():
    one, two = machine_for(1, None, 0), machine_for(2, None, 0)
    assert one.memory_limit == pytest.approx(2 * two.memory_limit, rel=0.1)
    assert one.memory_limit <= psutil.virtual_memory().total
    assert one.shares_host
    assert not cluster_of("h100", 1).shares_host


def test_gpus_that_nobody_has_named_are_not_planned_as_cores():
    assert machine_for(8, None, 1) is None
    assert machine_for(8, "h100", 1).devices == 8


def test_a_price_that_is_given_replaces_the_assumed_one():
    assert cluster_of("h200", 8, price_per_hour=1.25).price_per_hour == 1.25
    assert cluster_of("h200", 8).price_per_hour == cluster_of("h200", 8).calibration.price_per_hour.value
    assert dataclasses.replace(cluster_of("cpu", 2)).price_per_hour is None
