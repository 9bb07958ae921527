"""The real operator as a program that dies right after a call to the API server was answered.

That is the worst moment: the world has changed and the operator has not heard of it. The one seam is the client's call,
which counts down and then sends SIGKILL to its own process.

    python mortal.py CALLS [LOG]     after so many calls, never if 0; LOG gets a line for each, and in the end one for
                                     each that was under way then
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from trimtab.cluster.client import Call, Client
from trimtab.handlers import run
from trimtab.settings import Settings

IN_FLIGHT = "in flight: "


def main(lifetime: int, log: Path | None) -> None:
    answered, left, under_way = Client._once, lifetime, list[str]()

    def note(*lines: str) -> None:
        if log:
            with log.open("a") as file:
                file.writelines(f"{line}\n" for line in lines)

    async def counted(self: Client, call: Call) -> Any:
        nonlocal left
        about = f"{call.verb} {call.resource}"
        under_way.append(about)
        try:
            return await answered(self, call)
        finally:
            under_way.remove(about)
            note(about)
            left -= 1
            if left == 0:
                note(*(f"{IN_FLIGHT}{other}" for other in under_way))
                os.kill(os.getpid(), signal.SIGKILL)

    Client._once = counted  # type: ignore[method-assign]
    run(Settings.from_environment())


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
