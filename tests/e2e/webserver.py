"""A web server for models, good and bad, that runs in a pod of the tests: `python webserver.py FOLDER`.

`/NAME` is the file NAME of the folder; `a__b` in a file's name stands for a slash. A few paths misbehave on purpose.
"""

import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FOLDER = Path(sys.argv[1])
HURRY = Path("/tmp/hurry")
REDIRECTS = {
    "/to-metadata.onnx": "http://169.254.169.254/latest/meta-data/model.onnx",
    "/to-good.onnx": "/good.onnx",
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/hangs.onnx":
            time.sleep(600)
        if location := REDIRECTS.get(self.path):
            self.answer(302, b"", Location=location)
        elif self.path == "/slow.onnx":
            self.trickle((FOLDER / "good.onnx").read_bytes())
        elif self.path == "/denied.onnx":
            self.answer(403, b"no")
        elif (file := FOLDER / self.path.strip("/").replace("/", "__")).is_file():
            self.answer(200, file.read_bytes())
        else:
            self.answer(404, b"no such model")

    def trickle(self, body: bytes) -> None:
        """A piece each second, until somebody is in a hurry."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for start in range(0, len(body), len(body) // 120):
            self.wfile.write(body[start : start + len(body) // 120])
            self.wfile.flush()
            if not HURRY.exists():
                time.sleep(1)

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer(("", 8000), Handler).serve_forever()
