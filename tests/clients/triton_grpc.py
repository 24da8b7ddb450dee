"""Drives a server with the unchanged `tritonclient.grpc`: python triton_grpc.py sync|aio ADDRESS MODEL VERSION.

Prints one JSON object with everything that came back. The model is iris: X, FP32 [-1, 4], to label and probabilities.
"""

import asyncio
import inspect
import json
import queue
import sys

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

ROWS = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3], [5.9, 3.0, 4.2, 1.5]], np.float32)
MANY = np.tile(ROWS, (20_000, 1))


def tensor(rows=ROWS, name="X"):
    return InferInput(name, list(rows.shape), "FP32").set_data_from_numpy(rows)


def described(result):
    outputs = {}
    for output in result.get_response().outputs:
        array = result.as_numpy(output.name)
        data = [text.decode() if isinstance(text, bytes) else text for text in array.ravel().tolist()]
        outputs[output.name] = {"dtype": str(array.dtype), "shape": list(array.shape), "data": data}
    return {"id": result.get_response().id, "outputs": outputs}


FAILURES = {
    "another model": {"model_name": "beer", "inputs": [tensor()]},
    "another input": {"inputs": [tensor(name="Y")]},
    "another shape": {"inputs": [tensor(ROWS[:, :3])]},
    "another output": {"inputs": [tensor()], "outputs": [InferRequestedOutput("Z")]},
    "a classification of labels": {"inputs": [tensor()], "outputs": [InferRequestedOutput("label", class_count=2)]},
    "a shared memory region": {"inputs": [InferInput("X", [1, 4], "FP32")]},
}
FAILURES["a shared memory region"]["inputs"][0].set_shared_memory("region", 16)


async def drive(client, model, version, stream):
    """`client`'s methods may be coroutines or not."""

    async def call(method, *arguments, **options):
        made = getattr(client, method)(*arguments, **options)
        return await made if inspect.isawaitable(made) else made

    seen = {
        "live": await call("is_server_live"),
        "ready": await call("is_server_ready"),
        "model ready": await call("is_model_ready", model, version),
        "server": await call("get_server_metadata", as_json=True),
        "model": await call("get_model_metadata", model, as_json=True),
        "index": await call("get_model_repository_index", as_json=True),
        "config": await call("get_model_config", model, version, as_json=True),
    }
    names = ("probabilities", "label")
    chosen = {"outputs": [InferRequestedOutput(name) for name in names], "request_id": "é 1", "model_version": version}
    seen["inferences"] = {
        "usual": described(await call("infer", model, [tensor()])),
        "chosen": described(await call("infer", model, [tensor()], **chosen)),
        "parameters": described(await call("infer", model, [tensor()], priority=1, parameters={"who": "me"})),
        "with a deadline": described(await call("infer", model, [tensor()], client_timeout=30)),
    }
    classes = [InferRequestedOutput("probabilities", class_count=2), InferRequestedOutput("label")]
    seen["classes"] = described(await call("infer", model, [tensor()], outputs=classes))
    seen["packed"] = [
        described(await call("infer", model, [tensor(rows)], compression_algorithm=coding))
        for coding in ("gzip", "deflate")
        for rows in (ROWS, MANY)
    ]
    seen["failures"] = {}
    for name, options in FAILURES.items():
        try:
            await call("infer", options.pop("model_name", model), **options)
        except InferenceServerException as error:
            seen["failures"][name] = (error.status(), error.message())
    for method in ("load_model", "unload_model"):
        try:
            await call(method, model)
        except InferenceServerException as error:
            seen["failures"][method] = (error.status(), error.message())
    seen["statistics"] = await call("get_inference_statistics", model, as_json=True)
    seen["stream"] = await stream(client, model)
    return seen


async def sync_stream(client, model):
    answers = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for number in range(20):
        client.async_stream_infer(model if number != 5 else "beer", [tensor()], request_id=str(number))
    seen = [answers.get(timeout=30) for _ in range(20)]
    client.stop_stream()
    return [str(error) if error else described(result) for result, error in seen]


async def aio_stream(client, model):
    async def requests():
        for number in range(20):
            yield {"model_name": model if number != 5 else "beer", "inputs": [tensor()], "request_id": str(number)}

    return [str(error) if error else described(result) async for result, error in client.stream_infer(requests())]


def main(flavour, address, model, version):
    async def run():
        if flavour == "sync":
            with tritonclient.grpc.InferenceServerClient(address) as client:
                return await drive(client, model, version, sync_stream)
        async with tritonclient.grpc.aio.InferenceServerClient(address) as client:
            return await drive(client, model, version, aio_stream)

    print(json.dumps(asyncio.run(run())))


if __name__ == "__main__":
    main(*sys.argv[1:])
