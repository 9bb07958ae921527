"""Thread counts from real cgroup layouts, and what this machine says of itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trimtab_jobs.hardware import LIBRARIES, hardware, peak_memory, threads


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, 8, id="no-cgroup"),
        pytest.param({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 8, id="v2-no-quota"),
        pytest.param({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2, id="v2"),
        pytest.param({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "350000 100000\n"}, 3, id="v2-fraction"),
        pytest.param({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1, id="v2-half-a-cpu"),
        pytest.param(
            {
                "proc/self/cgroup": "0::/kubepods/pod1/c1\n",
                "sys/fs/cgroup/kubepods/pod1/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/kubepods/pod1/c1/cpu.max": "max 100000\n",
            },
            4,
            id="v2-quota-of-the-pod-above",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "3:memory:/x\n1:cpu,cpuacct:/kubepods/c1\n0::/\n",
                "sys/fs/cgroup/cpu/kubepods/c1/cpu.cfs_quota_us": "500000\n",
                "sys/fs/cgroup/cpu/kubepods/c1/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            5,
            id="v1",
        ),
    ],
)
def test_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert threads(tmp_path) == expected


def test_this_machine() -> None:
    found = hardware()
    assert found.cpu
    assert 1 <= found.threads <= (os.cpu_count() or 1)
    assert found.versions["onnxruntime"]
    assert found.versions.keys() <= set(LIBRARIES)


def test_peak_memory_grows() -> None:
    before = peak_memory()
    kept = b"x" * 100_000_000
    assert peak_memory() >= max(before, len(kept))
