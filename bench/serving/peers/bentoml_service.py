"""ONNX Runtime as a service of BentoML; what it writes and measures per request is switched off."""

import os
from typing import Any

import bentoml
import numpy as np
import onnxruntime


@bentoml.service(workers=1, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Iris:
    """One `run` per request, on the event loop."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])

    @bentoml.api(route="/v2/models/iris/infer")
    async def infer(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        (tensor,) = inputs
        rows = np.array(tensor["data"], np.float32).reshape(tensor["shape"])
        label, probabilities = self.session.run(None, {tensor["name"]: rows})
        return {
            "model_name": "iris",
            "outputs": [
                {"name": "label", "shape": list(label.shape), "datatype": "INT64", "data": label.tolist()},
                {
                    "name": "probabilities",
                    "shape": list(probabilities.shape),
                    "datatype": "FP32",
                    "data": probabilities.ravel().tolist(),
                },
            ],
        }
