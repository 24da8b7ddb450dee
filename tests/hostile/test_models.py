"""Hostile models: each is refused in words, or loads and serves, and none costs more than its probe."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from tests.hostile.bombs import BOMBS
from tests.hostile.bundles import BUNDLES, MARKER, Bundle
from tests.hostile.files import DAMAGED_FILES, FOREIGN_FILES, LYING_FILES, SENSELESS_FILES, SERVED, TIME, File
from tests.hostile.nursery import MEMORY, Nursery
from tests.hostile.watch import Watch
from tests.unit.serving.server import Server, claim

from holdfast_bundle import manifest
from holdfast_bundle.errors import BundleError
from holdfast_serving import load, outcome
from holdfast_serving.probe import _BASE_BYTES

FILES = [*FOREIGN_FILES, *DAMAGED_FILES, *SENSELESS_FILES, *LYING_FILES, *BOMBS]
CASES: list[File | Bundle] = [*FILES, *BUNDLES]


def test_there_are_many_of_them_and_no_two_have_one_name() -> None:
    assert len(CASES) >= 300
    assert len({case.name for case in CASES}) == len(CASES)


@dataclass
class Ground:
    """A claim, a folder for the pod's copy, and secrets beside both."""

    folder: Path
    nursery: Nursery
    numbers: Iterator[int]

    def __post_init__(self) -> None:
        (self.folder / "scratch").mkdir()
        claim(self.folder)
        self.secrets = [self.folder / place / "secret" for place in ("claims", "claims/models", "scratch")]
        for secret in self.secrets:
            secret.write_bytes(MARKER)

    def lay(self, case: File | Bundle) -> str:
        """Write a case onto the claim; its URI."""
        name = f"case{next(self.numbers)}"
        if isinstance(case, File):
            (claim(self.folder) / f"{name}.onnx").write_bytes(case.content())
            return f"pvc://models/{name}.onnx"
        case.plan(claim(self.folder) / name, self.secrets[0])
        return f"pvc://models/{case.path.replace('bundle', name, 1)}"

    def refusal(self, uri: str) -> str | None:
        """Why the server refuses a model; None when it serves it."""
        copy = self.folder / "scratch" / f"model-{next(self.numbers)}"
        copy.mkdir()
        try:
            fetched = load.fetch(uri, copy, None, claims=self.folder / "claims")
            self.nursery.serve(fetched.model)
        except BundleError as error:
            return outcome.of_error(error, uri)[1]["message"]
        return None


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as running:
        yield running


@pytest.fixture
def ground(tmp_path: Path, nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> Ground:
    monkeypatch.setattr(load, "probe", nursery.probe)  # the same, without starting the interpreter each time
    nursery.patience = 20.0
    return Ground(tmp_path, nursery, count())


def as_expected(message: str | None, verdict: str) -> bool:
    return bool(re.search(verdict, SERVED if message is None else message))


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_it_is_refused_in_words_or_does_no_harm(ground: Ground, case: File | Bundle) -> None:
    uri = ground.lay(case)
    if case.verdict == TIME:
        ground.nursery.patience = 1.5
    with Watch(*ground.secrets) as watch:
        message = ground.refusal(uri)
        assert watch.events() == 0, "a secret was read"
    assert as_expected(message, case.verdict), message
    if message is not None:
        assert MARKER.decode() not in message
        assert str(ground.folder / "scratch") not in message
        assert len(message) < 1500
        assert message.isprintable()
    assert not Path("pickled-canary").exists()
    assert ground.nursery.peak < _BASE_BYTES + MEMORY


def test_the_watch_sees_who_reads_a_secret(ground: Ground) -> None:
    os.link(ground.secrets[0], ground.folder / "other name")
    with Watch(*ground.secrets) as watch:
        (ground.folder / "other name").read_bytes()
        assert watch.events() >= 1


WHOLE = [
    "nothing", "a pickle, protocol 4", "ONNX Runtime's own format", "4 of 8 parts of a model", "a circle",
    "an operator that loads a library", "10,000 subgraphs in one another", "2^40 zeros", "data shorter than its shape",
    "a million unknown fields", "weights at '../secret'", "the secret in a sparse Constant", "a ConfigMap",
    "weights that link to the secret", "a manifest that lists '/etc/passwd'",
]  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_the_whole_server_says_so_in_its_last_word_or_serves(tmp_path: Path, nursery: Nursery, name: str) -> None:
    (case,) = [case for case in CASES if case.name == name]
    ground = Ground(tmp_path, nursery, count())
    uri = ground.lay(case)
    path = ground.folder / "claims" / uri.removeprefix("pvc://")
    digest = manifest.digest_file(path / "manifest.json" if path.is_dir() else path)
    with Watch(*ground.secrets) as watch, Server(tmp_path, uri, digest) as server:
        peak = 0
        ends = time.monotonic() + 60
        while server.process.poll() is None and time.monotonic() < ends:
            peak = max(peak, peak_of(server))
            if case.verdict == SERVED and server.ready():
                break
            time.sleep(0.01)
        if case.verdict == SERVED:
            answer = server.get("/v2/models/wine")
            assert answer.status_code == 200
            assert answer.json()["inputs"][0]["name"] == "x"
            assert server.process.poll() is None
        else:
            assert server.wait() == outcome.PERMANENT, server.log
            assert as_expected(server.last_word["message"], case.verdict)
            for text in (server.log, str(server.last_word)):
                assert MARKER.decode() not in text
                assert "Traceback" not in text
                assert str(tmp_path / "scratch") not in text
            assert [file.name for file in server.scratch.iterdir()] == ["secret"]
            assert peak < 160 << 20
        assert watch.events() == 0


def peak_of(server: Server) -> int:
    """Bytes that the server's own process has had at most."""
    try:
        status = Path(f"/proc/{server.process.pid}/status").read_text()
    except OSError:
        return 0
    match = re.search(r"VmHWM:\s+(\d+)", status)
    return int(match[1]) << 10 if match else 0
