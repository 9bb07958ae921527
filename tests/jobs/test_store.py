"""Addresses stay inside their claims; what the store holds is whole, whoever else writes."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from trimtab.api.work import VOLUMES_VARIABLE, Report, Stage
from trimtab_jobs import files
from trimtab_jobs.errors import InvalidInput, Temporary
from trimtab_jobs.files import SharedFolder
from trimtab_jobs.store import Cached, Store, digest_folder, resolve


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "volume"
    (folder / "inside").mkdir(parents=True)
    (folder / "link-in").symlink_to(folder / "inside")
    (folder / "link-out").symlink_to(tmp_path)
    monkeypatch.setenv(VOLUMES_VARIABLE, json.dumps({"data": str(folder), "gone": str(tmp_path / "gone")}))
    return folder


def model_folder(folder: Path, content: str = "weights") -> Path:
    (folder / "code").mkdir(parents=True)
    (folder / "model.onnx").write_text(content)
    (folder / "code" / "net.py").write_text("import torch\n")
    return folder


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///data/x.npz", "/data/x.npz"),
        ("file:///data/two%20words.npz", "/data/two words.npz"),
        ("pvc://data/x.npz", "{volume}/x.npz"),
        ("pvc://data", "{volume}"),
        ("pvc://data//inside/../x.npz", "{volume}/inside/../x.npz"),
        ("pvc://data/link-in/x.npz", "{volume}/link-in/x.npz"),
    ],
)
def test_addresses(volume: Path, uri: str, path: str) -> None:
    assert resolve(uri, "model.uri") == Path(path.format(volume=volume))


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("file://data/x.npz", "three slashes"),
        ("s3://data/x.npz", "no folder on a disk: name a file:// or pvc:// address"),
        ("pvc://other/x.npz", "mounted are data, gone"),
        ("pvc://gone/x.npz", "mount claim 'gone' there"),
        ("pvc://data/../x.npz", "leaves its claim"),
        ("pvc://data/%2e%2e/x.npz", "leaves its claim"),
        ("pvc://data/link-out/x.npz", "leaves its claim"),
    ],
)
def test_refused_addresses(volume: Path, uri: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=f"^model.uri: .*{says}"):
        resolve(uri, "model.uri")


def test_a_digest_is_of_names_and_content_alone(tmp_path: Path) -> None:
    first, second = model_folder(tmp_path / "first"), model_folder(tmp_path / "second")
    os.utime(second / "model.onnx", (0, 0))
    assert digest_folder(first) == digest_folder(second)
    (second / "code" / "net.py").rename(second / "code" / "other.py")
    assert digest_folder(first) != digest_folder(second)


def test_put_twice_is_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    digest = store.put(model_folder(tmp_path / "made"))
    placed = store.folder(digest)
    inode = placed.stat().st_ino
    assert store.put(tmp_path / "made") == digest
    assert store.folder(digest).stat().st_ino == inode
    assert digest_folder(placed) == digest


def test_many_pods_may_put_the_same_at_once(tmp_path: Path) -> None:
    made = model_folder(tmp_path / "made", "x" * 1_000_000)
    start = threading.Barrier(8)
    digests: list[str] = []

    def pod() -> None:
        store = Store(tmp_path / "store")
        start.wait()
        digests.append(store.put(made))

    pods = [threading.Thread(target=pod) for _ in range(8)]
    for thread in pods:
        thread.start()
    for thread in pods:
        thread.join()
    assert digests == [digest_folder(made)] * 8
    assert digest_folder(Store(tmp_path / "store").folder(digests[0])) == digests[0]
    assert list((tmp_path / "store" / ".tmp").iterdir()) == []


def test_the_cache_forgets_what_was_cleaned(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    made = Cached(store.put(model_folder(tmp_path / "made")), "cut 12 channels")
    assert store.cached("sha256:key") is None
    store.remember("sha256:key", made)
    assert store.cached("sha256:key") == made
    shutil.rmtree(store.folder(made.artifact))
    assert store.cached("sha256:key") is None
    with pytest.raises(InvalidInput, match=r"^store: .* has no artifact sha256:"):
        store.folder(made.artifact)


DAY = 24 * 3600.0


def aged(path: Path, days: float) -> Path:
    os.utime(path, (time.time() - days * DAY,) * 2)
    return path


def test_what_nobody_has_used_for_long_is_removed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    unused, loaded, cached, made = (store.put(model_folder(tmp_path / "made" / n, n)) for n in "abcd")
    store.remember("sha256:unused", Cached(unused, ""))
    store.remember("sha256:cached", Cached(cached, ""))
    store.save_report("old", Report(stage=Stage.INSPECT))
    store.save_report("new", Report(stage=Stage.INSPECT))
    everything = [path for place in ("artifacts", "cache", "reports") for path in (tmp_path / place).iterdir()]
    for path in everything:
        aged(path, 8)
    aged(tmp_path / "reports" / "new", 6)
    store.folder(loaded)
    assert store.cached("sha256:cached")
    assert store.put(tmp_path / "made" / "d") == made
    assert store.clean(7 * DAY) == 3
    assert [store.has(artifact) for artifact in (unused, loaded, cached, made)] == [False, True, True, True]
    assert (store.cached("sha256:unused"), store.cached("sha256:cached")) == (None, Cached(cached, ""))
    assert [path.name for path in (tmp_path / "reports").iterdir()] == ["new"]
    assert list((tmp_path / ".tmp").iterdir()) == []
    assert store.clean(7 * DAY) == 0


def test_nothing_is_cleaned_behind_a_link(tmp_path: Path) -> None:
    victim = aged(model_folder(tmp_path / "other"), 30)
    store = Store(tmp_path / "store")
    (tmp_path / "store" / "artifacts").symlink_to(tmp_path)
    (tmp_path / "store" / "inputs").mkdir()
    (tmp_path / "store" / "inputs" / "0").symlink_to(victim)
    os.utime(tmp_path / "store" / "inputs" / "0", (0, 0), follow_symlinks=False)
    assert store.clean(7 * DAY) == 1
    assert list(victim.iterdir())
    assert list((tmp_path / "store" / "inputs").iterdir()) == []


def test_reports_are_kept_in_full(tmp_path: Path) -> None:
    Store(tmp_path).save_report("uid", Report(stage=Stage.TRIAL, trial=3, skipped="nothing to cut"))
    assert json.loads((tmp_path / "reports/uid/Trial-3.json").read_text())["skipped"] == "nothing to cut"


def test_old_rubbish_is_swept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old, new = tmp_path / ".tmp" / "old", tmp_path / ".tmp" / "new"
    model_folder(old)
    model_folder(new)
    (tmp_path / ".tmp" / "file").write_text("half")
    for path in (old, tmp_path / ".tmp" / "file"):
        os.utime(path, (time.time() - 2 * 24 * 3600,) * 2)
    Store(tmp_path)
    assert [path.name for path in (tmp_path / ".tmp").iterdir()] == ["new"]
    assert store.put(new)


@pytest.mark.parametrize("link", [".tmp", "0123456789ab", "deep"])
def test_no_link_is_followed_out_of_a_shared_folder(tmp_path: Path, link: str) -> None:
    """A tenant's claim, with a link to where the store is mounted in the same pod."""
    victim = model_folder(tmp_path / "store" / "artifacts")
    os.utime(victim, (0, 0))  # so old that it would be swept as rubbish
    before = digest_folder(tmp_path / "store")
    (tmp_path / "claim").mkdir()
    (tmp_path / "claim" / link).symlink_to(tmp_path / "store")

    def publish() -> None:
        folder = SharedFolder(tmp_path / "claim", "publish")
        folder.place(model_folder(tmp_path / "made"), f"{link}/0")
        folder.write(f"{link}/model.onnx", "evil")

    with pytest.raises(InvalidInput, match=rf"^publish: .*/{link}.* leads out of .*/claim by a link: remove the link"):
        publish()
    assert digest_folder(tmp_path / "store") == before
    assert not (tmp_path / "store" / "0").exists()


def test_a_store_that_is_a_file_is_somebodys_mistake(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(InvalidInput, match=r"^store: .*/store cannot be written .*: mount it writable"):
        Store(tmp_path / "store")


def test_a_full_disk_may_be_freed_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = model_folder(tmp_path / "made")
    folder = SharedFolder(tmp_path / "store", "store")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    for write in (lambda: folder.place(made, "artifacts/a"), lambda: folder.write("cache/a.json", "{}")):
        with pytest.raises(Temporary, match=r"^store: .*No space left"):
            write()
    assert [path for path in folder.root.rglob("*") if path.is_file()] == []
