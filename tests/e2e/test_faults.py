"""The operator is killed at ten seeded moments of slices A and C: the end is the same.

No finished trial runs again, and there is one winner.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from e2e.conftest import fill
from e2e.crashing import KILLS, CrashingOperator, crashing_operator
from e2e.loop import require_observers
from e2e.support import EXAMPLES, Namespace, condition, get, kubeconfig, namespace, wait_for
from e2e.test_slice_c import TOKEN, close_loop, publish_first
from ports import free_port

pytestmark = pytest.mark.e2e
FLOW = ["inspect-0", "playoff-0", "publish-0", "trial-1-0", "trial-2-0"]


@pytest.fixture
def home(request: pytest.FixtureRequest, tmp_path: Path, operator: None) -> Iterator[Namespace]:
    """A namespace that the installed operator does not serve; its chart brought the kinds."""
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    with namespace(f"e2e-faults-{request.node.name.rsplit('_', 1)[1]}", tmp_path) as made:
        yield made


def tended(operator: CrashingOperator, test: Callable[[], Any]) -> Callable[[], Any]:
    """A condition to wait for; each time it is asked, a killed operator is started again."""

    def asked() -> Any:
        operator.tend()
        return test()

    return asked


def complete(home: Namespace, name: str) -> bool:
    job = home.job(name)
    assert condition(job, "Failed") != "True", home.story()
    return condition(job, "Complete") == "True"


def works(home: Namespace, job: str) -> list[str]:
    """What was ever started for a job: its Jobs are kept, and a second attempt would have a name of its own."""
    uid = home.job(job)["metadata"]["uid"][:8]
    return sorted(
        j["metadata"]["name"].partition(f"{uid}-")[2] for j in get(home.name, "jobs") if uid in j["metadata"]["name"]
    )


def published_once(home: Namespace, job: str) -> bool:
    """One winner: what the status calls best is what is published, and one event told so at most."""
    status = home.job(job)["status"]
    home.fetch("magika-published")
    current = json.loads((home.folder / "magika-published" / "current.json").read_text())
    told = [e for e in get(home.name, "events") if e["reason"] == "Published" and e["involvedObject"]["name"] == job]
    return bool(status["best"]["artifact"] == status["published"]["digest"] == current["digest"]) and len(told) <= 1


def test_slice_a(home: Namespace, magika: Path, tmp_path: Path) -> None:
    fill(home.claim("magika"), magika)
    for claim in ("magika-published", "trimtab-store"):
        home.claim(claim)
    settings = {"TRIMTAB_HTTP_PORT": str(free_port())}
    home.apply(EXAMPLES / "magika" / "cluster.yaml")
    home.load("magika")
    with crashing_operator(home.name, kubeconfig(), 11, tmp_path / "log", **settings) as operator:
        home.apply(EXAMPLES / "magika" / "job.yaml")
        wait_for("it completes", tended(operator, lambda: complete(home, "magika")), 800)
        assert operator.kills == KILLS
    assert works(home, "magika") == FLOW
    assert published_once(home, "magika")
    settings_tried = [trial["settings"] for trial in home.job("magika")["status"]["trials"]]
    assert settings_tried == [{}, {"quantize.operatorScope": "All"}, {"quantize.operatorScope": "Compute"}]


def test_slice_c(home: Namespace, magika: Path, tmp_path: Path) -> None:
    require_observers()
    port = free_port()
    token = tmp_path / "token"
    token.write_text(TOKEN)
    settings = {"TRIMTAB_HTTP_PORT": str(port), "TRIMTAB_ALERTS_TOKEN_FILE": str(token)}
    publish_first(home, magika)
    with ExitStack() as stack:
        operator = stack.enter_context(
            crashing_operator(home.name, kubeconfig(), 13, tmp_path / "log", spared=True, **settings)
        )
        wait_for("the first model", tended(operator, lambda: complete(home, "magika")), 600)
        loop = close_loop(stack, home, magika, f"127.0.0.1:{port}", tmp_path / "observers")
        before = loop.digest()
        operator.torment()
        loop.traffic.rows = loop.shifted
        (job,) = loop.wait("a re-optimization", tended(operator, loop.jobs), 300)
        name = job["metadata"]["name"]
        loop.wait("it completes", tended(operator, lambda: complete(home, name)), 800)
        loop.wait("the new digest is served", tended(operator, lambda: loop.digest() != before), 300)
        loop.wait("the alert resolves", tended(operator, lambda: not loop.observers.alerts()), 240)
        assert operator.kills == KILLS
        assert len(loop.jobs()) == 1
    assert works(home, name) == FLOW
    assert published_once(home, name)
