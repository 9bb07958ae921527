"""A release's life with a real helm on a real API server: install, upgrade, rollback, uninstall, with objects in place.

`previous.tgz` is the chart that people may have installed: `make record` puts the released one in its place.
"""

from __future__ import annotations

import json
import re
import shlex
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

import apiserver
from builders import job_dict, make_runtime
from chart.support import CHART, ROOT, Object
from monitors import make_monitor
from trimtab.api.job import OptimizationJob
from trimtab.api.monitor import ModelMonitor
from trimtab.api.runtime import OptimizationRuntime

pytestmark = pytest.mark.e2e

NAMESPACE = "trimtab-life"
PREVIOUS = Path(__file__).with_name("previous.tgz")
KINDS: dict[str, Any] = {
    "optimizationjobs": OptimizationJob,
    "optimizationruntimes": OptimizationRuntime,
    "modelmonitors": ModelMonitor,
}


def helm(*words: str | Path, fails: bool = False) -> str:
    done = apiserver.helm(*words, "--namespace", NAMESPACE)
    assert (done.returncode != 0) is fails, done.stdout + done.stderr
    return done.stderr if fails else done.stdout


def get(*words: str) -> Object:
    done = apiserver.kubectl("get", *words, "--namespace", NAMESPACE, "-o", "json")
    assert done.returncode == 0, done.stderr
    found: Object = json.loads(done.stdout)
    return found


def apply(*documents: Object, fails: bool = False) -> str:
    text = "\n---\n".join(json.dumps(document) for document in documents)
    done = apiserver.kubectl("apply", "--namespace", NAMESPACE, "-f", "-", stdin=text)
    assert (done.returncode != 0) is fails, done.stderr
    return done.stderr


def objects() -> list[Object]:
    """One of each kind, as people of the previous version wrote them."""
    api = "trimtab.dev/v1alpha1"
    runtime, monitor = make_runtime().spec.wire(), make_monitor().spec.wire()
    specs = {
        "OptimizationJob": {**job_dict()["spec"], "budget": {"deadline": "2h"}},
        "OptimizationRuntime": {key: runtime[key] for key in ("image", "store")},
        "ModelMonitor": {key: monitor[key] for key in ("target", "triggers", "action", "capture", "jobTemplate")},
    }
    specs["ModelMonitor"]["jobTemplate"] = {"spec": job_dict()["spec"]}
    return [
        {"apiVersion": api, "kind": kind, "metadata": {"name": "old"}, "spec": spec} for kind, spec in specs.items()
    ]


def stored() -> dict[str, Object]:
    return {plural: get(plural, "old")["spec"] for plural in KINDS}


def within(old: Any, new: Any) -> bool:
    """Whether everything of the old document is in the new one, which may say more."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(key in new and within(value, new[key]) for key, value in old.items())
    if isinstance(old, list):
        return len(old) == len(new) and all(map(within, old, new))
    return bool(old == new)


def uids() -> dict[str, str]:
    """By which an object is told from another of its name."""
    return {plural: get(plural, "old")["metadata"]["uid"] for plural in KINDS}


def crds_of(chart: Path | None = None) -> dict[str, Object]:
    """The CRDs that are installed, or those that the archived chart has."""
    if chart is None:
        return {plural: get("crd", f"{plural}.trimtab.dev")["spec"]["versions"][0]["schema"] for plural in KINDS}
    found = {}
    with tarfile.open(chart) as archive:
        for plural in KINDS:
            file = archive.extractfile(f"trimtab/templates/crds/{plural}.yaml")
            assert file
            lines = file.read().decode().splitlines()
            crd = yaml.safe_load("\n".join(line for line in lines if "{{" not in line))
            found[plural] = crd["spec"]["versions"][0]["schema"]
    return found


def generated() -> dict[str, Object]:
    crds = {plural: yaml.safe_load((ROOT / "crds" / f"{plural}.yaml").read_text()) for plural in KINDS}
    return {plural: crd["spec"]["versions"][0]["schema"] for plural, crd in crds.items()}


PEOPLES = {"trimtab-view", "trimtab-edit", "trimtab-admin"}


def cluster_roles() -> set[str]:
    """What there is of ours, whichever release made it."""
    items = get("clusterroles", "-l", "app.kubernetes.io/part-of=trimtab")["items"]
    return {item["metadata"]["name"] for item in items}


@pytest.fixture(scope="module", autouse=True)
def release() -> Iterator[None]:
    apiserver.kubectl("delete", "--ignore-not-found", "-f", ROOT / "crds")
    apiserver.kubectl("create", "namespace", NAMESPACE)
    helm("install", "trimtab", PREVIOUS, "--set", "settings.workers=4")
    apiserver.served(*(f"{plural}.trimtab.dev" for plural in KINDS))
    apply(*objects())
    yield
    apiserver.helm("uninstall", "trimtab", "--namespace", NAMESPACE)
    apiserver.kubectl("delete", "--ignore-not-found", "-f", ROOT / "crds")
    apiserver.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def workers() -> str:
    [container] = get("deployment", "trimtab")["spec"]["template"]["spec"]["containers"]
    [value] = [item["value"] for item in container["env"] if item["name"] == "TRIMTAB_WORKERS"]
    return str(value)


def test_a_release_lives_and_what_people_made_outlives_it() -> None:
    """One test: every step begins where the one before ended."""
    before, specs = uids(), stored()
    token = get("secret", "trimtab-alerts")["data"]
    assert crds_of() == crds_of(PREVIOUS) != generated()

    helm("upgrade", "trimtab", CHART)
    assert crds_of() == generated()
    assert workers() == "4", "values that were given at install are kept"
    assert get("secret", "trimtab-alerts")["data"] == token
    assert uids() == before
    assert cluster_roles() == {"trimtab", f"trimtab-{NAMESPACE}-cluster-runtimes", *PEOPLES}
    for plural, spec in stored().items():
        assert within(specs[plural], spec), "new fields may have defaults; none was lost"
        KINDS[plural].model_validate(get(plural, "old"))
    apply(*objects())  # they may still be written

    helm("rollback", "trimtab", "1")
    assert crds_of() == crds_of(PREVIOUS)
    assert uids() == before
    apply(*objects())

    helm("upgrade", "trimtab", CHART, "--reuse-values")  # the previous chart's, without those that are new
    assert cluster_roles() > PEOPLES
    assert any("pods/log" in rule["resources"] for rule in get("clusterrole", "trimtab")["rules"])
    helm("upgrade", "trimtab", CHART, "--set", "leaderElection=false")
    assert get("deployment", "trimtab")["spec"]["strategy"] == {"type": "Recreate"}
    helm("uninstall", "trimtab")
    assert uids() == before
    left = get("deployments,services,secrets,serviceaccounts,roles,rolebindings,configmaps")["items"]
    assert not [item for item in left if "trimtab" in item["metadata"]["name"]]

    helm("install", "trimtab", CHART)
    assert uids() == before


def test_a_second_release_is_told_whose_the_crds_are() -> None:
    said = helm("install", "other", CHART, fails=True)
    assert "exists and cannot be imported into the current release" in said
    assert 'must equal "other": current value is "trimtab"' in said
    helm("install", "other", CHART, "--set", "crds.enabled=false")
    helm("uninstall", "other")
    assert stored()


@pytest.fixture
def team() -> Iterator[str]:
    """A namespace with a user of its name, who is its `admin` and has no right elsewhere."""
    name = f"team-{uuid4().hex[:8]}"
    for words in (
        ("namespace", name),
        ("rolebinding", "admin", "--clusterrole=admin", f"--user={name}", f"--namespace={name}"),
    ):
        done = apiserver.kubectl("create", *words)
        assert done.returncode == 0, done.stderr
    yield name
    apiserver.kubectl("delete", "namespace", name, "--wait=false")


def give_what_the_readme_says(team: str) -> None:
    """Its commands, word for word but for who the team is."""
    lines = (ROOT / "README.md").read_text().splitlines()
    commands = [line for line in lines if re.match("kubectl create (role|rolebinding) ", line)]
    assert len(commands) == 2
    for command in commands:
        words = shlex.split(command.replace("--group=team-a", f"--user={team}").replace("team-a", team))
        done = apiserver.kubectl(*words[1:])
        assert done.returncode == 0, done.stderr


def test_a_team_installs_it_beside_another_of_its_name_with_no_right_on_the_cluster(team: str) -> None:
    def helm_as_team(verb: str, *words: str | Path) -> tuple[int, str]:
        done = apiserver.helm(verb, "trimtab", *words, "--namespace", team, "--kube-as-user", team)
        return done.returncode, done.stderr

    before = cluster_roles()
    own = ("--set", f"crds.enabled=false,settings.watchNamespaces={{{team}}}")
    alone = (*own, "--set", "aggregatedRoles.enabled=false")
    code, said = helm_as_team("install", CHART, *alone)
    assert (code, "attempting to grant RBAC permissions not currently held" in said) == (1, True), said
    helm_as_team("uninstall")
    give_what_the_readme_says(team)
    code, said = helm_as_team("install", CHART, *own)
    assert (code, 'clusterroles.rbac.authorization.k8s.io "trimtab-view" is forbidden' in said) == (1, True), said
    assert helm_as_team("install", CHART, *alone) == (0, "")
    assert helm_as_team("upgrade", CHART, *alone, "--set", "settings.workers=4") == (0, "")
    assert cluster_roles() == before
    assert helm_as_team("uninstall") == (0, "")


def test_releases_of_one_name_may_both_read_the_runtimes_of_the_cluster(team: str) -> None:
    own = f"crds.enabled=false,aggregatedRoles.enabled=false,clusterRuntimes=true,settings.watchNamespaces={{{team}}}"
    before = cluster_roles()
    for words in (("install", "trimtab", CHART, "--set", own), ("uninstall", "trimtab")):
        done = apiserver.helm(*words, "--namespace", team)
        assert done.returncode == 0, done.stderr
    assert cluster_roles() == before


def test_values_of_an_earlier_chart_that_moved_are_named() -> None:
    said = helm("upgrade", "trimtab", CHART, "--set", "serviceMonitor.enabled=true", fails=True)
    assert "additional properties 'serviceMonitor' not allowed" in said


def test_crds_that_were_applied_by_hand_become_the_charts() -> None:
    """As the README says."""
    helm("uninstall", "trimtab")
    apiserver.kubectl("delete", "-f", ROOT / "crds")
    apiserver.install_crds()
    assert "invalid ownership metadata" in helm("install", "trimtab", CHART, fails=True)
    helm("install", "trimtab", CHART, "--take-ownership", "--force-conflicts")
    helm("upgrade", "trimtab", CHART)


def test_crds_that_were_kept_go_to_a_release_of_another_name() -> None:
    """As the README and the notes say."""
    helm("uninstall", "trimtab")
    assert 'must equal "other": current value is "trimtab"' in helm("install", "other", CHART, fails=True)
    helm("install", "other", CHART, "--take-ownership")
    helm("upgrade", "other", CHART)
    helm("uninstall", "other")
    assert crds_of() == generated()
