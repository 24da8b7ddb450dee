"""Evidently's presets at their defaults, day by day: has the data drifted, did the test of the accuracy fail?

Runs in Evidently's environment: `evidently_days.py FILE...`; for each file, as bench.drift.peers writes them, one line
of JSON.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import numpy as np
import pandas as pd
from evidently import BinaryClassification, DataDefinition, Dataset, MulticlassClassification, Report
from evidently.metrics import Accuracy
from evidently.presets import DataDriftPreset

warnings.filterwarnings("ignore")
FEWEST = 2


def _failed(report: Report, current: Any, reference: Any, test: str = "") -> bool:
    """Whether a test failed; `test`: the beginning of its name."""
    found = report.run(current, reference).dict()["tests"]
    return any(str(each["status"]).endswith("FAIL") and each["name"].startswith(test) for each in found)


def _days(file: str) -> dict[str, Any]:
    stored = np.load(file, allow_pickle=True)
    names = [name for name in stored.files if name.startswith("column ")]
    table = pd.DataFrame({name.removeprefix("column "): stored[name] for name in names})
    features = list(table.columns)
    table["prediction"], table["target"] = stored["prediction"], stored["truth"]
    day, known, reference = stored["day"], stored["known"], table.iloc[stored["reference"]]
    kind = BinaryClassification if len(np.unique(stored["truth"])) == 2 else MulticlassClassification
    definition = DataDefinition(classification=[kind(target="target", prediction_labels="prediction")])
    drift = Report([DataDriftPreset(columns=[*features, "prediction"])], include_tests=True)
    accuracy = Report([Accuracy()], include_tests=True)
    labelled = Dataset.from_pandas(reference[["prediction", "target"]], data_definition=definition)
    drifted, any_column, failed = [], [], []
    for today in range(int(stored["warm"]), int(day.max()) + 1):
        found = drift.run(table[day == today], reference).dict()["tests"]
        failing = [each["name"] for each in found if str(each["status"]).endswith("FAIL")]
        drifted.append(any(name.startswith("Share of Drifted Columns") for name in failing))
        any_column.append(any(name.startswith("Value Drift") for name in failing))
        rows = table[(day == today - 1) & known][["prediction", "target"]]
        told = len(rows) >= FEWEST
        failed.append(told and _failed(accuracy, Dataset.from_pandas(rows, data_definition=definition), labelled))
    return {"drift": drifted, "any": any_column, "performance": failed, "estimated": []}


for each in sys.argv[1:]:
    print(json.dumps({"file": each, **_days(each)}), flush=True)
