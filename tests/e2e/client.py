"""Asks a served wine model, in a pod of the tests: `python client.py MODEL-URL once|SECONDS`.

Keep-alive, as most clients are: a connection is used until the server closes it. A request that was sent on a reused
connection which the server had just closed is sent once more, as HTTP clients do; any other error is a failure.
"""

import collections
import http.client
import json
import sys
import time
import urllib.parse
from pathlib import Path

ROW = [13.2, 1.78, 2.14, 11.2, 100.0, 2.65, 2.76, 0.26, 1.28, 4.38, 1.05, 3.4, 1050.0]
BODY = json.dumps({"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 13], "data": ROW}]})


class Client:
    def __init__(self, url: str) -> None:
        self.url = urllib.parse.urlsplit(url)
        self.connection: http.client.HTTPConnection | None = None

    def ask(self) -> dict[str, object]:
        reused = self.connection is not None
        try:
            return self.once()
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            self.close()
            if reused:
                return self.once()
            raise

    def once(self) -> dict[str, object]:
        if self.connection is None:
            self.connection = http.client.HTTPConnection(self.url.netloc, timeout=10)
        self.connection.request("POST", self.url.path + "/infer", BODY, {"Content-Type": "application/json"})
        response = self.connection.getresponse()
        content = response.read()
        if response.will_close:
            self.close()
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {content[:200]!r}")
        answer: dict[str, object] = json.loads(content)
        return answer

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None


client = Client(sys.argv[1])
if sys.argv[2] == "once":
    print(json.dumps(client.ask()))
else:
    deadline = time.monotonic() + float(sys.argv[2])
    requests, errors, versions = 0, [], collections.Counter()
    while time.monotonic() < deadline and not Path("/tmp/stop").exists():
        requests += 1
        try:
            versions[client.ask()["model_version"]] += 1
        except Exception as error:
            client.close()
            errors.append(f"{type(error).__name__}: {error}")
        time.sleep(0.01)
    print(json.dumps({"requests": requests, "failed": len(errors), "versions": versions, "errors": errors[:5]}))
