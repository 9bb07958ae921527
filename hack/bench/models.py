"""Models to bench on that nobody tuned for: a folder each, with `model.onnx` and disjoint splits.

Four are this repository's examples, prepared by their own `prepare.py`. The others were published by other people, as
ONNX inside a wheel, and stand for what a stranger brings: opset 11 with weights in Constant nodes, fixed batches of 1,
a signal transform written as convolutions, an LSTM of 27 MB, maps and sequences instead of classes, no labels.

Where such a model keeps its batch on another axis than the first, a Transpose is put before or behind it, which is
what its user would do to serve it. Nothing else is changed.

    python -m bench.models FOLDER [NAME...]
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bench import inputs
from bench.wheels import unpacked

EXAMPLES = Path(__file__).parents[2] / "examples"
SPLITS = ("calibration", "evaluation", "holdout")
Sample = dict[str, Any]
"""The arrays of one sample, and `labels` where there is a truth."""


@dataclass(frozen=True)
class Published:
    """A model out of a wheel: where it is, how samples of its inputs are made, and how many of each split."""

    file: str
    kind: str
    samples: Callable[[inputs.Random], Iterator[Sample]]
    counts: tuple[int, int, int]
    adapt: Callable[[onnx.ModelProto], None] = lambda _: None

    def prepare(self, folder: Path) -> None:
        model = onnx.load(unpacked() / self.file)
        self.adapt(model)
        onnx.save(model, folder / "model.onnx")
        stream = self.samples(np.random.default_rng(7))
        for split, count in zip(SPLITS, self.counts, strict=True):
            rows = [next(stream) for _ in range(count)]
            arrays: dict[str, Any] = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
            np.savez_compressed(folder / f"{split}.npz", **arrays)


def prepare(name: str, folder: Path) -> Path:
    """The folder with that model's file and splits; made once."""
    done = folder / "holdout.npz"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        if name in PUBLISHED:
            PUBLISHED[name].prepare(folder)
        else:
            subprocess.run([sys.executable, EXAMPLES / name / "prepare.py", folder], check=True)
    return folder


def _pixels(image: Any) -> inputs.Array:
    """Float32 [3, height, width] from 0 to 255, blue first, as OpenCV reads files."""
    return np.ascontiguousarray(np.asarray(image, np.float32)[:, :, ::-1].transpose(2, 0, 1))


def turned_lines(rng: inputs.Random) -> Iterator[Sample]:
    """Lines, half of them upside down, which the labels say."""
    while True:
        upside_down = int(rng.integers(2))
        yield {"x": _pixels(inputs.line(rng, 48, 192, 180 * upside_down)) / 127.5 - 1, "labels": upside_down}


def lines(rng: inputs.Random) -> Iterator[Sample]:
    while True:
        yield {"x": _pixels(inputs.line(rng, 48, 320)) / 127.5 - 1}


def pages(rng: inputs.Random) -> Iterator[Sample]:
    while True:
        yield {"x": _pixels(inputs.page(rng, 320)) / 127.5 - 1}


def grey_lines(rng: inputs.Random) -> Iterator[Sample]:
    while True:
        yield {"input1": np.asarray(inputs.line(rng, 64, 160).convert("L"), np.float32)[None] / 255}


def photographs(rng: inputs.Random) -> Iterator[Sample]:
    while True:
        yield {"images": _pixels(inputs.page(rng, 416))}


def melodies(rng: inputs.Random) -> Iterator[Sample]:
    while True:
        yield {"serving_default_input_2:0": inputs.melody(rng, 43_844)[:, None]}


FRAME, CONTEXT = 512, 64
"""Silero hears 32 ms at a time, and the last 4 ms before them."""


def recordings(rng: inputs.Random) -> Iterator[tuple[inputs.Array, inputs.Array]]:
    """Frames [n, 576] of two spoken sentences with pauses in noise, and for each whether somebody speaks."""
    voices = ("en-us", "en-gb", "en-us+f2", "en-gb+f4", "en-us+m3", "de", "fr", "es")
    while True:
        parts: list[inputs.Array] = []
        spoken: list[inputs.Array] = []
        for _ in range(2):
            said = inputs.speech(inputs.words(rng, 12), str(rng.choice(voices)), int(rng.integers(130, 220)))
            pause = np.zeros(int(rng.uniform(0.5, 2.5) * inputs.SPEECH_HERTZ), np.float32)
            parts += [pause, said * rng.uniform(0.2, 1)]
            spoken += [np.zeros(len(pause)), np.abs(said) > 0.01]
        sound = np.concatenate(parts) + rng.normal(0, rng.uniform(0.0005, 0.01), sum(len(part) for part in parts))
        count = (len(sound) - CONTEXT) // FRAME
        starts = FRAME * np.arange(count)
        frames = sound[starts[:, None] + np.arange(CONTEXT + FRAME)].astype(np.float32)
        loud = np.concatenate(spoken)[starts[:, None] + CONTEXT + np.arange(FRAME)].mean(axis=1)
        yield frames, (loud > 0.1).astype(np.int64)


def clips(rng: inputs.Random) -> Iterator[Sample]:
    """Two seconds each."""
    for frames, _ in recordings(rng):
        for start in range(0, len(frames) - 63, 64):
            yield {"input": frames[start : start + 64]}


def frames_with_state(rng: inputs.Random) -> Iterator[Sample]:
    """Single frames with the state that the model has when it gets there, every seventh of a recording."""
    import onnxruntime

    session = onnxruntime.InferenceSession(unpacked() / SILERO_STREAM, providers=["CPUExecutionProvider"])
    for frames, spoken in recordings(rng):
        state = np.zeros((2, 1, 128), np.float32)
        for index, frame in enumerate(frames):
            if index % 7 == 6:
                yield {"input": frame, "state": state.swapaxes(0, 1)[0], "labels": spoken[index]}
            _, state = session.run(None, {"input": frame[None], "state": state})


def batch_first(model: onnx.ModelProto) -> None:
    """Behind the output [steps, batch, classes], the same as [batch, steps, classes]."""
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = [f"{name}_steps_first" if name == output else name for name in node.output]
    model.graph.node.append(helper.make_node("Transpose", [f"{output}_steps_first"], [output], perm=[1, 0, 2]))
    described = helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, [1, "steps", "classes"])
    model.graph.output[0].CopyFrom(described)


def whole_clip(model: onnx.ModelProto) -> None:
    """One sample is a clip [1, 64, 576], heard from silence: the state starts as zeros."""
    graph = model.graph
    for state in ("h", "c"):
        graph.initializer.append(numpy_helper.from_array(np.zeros((1, 1, 128), np.float32), state))
    _rename_reads(model, {"input": "frames"})
    graph.initializer.append(numpy_helper.from_array(np.array([0]), "batch_axis"))
    graph.node.insert(0, helper.make_node("Squeeze", ["input", "batch_axis"], ["frames"]))
    graph.node.append(helper.make_node("Unsqueeze", ["speech_probs", "batch_axis"], ["speech"]))
    _declare(model, {"input": [1, 64, 576]}, {"speech": [1, 64]})


def state_batch_first(model: onnx.ModelProto) -> None:
    """The state as [batch, 2, 128], and as scores the probabilities of silence and of speech."""
    graph = model.graph
    _rename_reads(model, {"state": "state_layers_first"})
    graph.node.insert(0, helper.make_node("Transpose", ["state"], ["state_layers_first"], perm=[1, 0, 2]))
    graph.initializer.append(numpy_helper.from_array(np.array([1], np.float32), "one"))
    graph.node.append(helper.make_node("Sub", ["one", "output"], ["silence"]))
    graph.node.append(helper.make_node("Concat", ["silence", "output"], ["scores"], axis=1))
    graph.node.append(helper.make_node("Transpose", ["stateN"], ["next_state"], perm=[1, 0, 2]))
    _declare(model, {"input": [1, 576], "state": [1, 2, 128]}, {"scores": [1, 2], "next_state": [1, 2, 128]})


def _rename_reads(model: onnx.ModelProto, renamed: dict[str, str]) -> None:
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]


def _declare(model: onnx.ModelProto, given: dict[str, list[int]], made: dict[str, list[int]]) -> None:
    for values, shapes in ((model.graph.input, given), (model.graph.output, made)):
        del values[:]
        values.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, s) for name, s in shapes.items())


RAPIDOCR = "rapidocr_onnxruntime/models"
SILERO_STREAM = "silero_vad/data/silero_vad_openvino_16k.onnx"

PUBLISHED = {
    "ppocr-cls": Published(f"{RAPIDOCR}/ch_ppocr_mobile_v2.0_cls_infer.onnx", "CNN", turned_lines, (200, 1000, 1000)),
    "basic-pitch": Published("basic_pitch/saved_models/icassp_2022/nmp.onnx", "CNN", melodies, (64, 100, 100)),
    "ppocr-rec": Published(f"{RAPIDOCR}/ch_PP-OCRv4_rec_infer.onnx", "CRNN", lines, (100, 200, 200)),
    "ddddocr": Published("ddddocr/common.onnx", "CRNN", grey_lines, (100, 200, 200), batch_first),
    "silero-clip": Published(
        "silero_vad/data/silero_vad_16k_sequence.onnx", "conv+LSTM", clips, (100, 200, 200), whole_clip
    ),
    "silero-frame": Published(SILERO_STREAM, "conv+LSTM", frames_with_state, (300, 1000, 1000), state_batch_first),
    "ppocr-det": Published(f"{RAPIDOCR}/ch_PP-OCRv4_det_infer.onnx", "detector", pages, (50, 80, 80)),
    "ddddocr-det": Published("ddddocr/common_det.onnx", "detector", photographs, (50, 80, 80)),
}
NAMES = ("magika", "minilm", "digits", "tabular", *PUBLISHED)


if __name__ == "__main__":
    out, *asked = sys.argv[1:]
    for one in asked or NAMES:
        print(prepare(one, Path(out, one)))
