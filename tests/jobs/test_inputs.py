"""Inputs at other machines: web servers, a recorded hub, a recorded MLflow registry. S3 is in test_s3.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest

from bad_inputs import make_model
from trimtab.api.work import CONFINED_VARIABLE, Report, Task
from trimtab_jobs import remote
from trimtab_jobs.errors import InvalidInput, Temporary
from trimtab_jobs.files import SharedFolder
from trimtab_jobs.inputs import fetch
from trimtab_jobs.onnx_model import external_files
from web import Answer, WebServer, web_server

from .conftest import Lab


@pytest.fixture
def cache(tmp_path: Path) -> SharedFolder:
    return SharedFolder(tmp_path / "store", "store")


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setattr(remote, "PAUSE", 0.0)
    with web_server({}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        yield server


def folders(cache: SharedFolder) -> int:
    return len(list((cache.root / "inputs").iterdir()))


@pytest.mark.parametrize("headers", [{"ETag": '"v1"'}, {"Last-Modified": "Sun, 22 Nov 2026 11:00:00 GMT"}])
def test_a_version_is_fetched_once(web: WebServer, cache: SharedFolder, headers: dict[str, str]) -> None:
    web.answers["/data.npz?part=1"] = Answer(b"rows", headers=headers)
    path = fetch(f"{web.url}/data.npz?part=1", "data.train", cache)
    assert (path.name, path.read_bytes()) == ("data.npz", b"rows")
    written = path.stat().st_mtime_ns
    assert fetch(f"{web.url}/data.npz?part=1", "data.train", cache) == path
    assert path.stat().st_mtime_ns == written
    changed = {name: value.replace("1", "2") for name, value in headers.items()}
    web.answers["/data.npz?part=1"] = Answer(b"more", headers=changed)
    assert fetch(f"{web.url}/data.npz?part=1", "data.train", cache).read_bytes() == b"more"


def test_a_server_that_names_no_version_is_read_each_time(web: WebServer, cache: SharedFolder) -> None:
    for body, kept in ((b"a", 1), (b"a", 1), (b"b", 2)):
        web.answers["/x.npz"] = Answer(body)
        assert fetch(f"{web.url}/x.npz", "data.train", cache).read_bytes() == body
        assert folders(cache) == kept


def test_external_data_comes_with_its_graph(web: WebServer, cache: SharedFolder, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    outside = {"save_as_external_data": True, "location": "weights/m.data", "size_threshold": 0}
    onnx.save(make_model(), tmp_path / "m.onnx", **outside)
    put(web, "/m.onnx", (tmp_path / "m.onnx").read_bytes())
    with pytest.raises(InvalidInput, match=r"^model.uri: .*/m.onnx: there is nothing at this address"):
        fetch(f"{web.url}/m.onnx", "model.uri", cache, external_files)
    for weights in (b"old", b"new"):  # the graph is the same
        put(web, "/weights/m.data", weights)
        path = fetch(f"{web.url}/m.onnx", "model.uri", cache, external_files)
        assert (path.parent / "weights/m.data").read_bytes() == weights


def put(web: WebServer, path: str, body: bytes) -> None:
    web.answers[path] = Answer(body, headers={"ETag": f'"{hash(body)}"'})


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (Answer(status=404), InvalidInput, "there is nothing at this address: check it"),
        (
            Answer(status=403),
            InvalidInput,
            r"no permission \(HTTP 403 .*: name an address that needs no login",
        ),
        (Answer(status=400), InvalidInput, "the server answers HTTP 400 Bad Request: check the address"),
        (Answer(status=503), Temporary, r"cannot be reached now \(HTTP 503"),
        (Answer(b"rows", cut=True), Temporary, "ended after 3 of 4 bytes"),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Answer) else "",
)
def test_refusals(web: WebServer, cache: SharedFolder, answer: Answer, error: type[Exception], says: str) -> None:
    web.answers["/x.npz"] = answer
    with pytest.raises(error, match=rf"^data.train: {web.url}/x.npz:? .*{says}"):
        fetch(f"{web.url}/x.npz", "data.train", cache)
    assert len(web.asked) == (1 if error is InvalidInput else 3 + 2 * answer.cut)
    assert [path for path in cache.root.rglob("*") if path.is_file()] == []


def test_nobody_there_is_temporary(cache: SharedFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSE", 0.0)
    with pytest.raises(Temporary, match=r"^model.uri: http://127.0.0.1:1/m.onnx cannot be reached now .*refused"):
        fetch("http://127.0.0.1:1/m.onnx", "model.uri", cache)


def test_a_job_whose_inputs_are_all_elsewhere(
    lab: Lab, web: WebServer, succeed: Callable[[Task], Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in lab.folder("inputs").iterdir():
        put(web, f"/{path.name}", path.read_bytes())
    splits = {name: {"uri": f"{web.url}/{name}.npz"} for name in ("calibration", "evaluation", "holdout")}
    task = lab.task("Inspect", model={"uri": f"{web.url}/model.onnx", "format": "ONNX"}, data=splits)
    here, there = succeed(lab.task("Inspect")).inspection, succeed(task).inspection
    assert here
    assert there
    assert (there.model_digest, there.data_digests) == (here.model_digest, here.data_digests)


def test_a_trial_does_not_fetch_the_holdout(lab: Lab, succeed: Callable[[Task], Report]) -> None:
    splits = {"evaluation": {"uri": "pvc://inputs/evaluation.npz"}, "holdout": {"uri": "http://127.0.0.1:1/h.npz"}}
    succeed(lab.task("Trial", trial=1, data=splits))


TREE = [
    {"type": "directory", "oid": "d1", "size": 0, "path": "onnx/quantized"},
    {"type": "file", "oid": "f1", "size": 3, "path": "onnx/config.json"},
    {
        "type": "file",
        "oid": "f2",
        "size": 135,
        "path": "onnx/model.onnx",
        "lfs": {"oid": "6a1f", "size": 5, "pointerSize": 135},
    },
]


def record_hub(web: WebServer, storage: str) -> None:
    """The hub's answers: a folder's tree in two pages, and large files elsewhere."""
    tree = "/api/models/org/name/tree/v1.0/onnx"
    link = {"Link": f'<{web.url}{tree}?cursor=abc>; rel="next"'}
    web.answers |= {
        tree.removesuffix("/onnx"): Answer(b'[{"type": "directory", "oid": "d2", "size": 0, "path": "onnx"}]'),
        tree: Answer(json.dumps(TREE[:1]).encode(), headers=link),
        f"{tree}?cursor=abc": Answer(json.dumps(TREE[1:]).encode()),
        "/org/name/resolve/v1.0/onnx/model.onnx": Answer(status=302, headers={"Location": f"{storage}/lfs/6a1f"}),
        "/api/datasets/org/rows/tree/main": Answer(b'[{"type": "file", "oid": "f3", "size": 2, "path": "test.npz"}]'),
        "/datasets/org/rows/resolve/main/test.npz": Answer(b"ab"),
        "/api/models/org/gated/tree/main": Answer(status=401, headers={"X-Error-Code": "GatedRepo"}),
    }


@pytest.mark.parametrize("address", ["hf://org/name@v1.0/onnx/model.onnx", "hf://org/name@v1.0/onnx"])
def test_the_hub(web: WebServer, cache: SharedFolder, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    with web_server({"/lfs/6a1f": Answer(b"graph")}) as storage:
        record_hub(web, storage.url)
        path = fetch(address, "model.uri", cache)
    assert (path.name, path.read_bytes()) == ("model.onnx", b"graph")
    assert {login for _, login in web.asked} == {"Bearer secret"}
    assert storage.asked == [("/lfs/6a1f", None)]  # another machine is not told the token


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("hf://datasets/org/rows/test.npz", None),
        ("hf://org/gated/m.onnx", r"no permission \(HTTP 401 Unauthorized\): set HF_TOKEN in the environment"),
        ("hf://datasets/org/rows/train.npz", "there is nothing at this address"),
        ("hf://datasets/org/rows", "it is a folder with test.npz: name the file"),
        ("hf://org", "it names no repository: write hf://ORG/NAME/PATH"),
    ],
)
def test_what_the_hub_refuses(web: WebServer, cache: SharedFolder, address: str, says: str | None) -> None:
    record_hub(web, "")
    if says is None:
        assert fetch(address, "data.train", cache).read_bytes() == b"ab"
        return
    with pytest.raises(InvalidInput, match=f"^data.train: {address}: {says}"):
        fetch(address, "data.train", cache)


def record_mlflow(web: WebServer) -> None:
    """What MLflow 3.17 answered of a version, cut to what is read, and of the artifacts it hands out itself."""
    inside = "models/m-1/artifacts"
    artifacts, found = "/api/2.0/mlflow-artifacts/artifacts", f"mlflow-artifacts:/1/{inside}"
    files = [{"path": name, "is_dir": False, "file_size": size} for name, size in (("MLmodel", 9), ("model.onnx", 5))]
    listing = [{"path": "artifacts", "is_dir": True}]
    alias = {"model_version": {"name": "digits", "version": "3", "source": "models:/m-1"}}
    uri = "/api/2.0/mlflow/model-versions/get-download-uri?name=digits&version"
    web.answers |= {
        "/api/2.0/mlflow/registered-models/alias?name=digits&alias=champion": Answer(json.dumps(alias).encode()),
        f"{uri}=3": Answer(json.dumps({"artifact_uri": found}).encode()),
        f"{uri}=4": Answer(b'{"artifact_uri": "dbfs:/1/artifacts"}'),
        f"{artifacts}?path=1%2Fmodels%2Fm-1": Answer(json.dumps({"files": listing}).encode()),
        f"{artifacts}?path=1%2F{inside.replace('/', '%2F')}": Answer(json.dumps({"files": files}).encode()),
        f"{artifacts}/1/{inside}/model.onnx": Answer(b"graph"),
    }


@pytest.mark.parametrize("address", ["models:/digits/3", "models:/digits@champion"])
def test_mlflow(web: WebServer, cache: SharedFolder, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    record_mlflow(web)
    assert fetch(address, "model.uri", cache).read_bytes() == b"graph"
    assert {login for _, login in web.asked} == {"Bearer secret"}


@pytest.mark.parametrize(
    ("address", "server", "says"),
    [
        ("models:/digits/5", None, "there is nothing at this address"),
        ("models:/digits/4", None, "its artifacts are at dbfs:/1/artifacts: only http, https, hf, s3, gs"),
        ("models:/digits/3", "", "set MLFLOW_TRACKING_URI to the http"),
    ],
)
def test_what_mlflow_refuses(
    web: WebServer,
    cache: SharedFolder,
    address: str,
    server: str | None,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record_mlflow(web)
    if server is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    with pytest.raises(InvalidInput, match=f"^model.uri: {address}: {says}"):
        fetch(address, "model.uri", cache)


@pytest.mark.parametrize(
    ("store", "artifacts"),
    [
        ("pvc://store", "file:///trimtab/volumes/store/artifacts/0"),
        ("pvc://store", "file:///proc/self"),
        ("s3://models/store", "s3://models/store/artifacts"),
        ("s3://models/store", "s3://models//st%6fre/artifacts"),
    ],
)
def test_mlflow_leads_no_pod_to_its_own_files_or_its_store(
    web: WebServer, cache: SharedFolder, store: str, artifacts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CONFINED_VARIABLE, store)
    where = json.dumps({"artifact_uri": artifacts}).encode()
    web.answers["/api/2.0/mlflow/model-versions/get-download-uri?name=digits&version=1"] = Answer(where)
    with pytest.raises(
        InvalidInput, match=f"^model.uri: models:/digits/1: its artifacts are at {artifacts}, which is no"
    ):
        fetch("models:/digits/1", "model.uri", cache)


def test_mlflow_may_name_a_folder_of_this_machine(web: WebServer, cache: SharedFolder, tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "model.onnx").write_bytes(b"graph")
    where = json.dumps({"artifact_uri": (tmp_path / "artifacts").as_uri()}).encode()
    web.answers["/api/2.0/mlflow/model-versions/get-download-uri?name=digits&version=1"] = Answer(where)
    path = fetch("models:/digits/1", "model.uri", cache)
    assert path.read_bytes() == b"graph"
    assert path.is_relative_to(cache.root)
