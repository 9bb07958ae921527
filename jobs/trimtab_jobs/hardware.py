"""What a measurement depends on beside the model: the CPU, its vector extensions, the quota, the libraries.

A container on a 64-core node may own two cores of it, and a library that starts a thread per core it sees is then
throttled for most of every period. So the thread count comes from the cgroup's quota and the affinity mask, once,
here, and every engine is told. INT8 is fast by VNNI or AMX and may be slower than FP32 without, so flags and library
versions are part of every report and of every cache key.
"""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from trimtab.api.status import VNNI, Hardware

FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm")
LIBRARIES = (
    "trimtab", "numpy", "onnx", "onnxruntime", "onnxslim", "openvino", "nncf",
    "torch", "torch-pruning", "onnxscript", "tensorrt-rtx",
)  # fmt: skip


def hardware() -> Hardware:
    """This machine, as far as this process may use it."""
    cpu, flags = _cpu(Path("/proc/cpuinfo"))
    return Hardware(cpu=cpu, flags=flags, threads=threads(), versions=dict(versions()))


def threads(root: Path = Path("/")) -> int:
    """How many threads can run at once: the lesser of CPU quota and affinity, at least one."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([affinity, *_quotas(root)])))


def saturates(flags: Collection[str]) -> bool:
    """Whether the CPU adds products of 8 bits in 16, as x86 does without VNNI: weights of 7 bits fit."""
    return "avx2" in flags and VNNI.isdisjoint(flags)


def peak_memory() -> int:
    """Bytes of resident memory at the most.

    VmHWM and not `ru_maxrss`: the latter is kept over exec, so a small child of a big process reports its parent's.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024


def _quotas(root: Path) -> Iterator[float]:
    """CPUs granted by this process's cgroup and each one above it; quotas nest."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        group = mount / path.lstrip("/")
        for level in (group, *group.parents):
            if level.is_relative_to(mount):
                yield from _quota(level)


def _quota(group: Path) -> Iterator[float]:
    """v2 has `quota period` in one file, or `max period`; v1 has a file each, and -1 for no quota."""
    v1 = _read(group / "cpu.cfs_quota_us") + " " + _read(group / "cpu.cfs_period_us")
    words = (_read(group / "cpu.max") or v1).split()
    if words and words[0] not in ("max", "-1"):
        yield float(words[0]) / float(words[1])


def _cpu(cpuinfo: Path) -> tuple[str, list[str]]:
    """The CPU's name, and its flags of interest. The line is `flags` on x86, `Features` on Arm."""
    lines = [line.partition(":") for line in _read(cpuinfo).splitlines()]
    fields = {name.strip(): value.strip() for name, _, value in lines}
    present = fields.get("flags", fields.get("Features", "")).split()
    return fields.get("model name") or platform.machine(), [flag for flag in FLAGS if flag in present]


@cache
def versions() -> Mapping[str, str]:
    """Of the libraries here, from the package metadata: importing torch to ask for its version takes seconds."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""
