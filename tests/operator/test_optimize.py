"""`trimtab optimize` and `trimtab init` on a small real model: from two files to a job, and to its end."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from builders import make_job
from trimtab.api.answer import Answer
from trimtab.api.job import ObjectMeta, OptimizationJob
from trimtab.api.report import JobReport
from trimtab.documents import read_job
from trimtab.runs import store

QUICK = ("--engines", "ONNXRuntime", "--timeout", "1s")


def trimtab(folder: Path, *arguments: str | Path, **options) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "trimtab", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, **options)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def data(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All samples of digits in one file."""
    parts = [dict(np.load(digits / f"{name}.npz")) for name in ("calibration", "evaluation", "holdout")]
    file = tmp_path_factory.mktemp("data") / "all.npz"
    np.savez(file, **{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    return file


@pytest.fixture(scope="module")
def optimized(digits: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which `trimtab optimize` was run; one second is over before a trial begins."""
    folder = tmp_path_factory.mktemp("optimized")
    code, text, errors = trimtab(folder, "optimize", digits / "model.onnx", "--data", data, *QUICK)
    assert (code, errors) == (0, "")
    assert text.startswith("model.onnx: ONNX, 19Ki, 3 operators (2 Gemm, 1 Relu)\n")
    return folder


def test_two_files_are_enough(optimized: Path) -> None:
    out = optimized / ".trimtab" / "model"
    report = JobReport.model_validate_json((out / "report.json").read_bytes())
    assert [promise.text for promise in report.asked.promises] == ["accuracy drops by at most 1%"]
    assert [split.samples for split in report.asked.data] == [219, 439, 439]
    assert report.asked.derived
    assert report.claim
    assert (out / "published" / "current.json").exists()
    assert read_job(out / "job.yaml").metadata.name == "model"


def test_again_it_only_tells(optimized: Path, digits: Path, data: Path) -> None:
    out = optimized / ".trimtab" / "model"

    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in [*(out / "work").rglob("*"), out / "look.json"]}

    before = times()
    command = ["optimize", digits / "model.onnx", "--data", data, *QUICK, "--output", "json"]
    code, document, _ = trimtab(optimized, *command)
    assert code == 0
    assert Answer.model_validate_json(document).report
    assert times() == before


def test_a_dry_run_prints_a_job_that_runs_elsewhere(digits: Path, data: Path, tmp_path: Path) -> None:
    asked = ["--max-drop", "0.5%", "--max-size", "10Ki", "--max-latency", "5ms", "--metric", "f1", "--publish", "p"]
    code, text, _ = trimtab(tmp_path, "optimize", digits / "model.onnx", "--data", data, "--dry-run", *asked)
    assert code == 0
    spec = yaml.safe_load(text)["spec"]
    assert spec["constraints"] == [
        {"metric": "f1", "maxDrop": "0.5%"},
        {"metric": "latencyP95", "max": "5ms"},
        {"metric": "size", "max": "10Ki"},
    ]
    assert spec["publish"]["uri"] == (tmp_path / "p").as_uri()
    assert not (tmp_path / ".trimtab" / "model" / "status.json").exists()
    assert text.startswith("# Written to a file: trimtab run job.yaml --out .trimtab/model\n")
    (tmp_path / "job.yaml").write_text(text)
    assert trimtab(tmp_path, "validate", "job.yaml")[0] == 0
    assert "Recipe: at most 16 trials, as far as 150s allow" in trimtab(tmp_path, "explain", "job.yaml")[1]


@pytest.mark.parametrize("place", ["s3://models/digits", "gs://models/digits", "file:///tmp/digits"])
def test_a_winner_may_be_published_at_an_address(digits: Path, data: Path, tmp_path: Path, place: str) -> None:
    asked = ["--data", data.as_uri(), "--dry-run", "--publish", place]
    code, text, _ = trimtab(tmp_path, "optimize", digits / "model.onnx", *asked)
    assert code == 0
    assert yaml.safe_load(text)["spec"]["publish"] == {"uri": place}


def test_init_writes_a_job_with_what_was_seen(digits: Path, tmp_path: Path) -> None:
    code, said, _ = trimtab(tmp_path, "init", digits / "model.onnx", "--data", digits, "-o", "mine.yaml")
    assert (code, said) == (0, "run it with trimtab run mine.yaml --out .trimtab/model\n")
    text = (tmp_path / "mine.yaml").read_text()
    assert "# inputs: image float32[N,64]" in text
    assert read_job(tmp_path / "mine.yaml").spec.data.holdout.uri == (digits / "holdout.npz").as_uri()
    assert not (tmp_path / ".trimtab").exists() or not list((tmp_path / ".trimtab").iterdir())
    code, _, errors = trimtab(tmp_path, "init", digits / "model.onnx", "--data", digits, "-o", "mine.yaml")
    assert (code, errors) == (
        2,
        "--job mine.yaml: it is there already; name another file, or add --force to replace it\n",
    )
    assert trimtab(tmp_path, "init", digits / "model.onnx", "--data", digits, "-o", "mine.yaml", "--force")[0] == 0


def test_splits_that_no_job_refers_to_are_removed(digits: Path, data: Path, tmp_path: Path) -> None:
    with np.load(data) as samples:
        for count in (60, 70, 80, 90):
            np.savez(tmp_path / f"{count}.npz", **{name: array[:count] for name, array in samples.items()})
    model = digits / "model.onnx"
    assert trimtab(tmp_path, "optimize", model, "--data", "60.npz", *QUICK)[0] in (0, 3)
    assert trimtab(tmp_path, "optimize", model, "--data", "70.npz", "--dry-run")[0] == 0
    assert trimtab(tmp_path, "init", model, "--data", "80.npz")[0] == 0
    mine = tmp_path / ".trimtab" / "model" / "data-of-mine"
    mine.mkdir()
    assert len(list(mine.parent.glob("data-*"))) == 4
    for _ in range(2):
        assert trimtab(tmp_path, "optimize", model, "--data", "90.npz", *QUICK)[0] in (0, 3)
        sizes = [len(np.load(split)["labels"]) for split in mine.parent.glob("data-*/evaluation.npz")]
        assert sorted(sizes) == [28, 32, 36]
        assert mine.is_dir()


def test_two_data_sets_never_share_a_folder(digits: Path, tmp_path: Path) -> None:
    """Whatever the order of `init` and `optimize`, each job names splits of its own data."""
    samples = dict(np.load(digits / "evaluation.npz"))
    for name, shift in (("a", 0), ("b", 100)):
        np.savez(tmp_path / f"{name}.npz", image=samples["image"] + np.float32(shift), labels=samples["labels"])

    def optimize(name: str) -> str:
        command = ["optimize", digits / "model.onnx", "--data", f"{name}.npz", "--dry-run"]
        return evaluation(trimtab(tmp_path, *command)[1])

    def evaluation(job: str) -> str:
        return str(yaml.safe_load(job)["spec"]["data"]["evaluation"]["uri"]).removeprefix("file://")

    first = optimize("a")
    assert trimtab(tmp_path, "init", digits / "model.onnx", "--data", "b.npz", "-o", "b.yaml")[0] == 0
    written = evaluation((tmp_path / "b.yaml").read_text())
    assert optimize("a") == first
    for file, least in ((first, 0), (written, 100)):
        assert least <= np.load(file)["image"].mean() < least + 50


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--max-drop", "1"], "--max-drop: '1' is not a percent such as 1%"),
        (["--max-size", "5ms"], "--max-size: '5ms' is not a quantity such as 20Mi"),
        (["--max-latency", "20Mi"], "--max-latency: '20Mi' is not a duration such as 5ms or 2h, at most 99999h"),
        (["--timeout", "soon"], "--timeout: 'soon' is not a duration such as 5ms or 2h, at most 99999h"),
        (
            ["--engines", "openvin"],
            "--engines: 'openvin' is none of ONNXRuntime, OpenVINO, TensorRT; did you mean OpenVINO?",
        ),
        (
            ["--metric", "acuracy"],
            "--metric: 'acuracy' is none of accuracy, topK, f1, auroc, mse, mae, cosine; did you mean accuracy?",
        ),
        (
            ["--max-drop", "150%"],
            "--max-drop: '150%' is more than all quality; give 100% or less, or name --metric mse",
        ),
        (["--max-size", "0"], "--max-size: '0' must be above 0"),
        (["--max-latency", "0ms"], "--max-latency: '0ms' must be above 0"),
        (["--timeout", "0s"], "--timeout: '0s' must be above 0"),
        (
            ["--engines", "onnxruntime,ONNXRuntime"],
            "--engines: ONNXRuntime is there more than once; name each engine once",
        ),
        (
            ["--publish", "/proc/x"],
            "--publish /proc/x: cannot be written: No such file or directory; name another folder",
        ),
        (
            ["--publish", "s3://"],
            "--publish: 's3://' is not a file, pvc, s3, gs or oci address such as oci://registry/models/magika:v1",
        ),
        (
            ["--publish", "hf://me/model"],
            "--publish: 'hf://me/model' is not a file, pvc, s3, gs or oci address such as oci://registry/models/magika:v1",
        ),
        (
            ["--publish", "pvc://models/a"],
            "--publish: pvc://models/a is a claim's; name a folder here, or write a job with trimtab init",
        ),
        (
            ["--publish", "file:///proc/x"],
            "--publish file:///proc/x: cannot be written: No such file or directory; name another folder",
        ),
        (
            ["--data", "ftp://data/x.npz"],
            (
                "--data: 'ftp://data/x.npz' is not a file, pvc, http, https, s3, gs, hf or models address such as "
                "s3://models/a.onnx"
            ),
        ),
        (
            ["--data", "pvc://data/x.npz"],
            "--data: pvc://data/x.npz names claim 'data', which is not mounted: mounted are none",
        ),
        (
            ["--dry-run", "--out", "/proc/x"],
            "--out /proc/x: cannot be written: No such file or directory; name another folder",
        ),
        ([], "model.uri: {folder}/none.onnx: there is no such file: check the address"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_left(data: Path, tmp_path: Path, flags: list[str], line: str) -> None:
    code, text, errors = trimtab(tmp_path, "optimize", tmp_path / "none.onnx", "--data", data, *flags)
    assert (code, text) == (2, "")
    assert errors == line.format(folder=tmp_path) + "\n"
    assert list(tmp_path.rglob("*.*")) in ([], [tmp_path / ".trimtab"])


def test_a_dry_run_is_a_job_for_programs_too(digits: Path, data: Path, tmp_path: Path) -> None:
    asked = ["--max-size", "20000", "--dry-run", "--output", "json"]
    _, document, _ = trimtab(tmp_path, "optimize", digits / "model.onnx", "--data", data, *asked)
    job = OptimizationJob.model_validate(Answer.model_validate_json(document).job)
    assert [constraint.max for constraint in job.spec.constraints] == [None, "20000"]


@pytest.mark.parametrize("command", ["optimize", "init", "run"])
def test_a_folder_with_the_run_of_another_job_is_left_alone(digits: Path, tmp_path: Path, command: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    store(out, make_job().model_copy(update={"metadata": ObjectMeta(name="cnn", uid="1")}))
    before = (out / "status.json").read_bytes()
    asked = {
        "optimize": ["optimize", digits / "model.onnx", "--data", digits],
        "init": ["init", digits / "model.onnx", "--data", digits],
        "run": ["run", digits / "job.yaml", "--volume", f"digits={digits}"],
    }[command]
    code, _, errors = trimtab(tmp_path, *asked, "--out", out)
    assert (code, errors) == (
        2,
        f"--out {out}: holds the run of job 'cnn': name another folder, or delete it\n",
    )
    assert (out / "status.json").read_bytes() == before


@pytest.mark.parametrize(("command", "limit"), [("optimize", 4_000), ("run", 15_000)])
def test_a_full_disk_is_one_line(digits: Path, tmp_path: Path, command: str, limit: int) -> None:
    """A limit on files stands for it: the first stops the splits, the second the model in the store."""
    asked = {
        "optimize": ["optimize", digits / "model.onnx", "--data", digits / "evaluation.npz"],
        "run": ["run", digits / "job.yaml", "--volume", f"digits={digits}"],
    }[command]

    def nearly_full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    code, _, errors = trimtab(tmp_path, *asked, preexec_fn=nearly_full)
    assert code == 2, errors
    assert len(errors.splitlines()) == 1
    assert "File too large" in errors
    assert "free space" in errors
    assert not list(tmp_path.rglob("*.part*"))
