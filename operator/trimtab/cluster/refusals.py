"""Why a Job gets no pod: its controller asks for one again and again, and says in events alone what it hears. Pure.

A quota of pods, a LimitRange, Pod Security or a webhook refuses the pod and not the Job. Its events are those of one
controller and one clock, so the newest of them tells whether it is still so. Whoever may write events in the namespace
may write such too, in any shape that the API server takes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from trimtab.api.names import Reason
from trimtab.cluster.client import OVER_QUOTA, Object

FAILED_CREATE = "FailedCreate"
WORDS = 500
"""Pod Security names every field of every container."""
_FORBIDS = ("is forbidden", "denied the request")
_PREAMBLE = re.compile(
    r'^(\(combined from similar events\): )?(Error creating: )?(pods? "[^"]*" is (forbidden|invalid): )?', re.I
)
_USED = re.compile(r", used: .*?(?=, limited: )")
"""The pod has another name each time, and others use the quota: with these, every look would find news."""


class NoPod(NamedTuple):
    words: str
    reason: Reason | None
    """What the state is where nothing else runs. None for what may pass by itself, as a webhook that is not there."""


def no_pod(events: Sequence[Object]) -> NoPod | None:
    """What the newest of a Job's events says of its pod, if that could not be created."""
    newest = max(events, key=lambda event: (_time(event), event.get("reason") != FAILED_CREATE), default=None)
    if newest is None or newest.get("reason") != FAILED_CREATE:
        return None
    note = " ".join(newest.get("note", "").split())
    words = _USED.sub("", _PREAMBLE.sub("", note))[:WORDS]
    return NoPod(f"no pod can be created: {words}", _reason(note))


def _reason(note: str) -> Reason | None:
    if OVER_QUOTA in note:
        return Reason.QUOTA_EXCEEDED
    return Reason.FORBIDDEN if any(words in note for words in _FORBIDS) else None


def _time(event: Object) -> datetime:
    last = (event.get("series") or {}).get("lastObservedTime") or event.get("deprecatedLastTimestamp")
    try:
        return datetime.fromisoformat(last or event.get("eventTime") or event["metadata"]["creationTimestamp"])
    except ValueError:  # no year 0000 in Python
        return datetime.min.replace(tzinfo=UTC)
