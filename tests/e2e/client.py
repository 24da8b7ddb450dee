"""Asks a served wine model, in a pod of the tests: `python client.py MODEL-URL once|SECONDS [options]`.

For SECONDS, or until /tmp/stop is there, clients of four kinds ask side by side: on kept connections, often and now and
then; on a new connection for each request; and with bodies that take a second to send. With --grpc there are as many of
the first three kinds over gRPC. /tmp/requests counts them. An answer must be a right one. The only second try is the
one that HTTP clients make: a request on a kept connection that ends before a byte of the answer came (the server may
close an idle connection at any time) is sent again on a new one, and counted. gRPC does the same by itself.
"""

import argparse
import asyncio
import base64
import collections
import json
import random
import ssl
import time
import urllib.parse
from pathlib import Path
from typing import Any

ROW = [13.2, 1.78, 2.14, 11.2, 100.0, 2.65, 2.76, 0.26, 1.28, 4.38, 1.05, 3.4, 1050.0]
BODY = json.dumps({"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 13], "data": ROW}]}).encode()
TIMEOUT = 30.0
STOP, COUNT = Path("/tmp/stop"), Path("/tmp/requests")
GRPC_METHOD = "/inference.GRPCInferenceService/ModelInfer"


class Target:
    """Where the model answers, and how requests for it look."""

    def __init__(self, url: str, authority: str | None) -> None:
        parts = urllib.parse.urlsplit(url)
        self.host = parts.hostname or ""
        self.tls = ssl.create_default_context(cafile=authority) if parts.scheme == "https" else None
        self.port = parts.port or (443 if self.tls else 80)
        head = f"POST {parts.path}/infer HTTP/1.1\r\nHost: {self.host}\r\nContent-Length: {len(BODY)}\r\n"
        self.head = f"{head}\r\n".encode()
        self.last_head = f"{head}Connection: close\r\n\r\n".encode()


class GoneError(Exception):
    """The connection ended before a byte of the answer came."""


class Client:
    """One client, which has at most one connection."""

    def __init__(self, target: Target, *, keep: bool, slow: bool) -> None:
        self.target = target
        self.keep = keep
        self.slow = slow
        self.again = 0
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self) -> dict[str, object]:
        reused = self.streams is not None
        try:
            return await asyncio.wait_for(self.once(), TIMEOUT)
        except GoneError:
            self.close()
            if not reused:
                raise
            self.again += 1
            return await asyncio.wait_for(self.once(), TIMEOUT)

    async def once(self) -> dict[str, object]:
        target = self.target
        if self.streams is None:
            self.streams = await asyncio.open_connection(target.host, target.port, ssl=target.tls)
        reader, writer = self.streams
        try:
            writer.write(target.head if self.keep else target.last_head)
            if self.slow:
                writer.write(BODY[:10])
                await asyncio.sleep(1)
                writer.write(BODY[10:])
            else:
                writer.write(BODY)
            first = await reader.read(1)
        except (ConnectionError, ssl.SSLError) as error:
            raise GoneError(repr(error)) from error
        if not first:
            raise GoneError("the connection was closed")
        head = (first + await reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:-2])
        content = await reader.readexactly(int(fields["content-length"]))
        if not self.keep or fields.get("connection") == "close":
            self.close()
        status = head.split(" ", 2)[1]
        if status != "200":
            raise RuntimeError(f"{status}: {content[:200]!r}")
        answer: dict[str, object] = json.loads(content)
        label = next(output["data"] for output in answer["outputs"] if output["name"] == "label")  # type: ignore[attr-defined]
        if label != [0]:
            raise RuntimeError(f"a wrong answer: {content[:200]!r}")
        return answer

    def close(self) -> None:
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None


class GrpcClient:
    """The same over gRPC, by grpcio, which the image does not have: the tests bring it along."""

    again = 0
    answer = b""
    """What all revisions have to say, without its head, which holds the revision."""

    def __init__(self, host: str, request: bytes, *, keep: bool) -> None:
        self.host = host
        self.request = request
        self.keep = keep
        self.channel: Any = None

    async def ask(self) -> dict[str, object]:
        import grpc.aio

        if self.channel is None:
            alone = [("grpc.use_local_subchannel_pool", 1)]
            self.channel = grpc.aio.insecure_channel(f"{self.host}:9000", alone)
        said = await self.channel.unary_unary(GRPC_METHOD)(self.request, timeout=TIMEOUT)
        if not self.keep:
            channel, self.channel = self.channel, None
            await channel.close()
        version_at = 2 + said[1]  # behind the model's name
        end = version_at + 2 + said[version_at + 1]
        GrpcClient.answer = GrpcClient.answer or said[end:]
        if said[end:] != GrpcClient.answer:
            raise RuntimeError(f"another answer: {said!r}")
        return {"model_version": said[version_at + 2 : end].decode()}

    def close(self) -> None:
        self.channel = None


class Load:
    """All clients together, and what became of their requests."""

    def __init__(self, target: Target, seconds: float, rate: float, grpc_request: bytes) -> None:
        self.target = target
        self.end = time.monotonic() + seconds
        self.rate = rate
        self.grpc_request = grpc_request
        self.requests = self.grpc_requests = 0
        self.again = 0
        self.errors: list[str] = []
        self.versions: collections.Counter[str] = collections.Counter()

    async def run(self) -> dict[str, object]:
        busy, calm, new, slow = 6, 6, 4, 2
        kinds = [self.http] + ([self.grpc] if self.grpc_request else [])
        pause = len(kinds) * (busy + new) / self.rate
        self.watching = asyncio.create_task(self.watch())
        await asyncio.gather(
            *(self.ask(kind(keep=True), pause) for _ in range(busy) for kind in kinds),
            *(self.ask(kind(keep=True), random.uniform(2, 8)) for _ in range(calm) for kind in kinds),
            *(self.ask(kind(keep=False), pause) for _ in range(new) for kind in kinds),
            *(self.ask(Client(self.target, keep=True, slow=True), 1) for _ in range(slow)),
        )
        return {
            "requests": self.requests,
            "grpc_requests": self.grpc_requests,
            "failed": len(self.errors),
            "again": self.again,
            "versions": self.versions,
            "grpc_answer": base64.b64encode(GrpcClient.answer).decode(),
            "errors": self.errors[:10],
        }

    def http(self, keep: bool) -> Client:
        return Client(self.target, keep=keep, slow=False)

    def grpc(self, keep: bool) -> GrpcClient:
        return GrpcClient(self.target.host, self.grpc_request, keep=keep)

    async def ask(self, client: Client | GrpcClient, pause: float) -> None:
        while time.monotonic() < self.end:
            began = time.monotonic()
            self.requests += 1
            self.grpc_requests += isinstance(client, GrpcClient)
            try:
                self.versions[str((await client.ask())["model_version"])] += 1
            except Exception as error:
                client.close()
                self.errors.append(f"{time.strftime('%X')} {type(client).__name__} {type(error).__name__}: {error}")
            await asyncio.wait({self.watching}, timeout=max(0.0, began + pause - time.monotonic()))
        self.again += client.again
        client.close()

    async def watch(self) -> None:
        """Ends when the load does."""
        while time.monotonic() < self.end:
            COUNT.write_text(str(self.requests))  # noqa: ASYNC240
            if STOP.exists():  # noqa: ASYNC240
                self.end = 0
            await asyncio.sleep(0.2)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("seconds")
    parser.add_argument("--ca")
    parser.add_argument("--rate", type=float, default=100)
    parser.add_argument("--grpc", type=base64.b64decode, default=b"", help="a ModelInferRequest")
    given = parser.parse_args()
    target = Target(given.url, given.ca)
    if given.seconds == "once":
        print(json.dumps(await Client(target, keep=False, slow=False).ask()))
    else:
        print(json.dumps(await Load(target, float(given.seconds), given.rate, given.grpc).run()))


if __name__ == "__main__":
    asyncio.run(main())
