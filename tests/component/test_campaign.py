"""A small sample of `make campaign`, whose whole takes half an hour."""

from __future__ import annotations

from bench.campaign import crash_after_every_write, outage

from holdfast_devcluster import ControlPlane

SEED = 1


def test_a_crash_after_a_write_leaves_no_trace(plane: ControlPlane) -> None:
    result = crash_after_every_write(plane, SEED, quiet=1.0, most=1)
    assert result.points == 1
    assert result.failures == 0, "\n".join(result.wrongs)


def test_an_outage_of_seconds_costs_nothing_that_serves(plane: ControlPlane) -> None:
    result = outage(plane, SEED, 5.0, models=6, touched=2, quiet=2.0)
    assert result.failures == []
