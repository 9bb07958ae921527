"""Where progress goes: standard output, for standard error has the one line that says why there is no result."""

from __future__ import annotations

import logging
import sys


def to_stdout(form: str = "%(message)s") -> None:
    """Our own progress, and others' warnings, in this form."""
    logging.basicConfig(stream=sys.stdout, level=logging.WARNING, format=form)
    logging.getLogger("trimtab_jobs").setLevel(logging.INFO)
