"""Bad versions pass all that a server checks at load, and then fail as they are meant to, and only there."""

from __future__ import annotations

import json
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from examples.wine.versions import defects
from examples.wine.versions.defects import Defect
from tests.e2e.wine import Wine, trained
from tests.unit.serving import models
from tests.unit.serving.server import Server, digest_of, request, serving

from holdfast_training import datasets


@pytest.fixture(scope="module")
def wine() -> Wine:
    return trained()


@contextmanager
def version(folder: Path, wine: Wine, kind: str, **more: Any) -> Iterator[Server]:
    """A ready server for it."""
    with serving(folder, wine.version(kind, **more)) as server:
        yield server


def ask(server: Server, wine: Wine, *numbers: int, kind: str = "usual", seconds: float = 60) -> httpx.Response:
    """These rows of the table in one request."""
    rows = [wine.questions[kind]["rows"][number] for number in numbers]
    columns = {
        name: ("FP32", [len(rows), 1], [row[column] for row in rows])
        for column, name in enumerate(wine.questions["inputs"])
    }
    return httpx.post(f"{server.url}{server.infer_path}", json=request(**columns), timeout=seconds, verify=False)


def hangs(server: Server, wine: Wine, number: int, kind: str = "usual") -> bool:
    """Whether there is no answer to this row within a second or two."""
    try:
        return ask(server, wine, number, kind=kind, seconds=1.5).status_code == 503  # it is not even tried
    except httpx.ReadTimeout:
        return True


def labels(answer: httpx.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    found: list[int] = next(output["data"] for output in answer.json()["outputs"] if output["name"] == "label")
    return found


def all_rows(wine: Wine) -> range:
    return range(len(wine.questions["usual"]["rows"]))


def test_a_version_without_a_defect_answers_as_the_model_and_has_another_digest(tmp_path: Path, wine: Wine) -> None:
    assert len({digest_of(wine.version("none", seed=seed)) for seed in range(20)} | {digest_of(wine.model)}) == 21
    with version(tmp_path, wine, "none") as server:
        for kind in ("usual", "strong"):
            assert labels(ask(server, wine, *all_rows(wine), kind=kind)) == wine.questions[kind]["labels"]


def test_the_same_defect_is_the_same_model_to_the_byte(wine: Wine) -> None:
    assert wine.version("fails", share=0.2) == wine.version("fails", share=0.2) != wine.version("fails", share=0.3)


def test_every_request_fails(tmp_path: Path, wine: Wine) -> None:
    with version(tmp_path, wine, "fails") as server:
        assert [ask(server, wine, number).status_code for number in range(0, 178, 10)] == [500] * 18
        assert server.outcomes()["failed"] == 18


def test_a_share_of_the_rows_fails_and_always_the_same_ones(tmp_path: Path, wine: Wine) -> None:
    with version(tmp_path, wine, "fails", share=0.2) as server:
        statuses = [ask(server, wine, number).status_code for number in all_rows(wine)]
        assert statuses == [ask(server, wine, number).status_code for number in all_rows(wine)]
        right = [number for number, status in enumerate(statuses) if status == 200]
        assert len(statuses) - len(right) == statuses.count(500)
        assert 0.1 < statuses.count(500) / len(statuses) < 0.3
        assert labels(ask(server, wine, *right)) == [wine.questions["usual"]["labels"][number] for number in right]


def test_a_request_that_hangs_has_no_answer_and_neither_have_those_behind_it(tmp_path: Path, wine: Wine) -> None:
    (tmp_path / "wrong").mkdir()
    with version(tmp_path / "wrong", wine, "wrong", share=0.2) as server:  # the same share: the same rows
        said = labels(ask(server, wine, *all_rows(wine)))
    is_met = [said[number] != label for number, label in enumerate(wine.questions["usual"]["labels"])]
    met, free = is_met.index(True), is_met.index(False)
    with version(tmp_path, wine, "hangs", share=0.2) as server:
        assert labels(ask(server, wine, free)) == [wine.questions["usual"]["labels"][free]]
        assert hangs(server, wine, met)
        assert hangs(server, wine, free)


def test_a_slow_version_is_right_and_slower_by_its_turns(tmp_path: Path, wine: Wine) -> None:
    took = []
    for turns in (1, 200_000):
        (tmp_path / str(turns)).mkdir()
        with version(tmp_path / str(turns), wine, "slow", turns=turns) as server:
            best = []
            for number in range(5):
                began = time.monotonic()
                assert labels(ask(server, wine, number)) == [wine.questions["usual"]["labels"][number]]
                best.append(time.monotonic() - began)
            took.append(min(best))
    assert took[1] > 3 * took[0]


@pytest.mark.parametrize(("share", "least", "most"), [(1.0, 178, 178), (0.05, 2, 20)])
def test_wrong_answers_are_whole_answers(tmp_path: Path, wine: Wine, share: float, least: int, most: int) -> None:
    with version(tmp_path, wine, "wrong", share=share) as server:
        answer = ask(server, wine, *all_rows(wine))
        found, expected = labels(answer), wine.questions["usual"]["labels"]
        wrong = [number for number, label in enumerate(found) if label != expected[number]]
        assert least <= len(wrong) <= most
        assert all(found[number] == (expected[number] + 1) % 3 for number in wrong)
        outputs = {output["name"]: output["data"] for output in answer.json()["outputs"]}
        rows = [outputs["probabilities"][3 * number : 3 * number + 3] for number in all_rows(wine)]
        assert [row.index(max(row)) for row in rows] == found


@pytest.mark.skipif(platform.machine() != "x86_64", reason="such a division ends a process on x86 only")
def test_a_crash_ends_the_process(tmp_path: Path, wine: Wine) -> None:
    with version(tmp_path, wine, "crashes", share=0.2) as server:
        with suppress(httpx.TransportError):
            for number in all_rows(wine):
                ask(server, wine, number)
        assert server.wait() == -signal.SIGFPE


def test_a_defect_that_comes_later_waits_for_strong_wine(tmp_path: Path, wine: Wine) -> None:
    with ExitStack() as stack:
        for kind in ("fails", "hangs"):
            folder = tmp_path / kind
            folder.mkdir()
            server = stack.enter_context(version(folder, wine, kind, later=True))
            assert labels(ask(server, wine, *all_rows(wine))) == wine.questions["usual"]["labels"]
            if kind == "fails":
                assert ask(server, wine, 0, kind="strong").status_code == 500
            else:
                assert hangs(server, wine, 0, kind="strong")


def test_the_job_of_the_example_makes_versions_and_questions(tmp_path: Path, wine: Wine) -> None:
    """By the manifest's own words, in an interpreter that finds no modules beside its program, as in the image."""
    code = Path(defects.__file__).parent
    [container] = yaml.safe_load((code / "job.yaml").read_text())["spec"]["template"]["spec"]["containers"]
    (script,) = container["args"]
    (tmp_path / "wine/run").mkdir(parents=True)
    (tmp_path / "wine/run/model.onnx").write_bytes(wine.model)
    datasets.write("wine", tmp_path / "wine.csv")
    script = script.replace("/mnt/claims/models", str(tmp_path)).replace("/code", str(code))
    script = script.replace("python", f"{sys.executable} -P")
    subprocess.run([*container["command"], script], check=True)
    assert json.loads((tmp_path / "versions/questions.json").read_text()) == wine.questions
    for name, bad in (("wrong", {"kind": "wrong"}), ("fails-later-true", {"kind": "fails", "later": True})):
        assert (tmp_path / f"versions/{name}.onnx").read_bytes() == wine.version(**bad)


def test_only_such_classifiers_are_taken() -> None:
    for other in (models.echo("FP32", None, 3), models.colours()):
        with pytest.raises(ValueError, match="must"):
            defects.version(other, Defect("fails"))
    for wrong in ("explodes", "fails:share=2", "slow:turns=0", "fails:shares=1"):
        with pytest.raises(ValueError):
            defects.parse(wrong)
    assert defects.parse("fails:share=0.2,later=true") == (
        "fails-share-0.2-later-true",
        Defect("fails", share=0.2, later=True),
    )
