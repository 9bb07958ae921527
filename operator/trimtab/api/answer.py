"""What a command says at its end with `--output json`: one document, for programs.

Published as docs/schema/answer.json. `version` changes when a field changes its meaning or goes away; fields may be
added at any time.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from trimtab.api.base import Record
from trimtab.api.report import JobReport

ANSWER_VERSION: Literal["v1alpha1"] = "v1alpha1"


class Answer(Record):
    """How a command ended."""

    version: Literal["v1alpha1"] = ANSWER_VERSION
    command: str
    exit_code: int = Field(
        0, description="0 done, 1 failed, 2 bad input, 3 nothing keeps the promises, 130 interrupted."
    )
    problems: list[str] = Field([], description="What is wrong, one line each: field or file, value, remedy.")
    report: JobReport | None = Field(None, description="Of a run: winner, candidates, claim, what was published.")
    job: dict[str, Any] | None = Field(None, description="Of a dry run: the OptimizationJob that would run.")
    paths: dict[str, str] = Field({}, description="Files and folders, by what they are: out, status, report, job.")
