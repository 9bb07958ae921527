"""The import contracts name every module they mean, so that a new one cannot slip past them."""

from __future__ import annotations

import configparser
import pkgutil
from pathlib import Path

import trimtab

REPOSITORY = Path(__file__).parents[2]


def test_a_pod_is_denied_every_module_of_the_operator_but_the_contract_and_what_says_and_draws_a_report() -> None:
    contracts = configparser.ConfigParser()
    contracts.read(REPOSITORY / ".importlinter")
    denied = contracts["importlinter:contract:jobs"]["forbidden_modules"].split()
    modules = {module.name for module in pkgutil.iter_modules(trimtab.__path__)} - {
        "api",
        "wording",
        "page",
        "__main__",
    }
    assert {name.removeprefix("trimtab.") for name in denied if name.startswith("trimtab.")} == modules
