"""The OpenAPI document of what this server answers, made from its routes and from the model's signature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from holdfast_serving.routes import Operation, Paths
from holdfast_serving.served import VERSION, Served, loading

if TYPE_CHECKING:
    from holdfast_bundle.manifest import Tensor

Schema = dict[str, Any]

_JSON, _BYTES = "application/json", "application/octet-stream"
_STATUSES = {
    400: "The request does not fit the model or the protocol; or it is no HTTP/1.1.",
    403: "Refused: whoever asks, or whoever asks without a client certificate.",
    408: "Head or body came too slowly.",
    411: "The body has no Content-Length.",
    413: "The body is too large, or would be once it is unpacked.",
    415: "The body has another Content-Type or Content-Encoding than it may.",
    429: "More than is taken in a minute.",
    500: "The model failed on this request.",
    503: "Too much is waiting, or the model is still being loaded; the same request may succeed soon.",
    504: "The request waited longer than it may; it was not tried.",
}
_INTEGERS = {
    f"{sign}INT{bits}": (0 if sign else -(2 ** (bits - 1)), 2 ** (bits if sign else bits - 1) - 1)
    for sign in ("", "U")
    for bits in (8, 16, 32, 64)
}
_NOT_HERE = ("shared_memory_byte_size", "shared_memory_offset", "shared_memory_region")


def document(paths: Paths, served: Served, example: Sequence[Schema] | None) -> Schema:
    """The document. Raises Problem 503 while the model is loading.

    Args:
        example: inputs of a request, where JSON can carry them.
    """
    if served.signature is None:
        raise loading()
    return {
        "openapi": "3.1.1",
        "info": {
            "title": f"{served.name} (Open Inference Protocol V2)",
            "version": served.revision,
            "description": f"Model {served.name}, revision {served.revision}, served by holdfast-serving {VERSION}.",
        },
        "servers": [{"url": "/"}],
        "paths": {
            path: {
                method.lower(): _operation(path, endpoint.about, endpoint.needs_body, example)
                for method, endpoint in methods.items()
                if endpoint.about is not None
            }
            for path, methods in paths.items()
        },
        "components": {
            "schemas": _schemas(served.signature.inputs, served.signature.outputs, receipts=served.feedback is not None)
        },
    }


def _operation(path: str, about: Operation, needs_body: bool, example: Sequence[Schema] | None) -> Schema:
    made: Schema = {
        "operationId": about.name + ("OfRevision" if "/versions/" in path else ""),
        "summary": about.summary,
        "responses": {str(status): _problem(status, about) for status in about.statuses},
    }
    if about.answer is not None:
        media: Schema = {about.media_type: {"schema": _reference(about.answer) if about.answer else _TEXT}}
        if about.is_inference:
            media[_BYTES] = {}
        made["responses"]["200"] = {"description": "As asked.", "content": media}
    if about.is_inference:
        made["responses"]["200"]["headers"] = {
            "Inference-Header-Content-Length": _size("Bytes of the body that are JSON, if tensors stand behind it.")
        }
        made["parameters"] = [
            {"in": "header", "name": "Inference-Header-Content-Length"}
            | _size("Bytes of the body that are JSON, if tensors stand behind it; 0: the body is the only input."),
            {"in": "header", "name": "Request-Timeout-Ms"}
            | _size("Milliseconds in which the answer is of use; never more than the server's own limit.", 1),
        ]
    if about.takes:
        content: Schema = {_JSON: {"schema": _reference(about.takes)}}
        if about.is_inference:
            content[_BYTES] = {}
            if example is not None:
                content[_JSON]["example"] = {"inputs": example}
        made["requestBody"] = {"required": needs_body, "content": content}
    return made


def _problem(status: int, about: Operation) -> Schema:
    """A response other than success; health and readiness have the same object for both."""
    if status == 503 and about.is_health and about.answer:
        return {"description": "No.", "content": {_JSON: {"schema": _reference(about.answer)}}}
    made = {"description": _STATUSES[status], "content": {_JSON: {"schema": _reference("Error")}}}
    if status in (429, 503):
        made["headers"] = {"Retry-After": _size("Seconds.")}
    return made


def _schemas(inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, receipts: bool) -> Schema:
    names = [f"Input{number}" for number in range(1, len(inputs) + 1)]
    return {
        "Error": _object({"error": {"type": "string"}}),
        "Server": _object({"name": _TEXT, "version": _TEXT, "extensions": {"type": "array", "items": _TEXT}}),
        "Live": _object({"live": {"type": "boolean"}}),
        "Ready": _object({"ready": {"type": "boolean"}}),
        "Models": _object({"models": {"type": "array", "items": _TEXT}}),
        "Model": _object(
            {
                "name": _TEXT,
                "versions": {"type": "array", "items": _TEXT},
                "platform": _TEXT,
                "inputs": {"type": "array", "items": _reference("Tensor")},
                "outputs": {"type": "array", "items": _reference("Tensor")},
                "parameters": {"type": "object"},
            }
        ),
        "Tensor": _object({"name": _TEXT, "datatype": _TEXT, "shape": {"type": "array", "items": {"type": "integer"}}}),
        "Configuration": _object({"name": _TEXT, "backend": _TEXT, "max_batch_size": {"type": "integer"}}),
        "Statistics": _object({"model_stats": {"type": "array", "items": {"type": "object"}}}),
        "IndexRequest": {"type": "object", "properties": {"ready": {"type": "boolean"}}},
        "Index": {
            "type": "array",
            "items": _object({"name": _TEXT, "version": _TEXT, "state": _TEXT, "reason": _TEXT}),
        },
        "Change": {"type": "object"},
        "Document": {"type": "object"},
        **(_FEEDBACK if receipts else {}),
        "InferRequest": _infer_request(names, inputs, outputs, receipts=receipts),
        **{name: _input(tensor) for name, tensor in zip(names, inputs, strict=True)},
        **{f"Elements{datatype}": _elements(datatype) for datatype in {tensor.datatype for tensor in inputs}},
        "InferResponse": _object(
            {
                "model_name": _TEXT,
                "model_version": _TEXT,
                "outputs": {"type": "array", "items": {"anyOf": [_output(tensor) for tensor in outputs]}},
            },
            id=_TEXT,
            parameters={"type": "object"},
        ),
    }


def _infer_request(
    names: Sequence[str], inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, receipts: bool
) -> Schema:
    receipt = {"type": "boolean"} if receipts else {"const": False}
    parameters = _parameters(binary_data_output={"type": "boolean"}, receipt=receipt)
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": ["string", "null"]},
            "parameters": parameters,
            "inputs": {
                "type": "array",
                "minItems": len(names),
                "maxItems": len(names),
                "description": "Every input once, in any order.",
                "items": {"anyOf": [_reference(name) for name in names]},
            },
            "outputs": {
                "type": ["array", "null"],
                "maxItems": len(outputs),
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": {"enum": [tensor.name for tensor in outputs]},
                        "parameters": _parameters(binary_data={"type": "boolean"}, classification=_CLASSIFICATION),
                    },
                },
            },
        },
    }


def _input(tensor: Tensor) -> Schema:
    return {
        "type": "object",
        "required": ["name", "datatype", "shape", "data"],
        "properties": {
            "name": {"const": tensor.name},
            "datatype": {"const": tensor.datatype},
            "shape": _shape(tensor.shape),
            "data": {
                "type": "array",
                "description": "Flat, or nested as the shape; as many elements as it asks for.",
                "items": _reference(f"Elements{tensor.datatype}"),
            },
            "parameters": _parameters(),
        },
    }


def _output(tensor: Tensor) -> Schema:
    return {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": {"const": tensor.name},
            "datatype": {
                "enum": sorted({tensor.datatype, "BYTES"}),
                "description": "BYTES where a classification was asked for.",
            },
            "shape": {"type": "array", "items": {"type": "integer"}},
            "data": {"type": "array"},
            "parameters": _object({"binary_data_size": {"type": "integer"}}),
        },
    }


def _shape(dimensions: Sequence[int]) -> Schema:
    """Of an input; a model that does not say takes any."""
    if not dimensions:
        return {"type": "array", "items": {"type": "integer", "minimum": 1}}
    sizes = [{"type": "integer", "minimum": 1} if size == -1 else {"const": size} for size in dimensions]
    return {"type": "array", "prefixItems": sizes, "minItems": len(sizes), "maxItems": len(sizes)}


def _elements(datatype: str) -> Schema:
    """An element, or a list of them."""
    if datatype == "FP16":
        return {"not": {}, "description": "FP16 has no form in JSON: it goes as binary data."}
    if datatype in _INTEGERS:
        least, most = _INTEGERS[datatype]
        single: Schema = {"type": "integer", "minimum": least, "maximum": most}
    elif datatype.startswith("FP"):
        single = {"type": ["number", "null"], "description": "null: a missing value"}
    else:
        single = {"type": "boolean" if datatype == "BOOL" else "string"}
    return {"anyOf": [single, {"type": "array", "items": _reference(f"Elements{datatype}")}]}


def _parameters(**known: Schema) -> Schema:
    return {
        "type": ["object", "null"],
        "properties": {
            **{name: {"const": False} for name in ("classification", *_NOT_HERE)},
            "binary_data_size": False,
            **known,
        },
        "additionalProperties": {"type": ["string", "number", "boolean"]},
    }


def _object(members: Schema, **optional: Schema) -> Schema:
    return {"type": "object", "required": list(members), "properties": {**members, **optional}}


def _size(description: str, least: int = 0) -> Schema:
    return {"description": description, "schema": {"type": "integer", "minimum": least}}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_CLASSIFICATION: Schema = {
    "type": "integer",
    "minimum": 1,
    "description": "So many of the largest elements, as texts value:index or value:index:label, in the place of all.",
}

_TEXT: Schema = {"type": "string"}

_FEEDBACK: Schema = {
    "FeedbackRequest": _object(
        {
            "feedback": {
                "type": "array",
                "minItems": 1,
                "maxItems": 256,
                "items": _object(
                    {
                        "receipt": {"type": "string", "description": "As in an answer's parameters."},
                        "labels": {
                            "type": "array",
                            "maxItems": 1000,
                            "description": "One for each row of that answer; null where it is not known.",
                            "items": {"type": ["string", "number", "boolean", "null"]},
                        },
                    }
                ),
            }
        }
    ),
    "Feedback": _object(
        {
            "rows": {"type": "integer", "description": "That have been counted."},
            "refused": {"type": "array", "items": _object({"index": {"type": "integer"}, "reason": _TEXT})},
        }
    ),
}
