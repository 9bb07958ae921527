"""What the events of a Job without a pod say: tables, in the words of a real API server."""

from __future__ import annotations

from typing import Any

import pytest

from trimtab.api.names import Reason
from trimtab.cluster.refusals import WORDS, NoPod, no_pod

OVER = "exceeded quota: q, requested: pods=1, used: pods=0,limits.cpu=7500m, limited: pods=0"
TOLD = "exceeded quota: q, requested: pods=1, limited: pods=0"
INSECURE = 'violates PodSecurity "restricted:latest": runAsNonRoot != true (pod or container "work" must set it)'


@pytest.mark.parametrize(
    ("note", "words", "reason"),
    [
        (f'Error creating: pods "m-0-x7k2p" is forbidden: {OVER}', TOLD, Reason.QUOTA_EXCEEDED),
        (
            f'(combined from similar events): Error creating: pods "m-0-8q" is forbidden: {OVER}',
            TOLD,
            Reason.QUOTA_EXCEEDED,
        ),
        (f'Error creating: pods "m-0-x7k2p" is forbidden: {INSECURE}', INSECURE, Reason.FORBIDDEN),
        (
            'Error creating: admission webhook "v.example.com" denied the request:\n\tno team label',
            'admission webhook "v.example.com" denied the request: no team label',
            Reason.FORBIDDEN,
        ),
        (
            'Error creating: Internal error occurred: failed calling webhook "v.example.com": connection refused',
            'Internal error occurred: failed calling webhook "v.example.com": connection refused',
            None,
        ),
        ('Error creating: Pod "m-0-x" is invalid: spec.x: Required value', "spec.x: Required value", None),
        ("long " * 200, ("long " * 200)[:WORDS], None),
    ],
)
def test_a_refusal_is_told_without_the_name_of_the_pod_that_never_was(
    note: str, words: str, reason: Reason | None
) -> None:
    assert no_pod([event(note)]) == NoPod(f"no pod can be created: {words}", reason)


FAILED, CREATED = "FailedCreate", "SuccessfulCreate"
EARLY, LATE = "2026-01-01T00:00:00Z", "2026-01-01T00:00:01.500000Z"


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([], None),
        ([(FAILED, EARLY, "old"), (FAILED, LATE, "new")], "new"),
        ([(FAILED, LATE, "new"), (FAILED, EARLY, "old")], "new"),
        ([(FAILED, EARLY, "old"), (CREATED, LATE, "pod m-0-x")], None),
        ([(CREATED, EARLY, "pod m-0-x"), (FAILED, LATE, "new")], "new"),
        ([(FAILED, EARLY, "old"), (CREATED, EARLY, "pod m-0-x")], None),
    ],
)
def test_the_newest_event_counts(events: list[tuple[str, str, str]], words: str | None) -> None:
    found = no_pod([event(note, reason, last) for reason, last, note in events])
    assert (found and found.words) == (words and f"no pod can be created: {words}")


@pytest.mark.parametrize(
    "times",
    [
        {"deprecatedLastTimestamp": LATE, "eventTime": None},
        {"eventTime": LATE},
        {"eventTime": EARLY, "series": {"count": 3, "lastObservedTime": LATE}},
        {"metadata": {"creationTimestamp": LATE}},
    ],
)
def test_whoever_records_an_event_its_time_is_found(times: dict[str, Any]) -> None:
    other = {"reason": CREATED, "deprecatedLastTimestamp": "2026-01-01T00:00:01Z"}
    assert no_pod([other, {"reason": FAILED, "note": "no", **times}])


@pytest.mark.parametrize("odd", [{}, {"reason": "x", "note": "y"}, {"eventTime": "0000-01-01T00:00:00Z"}])
def test_an_event_of_whatever_shape_is_passed_over(odd: dict[str, Any]) -> None:
    shaped = {"metadata": {"creationTimestamp": EARLY}, **odd}
    assert no_pod([shaped]) is None
    assert no_pod([shaped, event("no", last=LATE)]) == NoPod("no pod can be created: no", None)


def event(note: str, reason: str = FAILED, last: str = EARLY) -> dict[str, Any]:
    return {"reason": reason, "note": note, "deprecatedLastTimestamp": last}
