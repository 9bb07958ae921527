"""How to load the winner: a few lines of Python for its engine, ready to run.

They ask of the engine what it was measured with where that changes an answer: OpenVINO would compute a float32 model in
bfloat16 on CPUs that have it. Names and paths go in as Python literals, so no input's name can become code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from trimtab.api.model import EngineName

_ONNXRUNTIME = """\
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession({model!r}, providers=["CPUExecutionProvider"])
inputs = {inputs}
outputs = session.run(None, inputs)
"""
_OPENVINO = """\
import numpy as np
import openvino

model = openvino.compile_model({model!r}, "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})
inputs = {inputs}
outputs = model(inputs)
"""
_SNIPPETS = {EngineName.ONNXRUNTIME: _ONNXRUNTIME, EngineName.OPENVINO: _OPENVINO}

_FORM = re.compile(r"(?P<dtype>\w+)\[(?P<shape>.*)\]")
"""An input as Inspect writes it, such as `float32[N,64]`."""


def loading(engine: EngineName, model: str, inputs: Mapping[str, str]) -> str:
    """Python that loads the file `model` and runs it on one sample of zeros; empty for an engine that runs nowhere yet.

    `inputs` maps names to forms such as `float32[N,64]`; a size that the graph leaves open becomes 1.
    """
    snippet = _SNIPPETS.get(engine, "")
    zeros = (f"{name!r}: {_zeros(form)}" for name, form in inputs.items())
    return snippet.format(model=model, inputs="{" + ", ".join(zeros) + "}")


def _zeros(form: str) -> str:
    found = _FORM.fullmatch(form)
    assert found, form
    sizes = [size if size.isdigit() else "1" for size in found["shape"].split(",") if size]
    return f"np.zeros(({', '.join(sizes)}{',' if len(sizes) == 1 else ''}), np.{found['dtype']})"
