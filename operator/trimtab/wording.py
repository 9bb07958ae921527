"""The sentences about a winner, from the report's document alone: who adds the claim to it can say them again.

The operator says them of a status; the pod that publishes says them once more, with the claim it has just made. So this
module and the page are all that runs in a pod beside the contract. A sentence that is about doubt (a holdout too small)
is as prominent as one about success: a report that only ever congratulates is not read.
"""

from __future__ import annotations

from trimtab.api.model import FRACTIONS, QUALITY, Metric
from trimtab.api.names import Reason
from trimtab.api.quantities import show_quantity
from trimtab.api.report import Candidate, JobReport, Winner
from trimtab.api.status import Claim, Interval, Verdict


def concluded(report: JobReport) -> JobReport:
    """The report of a job that has a winner, with what follows from its claim in words."""
    words = {"headline": _headline(report), "verdict": _verdict(report, report.claim) if report.claim else ""}
    return report.model_copy(update=words)


def _headline(report: JobReport) -> str:
    if report.state == Reason.BASELINE_IS_BEST:
        others = any(Metric.SIZE in candidate.metrics for candidate in report.candidates[1:])
        why = "no candidate is better beyond noise" if others else "no trial made a model to compare it with"
        return f"Keep the input model: {why}."
    assert report.winner
    return f"{_praise(report, report.winner)}{_reservation(report.claim)}."


def _praise(report: JobReport, winner: Winner) -> str:
    chosen = next(c for c in report.candidates if (c.trial, c.engine) == (winner.trial, winner.engine))
    told = [_speed(winner), _loss(report, chosen), _size(chosen, report.candidates[0])]
    *most, last = [text for text in told if text]
    return f"{winner.name[0].upper()}{winner.name[1:]} {', '.join(most)}{' and ' if most else ''}{last}"


def _speed(winner: Winner) -> str:
    if winner.speed_up is None:
        return ""
    found = winner.speed_up
    estimate, low, high = (f"{float(number):.2f}" for number in (found.estimate, found.low, found.high))
    batches = " in batches" if winner.batches else ""
    return f"is {estimate}x as fast{batches} as the input model (95% interval {low} to {high})"


def _loss(report: JobReport, chosen: Candidate) -> str:
    """The holdout's word where there is one, for the search has seen the drop on the evaluation split."""
    found, metric = report.claim.drop if report.claim else None, report.quality
    drop = float(found.estimate if found else chosen.drop or 0)
    where = f"the holdout{_ends(found, gained=drop < 0)}" if found else "the evaluation split"
    if metric in FRACTIONS:
        return f"{'loses' if drop >= 0 else 'gains'} {points(abs(drop))} points of {metric} on {where}"
    lowers = report.higher_is_better == (drop >= 0)
    return f"{'lowers' if lowers else 'raises'} {metric} by {points(abs(drop))}% on {where}"


def _ends(drop: Interval, gained: bool) -> str:
    """A drop's interval with the sign of what is told: a gain is a drop below 0, and its ends change places."""
    low, high = float(drop.low), float(drop.high)
    low, high = (-high, -low) if gained else (low, high)
    return f" (95% interval {points(low)} to {points(high)})"


def _size(chosen: Candidate, reference: Candidate) -> str:
    before, after = (show_quantity(float(one.metrics[Metric.SIZE])) for one in (reference, chosen))
    return f"takes {after}" + (" as before" if before == after else f" instead of {before}")


def _reservation(claim: Claim | None) -> str:
    if claim and claim.verdict == Verdict.VIOLATED:
        return "; but the holdout breaks the promise, so nothing was published"
    if claim and claim.verdict == Verdict.INCONCLUSIVE:
        return f"; the holdout of {claim.samples} samples is too small to confirm the promise"
    return ""


def _verdict(report: JobReport, claim: Claim) -> str:
    samples = f"{claim.samples} holdout samples"
    if not any(promise.metric in QUALITY for promise in report.asked.promises):
        return f"No promise on {claim.metric} was asked for; on {samples} {claim.message}."
    told = {
        Verdict.HOLDS: f"With 95% confidence the promise holds on {samples}",
        Verdict.INCONCLUSIVE: f"{samples} are too few to say with 95% confidence whether the promise holds",
        Verdict.VIOLATED: f"With 95% confidence the promise is broken on {samples}",
    }[claim.verdict]
    return f"{told}: {claim.message}." if claim.message else f"{told}."


def points(fraction: float | str) -> str:
    """A difference of two fractions in points: `0.00333` is `0.33`, and never a negative zero."""
    return f"{100 * float(fraction):.2f}".replace("-0.00", "0.00")
