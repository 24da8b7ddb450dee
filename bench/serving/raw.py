"""The limit of the runtime: what `session.run` alone gives. Prints rows per second, and CPU seconds per row.

python raw.py MODEL.onnx ROWS.npz BATCH SECONDS
"""

from __future__ import annotations

import sys
import time

import numpy as np
import onnxruntime


def main(model: str, rows: str, batch: int, seconds: float) -> tuple[float, float]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    feeds = {name: np.resize(values, (batch, *values.shape[1:])) for name, values in np.load(rows).items()}
    for _ in range(3):
        session.run(names, feeds)
    runs, started, worked = 0, time.perf_counter(), time.process_time()
    while (took := time.perf_counter() - started) < seconds:
        session.run(names, feeds)
        runs += 1
    return runs * batch / took, (time.process_time() - worked) / (runs * batch)


if __name__ == "__main__":
    print(*main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
