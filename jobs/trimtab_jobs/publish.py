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
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trimtab.api.base import Record
from trimtab.api.model import is_local, scheme_of
from trimtab.api.names import GROUP
from trimtab.api.status import Claim, Hardware
from trimtab.api.work import Finalist, JobIdentity
from trimtab_jobs.files import SharedFolder
from trimtab_jobs.image import push
from trimtab_jobs.model import Model
from trimtab_jobs.registry import Address, Repository
from trimtab_jobs.remote import Bucket
from trimtab_jobs.store import digest_bytes, hexdigits, resolve

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


@dataclass(frozen=True)
class Edition:
    """What is published: a folder with the model and the texts about it, and what `current.json` says of it."""

    folder: Path
    about: frozenset[str]
    current: Mapping[str, str]
    publication: Publication


class Place(Protocol):
    """Where winners go."""

    def address(self, name: str) -> str:
        """Where an edition of that name is going to be found."""

    def keep(self, edition: Edition) -> str:
        """Publish it there. Returns where it can be loaded from now."""


class Folder:
    """A folder on a disk or in a bucket."""

    def __init__(self, uri: str) -> None:
        self._uri = uri.rstrip("/")
        self._shared = SharedFolder(resolve(uri, "publish"), "publish") if is_local(uri) else Bucket(uri, "publish")

    def address(self, name: str) -> str:
        return f"{self._uri}/{name}"

    def keep(self, edition: Edition) -> str:
        name = edition.folder.name
        if not self._shared.place(edition.folder, name):
            for file in edition.about:
                self._shared.write(f"{name}/{file}", (edition.folder / file).read_bytes())
        self._shared.write(CURRENT, json.dumps({**edition.current, "path": name}, indent=1) + "\n")
        return self.address(name)


class Image:
    """A repository of an OCI registry: an edition is an image under its own tag, and the address's tag moves to it."""

    def __init__(self, uri: str) -> None:
        self._repository = Repository(Address.of(uri), "publish")

    def address(self, name: str) -> str:
        return self._repository.address.at(name)

    def keep(self, edition: Edition) -> str:
        name = edition.folder.name
        (edition.folder / CURRENT).write_text(json.dumps({**edition.current, "path": "."}, indent=1) + "\n")
        about, tags = edition.about | {CURRENT}, (name, self._repository.address.tag)
        digest = push(self._repository, edition.folder, about, _annotations(edition), tags)
        return f"{self.address(name)}@{digest}"


def _annotations(edition: Edition) -> dict[str, str]:
    publication = edition.publication
    found = {
        "org.opencontainers.image.title": publication.job.name,
        "org.opencontainers.image.description": "A model published by Trimtab",
        f"{GROUP}/job": f"{publication.job.namespace}/{publication.job.name}",
        f"{GROUP}/job-uid": publication.job.uid,
        f"{GROUP}/claim": publication.claim.verdict.value,
        f"{GROUP}/input-model": publication.digests.get("model", ""),
    }
    return {**found, **{f"{GROUP}/{name}": value for name, value in edition.current.items()}}


def place(uri: str) -> Place:
    """Where an address leads. Raises InvalidInput for a folder that cannot be written."""
    return Image(uri) if scheme_of(uri) == "oci" else Folder(uri)


def edition_name(artifact: str) -> str:
    """What a published model's folder, or tag, is called."""
    return hexdigits(artifact)[:NAME_DIGITS]


def publish(place: Place, model: Model, profile: Path, publication: Publication, report: Mapping[str, str]) -> str:
    """Publish the model beside its profile, its publication and the files of `report`. Returns where it is now."""
    digest = publication.winner.artifact
    about = {PROFILE: profile.read_text(), PUBLICATION: publication.model_dump_json(by_alias=True, indent=1), **report}
    current = {
        "digest": digest,
        "engine": publication.winner.engine.value,
        "format": model.format.value,
        "profile": digest_bytes(about[PROFILE].encode()),
    }
    with tempfile.TemporaryDirectory(prefix="trimtab-") as scratch:
        whole = Path(scratch) / edition_name(digest)
        shutil.copytree(model.folder, whole)
        for file, text in about.items():
            (whole / file).write_text(text)
        return place.keep(Edition(whole, frozenset(about), current, publication))
