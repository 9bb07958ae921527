"""Publication: the winner where a server looks for it.

    <publish>/<first 12 hex digits of the model's digest>/
        the model's files, profile.json (the drift reference), publication.json (the claim and where it was measured),
        report.html, report.md and report.json (how the job came to choose it)
    <publish>/current.json      which folder to serve

`current.json` is replaced last and in one step, so a server sees the old model or the new one, each with its profile.
Publishing again is harmless. The same model may be published for new data: then its folder stays, and its profile and
publication are replaced, and its report (`reporting`).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from trimtab.api.base import Record
from trimtab.api.status import Claim, Hardware
from trimtab.api.work import Finalist, JobIdentity
from trimtab_jobs.files import SharedFolder
from trimtab_jobs.model import Model
from trimtab_jobs.remote import Bucket
from trimtab_jobs.store import digest_bytes, hexdigits

CURRENT = "current.json"
PROFILE = "profile.json"
PUBLICATION = "publication.json"
NAME_DIGITS = 12


class Publication(Record):
    """What a published model was promised to be: `publication.json`."""

    job: JobIdentity
    winner: Finalist
    claim: Claim
    digests: dict[str, str]
    """Of the input model and of the data, by split name."""
    hardware: Hardware


def folder_name(artifact: str) -> str:
    """What a published model's folder is called."""
    return hexdigits(artifact)[:NAME_DIGITS]


def publish(
    shared: SharedFolder | Bucket, model: Model, profile: Path, publication: Publication, report: Mapping[str, str]
) -> None:
    """Write the model beside its profile, its publication and the files of `report`, and point `current.json` at it."""
    digest = publication.winner.artifact
    name = folder_name(digest)
    about = {PROFILE: profile.read_text(), PUBLICATION: publication.model_dump_json(by_alias=True, indent=1), **report}
    with tempfile.TemporaryDirectory(prefix="trimtab-") as scratch:
        whole = Path(scratch) / name
        shutil.copytree(model.folder, whole)
        for file, text in about.items():
            (whole / file).write_text(text)
        if not shared.place(whole, name):
            for file, text in about.items():
                shared.write(f"{name}/{file}", text)
    current = {
        "digest": digest,
        "path": name,
        "engine": publication.winner.engine.value,
        "format": model.format.value,
        "profile": digest_bytes(about[PROFILE].encode()),
    }
    shared.write(CURRENT, json.dumps(current, indent=1) + "\n")
