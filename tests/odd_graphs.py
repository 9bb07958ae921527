"""Models as strangers export them: each is small and has one thing that once broke a tool.

Every technique that takes ONNX must survive all of them: its result loads in ONNX Runtime and answers alike, or it
says in one line why it does not apply.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from onnx import TensorProto, helper, numpy_helper

from trimtab.api.model import ModelFormat
from trimtab_jobs.data import Splits
from trimtab_jobs.model import ONNX_FILE, Model
from trimtab_jobs.techniques import Bench

SAMPLES = 12
Arrays = dict[str, np.ndarray]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def written(text: str, **weights: np.ndarray) -> onnx.ModelProto:
    """A model in ONNX's own text syntax; the weights are its initializers."""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return model


def head(opset: int, ir: int = 8) -> str:
    return f'<ir_version: {ir}, opset_import: ["" : {opset}, "com.microsoft" : 1]>'


def perceptron(opset: int) -> onnx.ModelProto:
    return written(
        head(opset)
        + """ net (float[N,64] x) => (float[N,10] y) {
            h = Gemm <transB = 1> (x, w0, b0)  r = Relu (h)  y = Gemm <alpha = 0.5, beta = 2.0> (r, w1, b1)
        }""",
        w0=normal(32, 64), b0=normal(1, 32), w1=normal(32, 10), b1=normal(10),
    )  # fmt: skip


def weights_are_inputs() -> onnx.ModelProto:
    model = perceptron(9)
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return model


def constant_nodes() -> onnx.ModelProto:
    """Nodes without names, and weights of every form a Constant has."""
    model = written(
        head(13)
        + """ net (float[N,64] x) => (float[N,8] y, float[N,8] half, float[2] always) {
            z = MatMul (x, w)  f = Constant <value_float = 0.5> ()  half = Mul (z, f)
            s = Constant <value_ints = [-1, 8]> ()  t = Reshape (half, s)  y = Sigmoid (t)
            always = Constant <value_floats = [1.0, 2.0]> ()
        }"""
    )
    tensor = numpy_helper.from_array(normal(64, 8))
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
    return model


def fixed_batch() -> onnx.ModelProto:
    return written(
        head(11)
        + """ net (float[1,3,8,8] x) => (float[1,6] y) {
            c = Conv <pads = [1,1,1,1]> (x, w, b)  n = BatchNormalization (c, scale, bias, mean, var)  r = Relu (n)
            p = GlobalAveragePool (r)  f = Flatten (p)  m = MatMul (f, v)  y = Softmax <axis = 1> (m)
        }""",
        w=normal(16, 3, 3, 3), b=normal(16), scale=normal(16), bias=normal(16), mean=normal(16),
        var=np.abs(normal(16)) + 1, v=normal(16, 6),
    )  # fmt: skip


def recurrent() -> onnx.ModelProto:
    return written(
        head(14)
        + """ net (float[N,5,16] x) => (float[N,4] y) {
            t = Transpose <perm = [1,0,2]> (x)  all, last, cell = LSTM <hidden_size = 32> (t, w, r, b)
            axes = Constant <value_ints = [0]> ()  s = Squeeze (last, axes)  y = MatMul (s, v)
        }""",
        w=normal(1, 128, 16), r=normal(1, 128, 32), b=normal(1, 256), v=normal(32, 4),
    )  # fmt: skip


def detector() -> onnx.ModelProto:
    """The number of answers depends on the data."""
    return written(
        head(12)
        + """ net (float[N,6,64] x) => (float[N,6,4] boxes, int64[K,3] found) {
            z = MatMul (x, w)  boxes = Sigmoid (z)  s = MatMul (x, v)  score = Transpose <perm = [0,2,1]> (s)
            found = NonMaxSuppression (boxes, score, most, overlap, least)
        }""",
        w=normal(64, 4), v=normal(64, 2, seed=1), most=np.array([3], np.int64), overlap=np.array([0.5], np.float32),
        least=np.array([0.1], np.float32),
    )  # fmt: skip


def branches() -> onnx.ModelProto:
    """Weights in the branches of an If, and one of the outer graph that a branch uses."""
    return written(
        head(16)
        + """ net (float[N,64] x) => (float[N,8] y) {
            zero = Constant <value_float = 0.0> ()  sum = ReduceSum <keepdims = 0> (x)  up = Greater (sum, zero)
            y = If (up) <
                then_branch = yes () => (float[N,8] a) { h = MatMul (x, w)  one = Constant <value_float = 1.0> ()
                    a = Add (h, one) },
                else_branch = no () => (float[N,8] b) { k = MatMul (x, w)  two = Constant <value_float = 2.0> ()
                    b = Sub (k, two) }
            >
        }""",
        w=normal(64, 8),
    )


def loop() -> onnx.ModelProto:
    return written(
        head(16)
        + """ net (float[N,32] x) => (float[N,32] y) {
            times = Constant <value_int = 3> ()  yes = Cast <to = 9> (times)
            y = Loop (times, yes, x) <
                body = step (int64 i, bool more, float[N,32] before) => (bool again, float[N,32] after) {
                    again = Identity (more)  h = MatMul (before, w)  after = Tanh (h)
                }
            >
        }""",
        w=normal(32, 32) / 10,
    )


def double() -> onnx.ModelProto:
    return written(
        head(13) + " net (double[N,64] x) => (double[N,8] y) { h = MatMul (x, w)  y = Tanh (h) }",
        w=normal(64, 8).astype(np.float64),
    )


def half() -> onnx.ModelProto:
    return written(
        head(13) + " net (float16[N,64] x) => (float16[N,8] y) { h = MatMul (x, w)  y = Tanh (h) }",
        w=normal(64, 8).astype(np.float16),
    )


def shared() -> onnx.ModelProto:
    """One weight used twice, once transposed, and one that is an output too."""
    return written(
        head(15)
        + """ net (float[N,32] x) => (float[N,32] y, float[32,32] w) {
            h = MatMul (x, w)  g = Gemm <transB = 1> (h, w)  y = MatMul (g, v)
        }""",
        w=normal(32, 32), v=normal(32, 32, seed=1),
    )  # fmt: skip


def no_weights() -> onnx.ModelProto:
    return written(head(15) + " net (float[N,6,6] x) => (float[N,6,6] y) { z = MatMul (x, x)  y = Tanh (z) }")


def ranks() -> onnx.ModelProto:
    """Weights of three axes, of a real batch and of one, and an input of one sample's vector."""
    return written(
        head(17)
        + """ net (float[N,4,32] x) => (float[N,4,8] y, float[N,4,8] z, float[1,4,16] wide) {
            y = MatMul (x, batch)  z = MatMul (x, unit)
            first = Slice (x, zero, one, zero)  flat = Squeeze (first, zero)  wide = MatMul (flat, broad)
        }""",
        batch=normal(4, 32, 8)[:1].repeat(4, 0).reshape(4, 32, 8)[:1], unit=normal(1, 32, 8, seed=1),
        broad=normal(1, 32, 16, seed=2), zero=np.array([0], np.int64), one=np.array([1], np.int64),
    )  # fmt: skip


def embedding() -> onnx.ModelProto:
    return written(
        head(14)
        + """ net (int64[N,7] x) => (float[N,5] y, int64[N] best) {
            e = Gather (table, x)  m = ReduceMean <axes = [1], keepdims = 0> (e)  y = MatMul (m, w)
            best = ArgMax <axis = 1, keepdims = 0> (y)
        }""",
        table=normal(50, 64), w=normal(64, 5),
    )  # fmt: skip


def huge() -> onnx.ModelProto:
    """A mask as exporters write it, a weight beyond FLOAT16's range, and activations beyond it too."""
    mask = np.triu(np.full((8, 8), np.finfo(np.float32).min), 1).astype(np.float32)
    return written(
        head(15)
        + """ net (float[N,8,64] x) => (float[N,8,8] y, float[N,8,4] big) {
            m = MatMul (x, w)  masked = Add (m, mask)  y = Softmax (masked)  b = MatMul (x, v)  big = Mul (b, scale)
        }""",
        w=normal(64, 8), mask=mask, v=normal(64, 4), scale=np.array([1e6], np.float32),
    )  # fmt: skip


def resized() -> onnx.ModelProto:
    return written(
        head(13)
        + """ net (float[N,4,6,6] x) => (float[N,8,12,12] y) {
            r = Resize <mode = "linear"> (x, , scales)  low = Clip (r, least, most)  y = Conv (low, w)
        }""",
        scales=np.array([1, 1, 2, 2], np.float32), w=normal(8, 4, 1, 1), least=np.array(-2, np.float32),
        most=np.array(2, np.float32),
    )  # fmt: skip


def quantized() -> onnx.ModelProto:
    return written(
        head(13)
        + """ net (float[N,64] x) => (float[N,8] y) {
            q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  w = DequantizeLinear (i, t, z)
            y = MatMul (d, w)
        }""",
        s=np.array(0.03, np.float32), z=np.array(0, np.int8), t=np.array(0.02, np.float32),
        i=(normal(64, 8) * 30).clip(-127, 127).astype(np.int8),
    )  # fmt: skip


def trees() -> onnx.ModelProto:
    """A tabular model: operators of ai.onnx.ml, and an output of labels."""
    node = helper.make_node(
        "TreeEnsembleClassifier", ["x"], ["label", "scores"], domain="ai.onnx.ml", post_transform="NONE",
        nodes_treeids=[0, 0, 0], nodes_nodeids=[0, 1, 2], nodes_featureids=[1, 0, 0], nodes_values=[0.1, 0.0, 0.0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_truenodeids=[1, 0, 0], nodes_falsenodeids=[2, 0, 0],
        nodes_hitrates=[1.0] * 3, nodes_missing_value_tracks_true=[0] * 3, class_treeids=[0, 0], class_nodeids=[1, 2],
        class_ids=[0, 1], class_weights=[1.0, 1.0], classlabels_int64s=[0, 1],
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "trees",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 2]),
        ],
    )
    opsets = [helper.make_opsetid("", 15), helper.make_opsetid("ai.onnx.ml", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def encoder() -> onnx.ModelProto:
    """Self-attention and a skip connection as newer exports have them: the number of heads is -1."""
    return written(
        head(17)
        + """ net (float[N,L,32] x) => (float[N,L,32] y) {
            h = LayerNormalization <axis = -1> (x, g, o)
            qm = MatMul (h, wq)  q = Add (qm, b)  qr = Reshape (q, split)  qt = Transpose <perm = [0,2,1,3]> (qr)
            km = MatMul (h, wk)  k = Add (km, b)  kr = Reshape (k, split)  kt = Transpose <perm = [0,2,3,1]> (kr)
            vm = MatMul (h, wv)  v = Add (vm, b)  vr = Reshape (v, split)  vt = Transpose <perm = [0,2,1,3]> (vr)
            s = MatMul (qt, kt)  d = Div (s, root)  p = Softmax <axis = -1> (d)  c = MatMul (p, vt)
            ct = Transpose <perm = [0,2,1,3]> (c)  cr = Reshape (ct, join)  om = MatMul (cr, wo)  ob = Add (om, b)
            skip = Add (ob, h)  y = LayerNormalization <axis = -1> (skip, g, o)
        }""",
        g=normal(32), o=normal(32, seed=1), b=normal(32, seed=2), wq=normal(32, 32, seed=3),
        wk=normal(32, 32, seed=4), wv=normal(32, 32, seed=5), wo=normal(32, 32, seed=6),
        split=np.array([0, 0, -1, 8]), join=np.array([0, 0, 32]), root=np.array(8**0.5, np.float32),
    )  # fmt: skip


ODD: dict[str, Callable[[], onnx.ModelProto]] = {
    "opset 9": lambda: perceptron(9),
    "opset 21": lambda: perceptron(21),
    "weights are inputs": weights_are_inputs,
    "constant nodes": constant_nodes,
    "external data": lambda: perceptron(17),
    "fixed batch": fixed_batch,
    "LSTM": recurrent,
    "NonMaxSuppression": detector,
    "If": branches,
    "Loop": loop,
    "float64": double,
    "float16": half,
    "shared weights": shared,
    "no weights": no_weights,
    "ranks": ranks,
    "embedding": embedding,
    "huge values": huge,
    "Resize": resized,
    "quantized": quantized,
    "trees": trees,
    "attention": encoder,
}


def source(name: str, folder: Path) -> Model:
    """The odd model of that name as a Model in a folder of its own."""
    folder.mkdir()
    onnx.save(ODD[name](), folder / ONNX_FILE, save_as_external_data=name == "external data", size_threshold=0)
    return Model(folder, ModelFormat.ONNX).save_manifest()


def samples(model: Path) -> Arrays:
    """Inputs for it."""
    value = onnx.load(model).graph.input[0]
    shape = [SAMPLES, *(dim.dim_value or 6 for dim in value.type.tensor_type.shape.dim[1:])]
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    if dtype.kind == "i":
        return {value.name: np.random.default_rng(0).integers(0, 50, shape, dtype)}
    return {value.name: normal(*shape).astype(dtype)}


def workbench(folder: Path, arrays: Arrays, original: Model, notes: list[str]) -> Bench:
    """A Bench over these samples; the result goes to the new folder `out`, and what is noted to `notes`."""
    (folder / "out").mkdir()
    np.savez(folder / "samples.npz", **arrays)
    splits = Splits({"calibration": folder / "samples.npz", "evaluation": folder / "samples.npz"})
    return Bench(folder / "out", original, splits, seed=0, threads=1, note=notes.append, drop=lambda _: 0.0)
