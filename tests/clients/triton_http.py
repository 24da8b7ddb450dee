"""Drives a server with the unchanged `tritonclient.http`: python triton_http.py sync|aio ADDRESS MODEL VERSION.

Prints one JSON object with everything that came back. The model is iris: X, FP32 [-1, 4], to label and probabilities.
"""

import asyncio
import inspect
import json
import sys

import numpy as np
import tritonclient.http
import tritonclient.http.aio
from tritonclient.http import InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

ROWS = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3], [5.9, 3.0, 4.2, 1.5]], np.float32)


MANY = np.tile(ROWS, (2000, 1))


def tensor(*, binary, rows=ROWS):
    return InferInput("X", list(rows.shape), "FP32").set_data_from_numpy(rows, binary_data=binary)


def outputs(*binary):
    names = ("probabilities", "label")
    return [InferRequestedOutput(name, binary_data=each) for name, each in zip(names, binary, strict=True)]


def described(result):
    found = {"id": result.get_response().get("id"), "outputs": {}}
    for output in result.get_response()["outputs"]:
        array = result.as_numpy(output["name"])
        found["outputs"][output["name"]] = {
            "binary": "data" not in output,
            "dtype": str(array.dtype),
            "shape": list(array.shape),
            "data": [text.decode() if isinstance(text, bytes) else text for text in array.ravel().tolist()],
        }
    return found


INFERENCES = {
    "binary": {"inputs": [tensor(binary=True)]},
    "json": {"inputs": [tensor(binary=False)], "outputs": outputs(False, False)},
    "json to binary": {"inputs": [tensor(binary=False)]},
    "binary to json": {"inputs": [tensor(binary=True)], "outputs": outputs(False, False)},
    "mixed": {"inputs": [tensor(binary=True)], "outputs": outputs(True, False), "request_id": "é 1"},
    "classes": {
        "inputs": [tensor(binary=True)],
        "outputs": [InferRequestedOutput("probabilities", class_count=2), InferRequestedOutput("label")],
    },
    "classes in json": {
        "inputs": [tensor(binary=True)],
        "outputs": [InferRequestedOutput("probabilities", binary_data=False, class_count=2)],
    },
    "parameters": {"inputs": [tensor(binary=True)], "priority": 1, "timeout": 9_000_000, "parameters": {"who": "me"}},
}
FAILURES = {
    "another input": {"inputs": [InferInput("Y", [1, 4], "FP32").set_data_from_numpy(ROWS[:1])]},
    "another shape": {"inputs": [InferInput("X", [1, 3], "FP32").set_data_from_numpy(ROWS[:1, :3])]},
    "a classification of labels": {
        "inputs": [tensor(binary=True)],
        "outputs": [InferRequestedOutput("label", class_count=2)],
    },
    "another output": {"inputs": [tensor(binary=True)], "outputs": [InferRequestedOutput("Z")]},
    "a shared memory region": {"inputs": [InferInput("X", [1, 4], "FP32").set_shared_memory("region", 16)]},
}


PACKED = [
    {
        "inputs": [tensor(binary=binary, rows=MANY)],
        "outputs": outputs(binary, binary),
        "request_compression_algorithm": sent,
        "response_compression_algorithm": wanted,
    }
    for binary in (True, False)
    for sent in (None, "gzip", "deflate")
    for wanted in (None, "gzip", "deflate")
]


async def of(value):
    return await value if inspect.isawaitable(value) else value


async def drive(client, model, version):
    seen = {
        "live": await of(client.is_server_live()),
        "ready": await of(client.is_server_ready()),
        "model ready": await of(client.is_model_ready(model, version)),
        "another model ready": await of(client.is_model_ready("beer")),
        "server": await of(client.get_server_metadata()),
        "model": await of(client.get_model_metadata(model)),
        "config": await of(client.get_model_config(model, version)),
        "statistics": await of(client.get_inference_statistics(model)),
        "index": await of(client.get_model_repository_index()),
        "packed": [described(await of(client.infer(model, **arguments))) for arguments in PACKED],
        "inferences": {},
        "failures": {},
    }
    for name, arguments in INFERENCES.items():
        for chosen in ("", version):
            seen["inferences"][f"{name} {chosen}"] = described(
                await of(client.infer(model, model_version=chosen, **arguments))
            )
    for name, arguments in FAILURES.items():
        try:
            await of(client.infer(model, **arguments))
        except InferenceServerException as error:
            seen["failures"][name] = [error.status(), error.message()]
    try:
        await of(client.load_model(model))
    except InferenceServerException as error:
        seen["failures"]["a load"] = [error.status(), error.message()]
    return seen


async def main(kind, address, model, version):
    if kind == "aio":
        async with tritonclient.http.aio.InferenceServerClient(address) as client:
            seen = await drive(client, model, version)
            many = await asyncio.gather(*(client.infer(model, **INFERENCES["binary"]) for _ in range(50)))
    else:
        with tritonclient.http.InferenceServerClient(address, concurrency=8) as client:
            seen = await drive(client, model, version)
            requests = [client.async_infer(model, **INFERENCES["binary"]) for _ in range(50)]
            many = [request.get_result() for request in requests]
    seen["together"] = [described(result) for result in many]
    print(json.dumps(seen))


asyncio.run(main(*sys.argv[1:]))
