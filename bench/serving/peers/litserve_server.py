"""ONNX Runtime as an API of LitServe: one process for HTTP, one for the model, as it is made to run."""

import os
from typing import Any

import litserve
import numpy as np
import onnxruntime


class Iris(litserve.LitAPI):
    """One `run` per request."""

    def setup(self, device: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])

    def decode_request(self, request: dict[str, Any]) -> dict[str, Any]:
        (tensor,) = request["inputs"]
        return {tensor["name"]: np.array(tensor["data"], np.float32).reshape(tensor["shape"])}

    def predict(self, feeds: dict[str, Any]) -> list[Any]:
        return self.session.run(None, feeds)

    def encode_response(self, outputs: list[Any]) -> dict[str, Any]:
        label, probabilities = outputs
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


if __name__ == "__main__":
    server = litserve.LitServer(
        Iris(api_path="/v2/models/iris/infer"), accelerator="cpu", workers_per_device=1, fast_queue=True
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
