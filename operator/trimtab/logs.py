"""The operator's log: lines for people, or one JSON object a line for a collector."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

from trimtab.settings import LogFormat, LogLevel

LINE = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def configure(level: LogLevel, form: LogFormat) -> None:
    """Send everything to standard error in the given form."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == LogFormat.JSON else logging.Formatter(LINE))
    logging.basicConfig(level=level.value.upper(), handlers=[handler], force=True)
    # One line for every event of every object says nothing: what follows from them is logged by us.
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    # It warns of what it then raises.
    logging.getLogger("kubernetes").setLevel(logging.ERROR)


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        content = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            content["exception"] = self.formatException(record.exc_info)
        return json.dumps(content)
