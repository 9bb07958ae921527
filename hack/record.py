"""`make record`: keeps a version for the next ones to be tested against, in place of the one before it.

Of one commit it keeps the documents that it writes (`tests/contracts/record.py`, its own), its wheel, whose operator
and pods the tests run beside the present ones, and its chart, which they upgrade.

    record.py [COMMIT]     # HEAD
"""

from __future__ import annotations

import os
import shutil
import sys

import release
from lab.paths import CHECKOUT
from lab.shell import LabError, run

RECORDED = CHECKOUT / "tests" / "contracts" / "recorded"
CHART = CHECKOUT / "tests" / "chart" / "previous.tgz"


def main(commit: str = "HEAD") -> None:
    epoch = release.time_of(commit)
    with release.unpacked(commit) as sources:
        its_own = ":".join(str(sources / root) for root in ("operator", "jobs", "tests"))
        documents = (sys.executable, sources / "tests" / "contracts" / "record.py", RECORDED)
        run(*documents, env=os.environ | {"PYTHONPATH": its_own}, cwd=sources)
        for before in RECORDED.glob("*.whl"):
            before.unlink()
        release.wheel(sources, epoch, RECORDED)
        shutil.copy(release.chart(sources, epoch, sources), CHART)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except LabError as error:
        sys.exit(f"record: {error}")
