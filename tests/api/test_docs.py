"""Whatever YAML the documentation and the examples show is taken by the API server, word for word."""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.api.server import Json, Server

ROOT = Path(__file__).parents[2]
OURS = {"ModelDeployment", "TrainingJob", "BatchInference"}
BLOCK = re.compile(r"^( *)```yaml\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def blocks(file: Path) -> Iterator[str]:
    for match in BLOCK.finditer(file.read_text(encoding="utf-8")):
        yield textwrap.dedent(match[2])


def shown() -> Iterator[tuple[str, str]]:
    for name in (
        "README.md",
        "docs/modeldeployment.md",
        "docs/rollouts.md",
        "docs/trainingjob.md",
        "docs/batchinference.md",
        "docs/tls.md",
    ):
        file = ROOT / name
        for number, block in enumerate(blocks(file), 1):
            yield f"{file.name} {number}", block


def examples() -> Iterator[tuple[str, Json]]:
    for file in sorted((ROOT / "examples").rglob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text(encoding="utf-8")):
            if document and document.get("kind") in OURS:
                yield str(file.relative_to(ROOT)), document


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in shown()])
def test_what_the_pages_show_can_be_applied(server: Server, text: str) -> None:
    server.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", input=text)


@pytest.mark.parametrize("document", [pytest.param(document, id=name) for name, document in examples()])
def test_what_the_examples_hold_can_be_applied(server: Server, document: Json) -> None:
    document["metadata"].pop("namespace", None)
    assert server.accepts(document)["kind"] in OURS


def test_there_are_pages_and_examples_to_try() -> None:
    assert len([*shown()]) >= 7
    assert {document["kind"] for _, document in examples()} == OURS
