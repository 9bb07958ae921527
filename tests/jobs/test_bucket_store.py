"""A store in a bucket of a real S3 server: whole whoever races, whoever is killed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from s3 import S3, s3_server
from trimtab_jobs import remote
from trimtab_jobs.bucket_store import BucketStore, open_store
from trimtab_jobs.errors import InvalidInput
from trimtab_jobs.store import Cached, digest_folder

from .conftest import Lab
from .test_run import finalist, pins, publish_task

pytestmark = pytest.mark.e2e
PUT = "import sys; from pathlib import Path; from trimtab_jobs.bucket_store import open_store\n\
with open_store(sys.argv[1]) as store: store.put(Path(sys.argv[2]))"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def bucket(server: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty bucket as a folder; its name is that of the folder."""
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    remote._bucket.cache_clear()
    yield server.bucket(f"b-{tmp_path.name.replace('_', '-').lower()[:50]}")
    remote._bucket.cache_clear()


def address(bucket: Path) -> str:
    return f"s3://{bucket.name}/store"


def model_folder(path: Path, files: int = 3, size: int = 1000) -> Path:
    (path / "code").mkdir(parents=True)
    for number in range(files):
        (path / "code" / f"{number}.bin").write_bytes(os.urandom(size))
    return path


def test_a_job_without_a_claim_for_its_store(bucket: Path, lab: Lab) -> None:
    """Each stage a process with a copy of its own, as pods are."""
    where = {"store": address(bucket)}
    inspected = lab.run(lab.task("Inspect", **where))
    assert inspected.report, inspected.stderr
    given = {"pins": pins(inspected.report), **where}
    first, again = (lab.run(lab.task("Trial", trial=index, **given)).report for index in (1, 2))
    assert first
    assert again
    assert first.artifact == again.artifact == inspected.report.artifact
    finalists = [finalist(first.artifact).wire(), finalist(first.artifact, 1).wire()]
    assert lab.run(lab.task("Playoff", finalists=finalists, **given)).code == 0
    ended = lab.run(publish_task(lab, inspected.report, first.artifact, **where))
    assert ended.code == 0, ended.stderr
    assert lab.written("store") == []
    assert sorted(path.name for path in (bucket / "store" / "reports" / "u1").iterdir()) == [
        "Inspect-0.json",
        "Playoff-0.json",
        "Publish-0.json",
        "Trial-1.json",
        "Trial-2.json",
    ]


def test_nothing_is_left_on_the_pods_disk(bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    with open_store(address(bucket)) as store:
        store.put(model_folder(tmp_path / "made"))
    assert list(scratch.iterdir()) == []


def test_what_one_pod_made_another_gets(bucket: Path, tmp_path: Path) -> None:
    made = model_folder(tmp_path / "made", size=20_000_000, files=2)
    one, other = (BucketStore(address(bucket), tmp_path / name) for name in ("one", "other"))
    digest = one.put(made)
    assert other.has(digest)
    assert digest_folder(other.folder(digest)) == digest
    made_by_step = Cached(digest, "cut 12 channels")
    assert other.cached("sha256:key") is None
    one.remember("sha256:key", made_by_step)
    assert other.cached("sha256:key") == made_by_step


def test_many_pods_may_put_the_same_at_once(bucket: Path, tmp_path: Path) -> None:
    made, start = model_folder(tmp_path / "made", size=2_000_000), threading.Barrier(6)
    digests: list[str] = []

    def pod(number: int) -> None:
        store = BucketStore(address(bucket), tmp_path / f"copy-{number}")
        start.wait()
        digests.append(store.put(made))

    pods = [threading.Thread(target=pod, args=(number,)) for number in range(6)]
    for thread in pods:
        thread.start()
    for thread in pods:
        thread.join()
    assert digests == [digest_folder(made)] * 6
    assert digest_folder(BucketStore(address(bucket), tmp_path / "fresh").folder(digests[0])) == digests[0]


def test_a_pod_killed_while_it_uploads_leaves_nothing_that_looks_whole(bucket: Path, tmp_path: Path) -> None:
    """At four moments, found by how much of the artifact is in the bucket. The next pod makes it whole."""
    made = model_folder(tmp_path / "made", files=12, size=4_000_000)
    digest = digest_folder(made)
    folder = bucket / "store" / "artifacts" / digest.removeprefix("sha256:") / "code"
    for files in range(1, 11, 3):
        process = subprocess.Popen([sys.executable, "-c", PUT, address(bucket), made])
        while process.poll() is None and (not folder.is_dir() or len(list(folder.iterdir())) < files):
            time.sleep(0.001)
        process.kill()
        process.wait()
        fresh = BucketStore(address(bucket), tmp_path / f"copy-{files}")
        if fresh.has(digest):  # it was quicker
            assert digest_folder(fresh.folder(digest)) == digest
        else:
            with pytest.raises(InvalidInput, match=r"^store: .* has no artifact sha256:"):
                fresh.folder(digest)
            shutil.rmtree(folder)
    subprocess.run([sys.executable, "-c", PUT, address(bucket), made], check=True)
    assert digest_folder(BucketStore(address(bucket), tmp_path / "last").folder(digest)) == digest


def test_what_was_cleaned_is_made_again(bucket: Path, tmp_path: Path) -> None:
    store = BucketStore(address(bucket), tmp_path / "one")
    digest = store.put(model_folder(tmp_path / "made"))
    store.remember("sha256:key", Cached(digest, ""))
    shutil.rmtree(bucket / "store" / "artifacts")
    fresh = BucketStore(address(bucket), tmp_path / "other")
    assert fresh.cached("sha256:key") is None
    with pytest.raises(InvalidInput, match=r"^store: .* has no artifact .*: was it cleaned\?"):
        fresh.folder(digest)
    fresh.put(tmp_path / "made")
    assert fresh.cached("sha256:key") == Cached(digest, "")


def test_other_content_under_a_digest_is_refused(bucket: Path, tmp_path: Path) -> None:
    digest = BucketStore(address(bucket), tmp_path / "one").put(model_folder(tmp_path / "made"))
    (bucket / "store" / "artifacts" / digest.removeprefix("sha256:") / "code" / "0.bin").write_bytes(b"x" * 1000)
    with pytest.raises(InvalidInput, match="has other content: delete it"):
        BucketStore(address(bucket), tmp_path / "other").folder(digest)


@pytest.mark.parametrize(
    ("variables", "uri", "says"),
    [
        ({}, "s3://nobody/store", "store: s3://nobody/store/.*: there is nothing at this address"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "s3://{}/store", "no permission .*: set AWS_ACCESS_KEY_ID"),
    ],
)
def test_a_store_that_cannot_be_used(
    bucket: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], uri: str, says: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ended = lab.run(lab.task("Inspect", store=uri.format(bucket.name)))
    assert ended.code == 2
    assert ended.report
    assert ended.report.error
    assert re.search(says, ended.report.error.message)
