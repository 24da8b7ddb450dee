"""The limit of our own protocol stacks: connections and routes as they are, and one constant answer behind them.

python null.py ANSWER.json ANSWER.binpb
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import uvloop

from holdfast_serving.connection import JSON_TYPE, Connection, Port
from holdfast_serving.grpc import connection as grpc
from holdfast_serving.grpc.exchange import Buffer, Exchange, Unary
from holdfast_serving.routes import Endpoint, Routes


class Constant:
    """A gRPC service with one answer."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self.health = self
        self.methods = {"/inference.GRPCInferenceService/ModelInfer": Unary(self._infer)}

    def look(self) -> None:
        """Nothing changes."""

    def _infer(self, exchange: Exchange, message: Buffer) -> None:
        exchange.reply((self._answer,))


async def main(answer: bytes, message: bytes) -> None:
    def infer(connection: Connection, body: bytes | bytearray) -> None:
        connection.respond(200, answer)

    rest = Port(Routes({"/v2/models/iris/infer": {"POST": Endpoint(infer, takes=(JSON_TYPE,))}}))
    rpc = grpc.Port(Constant(message), rest.reserve)  # type: ignore[arg-type]
    await rest.listen(_listener("PORT"))
    await rpc.listen(_listener("GRPC_PORT"))
    await asyncio.Event().wait()


def _listener(variable: str) -> socket.socket:
    return socket.create_server(("127.0.0.1", int(os.environ[variable])))


if __name__ == "__main__":
    uvloop.run(main(*(Path(file).read_bytes() for file in sys.argv[1:])))
