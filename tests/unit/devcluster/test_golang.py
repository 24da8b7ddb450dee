"""The go command and a module proxy that is away for a moment."""

from __future__ import annotations

import io
import shutil
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from holdfast_devcluster import golang
from holdfast_devcluster.errors import ClusterError

pytestmark = pytest.mark.skipif(shutil.which("go") is None, reason="there is no Go on this machine")
MODULE = "example.com/greeting"
GO_MOD = f"module {MODULE}\n"


def pages() -> dict[str, bytes]:
    """What a proxy says of version v1.0.0."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr(f"{MODULE}@v1.0.0/go.mod", GO_MOD)
        zipped.writestr(f"{MODULE}@v1.0.0/greeting.go", "package greeting\n")
    at = f"/{MODULE}/@v/v1.0.0"
    return {f"{at}.info": b'{"Version": "v1.0.0"}', f"{at}.mod": GO_MOD.encode(), f"{at}.zip": archive.getvalue()}


@contextmanager
def proxy(failures: int) -> Iterator[str]:
    """Its address; it is not well for so many requests."""
    known, left = pages(), [failures]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            ill = left[0] > 0
            left[0] -= 1
            content = b"" if ill else known.get(self.path, b"")
            self.send_response(503 if ill else 200 if content else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def download(folder: Path, address: str) -> str:
    (folder / "go.mod").write_text("module example.com/user\n\ngo 1.21\n")
    told = {"GOPROXY": address, "GONOSUMDB": "*", "GOFLAGS": "-modcacherw", "GOMODCACHE": str(folder / "cache")}
    return golang.go("mod", "download", "-json", f"{MODULE}@v1.0.0", folder=folder, environment=told)


def test_a_proxy_that_is_away_for_a_moment_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golang, "PAUSES_SECONDS", (0.0, 0.0))
    with proxy(failures=1) as address:
        assert '"Version": "v1.0.0"' in download(tmp_path, address)


def test_a_proxy_that_stays_away_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golang, "PAUSES_SECONDS", (0.0, 0.0))
    with proxy(failures=1000) as address, pytest.raises(ClusterError, match="503 Service Unavailable"):
        download(tmp_path, address)
