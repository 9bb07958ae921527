"""What is read of an ONNX file, on magika's and on graphs with the less usual parts."""

from __future__ import annotations

from pathlib import Path

import magika
import onnx
import onnx.parser
import pytest
from onnx.external_data_helper import set_external_data

from bad_inputs import make_model
from trimtab.api.model import ModelFormat, ModelSource
from trimtab_jobs.model import open_model
from trimtab_jobs.onnx_model import external_files, import_source, inputs, is_copy, operators
from trimtab_jobs.signature import Input
from trimtab_jobs.store import digest_folder

MAGIKA = Path(magika.__file__).parent / "models/standard_v3_3/model.onnx"
SOURCE = ModelSource(uri="file:///model.onnx", format=ModelFormat.ONNX)

BRANCHES = """
<ir_version: 8, opset_import: ["" : 15]>
branches (float[batch,4] x, bool[1] flag) => (float[batch,4] y) {
    c = Squeeze (flag)
    y = If (c) <
        then_branch = g1 () => (float[batch,4] a) { a = Relu (x) },
        else_branch = g2 () => (float[batch,4] b) { n = Neg (x) b = Relu (n) }
    >
}
"""


def test_magika() -> None:
    assert inputs(MAGIKA) == [Input("bytes", "int32", ("N", 2048))]
    assert str(inputs(MAGIKA)[0]) == "bytes int32[N,2048]"
    counts = operators(MAGIKA)
    assert list(counts.values()) == sorted(counts.values(), reverse=True)
    assert counts["Conv"] >= 1


def test_nodes_of_branches_are_counted(tmp_path: Path) -> None:
    onnx.save(onnx.parser.parse_model(BRANCHES), tmp_path / "m.onnx")
    assert operators(tmp_path / "m.onnx") == {"Relu": 2, "If": 1, "Neg": 1, "Squeeze": 1}
    assert [str(given) for given in inputs(tmp_path / "m.onnx")] == ["x float32[N,4]", "flag bool[1]"]


def test_external_data_comes_along(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    onnx.save(make_model(), source / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (source / "unrelated.txt").write_text("stays")
    model = import_source(SOURCE, source / "m.onnx", None, out)
    assert sorted(path.name for path in out.iterdir()) == ["model.json", "model.onnx", "weights.bin"]
    assert model == open_model(out)
    assert model.size > (source / "weights.bin").stat().st_size


@pytest.mark.parametrize("changed", ["", "m.onnx", "weights.bin", "no weights.bin"])
def test_a_copy_is_known_until_a_file_of_the_model_changes(tmp_path: Path, changed: str) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    onnx.save(make_model(), source / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    import_source(SOURCE, source / "m.onnx", None, out)
    if changed.startswith("no "):
        (source / changed.removeprefix("no ")).unlink()
    elif changed:
        content = (source / changed).read_bytes()
        (source / changed).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert is_copy(out, source / "m.onnx") == (not changed)


def test_external_data_is_found_wherever_a_graph_keeps_it(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(BRANCHES)
    branches = [held.g for held in model.graph.node[1].attribute]
    model.graph.node.append(onnx.helper.make_node("Choose", ["c"], ["z"], domain="acme", branches=branches))
    places = {
        "main": model.graph.initializer.add(),
        "branch": model.graph.node[1].attribute[0].g.initializer.add(),
        "list": model.graph.node[2].attribute[0].graphs[1].initializer.add(),
    }
    for name, tensor in places.items():
        tensor.CopyFrom(onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, [1], b"\0" * 4, raw=True))
        set_external_data(tensor, f"{name}.bin")
        tensor.ClearField("raw_data")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert external_files(tmp_path / "m.onnx") == ["branch.bin", "list.bin", "main.bin"]


def test_the_same_model_has_the_same_digest_wherever_it_was(tmp_path: Path) -> None:
    digests = set()
    for name in ("a.onnx", "b.onnx"):
        onnx.save(make_model(), tmp_path / name)
        out = tmp_path / f"{name}-out"
        out.mkdir()
        import_source(SOURCE, tmp_path / name, None, out)
        digests.add(digest_folder(out))
    assert len(digests) == 1
