"""Addresses on other machines: who answers for which, what their errors mean, and a bucket as a folder to write into.

Everything is reached through the calls of an fsspec filesystem. Buckets are obstore's: one wheel of 15 MB for S3 and
Google Cloud Storage, where s3fs would hold botocore, and with it other packages, to versions of its own.
"""

from __future__ import annotations

import http.client
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from trimtab.api.model import leads_into, scheme_of
from trimtab.api.work import CONFINED_VARIABLE
from trimtab_jobs.errors import InvalidInput, Temporary
from trimtab_jobs.files import FULL
from trimtab_jobs.web import Artifacts, Files, Hub, Web, registered

ATTEMPTS = 3
PAUSE = 1.0
"""Seconds before the second attempt, doubled for each that follows. The pod is tried again later, too."""
_BUFFER = 16 * 2**20
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (elsewhere than at AWS also AWS_ENDPOINT_URL)",
    "gs": "GOOGLE_SERVICE_ACCOUNT_KEY",
    "hf": "HF_TOKEN",
    "oci": "DOCKER_AUTH_CONFIG to the content of a docker config.json with a login for this registry",
    "models": "MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD,",
}
Result = TypeVar("Result")


def locate(uri: str, field: str) -> tuple[Files, str]:
    """Who answers for an address, and the address there: a registered model is at another one.

    Raises as `told` does.
    """
    with told(uri, field):
        address = again(lambda: _registered(uri)) if scheme_of(uri) == "models" else uri
        found = _FILESYSTEMS.get(scheme_of(address))
        if found is None:
            raise ValueError(f"its artifacts are at {address}: only {', '.join(_FILESYSTEMS)} can be read")
        return found(), address


def _registered(uri: str) -> str:
    """Where a registered model is. Whoever may register one chose that, so in a pod it is not believed blindly."""
    address = registered(uri)
    store = os.environ.get(CONFINED_VARIABLE)
    if store and (scheme_of(address) == "file" or leads_into(address, store)):
        raise ValueError(f"its artifacts are at {address}, which is no job's in a cluster: keep them in another place")
    return address


@contextmanager
def told(uri: str, field: str) -> Iterator[None]:
    """Turn the errors of filesystems into one line: InvalidInput where somebody must act, otherwise Temporary.

    What keeps this machine from writing is left to whoever knows the folder.
    """
    try:
        yield
    except ValueError as error:
        raise InvalidInput(f"{field}: {uri}: {error}") from None
    except (OSError, http.client.HTTPException, _bucket_error()) as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        if _missing(error):
            raise InvalidInput(f"{field}: {uri}: there is nothing at this address: check it") from None
        if not _denied(error):
            raise Temporary(f"{field}: {uri} cannot be reached now ({_short(error)}): mend the network") from None
        variables = _CREDENTIALS.get(scheme_of(uri))
        remedy = f"set {variables} in the environment" if variables else "name an address that needs no login"
        raise InvalidInput(f"{field}: {uri}: no permission ({_short(error)}): {remedy}") from None


def again(action: Callable[[], Result]) -> Result:
    """Do something over the network, and once more if that may help."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return action()
        except (FileNotFoundError, PermissionError):
            raise
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            time.sleep(PAUSE * 2**attempt)
    return action()


class Bucket:
    """A folder in a bucket to write into, as `files.SharedFolder` is one on a disk. Raises as `told` does.

    An object appears whole or not at all. A folder does not: its files are all there only when `place` has returned,
    so what points at the folder is written after it.
    """

    def __init__(self, uri: str, field: str) -> None:
        self.root, self._field = uri.rstrip("/"), field
        self._files: Any = _bucket(scheme_of(uri))

    def place(self, folder: Path, name: str) -> bool:
        """Copy a folder to `name`, whatever is there. True: it was copied."""
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            address = f"{self.root}/{name}/{path.relative_to(folder).as_posix()}"
            with told(address, self._field):
                self._files.put_file(str(path), address)
        return True

    def write(self, name: str, content: str | bytes) -> None:
        """Write an object, replacing the one that is there."""
        with told(f"{self.root}/{name}", self._field):
            self._files.pipe_file(f"{self.root}/{name}", content.encode() if isinstance(content, str) else content)

    def read(self, name: str) -> bytes | None:
        """An object's content; None where there is none."""
        with told(f"{self.root}/{name}", self._field):
            try:
                content: bytes = self._files.cat_file(f"{self.root}/{name}")
            except FileNotFoundError:
                return None
            return content

    def get(self, name: str, to: Path) -> None:
        """Copy an object to a file."""
        to.parent.mkdir(parents=True, exist_ok=True)
        address = f"{self.root}/{name}"
        with (
            told(address, self._field),
            self._files.open(address, "rb", buffer_size=_BUFFER) as source,
            to.open("wb") as copy,
        ):
            shutil.copyfileobj(source, copy, _BUFFER)

    def names(self, folder: str) -> list[str]:
        """The objects of a folder, relative to this one; none where there is no such folder."""
        with told(f"{self.root}/{folder}", self._field):
            try:
                found = self._files.find(f"{self.root}/{folder}")
            except FileNotFoundError:
                return []
        inside = self.root.partition("://")[2]
        return [path.removeprefix(f"{inside}/") for path in found]


class _Buckets:
    """Reading from buckets: obstore's filesystem, with a buffer for files of gigabytes."""

    def __init__(self, scheme: str) -> None:
        self._files = _bucket(scheme)

    def info(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = self._files.info(path)
        return found

    def ls(self, path: str, detail: bool) -> list[str]:
        return [f"{scheme_of(path)}://{name}" for name in self._files.ls(path, detail=False)]

    def open(self, path: str, mode: str) -> Any:
        return self._files.open(path, mode, buffer_size=_BUFFER)


@cache
def _bucket(scheme: str) -> Any:
    """obstore's filesystem for a scheme, which reads its credentials from the environment."""
    from obstore.fsspec import FsspecStore

    endpoint = os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""
    return FsspecStore(
        scheme,
        client_options={"allow_http": endpoint.startswith("http://"), "connect_timeout": timedelta(seconds=5)},
        retry_config={"max_retries": ATTEMPTS, "retry_timeout": timedelta(seconds=30)},
        skip_instance_cache=True,
    )


def _local() -> Files:
    from fsspec.implementations.local import LocalFileSystem

    files: Files = LocalFileSystem()
    return files


_FILESYSTEMS: dict[str, Callable[[], Files]] = {
    "http": Web,
    "https": Web,
    "hf": Hub,
    "s3": lambda: _Buckets("s3"),
    "gs": lambda: _Buckets("gs"),
    "mlflow-artifacts": Artifacts,
    "file": _local,
}


def _bucket_error() -> type[Exception]:
    from obstore.exceptions import BaseError

    error: type[Exception] = BaseError
    return error


def _missing(error: Exception) -> bool:
    """A missing bucket is only a status to obstore."""
    return isinstance(error, FileNotFoundError) or "NoSuchBucket" in str(error)


def _denied(error: Exception) -> bool:
    """Without credentials obstore asks the cloud's metadata server for some, and says only that it did not answer."""
    said = str(error)
    if isinstance(error, PermissionError) or type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError"):
        return True
    return any(hint in said for hint in ("169.254.169.254", "metadata.google.internal", "Missing AccessKeyId"))


def _short(error: Exception) -> str:
    """Its first line: obstore's go on with a dump of the error's structure."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
