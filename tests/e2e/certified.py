"""Asks a wine model that wants client certificates, in a pod of the tests: `python certified.py NAME < JSON`.

The JSON has `authority` and the PEM texts of `ours` (an identity that the authority has signed) and `theirs` (one that
it has not), each of certificate and key; `grpc`, a ModelInferRequest in base64; and `rows`. It prints what became of a
request without a certificate and of one with theirs, and with ours of a request for each row, each on a connection of
its own, of one over gRPC, and of feedback for all receipts, where the last row's label is said to be another.
"""

import base64
import http.client
import json
import ssl
import sys
import tempfile
from typing import Any

NAME = sys.argv[1]


def context(authority: str, identity: str | None) -> ssl.SSLContext:
    made = ssl.create_default_context(cadata=authority)
    if identity is not None:
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(identity)
            file.flush()
            made.load_cert_chain(file.name)
    return made


def post(trusted: ssl.SSLContext, path: str, body: object) -> tuple[int, Any]:
    connection = http.client.HTTPSConnection(NAME, context=trusted, timeout=30)
    connection.request("POST", f"/v2/models/{NAME}/{path}", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, json.load(answer)


def question(row: list[float]) -> dict[str, Any]:
    tensor = {"name": "X", "datatype": "FP32", "shape": [1, len(row)], "data": row}
    return {"parameters": {"receipt": True}, "inputs": [tensor], "outputs": [{"name": "label"}]}


def refusal(trusted: ssl.SSLContext, row: list[float]) -> str:
    """How a client is kept out."""
    try:
        return f"answered with {post(trusted, 'infer', question(row))[0]}"
    except (ssl.SSLError, ConnectionError) as error:
        return type(error).__name__


def ask_grpc(given: dict[str, Any]) -> int:
    """The size of the answer."""
    import grpc

    certificate, key = given["ours"]
    credentials = grpc.ssl_channel_credentials(given["authority"].encode(), key.encode(), certificate.encode())
    with grpc.secure_channel(f"{NAME}:9000", credentials) as channel:
        method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        return len(method(base64.b64decode(given["grpc"]), timeout=30))


def main() -> None:
    given = json.load(sys.stdin)
    rows, authority = given["rows"], given["authority"]
    ours = context(authority, "".join(given["ours"]))
    said = {
        "without": refusal(context(authority, None), rows[0]),
        "theirs": refusal(context(authority, "".join(given["theirs"])), rows[0]),
        "grpc": ask_grpc(given),
    }
    answers = [post(ours, "infer", question(row)) for row in rows]
    labels = [answer["outputs"][0]["data"][0] for _, answer in answers]
    true = [*labels[:-1], (labels[-1] + 1) % 3]
    feedback = [
        post(ours, "feedback", {"feedback": [{"receipt": answer["parameters"]["receipt"], "labels": [label]}]})
        for (_, answer), label in zip(answers, true, strict=True)
    ]
    print(json.dumps(said | {"labels": labels, "feedback": feedback}))


if __name__ == "__main__":
    main()
