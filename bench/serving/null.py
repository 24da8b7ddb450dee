"""The limit of our own protocol stack: connection and routes as they are, and one constant answer behind them."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import uvloop

from holdfast_serving.connection import JSON_TYPE, Connection, Port
from holdfast_serving.routes import Endpoint, Routes


async def main(answer: bytes) -> None:
    def infer(connection: Connection, body: bytes | bytearray) -> None:
        connection.respond(200, answer)

    port = Port(Routes({"/v2/models/iris/infer": {"POST": Endpoint(infer, takes=(JSON_TYPE,))}}))
    await port.listen(socket.create_server(("127.0.0.1", int(os.environ["PORT"]))))
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(Path(os.environ["ANSWER"]).read_bytes()))
