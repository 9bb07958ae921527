"""Which runtime a job gets: names, kinds, namespaces and images."""

from __future__ import annotations

from typing import Any

import pytest

from builders import make_job, make_runtime
from trimtab.admission import admit
from trimtab.api.runtime import ClusterOptimizationRuntime
from trimtab.decisions import Refusal

CLUSTER = {"runtimeRef": {"kind": "ClusterOptimizationRuntime", "name": "gpu"}}


def shared(name: str = "gpu", *namespaces: str, images: tuple[str, ...] = ()) -> ClusterOptimizationRuntime:
    spec = {"allowedNamespaces": namespaces or ("*",), "allowedImages": images}
    return ClusterOptimizationRuntime.model_validate(
        {"metadata": {"name": name}, "spec": make_runtime(image=f"{name}:dev").spec.wire() | spec}
    )


def answer(runtimes: list[ClusterOptimizationRuntime] | None, own: dict[str, Any] | None = None, **target: Any) -> str:
    """The image of the runtime that a job in namespace `ml` gets, or the reason and text of its refusal."""
    got = admit(make_job(target=target), [] if own is None else [make_runtime(**own)], runtimes)
    return f"{got.reason}: {got.message}" if isinstance(got, Refusal) else got.spec.image


def test_a_name_alone_is_of_the_job_s_namespace() -> None:
    assert answer([shared("default")], {}) == "jobs:dev"
    assert answer([shared("default")]).startswith("RuntimeNotFound: spec.target.runtimeRef.name: there is no Optimiz")


@pytest.mark.parametrize(
    ("runtimes", "expected"),
    [
        ([shared("gpu", "ml")], "gpu:dev"),
        ([shared("gpu", "team-*", "m*")], "gpu:dev"),
        ([shared("other")], "RuntimeNotFound: spec.target.runtimeRef.name: there is no ClusterOptimizationRuntime"),
        ([shared("gpu", "ml-*", "xml")], "RuntimeNotAllowed: spec.target.runtimeRef.name: the ClusterOptimizationRunt"),
        (None, "RuntimeNotFound: spec.target.runtimeRef.name: this operator serves named namespaces and may not read"),
    ],
    ids=["named", "star", "missing", "not for this namespace", "role mode"],
)
def test_a_runtime_of_the_cluster_is_for_whom_it_allows(
    runtimes: list[ClusterOptimizationRuntime] | None, expected: str
) -> None:
    own = {"image": "its-own-of-the-same-name"}
    assert answer(runtimes, own, **CLUSTER).startswith(expected)


@pytest.mark.parametrize(
    ("image", "allowed", "admitted"),
    [
        ("r.example.com/team/jobs:1", ("r.example.com/team/*",), True),
        ("r.example.com/team/jobs@sha256:0", ("r.example.com/team/jobs@sha256:*",), True),
        ("r.example.com/team/jobs:1", ("r.example.com/other/*", "r.example.com/team/jobs:1"), True),
        ("anything", (), True),
        ("r.example.com.evil.io/team/jobs", ("r.example.com/team/*",), False),
        ("evil.io/r.example.com/team/jobs", ("r.example.com/team/*",), False),
        ("rxexample.com/team/jobs", ("r.example.com/team/*",), False),
        ("r.example.com/teamwork/jobs", ("r.example.com/team/*",), False),
        ("jobs:1", ("r.example.com/team/*",), False),
    ],
)
def test_what_the_image_of_a_namespace_s_own_runtime_may_be(
    image: str, allowed: tuple[str, ...], admitted: bool
) -> None:
    bounds = [shared("a", "ml", images=allowed[:1]), shared("b", "ml", images=allowed[1:])]
    refused = f"ImageNotAllowed: OptimizationRuntime 'default': image '{image}' is not allowed in namespace ml"
    assert answer(bounds, {"image": image}).startswith(image if admitted else refused)
    elsewhere = [shared("a", "vision", images=allowed)]
    assert answer(elsewhere, {"image": image}) == image


@pytest.mark.parametrize(
    ("given", "admitted"),
    [
        ({}, False),
        ({"resources": {"limits": {"cpu": "2", "memory": "2Gi"}}}, False),
        ({"resources": {"limits": {"nvidia.com/gpu": "1"}}}, True),
        ({"resources": {"limits": {"nvidia.com/mig-1g.5gb": "1"}}}, True),
        ({"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}]}, True),
    ],
)
def test_a_job_for_gpus_needs_a_runtime_that_gives_one(given: dict[str, Any], admitted: bool) -> None:
    own = {"image": "jobs:1", **given}
    refused = "DeviceNotGiven: spec.target.device: GPU: OptimizationRuntime 'default' gives its pods none"
    assert answer([], own, device="GPU").startswith("jobs:1" if admitted else refused)
    assert answer([], own, device="CPU") == "jobs:1"


@pytest.mark.parametrize(
    ("given", "admitted"),
    [
        ({}, True),
        ({"playoff": {"nodeSelector": {"pool": "serve"}}}, True),
        ({"playoff": {"resources": {"limits": {"nvidia.com/gpu": "2"}}}}, True),
        ({"playoff": {"resources": {"limits": {"cpu": "4"}}}}, False),
        ({"playoff": {"resources": {}}}, False),
        (
            {
                "playoff": {"resources": {"limits": {"cpu": "4"}}},
                "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}],
            },
            True,
        ),
    ],
    ids=["none of its own", "elsewhere", "more", "CPUs", "nothing", "devices of claims, which the playoff has too"],
)
def test_the_playoff_of_a_job_for_gpus_needs_one_too(given: dict[str, Any], admitted: bool) -> None:
    own = {"image": "jobs:1", "resources": {"limits": {"nvidia.com/gpu": "1"}}, **given}
    refused = (
        "DeviceNotGiven: spec.target.device: GPU: OptimizationRuntime 'default' gives its playoff none: "
        "spec.playoff.resources stands in place of spec.resources: name a runtime with a limit such as nvidia.com/gpu "
        "in both, or with resourceClaims"
    )
    assert answer([], own, device="GPU") == ("jobs:1" if admitted else refused)
    assert answer([], own, device="CPU") == "jobs:1"
