"""What answers over HTTP: any web server, the Hugging Face hub, MLflow's registry and its artifacts.

Each is the part of an fsspec filesystem that inputs need: `info`, `ls` and `open`. fsspec's own would bring aiohttp and
the clients of both services into every image, for a few GET requests; obstore's drops the query of an address (0.12).

    https://host/data.npz?v=1                a web server; an address that needs a login is refused
    hf://org/name@revision/onnx/model.onnx   the hub's file, hf://datasets/org/name/... a data set's
    models:/name/3, models:/name@champion    a registered version, which is at one of the other addresses

Credentials are in the environment alone, and are not sent along when a server redirects to another.
"""

from __future__ import annotations

import base64
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from http.client import HTTPResponse
from typing import Any, BinaryIO, Protocol
from urllib.parse import quote, urlencode, urlsplit

TIMEOUT = 60.0
"""Seconds without a byte after which a server is taken for gone."""
_GONE, _FORBIDDEN, _BUSY = {404, 410}, {401, 403}, {408, 429}
Info = dict[str, Any]


class Files(Protocol):
    """What inputs need of an fsspec filesystem. Paths are whole addresses.

    Raises FileNotFoundError, PermissionError where credentials are missing or too weak, ValueError for an address that
    cannot be right, and OSError for what may pass.
    """

    def info(self, path: str) -> Info:
        """`name`, `type` (file or directory), `size` if known, and `e_tag`, which changes with the content."""

    def ls(self, path: str, detail: bool) -> list[str]:
        """The addresses of what is in a folder."""

    def open(self, path: str, mode: str) -> BinaryIO: ...


class Web:
    """A web server: files only, for it lists nothing."""

    def info(self, path: str) -> Info:
        """By a GET whose body is left unread: what is signed for GET is refused for HEAD."""
        with _get(path) as answer:
            version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
            return {"name": path, "type": "file", "size": _size(answer), "e_tag": version}

    def ls(self, path: str, detail: bool) -> list[str]:
        raise ValueError("a web server lists no folder: name the file")

    def open(self, path: str, mode: str) -> BinaryIO:
        return _get(path)


class Hub:
    """The Hugging Face hub at HF_ENDPOINT, by the paths of its own client: `api/.../tree` and `resolve`."""

    def info(self, path: str) -> Info:
        repository, inside = self._split(path)
        if not inside:
            return {"name": path, "type": "directory"}
        for entry in self._tree(repository, inside.rpartition("/")[0]):
            if entry["path"] == inside:
                kind = "file" if entry["type"] == "file" else "directory"
                large = entry.get("lfs") or entry
                return {"name": path, "type": kind, "size": large.get("size"), "e_tag": large["oid"]}
        raise FileNotFoundError(path)

    def ls(self, path: str, detail: bool) -> list[str]:
        repository, inside = self._split(path)
        root = path.removesuffix("/").removesuffix(inside).removesuffix("/")
        return [f"{root}/{entry['path']}" for entry in self._tree(repository, inside)]

    def open(self, path: str, mode: str) -> BinaryIO:
        (kind, name, revision), inside = self._split(path)
        folder = "" if kind == "models" else f"{kind}/"
        return _get(f"{self._endpoint}/{folder}{name}/resolve/{revision}/{quote(inside)}", self._login)

    @property
    def _endpoint(self) -> str:
        return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")

    @property
    def _login(self) -> dict[str, str]:
        token = os.environ.get("HF_TOKEN")
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _tree(self, repository: tuple[str, str, str], folder: str) -> Iterator[Info]:
        """The entries of a folder. A long one comes in pages, each of which names the next."""
        kind, name, revision = repository
        page: str | None = f"{self._endpoint}/api/{kind}/{name}/tree/{revision}/{quote(folder, safe='')}".rstrip("/")
        while page:
            with _get(page, self._login) as answer:
                yield from json.load(answer)
                following = answer.headers.get("Link", "")
            page = following.partition("<")[2].partition(">")[0] if 'rel="next"' in following else None

    def _split(self, path: str) -> tuple[tuple[str, str, str], str]:
        """The kind, name and revision of a repository, and the path in it."""
        parts = path.removeprefix("hf://").strip("/").split("/")
        kind = parts.pop(0) if parts[0] in ("datasets", "models") else "models"
        if len(parts) < 2:
            raise ValueError("it names no repository: write hf://ORG/NAME/PATH")
        name, _, revision = "/".join(parts[:2]).partition("@")
        return (kind, name, revision or "main"), "/".join(parts[2:])


class Artifacts:
    """The artifacts that the MLflow server at MLFLOW_TRACKING_URI hands out itself: `mlflow-artifacts:/...`.

    A registered version's artifacts are written once, so their address and size say which content it is.
    """

    def info(self, path: str) -> Info:
        folder, _, name = _inside(path).rpartition("/")
        for entry in self._list(folder):
            if entry["path"].rpartition("/")[2] == name:
                kind, size = "directory" if entry["is_dir"] else "file", entry.get("file_size")
                return {"name": path, "type": kind, "size": size, "e_tag": f"written once, {size}"}
        raise FileNotFoundError(path)

    def ls(self, path: str, detail: bool) -> list[str]:
        return [f"{path.rstrip('/')}/{entry['path'].rpartition('/')[2]}" for entry in self._list(_inside(path))]

    def open(self, path: str, mode: str) -> BinaryIO:
        return _get(f"{_tracking()}/{_ARTIFACTS}/{quote(_inside(path))}", _mlflow_login())

    def _list(self, folder: str) -> list[Info]:
        found: list[Info] = _mlflow(_ARTIFACTS, path=folder).get("files", [])
        return found


_ARTIFACTS = "api/2.0/mlflow-artifacts/artifacts"


def registered(uri: str) -> str:
    """The address of a registered model's artifacts: `models:/name/version` or `models:/name@alias`."""
    reference = uri.removeprefix("models:/")
    name, _, alias = reference.partition("@")
    name, _, version = name.partition("/")
    if alias:
        found = _mlflow("api/2.0/mlflow/registered-models/alias", name=name, alias=alias)
        version = found["model_version"]["version"]
    answer = _mlflow("api/2.0/mlflow/model-versions/get-download-uri", name=name, version=version)
    return str(answer["artifact_uri"])


def _inside(path: str) -> str:
    return urlsplit(path).path.strip("/")


def _mlflow(method: str, **query: str) -> dict[str, Any]:
    with _get(f"{_tracking()}/{method}?{urlencode(query)}", _mlflow_login()) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def _tracking() -> str:
    server = os.environ.get("MLFLOW_TRACKING_URI", "").rstrip("/")
    if not server.startswith(("http://", "https://")):
        raise ValueError("set MLFLOW_TRACKING_URI to the http(s) address of the MLflow server")
    return server


def _mlflow_login() -> dict[str, str]:
    token, user = os.environ.get("MLFLOW_TRACKING_TOKEN"), os.environ.get("MLFLOW_TRACKING_USERNAME")
    if token:
        return {"Authorization": f"Bearer {token}"}
    if user:
        both = f"{user}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}"
        return {"Authorization": f"Basic {base64.b64encode(both.encode()).decode()}"}
    return {}


def _get(url: str, login: Mapping[str, str] | None = None) -> HTTPResponse:
    """The answer to a GET, open. Raises as `answer_to` does."""
    request = urllib.request.Request(url)  # noqa: S310 (only http and https come here)
    for name, value in (login or {}).items():
        request.add_unredirected_header(name, value)
    return answer_to(request)


def answer_to(request: urllib.request.Request) -> HTTPResponse:
    """The answer to a request, open. What the status means is the type of the error."""
    try:
        answer: HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310
        return answer
    except urllib.error.HTTPError as error:
        said = f"HTTP {error.code} {error.reason}"
        if error.code in _GONE:
            raise FileNotFoundError(said) from None
        if error.code in _FORBIDDEN:
            raise PermissionError(said) from None
        if error.code < 500 and error.code not in _BUSY:
            raise ValueError(f"the server answers {said}: check the address") from None
        raise OSError(said) from None


def _size(answer: HTTPResponse) -> int | None:
    length = answer.headers.get("Content-Length")
    return int(length) if length else None
