"""How to load the winner: a few lines of Python for its engine, ready to run.

They ask of the engine what it was measured with where that changes an answer: OpenVINO would compute a float32 model in
bfloat16 on CPUs that have it, and is told not to, or to. Names and paths go in as Python literals, so no input's name
can become code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from trimtab.api.model import EngineName
from trimtab.api.techniques import FloatPrecision, Step, chosen

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

model = openvino.compile_model({model!r}, "CPU", {{"INFERENCE_PRECISION_HINT": "{precision}"}})
inputs = {inputs}
outputs = model(inputs)
"""
_SNIPPETS = {EngineName.ONNXRUNTIME: _ONNXRUNTIME, EngineName.OPENVINO: _OPENVINO}

_FORM = re.compile(r"(?P<dtype>\w+)\[(?P<shape>.*)\]")
"""An input as Inspect writes it, such as `float32[N,64]`."""


def loading(engine: EngineName, model: str, inputs: Mapping[str, str], steps: Sequence[Step] = ()) -> str:
    """Python that loads the file `model` and runs it on one sample of zeros; empty for an engine that runs nowhere yet.

    `inputs` maps names to forms such as `float32[N,64]`; a size that the graph leaves open becomes 1. `steps` is the
    pipeline that made the model, its settings chosen.
    """
    snippet = _SNIPPETS.get(engine, "")
    zeros = (f"{name!r}: {_zeros(form)}" for name, form in inputs.items())
    return snippet.format(model=model, inputs="{" + ", ".join(zeros) + "}", precision=_precision(steps))


def _precision(steps: Sequence[Step]) -> str:
    casts = [step.cast_float for step in steps if step.cast_float]
    return "bf16" if any(chosen(cast.precision) == FloatPrecision.BFLOAT16 for cast in casts) else "f32"


def _zeros(form: str) -> str:
    found = _FORM.fullmatch(form)
    assert found, form
    sizes = [size if size.isdigit() else "1" for size in found["shape"].split(",") if size]
    return f"np.zeros(({', '.join(sizes)}{',' if len(sizes) == 1 else ''}), np.{found['dtype']})"
