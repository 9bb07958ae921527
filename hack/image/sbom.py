"""Adds the base image's Debian packages to the bill of materials that cyclonedx-py made of the Python ones.

    sbom.py FROM TO

It runs while an image is built, with the interpreter that has cyclonedx-py's own library to check the result. A base
without dpkg adds nothing.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

_FIELDS = "${Package}\t${Version}\t${Architecture}\n"


def main(source: str, target: str) -> None:
    bom: dict[str, Any] = json.loads(Path(source).read_text())
    bom["components"] = [*bom.get("components", []), *debian()]
    text = json.dumps(bom, indent=1)
    problem = JsonStrictValidator(SchemaVersion.from_version(bom["specVersion"])).validate_str(text)
    if problem:
        sys.exit(f"{target}: {problem}")
    Path(target).write_text(text + "\n")


def debian() -> Iterator[dict[str, str]]:
    """What dpkg says is installed."""
    if shutil.which("dpkg-query") is None:
        return
    for line in sorted(subprocess.check_output(["dpkg-query", "-W", "-f", _FIELDS], text=True).splitlines()):
        name, version, architecture = line.split("\t")
        purl = PackageURL("deb", "debian", name, version, {"arch": architecture}).to_string()
        yield {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


if __name__ == "__main__":
    main(*sys.argv[1:])
