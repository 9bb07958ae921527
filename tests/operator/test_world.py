"""What counts as news, and what is forgotten."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from trimtab.cluster.records import JobRecord
from trimtab.decisions import WorkState
from trimtab.world import Key, Kind, Shelf, Works, World


def item(version: int, uid: str = "u1", name: str = "m", **more: Any) -> dict[str, Any]:
    metadata = {"namespace": "ml", "name": name, "uid": uid, "resourceVersion": str(version)}
    return {"metadata": metadata | more, "spec": {}}


def known(shelf: Shelf) -> tuple[str, int] | None:
    found = shelf.get(("ml", "m"))
    return found and (found.uid, found.version)


@pytest.mark.parametrize(
    ("arrival", "after"),
    [
        (lambda shelf: shelf.put(item(9)), ("u1", 9)),
        (lambda shelf: shelf.put(item(5)), ("u1", 5)),
        (lambda shelf: shelf.put(item(4)), ("u1", 5)),
        (lambda shelf: shelf.put(item(10, "u2")), ("u2", 10)),
        (lambda shelf: shelf.refresh(item(9)), ("u1", 9)),
        (lambda shelf: shelf.refresh(item(9, "u2")), ("u1", 5)),
        (lambda shelf: shelf.remove(item(6)), None),
        (lambda shelf: shelf.remove(item(4, "u0")), ("u1", 5)),
        (lambda shelf: (shelf.remove(item(6)), shelf.refresh(item(6))), None),
        (lambda shelf: shelf.prune({"u1"}, {}), None),
        (lambda shelf: shelf.prune({"u1"}, {"u1": 5}), ("u1", 5)),
        (lambda shelf: shelf.prune(set(), {}), ("u1", 5)),
    ],
    ids=[
        "newer",
        "the same",
        "older",
        "its successor",
        "answer to a write",
        "answer about another",
        "deleted",
        "a predecessor deleted",
        "answer after the deletion",
        "not in the list",
        "in the list",
        "newer than the list",
    ],
)
def test_an_object_at_version_5_after(arrival: Callable[[Shelf], Any], after: tuple[str, int] | None) -> None:
    shelf = Shelf()
    shelf.put(item(5))
    arrival(shelf)
    assert known(shelf) == after


def test_news_is_what_changes_the_view() -> None:
    shelf = Shelf()
    assert [shelf.put(item(version)) for version in (5, 5, 4, 6)] == [True, False, False, True]


def test_managed_fields_are_not_kept() -> None:
    shelf = Shelf()
    original = item(5, managedFields=[{}])
    shelf.put(original)
    (kept,) = shelf
    assert "managedFields" not in kept.object()["metadata"]
    assert "managedFields" in original["metadata"]


JOB = JobRecord("ml", "m-1", "j1", 5, "m", "u1", 0, "{}", WorkState.ACTIVE)


@pytest.mark.parametrize(
    ("listing", "kept"),
    [
        ((None, frozenset({"j1"}), 9), True),
        ((None, frozenset(), 9), False),
        (("ml", frozenset(), 9), False),
        (("elsewhere", frozenset(), 9), True),
        ((None, frozenset(), 4), True),
    ],
    ids=["listed", "gone", "gone from its namespace", "another namespace's list", "created after the list"],
)
def test_a_list_prunes_jobs(listing: tuple[str | None, frozenset[str], int], kept: bool) -> None:
    works = Works()
    works.put(JOB)
    assert works.prune(*listing) == ([] if kept else [JOB])
    assert list(works) == ([JOB] if kept else [])


def test_a_job_that_took_the_name_of_a_deleted_one_stays() -> None:
    works, successor = Works(), replace(JOB, uid="j2", version=8)
    assert [works.put(JOB), works.put(successor), works.put(JOB)] == [True, True, False]
    works.remove(replace(JOB, version=7))
    assert works.of("ml", "u1") == (successor,)


def test_an_owner_reference_across_namespaces_is_none() -> None:
    works, forged = Works(), replace(JOB, namespace="another tenant's", uid="j2", version=8)
    assert [works.put(JOB), works.put(forged)] == [True, True]
    assert works.of("ml", "u1") == (JOB,)
    works.remove(forged)
    assert works.of("ml", "u1") == (JOB,)


def test_who_is_concerned() -> None:
    world = World()
    kind = {"apiVersion": "trimtab.dev/v1alpha1", "kind": "ModelMonitor"}
    owner = kind | {"controller": True, "name": "digits", "uid": "mon"}
    job = item(1, name="a", ownerReferences=[owner])
    world.shelves[Kind.JOB].put(job)
    theirs = item(2, "u2", "b", ownerReferences=[owner | {"apiVersion": "monitoring.example.com/v1"}])
    world.shelves[Kind.JOB].put(theirs)
    assert [found.name for found in world.owned_jobs("ml", "mon")] == [("ml", "a")]
    assert list(world.owned_jobs("another tenant's", "mon")) == []
    assert (world.jobs_in("ml"), world.jobs_in("elsewhere")) == ([("ml", "a"), ("ml", "b")], [])
    runtime = item(3, "u3", "default")
    world.shelves[Kind.RUNTIME].put(runtime)
    assert [found.object() for found in world.runtimes_in("ml")] == [runtime]
    assert world.runtimes_in("elsewhere") == []
    assert str(Key(Kind.JOB, ("ml", "a"))) == "OptimizationJob ml/a"
