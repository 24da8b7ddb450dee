"""The page at /: what the model takes and gives, and a form to send it a request."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast_serving.served import Served, loading

if TYPE_CHECKING:
    from holdfast_bundle.manifest import Tensor


def render(served: Served, example: Sequence[dict[str, Any]] | None) -> tuple[bytes, bytes]:
    """(the page, its header lines). Raises Problem 503 while the model is loading.

    Args:
        example: inputs of a request, where JSON can carry them.
    """
    if served.signature is None:
        raise loading()
    model = f"v2/models/{served.name}"
    values = {
        "NAME": escape(served.name),
        "REVISION": escape(served.revision),
        "BATCHING": escape(_batching(served.metadata["parameters"])),
        "INPUTS": _table("Inputs", served.signature.inputs),
        "OUTPUTS": _table("Outputs", served.signature.outputs),
        "MODEL": escape(model),
        "PATH": escape(f"{model}/infer"),
        "LABEL": "A request to edit" if example else "A request: fill in the data, or send it as binary tensors",
        "EXAMPLE": escape(_request(example or [_empty(tensor) for tensor in served.signature.inputs])),
    }
    template = Path(__file__).with_name("page.html").read_text()
    text = re.sub("@@([A-Z]+)@@", lambda match: values[match[1]], template)
    return text.encode(), _fields(template)


def _fields(page: str) -> bytes:
    """Nothing runs or is loaded but what the page holds, and it is in no frame."""
    script, style = (_hash(page, element) for element in ("script", "style"))
    policy = (
        f"default-src 'none'; script-src '{script}'; style-src '{style}'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )
    fields = {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }
    return "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode()


def _hash(page: str, element: str) -> str:
    content = page.partition(f"<{element}>")[2].partition(f"</{element}>")[0]
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _batching(parameters: dict[str, Any]) -> str:
    if not parameters["batching"]:
        return f"Requests are run one by one: {parameters['batching_reason']}."
    return f"Requests that come together share a run, of at most {parameters['max_batch_rows']} rows."


def _table(title: str, tensors: Sequence[Tensor]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(tensor.name)}</code></td><td>{tensor.datatype}</td>"
        f"<td>{escape(str(list(tensor.shape))).replace('-', '−')}</td></tr>"
        for tensor in tensors
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Name", "Datatype", "Shape"))
    return f"<table><caption>{title}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _request(inputs: Sequence[dict[str, Any]]) -> str:
    """JSON with a line per input."""
    lines = ",\n".join(f"  {json.dumps(item, ensure_ascii=False)}" for item in inputs)
    return f'{{"inputs": [\n{lines}\n]}}'


def _empty(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": [abs(size) for size in tensor.shape], "data": []}
