"""Just enough of a Kubernetes client for devcluster's own needs, over the standard library."""

import http.client
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from holdfast_devcluster.certificates import Pair

Json = dict[str, Any]


class ApiError(Exception):
    """The API server's answer was no success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Client:
    """One connection per request: slow, and nothing to repair when the server comes and goes."""

    def __init__(self, server: str, authority: Path, client: Pair, timeout: float = 10) -> None:
        self._host = urlsplit(server).netloc
        self._timeout = timeout
        self._tls = ssl.create_default_context(cafile=str(authority))
        self._tls.load_cert_chain(client.certificate, client.key)

    def request(self, method: str, path: str, body: Json | None = None, *, content: str = "") -> Json:
        """The answer as an object, or `{"text": …}` where it is none.

        Raises ApiError for a refusal and OSError where nobody answers.
        """
        connection, response = self._send(method, path, body, content or "application/json")
        try:
            text = response.read().decode()
        finally:
            connection.close()
        try:
            answer: Json = json.loads(text)
        except ValueError:
            answer = {"text": text}
        if response.status >= 400:
            raise ApiError(response.status, str(answer.get("message") or answer))
        return answer

    def apply(self, path: str, body: Json) -> Json:
        """Server-side apply of `body` under its full path."""
        query = "?fieldManager=holdfast-devcluster&force=true"
        return self.request("PATCH", path + query, body, content="application/apply-patch+yaml")

    def watch(self, path: str) -> Iterator[Json]:
        """Events of a watch until the server or the timeout ends it; `path` without the query's `watch`."""
        connection, response = self._send("GET", path + "&watch=true", None, "application/json")
        try:
            if response.status >= 400:
                raise ApiError(response.status, response.read().decode(errors="replace"))
            for line in response:
                yield json.loads(line)
        finally:
            connection.close()

    def _send(
        self, method: str, path: str, body: Json | None, content: str
    ) -> tuple[http.client.HTTPSConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPSConnection(self._host, timeout=self._timeout, context=self._tls)
        try:
            connection.request(
                method,
                path,
                body=None if body is None else json.dumps(body),
                headers={"Content-Type": content, "Accept": "application/json"},
            )
            return connection, connection.getresponse()
        except http.client.HTTPException as error:
            connection.close()
            raise ConnectionError(f"{self._host} hung up: {error!r}") from error
        except BaseException:
            connection.close()
            raise
