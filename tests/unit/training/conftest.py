"""A claim with real data on it, and a way to run the trainer on that."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast_training import cpu

cpu.limit_libraries(1)  # as in a pod without a CPU limit; more threads than cores spin

import numpy as np  # noqa: E402
import pytest  # noqa: E402

from holdfast_training import datasets, spec  # noqa: E402
from holdfast_training.errors import TrainingError  # noqa: E402
from holdfast_training.output import output_at  # noqa: E402
from holdfast_training.train import train  # noqa: E402

TARGETS = {"wine": "cultivar", "breast-cancer": "diagnosis", "diabetes": "progression", "digits": "digit"}


@dataclass
class Claim:
    """The claim `models` below `claims`, and runs that read from and write to it."""

    claims: Path
    made: int = 0
    last: Path = field(default_factory=Path)

    @property
    def root(self) -> Path:
        return self.claims / "models"

    def text(self, name: str, content: str | bytes) -> str:
        """A file on the claim; returns its URI."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return f"pvc://models/{name}"

    def rows(self, name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
        """A CSV file on the claim; returns its URI."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
        return f"pvc://models/{name}"

    def spec(self, uri: str, target: str, task: str, estimator: str, **more: Any) -> dict[str, Any]:
        """A HOLDFAST_RUN document with a folder of its own."""
        self.made += 1
        return {
            "data": {"uri": uri},
            "target": target,
            "task": task,
            "estimators": [{"name": estimator, "parameters": more.pop("parameters", {})}],
            "output": {"uri": "pvc://models/out", "folder": f"run-{self.made}"},
            **more,
        }

    def train(self, document: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Run it here; the bundle's folder is `last`."""
        run = spec.parse(json.dumps(document))
        output = output_at(run.output_uri, run.output_folder, claims=self.claims)
        scratch = self.claims / "scratch"
        scratch.mkdir(exist_ok=True)
        self.last = self.root / "out" / run.output_folder
        return train(run, output, scratch=scratch, claims=self.claims, **options)

    def failure(self, document: dict[str, Any], **options: Any) -> TrainingError:
        """The error that the run ends with; nothing may have been published."""
        with pytest.raises(TrainingError) as ended:
            self.train(document, **options)
        folder = self.root / "out"
        assert not folder.exists() or list(folder.iterdir()) == []
        return ended.value


@pytest.fixture
def claim(tmp_path: Path) -> Claim:
    (tmp_path / "models").mkdir()
    return Claim(tmp_path)


def table_of(path: Path) -> tuple[list[str], list[list[str]]]:
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    return header, rows


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data sets as the trainer writes them."""
    folder = tmp_path_factory.mktemp("datasets")
    for name in datasets.NAMES:
        datasets.write(name, folder / f"{name}.csv")
    return folder


@pytest.fixture(scope="session")
def mixed(shipped: Path) -> Callable[[str], tuple[list[str], list[list[str]]]]:
    """A shipped data set with two of its columns binned into categories and 8 % of all features missing."""

    def make(name: str) -> tuple[list[str], list[list[str]]]:
        header, rows = table_of(shipped / f"{name}.csv")
        random = np.random.default_rng(20)
        for column in (1, 3):
            values = np.array([float(row[column]) for row in rows])
            bins = np.searchsorted(np.quantile(values, [0.25, 0.5, 0.75]), values)
            for row, index in zip(rows, bins, strict=True):
                row[column] = ["low", "mid, lower", 'mid "upper"', "höher"][index]
        for row in rows:
            for column in range(len(header) - 1):
                if random.random() < 0.08:
                    row[column] = ""
        return header, rows

    return make
