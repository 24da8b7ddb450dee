"""Requests that schemathesis makes of the OpenAPI document, against the real server: is the document true?"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.serving import environments, models
from tests.unit.serving.server import Server, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("openapi"), models.wide()) as running:
        yield running
        assert "Traceback" not in running.log


@pytest.mark.parametrize(
    ("phases", "checks"),
    [
        # No schema can say that a shape fits its data, so schema-valid requests may be refused; and header fields
        # that nobody knows are no reason to refuse a request, as the coverage phase would have it.
        ("examples,coverage,fuzzing", ["all", "--exclude-checks", "positive_data_acceptance,negative_data_rejection"]),
        ("fuzzing", ["negative_data_rejection"]),
        ("examples", ["positive_data_acceptance"]),
    ],
    ids=["answers are as described", "what is not described is refused", "the examples are right"],
)
def test_the_document_is_true(server: Server, tmp_path: Path, phases: str, checks: list[str]) -> None:
    program = environments.python("schemathesis").with_name("schemathesis")
    done = subprocess.run(
        [
            program, "run", f"{server.url}/openapi.json", "--seed", "7", "--max-examples", "15", "--phases", phases,
            "--warnings", "off", "--continue-on-failure", "--no-color", "--checks", *checks,
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "No issues found" in done.stdout
