"""The job's report as it is published: the operator's words on what was tried, and this pod's claim.

The operator opens no store, and knows the claim only when the Publish pod has ended; that pod knows what it found and
not why the others lost. So the Task carries the report as far as it is known, and here it is brought to its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from trimtab.api.model import MODEL_FILES, ModelFormat
from trimtab.api.report import JobReport, trial_work
from trimtab.api.status import Claim, Published
from trimtab.api.work import Report
from trimtab.page import files
from trimtab.wording import concluded


def report_files(packed: str, claim: Claim, uri: str, form: ModelFormat, pods: Sequence[Report]) -> dict[str, str]:
    """Every form of the report, by the name of its file, for whoever finds it beside the model published at `uri`.

    `form` is the model's, and `pods` the full reports of the job's pods, this one's left out, for it has not ended.
    """
    report = JobReport.unpacked(packed)
    winner = report.winner
    assert winner
    published = Published(uri=uri, digest=winner.artifact)
    load = winner.load.replace(repr(MODEL_FILES[ModelFormat.ONNX]), repr(MODEL_FILES[form]))
    update = {
        "claim": claim,
        "winner": winner.model_copy(update={"published": published, "load": load}),
        "ended": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "work": trial_work(pods),
    }
    return files(concluded(report.model_copy(update=update)))
