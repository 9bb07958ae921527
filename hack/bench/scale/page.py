"""The figures of `make bench-operator` as a page, each aim beside what was reached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isnan

from bench.scale.race import Cost, Ours, Size, Spell

MB = 1_000_000


@dataclass(frozen=True)
class Aim:
    """What was asked for, and what came out."""

    what: str
    reached: str
    holds: bool


def page(  # noqa: PLR0913, PLR0917
    size: Size,
    ours: Ours,
    bare: Cost | None,
    naive: Cost | None,
    about: str,
    shares: Mapping[str, float] | None = None,
) -> str:
    lines = ["# What `make bench-operator` found", "", about, ""]
    lines += [f"{size.jobs} OptimizationJobs, {size.works} Jobs (some jobs have {size.trials} trials).", ""]
    lines += _aims(aims(size, ours, bare, naive))
    lines += _floor(bare, naive) if bare and naive else []
    lines += _race(size, {"trimtab": ours.all, "bare loop": bare, "naive kopf": naive})
    lines += _acts(size, ours)
    lines += _shares(shares) if shares else []
    return "\n".join(lines) + "\n"


def aims(size: Size, ours: Ours, bare: Cost | None, naive: Cost | None) -> Iterator[Aim]:
    if naive:
        ratio = naive.cpu / ours.all.cpu
        yield Aim("5 times the naive operator's throughput per CPU-second", f"{ratio:.1f} times", ratio >= 5)
    if bare:
        ratio = ours.all.seconds / bare.seconds
        yield Aim("at most twice the bare loop's time", f"{ratio:.2f} times", ratio <= 2)
    peak = max(ours.all.peak, ours.restarted.memory) / MB
    yield Aim(f"at most 250 MB at {size.jobs} jobs, the restart included", f"{peak:.0f} MB", peak <= 250)
    calls = sum(own(ours.idle).values())
    yield Aim("no periodic call per object while idle", f"{calls} calls in {ours.idle.seconds:.0f} s", calls < 10)
    writes = sum(count for name, count in own(ours.restarted).items() if not name.startswith(("GET", "WATCH")))
    yield Aim("no write after a restart", f"{writes} writes", writes == 0)


def own(spell: Spell) -> dict[str, int]:
    """Calls about objects; the lease is renewed whatever there is to do."""
    return {name: count for name, count in spell.calls.items() if "leases" not in name}


def _aims(found: Iterator[Aim]) -> list[str]:
    rows = [f"| {aim.what} | {aim.reached} | {'yes' if aim.holds else 'no'} |" for aim in found]
    return ["| aim | | reached |", "|---|---|---|", *rows, ""]


def _floor(bare: Cost, naive: Cost) -> list[str]:
    """How far anybody could get who makes these calls with this client from this language."""
    ratio = naive.cpu / bare.cpu
    return [
        f"The bare loop, which reads and decides nothing, has {ratio:.1f} times the naive operator's throughput.",
        "",
    ]


def _shares(shares: Mapping[str, float]) -> list[str]:
    lines = ["## Where the operator's CPU goes", "", "By cProfile, which makes Python slower and C not:", ""]
    return [*lines, "| own time of | share |", "|---|---|", *(f"| {n} | {s:.0%} |" for n, s in shares.items()), ""]


def _race(size: Size, racers: Mapping[str, Cost | None]) -> list[str]:
    rows = [
        f"| {name} | {cost.seconds:.0f} s | {cost.cpu:.1f} s | {1000 * cost.cpu / size.works:.2f} ms "
        f"| {size.works / cost.cpu:.0f} | {cost.peak / MB:.0f} MB | {cost.servers:.0f} s | {cost.pods:.0f} s "
        f"| {cost.load:.1f} |"
        for name, cost in racers.items()
        if cost
    ]
    head = "| | time | CPU | CPU a Job | Jobs per CPU-second | peak RSS | CPU of the servers | CPU of pods | load |"
    return ["## All jobs to their end", "", head, "|---|---|---|---|---|---|---|---|---|", *rows, ""]


def _acts(size: Size, ours: Ours) -> list[str]:
    acts = {
        "all jobs": ours.converged,
        "idle": ours.idle,
        "restart": ours.restarted,
        "one job after the other": ours.trickle,
    }
    lines = ["## The operator", "", "| | time | CPU | RSS | p50, p99 | calls |", "|---|---|---|---|---|---|"]
    for name, act in acts.items():
        delays = "; ".join(
            f"{what} {p50:.2f}, {p99:.2f} s" for what, (p50, p99) in act.delays.items() if not isnan(p50)
        )
        calls = ", ".join(f"{count} {call}" for call, count in sorted(act.calls.items(), key=lambda c: -c[1]))
        lines.append(
            f"| {name} | {act.seconds:.0f} s | {act.cpu:.2f} s | {act.memory / MB:.0f} MB | {delays} | {calls} |"
        )
    each = sum(own(ours.converged).values())
    return [*lines, "", f"{each / size.jobs:.1f} calls an OptimizationJob, {each / size.works:.2f} a Job.", ""]
