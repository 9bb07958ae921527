"""The operator under cProfile: `python -m bench.scale.profiled FILE`.

By CPU time: by the clock's, as `python -m cProfile` has it, what an asynchronous generator waits for counts as its own.
"""

from __future__ import annotations

import cProfile
import sys
import time


def main(file: str) -> None:
    profile = cProfile.Profile(time.process_time)
    try:
        profile.runctx("import trimtab.cli; trimtab.cli.main(['operator'])", {}, {})
    finally:
        profile.dump_stats(file)


if __name__ == "__main__":
    main(sys.argv[1])
