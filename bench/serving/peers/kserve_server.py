"""ONNX Runtime as a custom model of KServe's server."""

import os

import onnxruntime
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class Iris(Model):
    """One `run` per request, on the event loop."""

    def __init__(self) -> None:
        super().__init__("iris")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
        self.ready = True

    async def predict(self, payload: InferRequest, headers=None, response_headers=None) -> InferResponse:
        (tensor,) = payload.inputs
        label, probabilities = self.session.run(None, {tensor.name: tensor.as_numpy()})
        outputs = []
        for name, datatype, values in (("label", "INT64", label), ("probabilities", "FP32", probabilities)):
            output = InferOutput(name, list(values.shape), datatype)
            output.set_data_from_numpy(values, binary_data=False)
            outputs.append(output)
        return InferResponse(payload.id or "", "iris", outputs)


if __name__ == "__main__":
    ModelServer(
        http_port=int(os.environ["PORT"]),
        grpc_port=int(os.environ["GRPC_PORT"]),
        workers=1,
        enable_latency_logging=False,
    ).start([Iris()])
