"""FastAPI on uvicorn with uvloop and httptools, and a checked body.

At its best, an async handler gives bytes that orjson has made; with HANDLER=def it is as in FastAPI's tutorial: a plain
function that gives a dictionary.
"""

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


def run(request: Inference) -> tuple[Any, Any]:
    """One `run` per request: label and probabilities."""
    (tensor,) = request.inputs
    rows = np.array(tensor.data, np.float32).reshape(tensor.shape)
    label, probabilities = session.run(None, {tensor.name: rows})
    return label, probabilities


async def best(request: Inference) -> Response:
    label, probabilities = run(request)
    answer = {
        "model_name": "iris",
        "outputs": [
            {"name": "label", "shape": label.shape, "datatype": "INT64", "data": label},
            {"name": "probabilities", "shape": probabilities.shape, "datatype": "FP32", "data": probabilities.ravel()},
        ],
    }
    return Response(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


def usual(request: Inference) -> dict[str, Any]:
    label, probabilities = run(request)
    shape, numbers = list(probabilities.shape), probabilities.ravel().tolist()
    return {
        "model_name": "iris",
        "outputs": [
            {"name": "label", "shape": list(label.shape), "datatype": "INT64", "data": label.tolist()},
            {"name": "probabilities", "shape": shape, "datatype": "FP32", "data": numbers},
        ],
    }


app.post("/v2/models/iris/infer")(usual if os.environ.get("HANDLER") == "def" else best)


if __name__ == "__main__":
    workers = int(os.environ.get("WORKERS", "1"))
    uvicorn.run(
        "fastapi_server:app" if workers > 1 else app,
        workers=workers,
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
