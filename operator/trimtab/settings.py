"""The operator's settings: read from environment variables, written by the Helm chart, checked once at start."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field
from pydantic.alias_generators import to_camel, to_snake

from trimtab.api.base import Pattern, Spec
from trimtab.api.model import Name

PREFIX = "TRIMTAB_"
RUNBOOKS = "docs/runbooks.md"
LEASE = Pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?/[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "a Lease such as trimtab/trimtab")


class LogLevel(StrEnum):
    DEBUG = "Debug"
    INFO = "Info"
    WARNING = "Warning"
    ERROR = "Error"


class LogFormat(StrEnum):
    TEXT = "Text"
    JSON = "JSON"


class Settings(Spec):
    """What an administrator decides about the operator itself.

    A field `httpPort` is read from `TRIMTAB_HTTP_PORT`. (Not simply `port`: to pods in the namespace of a Service
    named `trimtab`, Kubernetes gives a variable `TRIMTAB_PORT` of its own.)
    """

    watch_namespaces: list[Name] = Field(
        [],
        max_length=256,
        description="The namespaces to serve. Left empty: all of them, which takes a ClusterRole in place of Roles.",
    )
    http_port: int = Field(
        8080,
        ge=1,
        le=65535,
        description="Where /metrics, /healthz, /readyz and the webhook /alerts are served, on all addresses.",
    )
    alerts_token_file: str | None = Field(
        None,
        max_length=4096,
        description="A file with the bearer token that Alertmanager must send to /alerts; it is read anew for every "
        "request, so a rotated Secret needs no restart. Left out: /alerts answers 401 to everyone.",
    )
    lease: Annotated[str, Field(max_length=317), LEASE] | None = Field(
        None,
        description="The Lease that one replica holds while it acts, the others standing by, as namespace/name. Left "
        "out: there is no election, and only one replica may run.",
    )
    workers: int = Field(
        16,
        ge=1,
        le=64,
        description="How many objects are reconciled at the same time, each waiting for the API server.",
    )
    read_logs: bool = Field(
        True,
        description="Read the end of the log of pods that run for more than a minute, once a minute, for how far they "
        "are. It takes the right to read all logs where jobs are; without it a job says since when a pod runs, and no "
        "more.",
    )
    runbooks: str = Field(
        RUNBOOKS,
        max_length=1024,
        description="Where alerts say that their runbooks are: the file in Trimtab's sources, until you name the "
        "address where you serve it.",
    )
    log_level: LogLevel = Field(LogLevel.INFO, description="The least severe messages that are logged.")
    log_format: LogFormat = Field(LogFormat.TEXT, description="Lines for people, or one JSON object a line.")

    @property
    def lease_name(self) -> tuple[str, str] | None:
        """Namespace and name."""
        namespace, _, name = (self.lease or "").partition("/")
        return (namespace, name) if name else None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """The settings in `environment`; a list is separated by commas, an empty value is as good as none.

        Raises pydantic.ValidationError.
        """
        # By the names they have in the chart, so that an error speaks of them.
        given = {to_camel(name): environment.get(variable(name), "").strip() for name in cls.model_fields}
        texts = {name: text for name, text in given.items() if text}
        names = [name.strip() for name in texts.pop("watchNamespaces", "").split(",") if name.strip()]
        return cls.model_validate({**texts, "watchNamespaces": names})

    def environment(self) -> dict[str, str]:
        """The reverse: what to set so that `from_environment` reads these settings."""
        wire = {name: value for name, value in self.wire().items() if value != []}
        return {
            variable(to_snake(name)): ",".join(value) if isinstance(value, list) else str(value)
            for name, value in wire.items()
        }


def variable(field: str) -> str:
    """`http_port` is read from `TRIMTAB_HTTP_PORT`."""
    return PREFIX + field.upper()
