"""Send the rows of an .npz file to a model server: `traffic.py http://magika:8080 magika rows.npz --rows 2000`.

Bounded in rate and count. Rows are sent in order and over again; `labels` are left out. With `--drifted` only the rows
of every second label are sent: the world lost half of its classes. The last line says how many were answered and how
fast.
"""

from __future__ import annotations

import argparse
import json
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator

import numpy as np

DATATYPES = {"bool": "BOOL", "float16": "FP16", "float32": "FP32", "float64": "FP64"} | {
    f"{kind}{bits}": f"{kind}{bits}".upper() for kind in ("int", "uint") for bits in (8, 16, 32, 64)
}
Arrays = dict[str, np.ndarray]


def main() -> None:
    given = arguments()
    arrays = read(given.file, given.drifted)
    url = f"{given.server}/v2/models/{given.model}/infer"
    codes, seconds = Counter[int](), []
    began = time.monotonic()
    for sent, batch in enumerate(batches(arrays, given.rows, given.batch)):
        time.sleep(max(0.0, began + sent * given.batch / given.rate - time.monotonic()))
        code, took = post(url, batch)
        codes[code] += 1
        seconds.append(took)
    p50, p95 = np.percentile(seconds, [50, 95]) * 1000
    answers = ", ".join(f"{count} × {code}" for code, count in sorted(codes.items()))
    print(f"{given.rows} rows: {answers}; p50 {p50:.2f} ms, p95 {p95:.2f} ms a request")


def read(file: str, drifted: bool) -> Arrays:
    with np.load(file) as stored:
        arrays = {name: stored[name] for name in stored.files}
    labels = arrays.pop("labels", None)
    if not drifted:
        return arrays
    if labels is None:
        raise SystemExit(f"{file}: no array `labels`, which --drifted chooses rows by; leave it out or add them")
    chosen = np.isin(labels, np.unique(labels)[::2])
    return {name: array[chosen] for name, array in arrays.items()}


def batches(arrays: Arrays, rows: int, size: int) -> Iterator[Arrays]:
    total = len(next(iter(arrays.values())))
    for start in range(0, rows, size):
        chosen = np.arange(start, min(start + size, rows)) % total
        yield {name: array[chosen] for name, array in arrays.items()}


def post(url: str, batch: Arrays) -> tuple[int, float]:
    """The HTTP status and the seconds it took."""
    tensors = [
        {
            "name": name,
            "datatype": DATATYPES[str(array.dtype)],
            "shape": array.shape,
            "data": array.ravel().tolist(),
        }
        for name, array in batch.items()
    ]
    request = urllib.request.Request(url, json.dumps({"inputs": tensors}).encode())
    started = time.perf_counter()
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()
            code = answer.status
    except urllib.error.HTTPError as error:
        print(error.read().decode())
        code = error.code
    return code, time.perf_counter() - started


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Send the rows of an .npz file to a model server.")
    parser.add_argument("server", help="such as http://magika:8080")
    parser.add_argument("model", help="the name it is served under")
    parser.add_argument("file", help="arrays by the model's input names")
    parser.add_argument("--rows", type=int, default=1000, help="how many rows in all (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="rows per request (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=100.0, help="rows per second at most (default: %(default)s)")
    parser.add_argument("--drifted", action="store_true", help="send only rows of every second label")
    return parser.parse_args()


if __name__ == "__main__":
    main()
