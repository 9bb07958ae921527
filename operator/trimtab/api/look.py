"""What was seen of a model and its data before there is a job: what `trimtab_jobs.look` tells the command line.

The command line loads no model library, so it sees through a process that does.
"""

from __future__ import annotations

from pydantic import Field

from trimtab.api.base import Record
from trimtab.api.model import EngineName, Metric, ModelFormat
from trimtab.api.status import Hardware


class Look(Record):
    """A model that can be run, and splits that fit it."""

    format: ModelFormat
    size: int = Field(description="Bytes, external data included.")
    inputs: dict[str, str] = Field(description="Name to dtype and shape, such as float32[N,64].")
    outputs: dict[str, str] = Field(description="The same of what it answers, as far as the graph says.")
    operators: dict[str, int] = Field(description="How many nodes of each operator, the most frequent first.")
    data: dict[str, str] = Field(description="The file of each split.")
    samples: dict[str, int] = Field(description="How many samples each split has.")
    labels: str = Field("", description="Such as int64[N]; empty where there are none.")
    metric: Metric = Field(description="The quality to promise: what was asked for, or what fits the labels.")
    engines: list[EngineName] = Field(description="Those that are installed here and run models.")
    hardware: Hardware
