"""Models by digest on a claim that pods share."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.bundle.test_fetch import bundle_pages

from holdfast_bundle import cache as cache_module
from holdfast_bundle.cache import Cache, Volume
from holdfast_bundle.errors import BundleError
from holdfast_bundle.manifest import digest_file

ROOT = Path(__file__).parents[3] / "model-bundle"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The claim's folder for models."""
    (tmp_path / "claims" / "shared").mkdir(parents=True)
    return tmp_path / "claims" / "shared" / "holdfast-models"


class Origin:
    """Where a bundle really is: it counts how often it was asked."""

    def __init__(self, model: bytes = b"model") -> None:
        self.files = {target.removeprefix("/"): content for target, content in bundle_pages("", model).items()}
        self.asked = 0
        self.pause = 0.0

    def fetch(self, folder: Path) -> Callable[[], Path]:
        def bring() -> Path:
            self.asked += 1
            time.sleep(self.pause)
            for name, content in self.files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
            return folder

        return bring

    def digest(self, tmp_path: Path) -> str:
        (tmp_path / "m").write_bytes(self.files["manifest.json"])
        return digest_file(tmp_path / "m")


def cache(root: Path) -> Cache:
    return Cache("shared", root.parents[1])


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if not path.name.startswith(".lock"))


def test_a_model_is_fetched_once_and_then_copied(root: Path, tmp_path: Path) -> None:
    origin = Origin()
    path, digest = cache(root).fetch(None, tmp_path / "helper", origin.fetch(tmp_path / "helper"))
    assert digest == origin.digest(tmp_path)
    for pod in ("one", "two"):
        path, found = cache(root).fetch(digest, tmp_path / pod, origin.fetch(tmp_path / pod))
        assert (path, found) == (tmp_path / pod, digest)
        assert (path / "extra" / "golden.json").read_bytes() == b"{}"
    assert origin.asked == 1
    assert names(root) == [digest.removeprefix("sha256:")]


def test_a_bare_model_is_kept_too(root: Path, tmp_path: Path) -> None:
    def bring(folder: Path) -> Callable[[], Path]:
        def write() -> Path:
            folder.mkdir(exist_ok=True)
            (folder / "model.onnx").write_bytes(b"bare")
            return folder / "model.onnx"

        return write

    def unasked() -> Path:
        raise AssertionError

    _, digest = cache(root).fetch(None, tmp_path / "a", bring(tmp_path / "a"))
    path, _ = cache(root).fetch(digest, tmp_path / "b", unasked)
    assert (path, path.read_bytes()) == (tmp_path / "b" / "model.onnx", b"bare")


def spoil_content(entry: Path) -> None:
    (entry / "model.onnx").write_bytes(b"Model")


def lose_a_file(entry: Path) -> None:
    (entry / "extra" / "golden.json").unlink()


def link_out(entry: Path) -> None:
    (entry / "model.onnx").unlink()
    (entry / "model.onnx").symlink_to("/etc/hostname")


def forge_all(entry: Path) -> None:
    for name, content in Origin(b"other").files.items():
        (entry / name).write_bytes(content)


@pytest.mark.parametrize("spoil", [spoil_content, lose_a_file, link_out, forge_all])
def test_what_is_not_right_is_never_served_but_fetched_anew(
    root: Path, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    origin = Origin()
    digest = origin.digest(tmp_path)
    cache(root).fetch(digest, tmp_path / "a", origin.fetch(tmp_path / "a"))
    spoil(root / digest.removeprefix("sha256:"))
    path, _ = cache(root).fetch(digest, tmp_path / "b", origin.fetch(tmp_path / "b"))
    assert {name: (path / name).read_bytes() for name in origin.files} == origin.files
    assert origin.asked == 2
    cache(root).fetch(digest, tmp_path / "c", origin.fetch(tmp_path / "c"))
    assert origin.asked == 2  # and is right again


def test_another_content_than_asked_for_is_refused_and_not_kept(root: Path, tmp_path: Path) -> None:
    origin = Origin(b"other")
    with pytest.raises(BundleError) as caught:
        cache(root).fetch(Origin().digest(tmp_path), tmp_path / "a", origin.fetch(tmp_path / "a"))
    assert caught.value.reason == "DigestMismatch"
    assert names(root) == []


def test_pods_that_want_the_same_at_once_wait_for_one(root: Path, tmp_path: Path) -> None:
    origin = Origin()
    origin.pause = 0.5
    digest = origin.digest(tmp_path)
    paths: list[Path] = []

    def pod(number: int) -> None:
        folder = tmp_path / str(number)
        paths.append(cache(root).fetch(digest, folder, origin.fetch(folder))[0])

    pods = [threading.Thread(target=pod, args=(number,)) for number in range(6)]
    for thread in pods:
        thread.start()
    for thread in pods:
        thread.join()
    assert origin.asked == 1
    assert all((path / "model.onnx").read_bytes() == b"model" for path in paths)
    assert len(paths) == 6


KILLED = """
import sys, time
from pathlib import Path
from holdfast_bundle import cache
def bring():
    print("fetching", flush=True)
    time.sleep(60)
cache.Cache("shared", Path(sys.argv[1])).fetch(sys.argv[2], Path(sys.argv[3]), bring)
"""


def test_a_pod_that_is_killed_while_it_fetches_holds_nobody_up(root: Path, tmp_path: Path) -> None:
    origin = Origin()
    digest = origin.digest(tmp_path)
    command = [sys.executable, "-c", KILLED, str(root.parents[1]), digest, str(tmp_path / "a")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={"PYTHONPATH": str(ROOT)}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"fetching\n"
        started = time.monotonic()
        threading.Timer(0.5, process.send_signal, (signal.SIGKILL,)).start()
        cache(root).fetch(digest, tmp_path / "b", origin.fetch(tmp_path / "b"))
        assert 0.3 < time.monotonic() - started < 50
    assert names(root) == [digest.removeprefix("sha256:")]


def test_a_lock_that_is_never_given_back_is_not_waited_for_for_ever(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "WAIT_SECONDS", 0.3)
    origin = Origin()
    digest = origin.digest(tmp_path)
    with cache(root)._alone(digest):
        cache(root).fetch(digest, tmp_path / "a", origin.fetch(tmp_path / "a"))
    assert origin.asked == 1


def test_what_nobody_uses_goes_and_what_a_killed_pod_left(root: Path, tmp_path: Path) -> None:
    old, used = Origin(b"old"), Origin(b"used")
    digests = {}
    for name, origin in {"old": old, "used": used}.items():
        _, digests[name] = cache(root).fetch(None, tmp_path / name, origin.fetch(tmp_path / name))
    long_ago = time.time() - 31 * 86400
    (root / ".new-killed").mkdir()
    for path in (*root.iterdir(),):
        os.utime(path, (long_ago, long_ago))
    cache(root).fetch(digests["used"], tmp_path / "again", used.fetch(tmp_path / "again"))
    new = Origin(b"new")
    _, digest = cache(root).fetch(None, tmp_path / "new", new.fetch(tmp_path / "new"))
    assert names(root) == sorted(found.removeprefix("sha256:") for found in (digests["used"], digest))


def test_the_longest_unused_makes_room_and_what_does_not_fit_is_not_kept(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = []
    for number in range(3):
        origin = Origin(bytes([number]) * 1000)
        _, digest = cache(root).fetch(None, tmp_path / str(number), origin.fetch(tmp_path / str(number)))
        digests.append(digest.removeprefix("sha256:"))
        os.utime(root / digests[-1], (time.time() - 100 + number,) * 2)

    size = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())

    def volume(_: Cache) -> Volume:
        used = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
        return Volume(size * 20 // 19, size * 20 // 19 - used)

    monkeypatch.setattr(Cache, "_volume", volume)
    origin = Origin(b"3" * 1000)
    _, digest = cache(root).fetch(None, tmp_path / "new", origin.fetch(tmp_path / "new"))
    assert names(root) == (kept := sorted([*digests[1:], digest.removeprefix("sha256:")]))
    huge = Origin(b"4" * 5000)
    cache(root).fetch(None, tmp_path / "huge", huge.fetch(tmp_path / "huge"))
    assert names(root) == kept


def test_a_cache_that_cannot_be_used_does_no_harm(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    origin = Origin()
    digest = origin.digest(tmp_path)
    root.parent.rmdir()
    root.parent.write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        cache(root).fetch(digest, tmp_path / "a", origin.fetch(tmp_path / "a"))
    assert "is not kept in the cache on claim shared" in caplog.text
