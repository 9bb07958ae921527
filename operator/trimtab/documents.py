"""Read what a person wrote: YAML files with one of our kinds in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from trimtab.api.job import OptimizationJob
from trimtab.api.monitor import ModelMonitor
from trimtab.api.names import API_VERSION
from trimtab.api.problems import problems
from trimtab.api.runtime import ClusterOptimizationRuntime, OptimizationRuntime

RUNTIMES = (OptimizationRuntime, ClusterOptimizationRuntime)
KINDS = {kind.__name__: kind for kind in (OptimizationJob, ModelMonitor, *RUNTIMES)}
Document = OptimizationJob | ModelMonitor | OptimizationRuntime


class Refused(Exception):
    """A file that cannot be used. Each line names the file, the field, the value and the remedy."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))


def read_documents(path: Path) -> list[Document]:
    """Every document of our kinds in a YAML file; others are passed over. Raises Refused."""
    ours = [d for d in _parse(path) if isinstance(d, dict) and d.get("apiVersion") == API_VERSION]
    lines: list[str] = []
    documents: list[Document] = []
    for content in ours:
        kind = KINDS.get(str(content.get("kind")))
        if kind is None:
            lines.append(f"{path}: kind: {content.get('kind')!r} is none of {', '.join(KINDS)}")
            continue
        try:
            documents.append(kind.model_validate(content))
        except ValidationError as error:
            lines += [f"{path}: {line}" for line in problems(error, kind)]
    if lines:
        raise Refused(lines)
    if not documents:
        raise Refused([f"{path}: nothing of apiVersion {API_VERSION} in it; the first lines say apiVersion and kind"])
    return documents


def read_job(path: Path) -> OptimizationJob:
    """The one OptimizationJob of a file. Raises Refused."""
    jobs = [d for d in read_documents(path) if isinstance(d, OptimizationJob)]
    if len(jobs) != 1:
        raise Refused([f"{path}: {len(jobs)} OptimizationJobs in it; trimtab run takes exactly one"])
    return jobs[0]


def _parse(path: Path) -> list[Any]:
    try:
        return list(yaml.safe_load_all(path.read_text()))
    except OSError as error:
        raise Refused([f"{path}: cannot be read: {error.strerror}"]) from error
    except yaml.MarkedYAMLError as error:
        line = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise Refused([f"{path}: not YAML{line}: {error.problem}; write it again there"]) from error
    except RecursionError:
        raise Refused([f"{path}: nested too deeply for a manifest; write it again"]) from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise Refused([f"{path}: not YAML: it is not text; is it another file?"]) from None
    except (ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
        # A value that looks like a date or a number and is none: PyYAML lets through what its conversions raise.
        raise Refused([f"{path}: not YAML: {' '.join(str(error).split())}; quote the value"]) from error
