"""docs/security.md names every right that the chart gives, and the value that takes it away.

The page is read as an administrator reads it: its two tables, row by row, against what a real helm renders.
"""

from __future__ import annotations

import re

import pytest

from chart.support import ROOT, Object, render

pytestmark = pytest.mark.e2e

PAGE = (ROOT / "docs" / "security.md").read_text()
PEOPLE = ("view", "edit", "admin")


def rows(title: str) -> list[list[str]]:
    """The cells of the table below a title, without its head."""
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def named(resources: str, verbs: str) -> set[str]:
    """`a`, `b` (batch) | get, list: a core resource or one of ours stands without its group."""
    found = re.findall(r"`([\w/]+)`(?: \(([\w.]+)\))?", resources)
    return {f"{verb} {what}{group and '.' + group}" for what, group in found for verb in verbs.split(", ")}


def given(objects: list[Object]) -> set[str]:
    return {
        f"{verb} {resource}{group and '.' + group}".removesuffix(".trimtab.dev")
        for item in objects
        for rule in item["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def roles(*settings: str) -> tuple[list[Object], list[Object]]:
    """The operator's, and those of people."""
    found = [item for item in render(*settings) if item["kind"] in ("Role", "ClusterRole")]
    peoples = [item for item in found if item["metadata"]["name"].removeprefix("trimtab-") in PEOPLE]
    return [item for item in found if item not in peoples], peoples


RIGHTS = rows("What the operator may do")
SWITCHES = sorted({row[3].strip("`") for row in RIGHTS if row[3]})


def test_every_right_of_the_operator_is_in_the_table_and_no_other() -> None:
    operators, _ = roles()
    assert given(operators) == set[str]().union(*(named(*row[:2]) for row in RIGHTS))


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_value_takes_away_what_the_table_says(switch: str) -> None:
    gone = set[str]().union(*(named(*row[:2]) for row in RIGHTS if row[3].strip("`") == switch))
    assert given(roles()[0]) - given(roles(switch)[0]) == gone


def test_what_people_may_do_is_in_the_table_and_can_be_left_out() -> None:
    _, peoples = roles()
    found = {item["metadata"]["name"].removeprefix("trimtab-"): given([item]) for item in peoples}
    assert found == {row[0]: named(*row[1:]) for row in rows("What people may do")}
    assert roles("aggregatedRoles.enabled=false")[1] == []
