"""FastAPI as its users write it: a checked body, an async handler, orjson; on uvicorn with uvloop and httptools."""

import os
from typing import Any

import numpy as np
import onnxruntime
import orjson
import uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
app = FastAPI()


class Tensor(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class Inference(BaseModel):
    inputs: list[Tensor]


@app.post("/v2/models/iris/infer")
async def infer(request: Inference) -> Response:
    """One `run` per request; the JSON is written by orjson and not checked again."""
    (tensor,) = request.inputs
    rows = np.array(tensor.data, np.float32).reshape(tensor.shape)
    label, probabilities = session.run(None, {tensor.name: rows})
    answer: dict[str, Any] = {
        "model_name": "iris",
        "outputs": [
            {"name": "label", "shape": label.shape, "datatype": "INT64", "data": label},
            {"name": "probabilities", "shape": probabilities.shape, "datatype": "FP32", "data": probabilities.ravel()},
        ],
    }
    return Response(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
