"""Alertmanager's webhook at the edge: from bytes to alerts that belong to a monitor.

The payload (version 4) is a notification about a group of alerts, delivered at least once, repeated while they fire,
and shared with rules that are not ours. What comes out is typed, and only of our own rules: those carry the
namespace, name and UID of their ModelMonitor as labels.
"""

from __future__ import annotations

import hmac
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, ValidationError

from trimtab.api.base import Record
from trimtab.api.names import AlertLabel, AlertName

_RULES = frozenset(AlertName)


@dataclass(frozen=True)
class MonitorRef:
    """The monitor that an alert names. The UID tells a monitor from an earlier one of the same name."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True)
class Alert:
    """One alert. `fingerprint` identifies its labels; with the start, one incident."""

    name: str
    fingerprint: str
    starts_at: datetime
    ends_at: datetime | None
    """None while it fires."""


class _Alert(Record):
    status: Literal["firing", "resolved"]
    labels: dict[str, str]
    starts_at: AwareDatetime
    ends_at: AwareDatetime
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{1,32}$")]


class _Payload(Record):
    version: Literal["4"]
    alerts: list[_Alert]


def parse(payload: bytes) -> dict[MonitorRef, tuple[Alert, ...]]:
    """The alerts of our rules by monitor. Raises ValueError with one line if this is no Alertmanager notification."""
    try:
        alerts = _Payload.model_validate_json(payload).alerts
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "body"
        raise ValueError(f"not an Alertmanager notification of version 4: {field}: {first['msg']}") from None
    found: defaultdict[MonitorRef, list[Alert]] = defaultdict(list)
    for alert in alerts:
        if monitor := _monitor(alert.labels):
            found[monitor].append(_typed(alert))
    return {monitor: tuple(alerts) for monitor, alerts in found.items()}


def authorized(header: str | None, token: str | None) -> bool:
    """Whether an Authorization header carries the bearer token. Nobody is authorized by an empty one."""
    scheme, _, given = (header or "").partition(" ")
    same = hmac.compare_digest(given.strip().encode(), (token or "").encode())
    return same and bool(token) and scheme.lower() == "bearer"


def _monitor(labels: dict[str, str]) -> MonitorRef | None:
    names = [labels.get(label, "") for label in (AlertLabel.NAMESPACE, AlertLabel.MONITOR, AlertLabel.MONITOR_UID)]
    return MonitorRef(*names) if all(names) and labels.get("alertname") in _RULES else None


def _typed(alert: _Alert) -> Alert:
    ends_at = alert.ends_at.astimezone(UTC) if alert.status == "resolved" else None
    return Alert(alert.labels["alertname"], alert.fingerprint, alert.starts_at.astimezone(UTC), ends_at)
