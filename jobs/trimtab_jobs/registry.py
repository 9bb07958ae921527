"""One repository of an OCI registry to push to: the handful of requests of the distribution specification.

    HEAD /v2/NAME/blobs/DIGEST                is it there already?
    POST /v2/NAME/blobs/uploads/, then PUT    a blob in one piece, under its digest
    PUT  /v2/NAME/manifests/TAG               what names blobs, under a tag

PyPI's `oras` would bring requests and jsonschema into every image for these, and builds no layer that can be mounted.
Logins are docker's: the content of a config.json in DOCKER_AUTH_CONFIG, so that it can come from a Secret, or the file
in $DOCKER_CONFIG, or in ~/.docker. As with docker, a registry on this machine is spoken to without TLS, and so are
those that OCI_PLAIN_HTTP names.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md
"""

from __future__ import annotations

import base64
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from http.client import HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

from trimtab_jobs.remote import again, told
from trimtab_jobs.web import TIMEOUT, answer_to

_ADDRESS = re.compile(r"oci://([^/]+)/([^:@]+)(?::([^@]+))?")
_THIS_MACHINE = re.compile(r"(localhost|127\.[0-9.]+|\[::1\])(:[0-9]+)?")
_HOSTS = {"docker.io": "registry-1.docker.io"}
_KEPT = {"docker.io": "https://index.docker.io/v1/"}
"""Where docker's config has a login under another name."""


@dataclass(frozen=True)
class Address:
    """`oci://HOST/NAME:TAG`, as the contract's pattern lets it through."""

    host: str
    name: str
    tag: str

    @classmethod
    def of(cls, uri: str) -> Address:
        found = _ADDRESS.fullmatch(uri)
        assert found, uri
        return cls(found[1], found[2], found[3] or "latest")

    def at(self, reference: str) -> str:
        """The address of what a tag, or a tag and a digest, names."""
        return f"oci://{self.host}/{self.name}:{reference}"

    @property
    def url(self) -> str:
        plain = self.host in os.environ.get("OCI_PLAIN_HTTP", "").split(",") or _THIS_MACHINE.fullmatch(self.host)
        return f"{'http' if plain else 'https'}://{_HOSTS.get(self.host, self.host)}/v2/"


class Repository:
    """Writes blobs and manifests. Raises what `remote.told` does, about `field`."""

    def __init__(self, address: Address, field: str) -> None:
        self.address, self._field = address, field

    def put_blob(self, digest: str, content: bytes | Path) -> None:
        """Upload a blob, unless the repository has it."""
        with told(self.address.at(self.address.tag), self._field):
            if not again(partial(self._has, digest)):
                again(partial(self._upload, digest, content))

    def put_manifest(self, tag: str, manifest: Mapping[str, Any], content: bytes) -> None:
        """Store a manifest under a tag or its digest."""
        kind = {"Content-Type": str(manifest["mediaType"])}
        with told(self.address.at(tag), self._field):
            again(lambda: self._name(tag, content, kind))

    def _name(self, tag: str, content: bytes, kind: Mapping[str, str]) -> None:
        """What the manifest names is there, but a registry may hide it while another pod pushes the same: distribution
        on a disk replaces its links by emptying them first."""
        try:
            self._send("PUT", f"{self.address.name}/manifests/{tag}", content, kind).close()
        except (FileNotFoundError, ValueError) as error:
            raise OSError(str(error)) from None

    def _has(self, digest: str) -> bool:
        try:
            self._send("HEAD", f"{self.address.name}/blobs/{digest}").close()
        except FileNotFoundError:
            return False
        return True

    def _upload(self, digest: str, content: bytes | Path) -> None:
        """In one piece, each attempt from the beginning."""
        with self._send("POST", f"{self.address.name}/blobs/uploads/", b"") as begun:
            place = urljoin(begun.url, begun.headers["Location"])
        place += ("&" if urlsplit(place).query else "?") + urlencode({"digest": digest})
        kind = {"Content-Type": "application/octet-stream"}
        if isinstance(content, bytes):
            self._send("PUT", place, content, kind).close()
            return
        with content.open("rb") as stream:
            self._send("PUT", place, stream, kind | {"Content-Length": str(content.stat().st_size)}).close()

    def _send(self, method: str, path: str, data: Any = None, headers: Mapping[str, str] | None = None) -> HTTPResponse:
        url = urljoin(self.address.url, path)
        request = urllib.request.Request(url, data, dict(headers or {}), method=method)  # noqa: S310
        if (
            urlsplit(url).netloc == urlsplit(self.address.url).netloc
        ):  # an upload may be led elsewhere, with a signed URL
            for name, value in self._login().items():
                request.add_unredirected_header(name, value)
        return answer_to(request)

    def _login(self) -> dict[str, str]:
        """What the registry's challenge asks for. Asked each time: tokens live for minutes, uploads perhaps longer."""
        kind, _, rest = self._challenge().partition(" ")
        account = _account(self.address.host)
        if kind.lower() == "bearer":
            asked = dict(re.findall(r'(\w+)="([^"]*)"', rest))
            return {"Authorization": f"Bearer {self._token(asked.pop('realm'), asked.get('service', ''), account)}"}
        return {"Authorization": f"Basic {account}"} if kind.lower() == "basic" and account else {}

    def _challenge(self) -> str:
        try:
            urllib.request.urlopen(self.address.url, timeout=TIMEOUT).close()  # noqa: S310
        except urllib.error.HTTPError as error:
            if error.code == 401:
                return error.headers.get("WWW-Authenticate", "")
        return ""

    def _token(self, realm: str, service: str, account: str) -> str:
        query = {"service": service, "scope": f"repository:{self.address.name}:pull,push"}
        request = urllib.request.Request(f"{realm}?{urlencode(query)}")  # noqa: S310
        if account:
            request.add_unredirected_header("Authorization", f"Basic {account}")
        with answer_to(request) as answer:
            found = json.load(answer)
        return str(found.get("token") or found["access_token"])


def _account(host: str) -> str:
    """`user:password` in base64, as docker's config has it; empty where it has none. Raises ValueError."""
    text = os.environ.get("DOCKER_AUTH_CONFIG") or _config_file()
    try:
        known = json.loads(text or "{}").get("auths", {})
        names = (host, f"https://{host}", _KEPT.get(host, host))
        entry: dict[str, str] = next((known[name] for name in names if name in known), {})
        if "username" in entry and "password" in entry:
            return base64.b64encode(f"{entry['username']}:{entry['password']}".encode()).decode()
        return str(entry.get("auth", ""))
    except (ValueError, AttributeError, TypeError):
        raise ValueError("DOCKER_AUTH_CONFIG, or docker's config.json, cannot be read: it is {'auths': ...}") from None


def _config_file() -> str:
    folder = os.environ.get("DOCKER_CONFIG")
    path = (Path(folder) if folder else Path.home() / ".docker") / "config.json"
    return path.read_text() if path.is_file() else ""
