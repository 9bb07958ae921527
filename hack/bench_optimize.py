"""Our zero-configuration run beside the tools an expert would use by hand: `make bench-optimize`.

    python hack/bench_optimize.py [MODEL...] [--model M.onnx --data FOLDER] [--threads 1] [--seconds 900] [--peers a,b]

For every model each tool gets the same splits, gate, cores, time and memory, in a process of its own. What they made
is then judged in one process by one race. Nothing heavy is imported here, or every tool's peak memory would be this
program's (`bench.spawn` says why).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from bench import ours
from bench.report import CONTROL, FP32, OURS, Found, Row, page
from bench.spawn import Limits, Ran, spawn
from trimtab.api.status import BFLOAT16

PEERS = ("ort-static", "ort-static-tuned", "ort-dynamic", "ort-dynamic-tuned", "nncf", "nncf-tuned",
         "nncf-accuracy-aware", "olive")  # fmt: skip
MODELS = ("magika", "minilm", "minilm/topics", "digits", "tabular", "ppocr-cls", "basic-pitch", "ppocr-rec", "ddddocr",
          "silero-clip", "silero-frame", "ppocr-det", "ddddocr-det")  # fmt: skip
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
SPLITS = ("calibration", "evaluation", "holdout")
MAX_DROP = 0.01
FP32_OPENVINO, BF16_OPENVINO = "fp32-openvino", "bf16-openvino"


def main() -> None:
    given = arguments()
    limits = Limits(seconds=given.seconds, cores=given.threads)
    found = kept(given.out) if given.add else {}
    if "olive" in given.peers:
        get_olive()
    with tempfile.TemporaryDirectory(prefix="trimtab-bench-") as scratch:
        for name, folder in problems(given, Path(scratch)):
            found[name] = bench(name, folder, Path(scratch), given.peers, limits)
            write([*found.values()], given.out, about(given))
            print(page([found[name]], about(given)), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", choices=[[], *MODELS], help="default: all")
    parser.add_argument("--model", type=Path, help="an ONNX model of your own")
    parser.add_argument("--data", type=Path, help="its folder of calibration.npz, evaluation.npz and holdout.npz")
    parser.add_argument("--cache", type=Path, default=Path("demo/bench"), help="where models are prepared")
    parser.add_argument("--out", type=Path, default=Path("demo/bench/optimize"), help="writes OUT.json and OUT.md")
    parser.add_argument("--add", action="store_true", help="to what OUT.json has from this machine, model by model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=900, help="for each tool and model")
    parser.add_argument("--peers", type=lambda text: text.split(","), default=list(PEERS))
    return parser.parse_args()


def problems(given: argparse.Namespace, scratch: Path) -> Iterator[tuple[str, Path]]:
    """Names, and folders as `bench.problem.Problem` wants them."""
    if given.model:
        yield given.model.stem, lay_out(given.model, given.data, scratch / "problem")
        return
    for name in given.models or MODELS:
        subprocess.run([sys.executable, "-m", "bench.models", given.cache, name.split("/")[0]], check=True)
        folder = given.cache / name
        yield name, lay_out(folder / "model.onnx", folder, scratch / "problems" / name)


def lay_out(model: Path, data: Path, folder: Path) -> Path:
    """The model in a folder of its own, external data beside it: a model's size is that of its folder."""
    (folder / "model").mkdir(parents=True)
    (folder / "model/model.onnx").symlink_to(model.resolve())
    for file in model.parent.glob(f"{model.name}?*"):
        (folder / "model" / file.name).symlink_to(file.resolve())
    for split in SPLITS:
        (folder / f"{split}.npz").symlink_to((data / f"{split}.npz").resolve())
    return folder


def kept(out: Path) -> dict[str, Found]:
    """What earlier runs found on this machine, by model."""
    found = json.loads(out.with_suffix(".json").read_text())["found"]
    return {one["model"]: Found(**one | {"rows": [Row(**row) for row in one["rows"]]}) for one in found}


def get_olive() -> None:
    """Before anything is timed: its environment takes minutes to make."""
    subprocess.run([sys.executable, "-c", "from bench.wheels import olive_python; olive_python()"], check=True)


def bench(name: str, folder: Path, scratch: Path, peers: list[str], limits: Limits) -> Found:
    """Everybody optimizes, one after the other; then all are compared."""
    out = scratch / name.replace("/", "-")
    out.mkdir()
    run = ours.optimize(folder, out / OURS, limits)
    ran = {OURS: run.ran}
    tell(name, f"{OURS}: {run.ran.failure or 'done'} in {run.ran.seconds:.0f} s")
    contestants = [] if run.ran.failure else [run.winner]
    opened = {"folder": str(folder / "model"), "format": "ONNX", "engine": "OpenVINO"}
    contestants.append({"name": FP32_OPENVINO, **opened})
    if not BFLOAT16.isdisjoint(cpu().get("flags", "").split()):
        contestants.append({"name": BF16_OPENVINO, **opened, "details": {"precision": "BFloat16"}})
    for peer in peers:
        ran[peer] = optimize(peer, folder, out / peer, limits)
        tell(name, f"{peer}: {ran[peer].failure or 'done'} in {ran[peer].seconds:.0f} s")
        if not ran[peer].failure:
            contestants.append(json.loads((out / peer / "made.json").read_text()))
    judged = compare(folder, out, contestants, limits)
    names = [FP32, CONTROL, OURS, *(one["name"] for one in contestants if one["name"].endswith("-openvino")), *peers]
    rows = [row(one, ran, judged["judged"]) for one in names]
    choice = "" if run.ran.failure else run.choice
    return Found(name, judged["metric"], MAX_DROP, rows, choice, run.overhead, run.again.seconds)


def optimize(peer: str, folder: Path, out: Path, limits: Limits) -> Ran:
    words: list[str | Path] = [sys.executable, "-m", "bench.peers", peer, folder, out]
    return spawn([*words, "--max-drop", str(MAX_DROP), "--threads", str(limits.cores)], out.with_suffix(".log"), limits)


def compare(folder: Path, out: Path, contestants: list[dict[str, Any]], limits: Limits) -> dict[str, Any]:
    asked, answered = out / "contestants.json", out / "judged.json"
    asked.write_text(json.dumps({"max_drop": MAX_DROP, "threads": limits.cores, "contestants": contestants}))
    words: list[str | Path] = [sys.executable, "-m", "bench.compare", folder, asked, answered]
    patient = Limits(seconds=7200, memory=20 * 2**30, cores=limits.cores)
    ran = spawn(words, out / "compare.log", patient)
    if ran.failure:
        raise SystemExit(f"{folder}: comparing failed: {(out / 'compare.log').read_text()[-2000:]}")
    found: dict[str, Any] = json.loads(answered.read_text())
    return found


def row(name: str, ran: dict[str, Ran], judged: list[dict[str, Any]]) -> Row:
    was = ran.get(name, Ran(0.0, 0))
    found = next((one for one in judged if one["name"] == name), {"name": name, "failure": was.failure})
    return Row(**found | {"seconds": was.seconds, "peak_memory": was.peak_memory})


def about(given: argparse.Namespace) -> str:
    """When, where and how."""
    known = cpu()
    flags = [flag for flag in FLAGS if flag in known.get("flags", "").split()]
    return (
        f"{date.today()}, {known.get('model name', platform.machine()).strip()} ({', '.join(flags)}), Python "
        f"{platform.python_version()}; {given.threads} core for everybody, at most {given.seconds:.0f} s and 8 GiB for "
        f"each tool on each model, load {os.getloadavg()[0]:.1f} at the end. Times are ratios to FP32 in ONNX Runtime, "
        "with 95% intervals, of one interleaved race. A drop of at most 1 point is allowed."
    )


def cpu() -> dict[str, str]:
    """What Linux knows of the last CPU."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return dict(line.split(":", 1) for line in info.replace("\t", "").splitlines() if ":" in line)


def write(found: list[Found], out: Path, told: str) -> None:
    """After every model, so that a long bench may be stopped."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(
        json.dumps({"about": told, "found": [asdict(one) for one in found]}, indent=1) + "\n"
    )
    out.with_suffix(".md").write_text(page(found, told))


def tell(name: str, what: str) -> None:
    print(f"{name}: {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
