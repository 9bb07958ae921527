"""`make bench-operator` on a few jobs: that everything ends, and with how many calls. Never how fast."""

from __future__ import annotations

from pathlib import Path

import pytest

import apiserver
from bench.scale import race
from bench.scale.load import shape
from bench.scale.page import own, page
from bench_operator import alone
from lab import tools

pytestmark = pytest.mark.e2e

AUDIT = dict.fromkeys(("GET optimizationjobs", "GET optimizationruntimes", "GET modelmonitors"), 1)
"""What may come meanwhile, every two minutes."""
SIZE = race.Size(jobs=26, trials=9, idle=5, trickle=2)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> race.Ours:
    for name in tools.CONTROL_PLANE:
        apiserver.tool(name)
    found: race.Ours = alone(SIZE, race.ours, tmp_path_factory.mktemp("scale") / "ours")
    return found


def test_every_job_ends_after_the_jobs_it_takes_and_no_more(ours: race.Ours) -> None:
    assert {name: len(script.jobs) for name, script in ours.scripts.items()} == {
        shape(number, SIZE.trials).name: shape(number, SIZE.trials).jobs for number in range(SIZE.jobs)
    }
    assert ours.converged.calls["POST jobs"] == SIZE.works


def test_the_end_of_a_job_costs_a_look_at_pods_and_a_status(ours: race.Ours) -> None:
    calls = ours.converged.calls
    assert calls["GET pods"] <= SIZE.works
    # Each begins with a status; a pod that is long in starting on a busy machine is one more.
    assert calls["PATCH optimizationjobs/status"] <= SIZE.works + 2 * SIZE.jobs
    assert calls["POST events"] <= 3 * SIZE.works


def test_nothing_is_asked_or_written_while_nothing_happens(ours: race.Ours) -> None:
    assert own(ours.idle) in ({}, AUDIT)


def test_a_restart_lists_and_writes_nothing(ours: race.Ours) -> None:
    restarted = own(ours.restarted)
    assert all(call.startswith(("GET", "WATCH")) for call in restarted)
    assert sum(restarted.values()) < 10


def test_the_page_says_what_was_asked_for_and_what_was_reached(ours: race.Ours, tmp_path: Path) -> None:
    cost = race.Cost(seconds=10 * ours.all.seconds, cpu=10 * ours.all.cpu, peak=1, servers=0, pods=0)
    text = page(SIZE, ours, cost, cost, "today, here.")
    assert "| 5 times the naive operator's throughput per CPU-second | 10.0 times | yes |" in text
    assert "| at most twice the bare loop's time | 0.10 times | yes |" in text
    assert "| no write after a restart | 0 writes | yes |" in text
