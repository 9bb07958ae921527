"""Conditions, kept as the API conventions ask: one per type, and a transition time that moves only with the status."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from trimtab.api.names import ConditionType
from trimtab.api.status import Condition


def timestamp(now: datetime) -> str:
    """RFC 3339 in UTC with whole seconds, as metav1.Time."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str) -> datetime:
    return datetime.fromisoformat(text)


def find(conditions: Sequence[Condition], kind: str) -> Condition | None:
    return next((c for c in conditions if c.type == kind), None)


def is_true(conditions: Sequence[Condition], kind: str) -> bool:
    found = find(conditions, kind)
    return found is not None and found.status == "True"


def is_finished(conditions: Sequence[Condition]) -> bool:
    """Whether these are the conditions of an OptimizationJob that ended, well or badly."""
    return any(is_true(conditions, kind) for kind in (ConditionType.COMPLETE, ConditionType.FAILED))


def with_condition(conditions: Sequence[Condition], new: Condition, now: datetime) -> list[Condition]:
    """The conditions with `new` in place of the one of its type, or at the end."""
    old = find(conditions, new.type)
    moved = old is None or old.status != new.status
    new = new.model_copy(update={"last_transition_time": timestamp(now) if moved else old and old.last_transition_time})
    return [new if c.type == new.type else c for c in conditions] + ([new] if old is None else [])
