"""Running other programs, and failing with one line that says what is missing and what to do about it."""

import fcntl
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lab import paths

# Where a Debian package is not named like its program.
PACKAGES = {"ctr": "containerd", "go": "golang", "ip": "iproute2", "nft": "nftables"}


class LabError(Exception):
    """Something a person has to fix; its text is the whole message."""


def run(
    *argv: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None, stdin: str | None = None
) -> str:
    """Run a program to its end and return what it printed; a failure carries the end of its complaint."""
    command = [str(word) for word in argv]
    try:
        done = subprocess.run(command, env=env, cwd=cwd, input=stdin, text=True, check=False, capture_output=True)
    except FileNotFoundError:
        raise missing(command[0]) from None
    if done.returncode:
        complaint = (done.stderr or done.stdout).strip()[-2000:]
        raise LabError(f"`{' '.join(command)}` ended with {done.returncode}: {complaint}")
    return done.stdout


def missing(program: str) -> LabError:
    """The error for a program that is not there."""
    return LabError(f"{program} is not installed; apt-get install {PACKAGES.get(program, program)}")


def require(*programs: str) -> None:
    """Check that programs are installed before anything is started."""
    for program in programs:
        if shutil.which(program) is None:
            raise missing(program)


def succeeds(*argv: str | Path) -> bool:
    """Whether a program ends well."""
    try:
        run(*argv)
    except LabError:
        return False
    return True


def write(path: Path, text: str) -> None:
    """Write a file unless it says that already: kube-proxy ends itself when its configuration is touched."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def wait_for(what: str, probe: Callable[[], bool], seconds: float) -> None:
    """Ask `probe` until it says yes; the pause is short because most things are up within a second."""
    deadline = time.monotonic() + seconds
    while not probe():
        if time.monotonic() > deadline:
            raise LabError(f"waited {seconds:.0f} s for {what} in vain; the logs are in {paths.state() / 'logs'}")
        time.sleep(0.1)


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Let one process at a time build or start things: engineers share a machine, and so do parallel tests."""
    folder = paths.cache() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
