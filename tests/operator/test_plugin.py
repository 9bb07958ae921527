"""`kubectl trimtab` as the real kubectl finds it, on a real API server. Logs take a node: tests/e2e/test_slice_a.py."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

import apiserver
from builders import job_dict, make_job
from lab.shell import wait_for
from reports import ENDINGS
from trimtab.api.job import OptimizationJob
from trimtab.api.report import JobReport
from trimtab.api.work import Stage
from trimtab.explain import explain
from trimtab.page import REPORT_FILES
from trimtab.plugin import STAGES, main
from trimtab.report import build
from waiting import HANG

REPOSITORY = Path(__file__).parents[2]


def test_help_names_the_stages_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert tuple(stage.value for stage in Stage) == STAGES
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "explain" in capsys.readouterr().out


def test_without_kubectl_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["explain", "m"]) == 2
    assert capsys.readouterr().err == (
        "kubectl: cannot be started (No such file or directory): install it, or put it on PATH\n"
    )


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script that the wheel installs: a kubectl on PATH finds it there by its name."""
    folder = tmp_path_factory.mktemp("plugins")
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts["kubectl-trimtab"].partition(":")
    script = folder / "kubectl-trimtab"
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    script.chmod(0o755)
    return folder


@contextmanager
def newer_crd(**fields: dict[str, Any]) -> Iterator[None]:
    """A CRD with these fields in the spec of OptimizationJobs, in place of ours of their names."""
    crd = yaml.safe_load((REPOSITORY / "crds" / "optimizationjobs.yaml").read_text())
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"] |= fields
    done = apiserver.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=yaml.safe_dump(crd))
    assert done.returncode == 0, done.stderr
    try:
        yield
    finally:
        apiserver.install_crds()


@pytest.mark.e2e
class TestInACluster:
    @pytest.fixture(autouse=True)
    def _setting(self, namespace: str, plugins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.namespace, self.folder = namespace, tmp_path
        self.program = apiserver.tool("kubectl")
        monkeypatch.setenv("PATH", f"{plugins}:{self.program.parent}:{os.environ['PATH']}")

    def kubectl(self, *words: str, stdin: str | None = None) -> tuple[int, str, str]:
        command = [self.program, *words, "--namespace", self.namespace]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, cwd=self.folder)
        return done.returncode, done.stdout, done.stderr

    def create(self, job: OptimizationJob) -> OptimizationJob:
        """The job with its status, as the API server stores it."""
        manifest = job_dict() | {"spec": job.spec.wire(), "metadata": {"name": "m"}}
        assert self.kubectl("create", "-f", "-", stdin=json.dumps(manifest))[0] == 0
        status = json.dumps({"status": json.loads(job.status.model_dump_json(by_alias=True, exclude_none=True))})
        code, _, errors = self.kubectl(
            "patch", "optimizationjobs.trimtab.dev", "m", "--subresource=status", "--type=merge", "--patch", status
        )
        assert code == 0, errors
        return OptimizationJob.model_validate(json.loads(self.get("--output=json")))

    def get(self, *words: str) -> str:
        code, said, errors = self.kubectl("get", "optimizationjobs.trimtab.dev", "m", *words)
        assert code == 0, errors
        return said

    @pytest.mark.parametrize("ending", ["winner", "nothing feasible", "failed", "crowded"])
    def test_the_words_are_those_of_a_local_run(self, ending: str) -> None:
        stored = self.create(ENDINGS[ending]())
        assert self.kubectl("trimtab", "explain", "m") == (0, explain(stored) + "\n", "")
        assert build(stored).headline == build(ENDINGS[ending]()).headline

    def test_a_job_under_way_says_what_it_waits_for(self) -> None:
        condition = {"type": "Complete", "status": "False", "reason": "Searching", "message": "m-1 waits: ErrImagePull"}
        job = make_job()
        status = job.status.model_validate({"conditions": [condition | {"lastTransitionTime": "2026-01-01T00:00:00Z"}]})
        self.create(job.model_copy(update={"status": status}))
        assert self.get("--output=wide").splitlines()[1].endswith("m-1 waits: ErrImagePull")
        assert "  now        Searching: m-1 waits: ErrImagePull\n" in self.kubectl("trimtab", "explain", "m")[1]
        assert self.kubectl("trimtab", "report", "m")[2].startswith("m: there is nothing to report yet: ")

    def test_the_report_is_written_from_the_status(self) -> None:
        stored = self.create(ENDINGS["winner"]())
        folder = Path(".trimtab") / self.namespace / "m"
        assert self.kubectl("trimtab", "report", "m") == (0, f"report: {folder}/report.html\n", "")
        assert sorted(path.name for path in (self.folder / folder).iterdir()) == sorted(REPORT_FILES)
        written = JobReport.model_validate_json((self.folder / folder / "report.json").read_bytes())
        assert written == build(stored)
        assert self.kubectl("trimtab", "report", "m", "--out", "/proc/x")[0] == 2

    def test_suspend_and_resume(self) -> None:
        self.create(make_job())
        for verb, suspended in (("suspend", True), ("suspend", True), ("resume", False)):
            code, said, errors = self.kubectl("trimtab", verb, "m")
            assert (code, errors) == (0, "")
            assert said.startswith(f"m: {verb}")
            assert json.loads(self.get("--output=json"))["spec"]["suspend"] is suspended

    def test_the_defaults_of_a_newer_crd_are_ignored(self) -> None:
        """They are in every object at once, before anybody has a newer plugin."""
        self.create(make_job())
        with newer_crd(newField={"type": "string", "default": "new"}):
            wait_for("the new default", lambda: "newField" in self.get("--output=json"), HANG)
            assert self.kubectl("trimtab", "explain", "m")[0] == 0

    def test_a_job_that_only_a_newer_version_reads_is_suspended_all_the_same(self) -> None:
        spec = make_job().spec.wire() | {"ttlSecondsAfterFinished": "an hour"}
        manifest = json.dumps(job_dict() | {"spec": spec, "metadata": {"name": "m"}})
        with newer_crd(ttlSecondsAfterFinished={"type": "string"}):
            wait_for("the new form", lambda: self.kubectl("create", "-f", "-", stdin=manifest)[0] == 0, HANG)
            code, _, errors = self.kubectl("trimtab", "explain", "m")
            assert (code, errors.startswith("m: spec.ttlSecondsAfterFinished: ")) == (2, True)
            for verb, suspended in (("suspend", True), ("resume", False)):
                assert self.kubectl("trimtab", verb, "m")[0] == 0
                assert json.loads(self.get("--output=json"))["spec"]["suspend"] is suspended
            assert self.kubectl("trimtab", "logs", "m")[2].startswith("m: no such pod of it is there")
            self.kubectl("delete", "optimizationjobs.trimtab.dev", "m")

    def test_what_has_ended_is_not_suspended(self) -> None:
        self.create(ENDINGS["winner"]())
        refusal = "m: has ended (Published): nothing runs; create a new job to run it again\n"
        assert self.kubectl("trimtab", "suspend", "m") == (2, "", refusal)
        assert (
            "suspend" not in json.loads(self.get("--output=json"))["spec"]
            or not json.loads(self.get("--output=json"))["spec"]["suspend"]
        )

    def test_what_kubectl_complains_of_is_passed_on(self) -> None:
        missing = 'Error from server (NotFound): optimizationjobs.trimtab.dev "none" not found\n'
        for verb in ("explain", "report", "logs", "suspend"):
            assert self.kubectl("trimtab", verb, "none") == (2, "", missing)
        code, _, errors = self.kubectl("trimtab", "explain", "m", "--context", "elsewhere")
        assert (code, errors) == (2, 'error: context "elsewhere" does not exist\n')

    def test_a_job_without_pods_has_no_logs(self) -> None:
        self.create(make_job())
        refusal = "m: no such pod of it is there: kubectl trimtab explain m says why\n"
        assert self.kubectl("trimtab", "logs", "m", "--trial", "1") == (2, "", refusal)

    @pytest.mark.parametrize(
        ("ending", "cells"),
        [
            ("winner", ["Published", "2/2", "trial-2/ONNXRuntime", "1.49x", "95.1% accuracy", "320"]),
            ("baseline is best", ["BaselineIsBest", "2/2", "input/ONNXRuntime", "1.00x", "95% accuracy", "1000"]),
            ("nothing feasible", ["NoFeasibleCandidate", "2/2"]),
        ],
    )
    def test_a_list_is_read_at_a_glance(self, ending: str, cells: list[str]) -> None:
        self.create(ENDINGS[ending]())
        headings, row = (re.split(r"\s{2,}", line) for line in self.get().splitlines())
        assert headings == ["NAME", "STATE", "TRIALS", "BEST", "SPEED-UP", "QUALITY", "SIZE", "AGE"]
        assert row[:-1] == ["m", *cells]
