"""Every name that another program may read: groups, labels, condition types, reasons, events.

They are gathered here because a renamed reason breaks somebody's `kubectl wait`, alert or dashboard; a change to
this file is a change to the API.
"""

from __future__ import annotations

from enum import StrEnum

GROUP = "trimtab.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
CATEGORY = "trimtab"

JOB_LABEL = f"{GROUP}/job-name"
JOB_UID_LABEL = f"{GROUP}/job-uid"
STAGE_LABEL = f"{GROUP}/stage"
TRIAL_LABEL = f"{GROUP}/trial-index"
ATTEMPT_LABEL = f"{GROUP}/attempt"
TEAM_LABEL = f"{GROUP}/trains-with-others"
RUNTIME_ANNOTATION = f"{GROUP}/runtime"
MANAGED_LABEL = f"{GROUP}/managed"
MONITOR_LABEL = f"{GROUP}/monitor-name"
MONITOR_UID_LABEL = f"{GROUP}/monitor-uid"
RULES_LABEL = f"{GROUP}/rules"
TRIGGER_ANNOTATION = f"{GROUP}/trigger"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
QUEUE_PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
"""Kueue's own: of a Job, the LocalQueue that admits it and its WorkloadPriorityClass."""
CAPTURE_FILE = "current.npz"
"""What the model server calls the traffic it captured; a Recalibrate job calibrates with it."""


LABEL_LIMIT = 63


def label_value(text: str) -> str:
    """An object's name (at most 253 characters) as a label's value (at most 63). For people: select by UID."""
    return text[:LABEL_LIMIT].rstrip("-.")


class ConditionType(StrEnum):
    """`Complete` and `Failed` are the names batch/v1 uses, so that `kubectl wait` reads the same."""

    ACCEPTED = "Accepted"
    CANDIDATE_SELECTED = "CandidateSelected"
    PUBLISHED = "Published"
    COMPLETE = "Complete"
    FAILED = "Failed"
    SUSPENDED = "Suspended"
    QUOTA_RESERVED = "QuotaReserved"


class MonitorConditionType(StrEnum):
    READY = "Ready"
    TRIGGERED = "Triggered"


class Reason(StrEnum):
    """Why a condition has its status. The State column shows the reason of the summary condition."""

    PENDING = "Pending"
    SPEC_ACCEPTED = "SpecAccepted"
    RUNTIME_NOT_FOUND = "RuntimeNotFound"
    RUNTIME_NOT_ALLOWED = "RuntimeNotAllowed"
    IMAGE_NOT_ALLOWED = "ImageNotAllowed"
    CODE_NOT_ALLOWED = "CodeNotAllowed"
    ADDRESS_NOT_ALLOWED = "AddressNotAllowed"
    DEVICE_NOT_GIVEN = "DeviceNotGiven"
    INVALID_INPUT = "InvalidInput"
    INSPECTING = "Inspecting"
    SEARCHING = "Searching"
    BENCHMARKING = "Benchmarking"
    PUBLISHING = "Publishing"
    SELECTED = "Selected"
    BASELINE_IS_BEST = "BaselineIsBest"
    NO_FEASIBLE_CANDIDATE = "NoFeasibleCandidate"
    PUBLISHED = "Published"
    NOTHING_TO_PUBLISH = "NothingToPublish"
    CLAIM_VIOLATED = "ClaimViolated"
    WORK_FAILED = "WorkFailed"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    SUSPENDED = "Suspended"
    RESUMED = "Resumed"
    QUEUED_BY_KUEUE = "QueuedByKueue"
    QUOTA_RESERVED = "QuotaReserved"
    QUOTA_EXCEEDED = "QuotaExceeded"
    FORBIDDEN = "Forbidden"
    JOB_REFUSED = "JobRefused"

    WATCHING = "Watching"
    TRIGGERED = "Triggered"
    COOLING_DOWN = "CoolingDown"
    REOPTIMIZING = "Reoptimizing"
    RESOLVED = "Resolved"
    JOB_FAILED = "JobFailed"


class EventReason(StrEnum):
    """Events mark transitions only; kopf does not aggregate repeats, so none may be repeated."""

    INSPECTED = "Inspected"
    INPUT_DOUBTFUL = "InputDoubtful"
    TRIAL_SUCCEEDED = "TrialSucceeded"
    TRIAL_SKIPPED = "TrialSkipped"
    TRIAL_FAILED = "TrialFailed"
    SEARCH_STOPPED = "SearchStopped"
    CANDIDATE_SELECTED = "CandidateSelected"
    PUBLISHED = "Published"
    COMPLETE = "Complete"
    FAILED = "Failed"
    NOT_STARTED = "NotStarted"
    STEP_STARTED = "StepStarted"
    TRIGGERED = "Triggered"
    SUPPRESSED = "Suppressed"
    RESOLVED = "Resolved"


class ServedMetric(StrEnum):
    """What the model server exports, each with the label `model_name`, and the generated rules read."""

    REQUEST_DURATION = "trimtab_request_duration_seconds"
    INFERENCE_DURATION = "trimtab_inference_duration_seconds"
    REQUESTS = "trimtab_requests_total"
    DRIFT_SCORE = "trimtab_drift_score"
    DRIFT_THRESHOLD = "trimtab_drift_threshold"
    DRIFT_WINDOW_ROWS = "trimtab_drift_window_rows"
    CAPTURE_READY = "trimtab_capture_ready"
    MODEL_INFO = "trimtab_model_info"


class AlertName(StrEnum):
    MODEL_DRIFT_DETECTED = "ModelDriftDetected"
    MODEL_LATENCY_HIGH = "ModelLatencyHigh"


class AlertLabel(StrEnum):
    """What the generated rules put on an alert, so that the webhook finds the way back to its monitor."""

    NAMESPACE = "namespace"
    MONITOR = "modelmonitor"
    MONITOR_UID = "modelmonitor_uid"
    ACTION = "action"
    TRIGGER = "trigger"
    SEVERITY = "severity"
