"""What people write wrong, and the one line they get."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import job_dict
from trimtab.documents import Refused, read_documents, read_job


def written(path: Path, content: object) -> Path:
    file = path / "job.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return file


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("a: [", "not YAML at line"),
        ("a: 1", "nothing of apiVersion trimtab.dev/v1alpha1"),
        ({"apiVersion": "trimtab.dev/v1alpha1", "kind": "Job"}, "kind: 'Job' is none of OptimizationJob"),
        (job_dict(tecniques=[]), "spec.tecniques: unknown field; did you mean techniques?"),
        (
            job_dict(techniques=[{"quantize": {"perChanel": [True]}}]),
            "spec.techniques[0].quantize.perChanel: unknown field; did you mean perChannel?",
        ),
        (job_dict(model=None), "spec.model: required, and not given"),
        (
            job_dict(model={"uri": "http://x", "format": "ONNX"}),
            "spec.model.uri: 'http://x' is not a file, pvc, http",
        ),
        (
            job_dict(model={"uri": "pvc://m/x", "format": "TFLite"}),
            "spec.model.format: 'TFLite' is none of 'ONNX' or 'PyTorch'",
        ),
        (
            job_dict(techniques=[{"quantize": {}, "distill": {}}]),
            "spec.techniques[0]: a step names exactly one technique",
        ),
        (
            job_dict(constraints=[{"metric": "latencyP95", "max": "20Mi"}]),
            "spec.constraints[0]: the bound has the wrong unit",
        ),
        (
            job_dict(constraints=[{"metric": "accuracy", "maxDrop": 0.01}]),
            "spec.constraints[0].maxDrop: 0.01 is a number where text in quotes is wanted",
        ),
        (
            job_dict(constraints=[{"metric": "mse", "max": 5}]),
            "spec.constraints[0].max: 5 is a number where text in quotes is wanted",
        ),
        (
            job_dict(techniques=[{"prune": {"ratio": 3}}]),
            "spec.techniques[0].prune.ratio: 3 is refused: a mapping of fields is wanted, such as {values: ",
        ),
        (
            job_dict(techniques=[{"quantize": {"operatorScope": "All"}}]),
            "spec.techniques[0].quantize.operatorScope: 'All' is refused: a list is wanted: write ['All']",
        ),
        (
            job_dict(techniques=[{"nncf": {"calibrationSamples": {"values": [0]}}}]),
            "spec.techniques[0].nncf.calibrationSamples.values[0]: 0 is refused: input should be greater than or equal",
        ),
        (
            job_dict(model=3),
            "spec.model: 3 is refused: a mapping of fields is wanted, such as {name: value}",
        ),
        (job_dict(constraints=[{"metric": "accuracy"}]), "give exactly one of maxDrop, max and min"),
        (job_dict(search={"maxTrials": 0}), "spec.search.maxTrials: 0 is refused: input should be greater than"),
        (job_dict(techniques=[]), "spec.techniques: [] is refused: list should have at least 1 item"),
    ],
)
def test_a_bad_document_gets_one_line(tmp_path: Path, content: object, line: str) -> None:
    with pytest.raises(Refused) as refused:
        read_documents(written(tmp_path, content))
    text = str(refused.value)
    assert text.startswith(str(tmp_path / "job.yaml"))
    assert line in text
    assert len(text.splitlines()) == 1


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        read_documents(written(tmp_path, job_dict(model=None, data=None)))
    assert len(str(refused.value).splitlines()) == 2


def test_other_documents_in_the_file_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump_all([{"apiVersion": "v1", "kind": "Namespace"}, job_dict()]))
    assert read_job(file).metadata.name == "m"


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be read: No such file"):
        read_job(tmp_path / "none.yaml")


GOOD = yaml.safe_dump(job_dict())
SNIPPETS = [
    "2020-99-99", "2001-12-15T2:59:43.1+99:99", "1:x", "!!timestamp x", "!!int x", "!!float x", "!!bool x",
    "!!binary x", "? {a: b}", "&a [*a]", "*x", "<<: 3", '"\\ud800"', ".nan", "1e999", "[" * 3000, "- " * 2000, "\x00",
    "\u2028", "!!python/object:os.system", "%YAML 9.9\n---\n", "1: 2", '"a\\nb": 1',
]  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("documents") / "job.yaml"


def assert_read_or_refused(file: Path, content: bytes) -> None:
    """Never anything else, and every line of a refusal names the file."""
    file.write_bytes(content)
    lines: list[str] = []
    try:
        read_documents(file)
    except Refused as refused:
        lines = str(refused).splitlines()
    assert all(line.startswith(f"{file}: ") for line in lines)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda text: text[:20])
def test_whatever_yaml_makes_of_a_value_it_is_refused_in_words(file: Path, snippet: str) -> None:
    for text in (snippet, f"{GOOD}metadata: {snippet}\n", f"{GOOD}  {snippet}\n"):
        assert_read_or_refused(file, text.encode())


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(file: Path, content: bytes) -> None:
    assert_read_or_refused(file, content)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(SNIPPETS) | st.text(max_size=10), st.integers(0, len(GOOD)), st.integers(0, 30))
def test_any_splice_into_a_good_manifest(file: Path, snippet: str, at: int, cut: int) -> None:
    assert_read_or_refused(file, (GOOD[:at] + snippet + GOOD[at + cut :]).encode(errors="surrogatepass"))


KEYS = st.text() | st.integers() | st.none()
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(job_dict()["spec"])), VALUES)
def test_any_value_of_a_field(file: Path, field: str, value: object) -> None:
    content = job_dict()
    content["spec"][field] = value
    assert_read_or_refused(file, yaml.safe_dump(content).encode(errors="surrogatepass"))
