"""The Alertmanager webhook at the edge."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from trimtab.alerts import Alert, MonitorRef, authorized, parse

OURS = {
    "alertname": "ModelDriftDetected",
    "namespace": "ml",
    "modelmonitor": "magika",
    "modelmonitor_uid": "3f1c",
    "model_name": "magika",
}
NEVER = "0001-01-01T00:00:00Z"


def sent(status: str = "firing", labels: dict[str, str] = OURS, **fields: Any) -> dict[str, Any]:
    """An alert as Alertmanager 0.25 sends it."""
    return {
        "status": status,
        "labels": labels,
        "annotations": {"summary": "…"},
        "startsAt": "2026-01-01T01:00:00.123456789+01:00",
        "endsAt": NEVER if status == "firing" else "2026-01-01T00:05:00Z",
        "generatorURL": "http://prometheus/graph",
        "fingerprint": "1d5e8ea5ed1c7bb8",
    } | fields


def payload(*alerts: dict[str, Any], version: str = "4") -> bytes:
    group = {"receiver": "trimtab", "status": "firing", "groupKey": "{}:{}", "truncatedAlerts": 0}
    return json.dumps(group | {"version": version, "alerts": alerts}).encode()


def test_alerts_find_their_monitor() -> None:
    other = OURS | {"modelmonitor": "digits", "alertname": "ModelLatencyHigh"}
    start = datetime(2026, 1, 1, 0, 0, 0, 123456, tzinfo=UTC)
    found = parse(payload(sent(), sent("resolved", fingerprint="aa"), sent(labels=other)))
    assert found == {
        MonitorRef("ml", "magika", "3f1c"): (
            Alert("ModelDriftDetected", "1d5e8ea5ed1c7bb8", start, None),
            Alert("ModelDriftDetected", "aa", start, datetime(2026, 1, 1, 0, 5, tzinfo=UTC)),
        ),
        MonitorRef("ml", "digits", "3f1c"): (Alert("ModelLatencyHigh", "1d5e8ea5ed1c7bb8", start, None),),
    }


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(OURS | {"alertname": "Watchdog"}, id="another rule"),
        pytest.param({"alertname": "ModelDriftDetected"}, id="the same name, not ours"),
        pytest.param(OURS | {"modelmonitor_uid": ""}, id="no UID"),
        pytest.param({}, id="no labels"),
    ],
)
def test_alerts_of_others_are_ignored(labels: dict[str, str]) -> None:
    assert parse(payload(sent(labels=labels))) == {}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "body: Invalid JSON"),
        (b"[]", "body: "),
        (b'{"alerts": []}', "version: Field required"),
        (payload(version="3"), "version: Input should be '4'"),
        (payload(sent(startsAt="yesterday")), "alerts.0.startsAt: "),
        (payload(sent(startsAt="2026-01-01T00:00:00")), "alerts.0.startsAt: Input should have timezone info"),
        (payload(sent(), sent("pending")), "alerts.1.status: Input should be 'firing' or 'resolved'"),
        (payload(sent(fingerprint="../x")), "alerts.0.fingerprint: "),
        (payload(sent(labels={"a": 1})), "alerts.0.labels.a: "),  # type: ignore[dict-item]
    ],
)
def test_garbage_is_refused_in_one_line(body: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match="not an Alertmanager notification of version 4: ") as refusal:
        parse(body)
    assert reason in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("header", "token", "allowed"),
    [
        ("Bearer s3cret", "s3cret", True),
        ("bearer  s3cret", "s3cret", True),
        ("Bearer s3cre", "s3cret", False),
        ("Bearer geheimnis-ü", "s3cret", False),
        ("Basic s3cret", "s3cret", False),
        ("s3cret", "s3cret", False),
        ("Bearer ", "", False),
        ("Bearer s3cret", "", False),
        ("", "s3cret", False),
        (None, "s3cret", False),
        (None, None, False),
        ("Bearer ", None, False),
    ],
)
def test_only_the_token_opens(header: str | None, token: str | None, allowed: bool) -> None:
    assert authorized(header, token) is allowed
