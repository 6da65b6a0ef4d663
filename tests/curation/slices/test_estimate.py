"""The estimate of curation: what grows with what, and what is said to be extrapolated."""

import pytest

from jobs import plan
from pipelines.curation.slices.estimate import Curating, estimate


def _hours(asked, what):
    (line,) = (line for line in estimate(asked) if line.what == what)
    return float(line.value.split()[0].replace(",", ""))


def test_twice_the_pictures_take_twice_the_hours_and_twice_the_cores_half():
    one = _hours(Curating(1e9, 0, 1000), "pictures measured and cut")
    assert _hours(Curating(2e9, 0, 1000), "pictures measured and cut") == pytest.approx(2 * one, rel=0.1)
    assert _hours(Curating(1e9, 0, 2000), "pictures measured and cut") == pytest.approx(one / 2, rel=0.1)


def test_the_driver_holds_no_more_for_more_rows():
    found = [next(line.value for line in estimate(Curating(n, 0, 64)) if "driver" in line.what) for n in (1e9, 3e9)]
    assert found[0] == found[1]


def test_what_was_not_measured_so_far_is_marked():
    few, many = ({line.what for line in estimate(Curating(n, 0, 8)) if line.extrapolated} for n in (500, 1e9))
    assert few == set()
    assert {"pictures measured and cut", "chosen, packed, accounted for"} <= many


def test_the_command_prints_it_and_refuses_no_cores(capsys):
    assert plan.main(["--curate", "--images", "3e9", "--clips", "4e8", "--cores", "20000"]) == 0
    out = capsys.readouterr().out
    assert "3,000,000,000 pictures and 400,000,000 clips on 20,000 cores" in out
    assert "[extrapolated from" in out
    assert plan.main(["--curate", "--images", "1", "--cores", "0"]) == 1
    assert "--cores" in capsys.readouterr().err
