"""A winner as an image in a real OCI registry, logins included."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registry import LOGIN, Registry, registry
from reports import winner
from trimtab.api.report import JobReport
from trimtab.api.work import Report, Task
from trimtab.report import so_far
from trimtab_jobs import remote
from trimtab_jobs.errors import InvalidInput, Temporary
from trimtab_jobs.image import ARTIFACT, push
from trimtab_jobs.model import open_model
from trimtab_jobs.registry import Address, Repository
from trimtab_jobs.store import digest_bytes, digest_file, digest_folder
from web import Answer, web_server

from .conftest import Lab
from .test_run import pins, publish_task, worse_model

pytestmark = pytest.mark.e2e
Succeed = Callable[[Task], Report]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(remote, "PAUSE", 0.0)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_the_winner_is_an_image(hub: Registry, lab: Lab, succeed: Succeed, tmp_path: Path) -> None:
    inspected = succeed(lab.task("Inspect"))
    worse = worse_model(lab)
    address, tag = f"oci://{hub.host}/models/digits", worse.removeprefix("sha256:")[:12]
    task = publish_task(lab, inspected, worse, publish=f"{address}:stable", report=so_far(winner()).packed())
    report = succeed(task)
    newest = hub.manifest("models/digits", "stable")
    assert report.published == f"{address}:{tag}@{newest['digest']}"
    assert hub.manifest("models/digits", tag) == newest
    assert newest["artifactType"] == ARTIFACT
    assert {entry["platform"]["architecture"] for entry in newest["manifests"]} == {"amd64", "arm64"}
    said = newest["annotations"]
    assert (said["trimtab.dev/digest"], said["trimtab.dev/engine"], said["trimtab.dev/claim"]) == (
        worse,
        "ONNXRuntime",
        "Holds",
    )
    assert said["trimtab.dev/input-model"] == pins(inspected)["model"]

    folder = hub.unpack("models/digits", "stable", tmp_path / "mounted")
    assert open_model(folder).onnx.read_bytes() == (lab.root / "worse" / "model.onnx").read_bytes()
    current = json.loads((folder / "current.json").read_text())
    assert (current["digest"], current["path"]) == (worse, ".")
    assert current["profile"] == digest_file(folder / "profile.json")
    found = JobReport.model_validate_json((folder / "report.json").read_bytes())
    assert found.claim == report.claim
    assert found.winner
    assert found.winner.published
    assert found.winner.published.uri == f"{address}:{tag}"


def test_a_layer_is_uploaded_once(hub: Registry, tmp_path: Path) -> None:
    made = folder(tmp_path / "made", model=os.urandom(3_000_000), profile=b"old")
    repository = Repository(Address.of(f"oci://{hub.host}/models/twice"), "publish")
    digests, layers = [], []
    for profile in (b"old", b"old", b"new"):
        (made / "profile").write_bytes(profile)
        digests.append(push(repository, made, {"profile"}, {}, ["latest"]))
        manifest = hub.manifest("models/twice", hub.manifest("models/twice", "latest")["manifests"][0]["digest"])
        layers.append([layer["digest"] for layer in manifest["layers"]])
    assert digests[0] == digests[1] != digests[2]
    assert layers[0][0] == layers[2][0]
    assert layers[0][1] != layers[2][1]
    assert digest_folder(hub.unpack("models/twice", "latest", tmp_path / "back")) == digest_folder(made)


def folder(path: Path, **files: bytes) -> Path:
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def test_many_pods_may_push_the_same_at_once(hub: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSE", 0.1)
    made = folder(tmp_path / "made", model=os.urandom(5_000_000), profile=b"{}")
    start, digests = threading.Barrier(4), []

    def pod() -> None:
        repository = Repository(Address.of(f"oci://{hub.host}/models/raced"), "publish")
        start.wait()
        digests.append(push(repository, made, {"profile"}, {}, ["latest"]))

    pods = [threading.Thread(target=pod) for _ in range(4)]
    for thread in pods:
        thread.start()
    for thread in pods:
        thread.join()
    assert len(digests) == 4
    assert set(digests) == {hub.manifest("models/raced", "latest")["digest"]}
    assert digest_folder(hub.unpack("models/raced", "latest", tmp_path / "back")) == digest_folder(made)


BASIC = base64.b64encode(f"{LOGIN['username']}:{LOGIN['password']}".encode()).decode()
DENIED = r"^publish: oci://.*/models/a:latest: no permission \(HTTP 401 .*: set DOCKER_AUTH_CONFIG to the content"


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (LOGIN, ""),
        ({"auth": BASIC}, ""),
        ({}, DENIED),
        (LOGIN | {"password": "wrong"}, DENIED),
    ],
)
@pytest.mark.parametrize("where", ["variable", "file"])
def test_a_login_is_dockers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: dict[str, str], says: str, where: str
) -> None:
    htpasswd = {"htpasswd": {"realm": "tests", "path": str(tmp_path / "htpasswd")}}
    with registry(tmp_path, htpasswd) as server:
        config = json.dumps({"auths": {server.host: entry}})
        if where == "variable":
            monkeypatch.setenv("DOCKER_AUTH_CONFIG", config)
        else:
            (tmp_path / ".docker").mkdir()
            (tmp_path / ".docker" / "config.json").write_text(config)
        repository = Repository(Address.of(f"oci://{server.host}/models/a"), "publish")
        if not says:
            repository.put_blob(digest_bytes(b"blob"), b"blob")
            return
        with pytest.raises(InvalidInput, match=says):
            repository.put_blob(digest_bytes(b"blob"), b"blob")


@pytest.mark.parametrize("key", ["token", "access_token"])
def test_a_token_is_asked_for_where_the_challenge_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    scope = "/token?service=tests&scope=repository%3Amodels%2Fa%3Apull%2Cpush"
    with (
        web_server({scope: Answer(json.dumps({key: "t0ken"}).encode())}) as realm,
        registry(tmp_path, {"silly": {"realm": f"{realm.url}/token", "service": "tests"}}) as server,
    ):
        monkeypatch.setenv("DOCKER_AUTH_CONFIG", json.dumps({"auths": {server.host: LOGIN}}))
        Repository(Address.of(f"oci://{server.host}/models/a"), "publish").put_blob(digest_bytes(b"blob"), b"blob")
    assert set(realm.asked) == {(scope, f"Basic {BASIC}")}


@pytest.mark.parametrize(
    ("config", "says"),
    [("{", "DOCKER_AUTH_CONFIG, or docker's config.json, cannot be read"), ('{"auths": 3}', "cannot be read")],
)
def test_a_config_that_is_none(hub: Registry, monkeypatch: pytest.MonkeyPatch, config: str, says: str) -> None:
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", config)
    with pytest.raises(InvalidInput, match=rf"^publish: oci://.*: .*{says}"):
        Repository(Address.of(f"oci://{hub.host}/models/a"), "publish").put_blob(digest_bytes(b"x"), b"x")


def test_a_registry_that_is_not_there_is_temporary() -> None:
    with pytest.raises(Temporary, match=r"^publish: oci://127.0.0.1:1/a:latest cannot be reached now .*refused"):
        Repository(Address.of("oci://127.0.0.1:1/a"), "publish").put_blob(digest_bytes(b"x"), b"x")


@pytest.mark.parametrize(
    ("uri", "url", "at"),
    [
        ("oci://ghcr.io/team/m", "https://ghcr.io/v2/", "oci://ghcr.io/team/m:latest"),
        ("oci://localhost:5000/m:v1", "http://localhost:5000/v2/", "oci://localhost:5000/m:v1"),
        ("oci://docker.io/team/m:v1", "https://registry-1.docker.io/v2/", "oci://docker.io/team/m:v1"),
        ("oci://registry.models:5000/m", "http://registry.models:5000/v2/", "oci://registry.models:5000/m:latest"),
    ],
)
def test_addresses(monkeypatch: pytest.MonkeyPatch, uri: str, url: str, at: str) -> None:
    monkeypatch.setenv("OCI_PLAIN_HTTP", "other:80,registry.models:5000")
    address = Address.of(uri)
    assert (address.url, address.at(address.tag)) == (url, at)
