"""NannyML at its defaults with a chunk a day: has an input drifted, is the estimated or the real accuracy alarming?

Runs in NannyML's environment: `nannyml_days.py FILE...`; for each file, as bench.drift.peers writes them, one line of
JSON.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import nannyml
import numpy as np
import pandas as pd

warnings.filterwarnings("ignore")
START = pd.Timestamp("2026-01-01")


def _days(file: str) -> dict[str, Any]:
    stored = np.load(file, allow_pickle=True)
    names = [name for name in stored.files if name.startswith("column ")]
    table = pd.DataFrame({name.removeprefix("column "): stored[name] for name in names})
    features = list(table.columns)
    day, known, warm = stored["day"], stored["known"], int(stored["warm"])
    table["prediction"], table["truth"] = stored["prediction"], stored["truth"]
    table["time"] = START + pd.to_timedelta(day, unit="D")
    probabilities = stored["probabilities"]
    if probabilities.shape[1] == 2:
        kind, given = "classification_binary", "probability"
        table["probability"] = probabilities[:, 1]
    else:
        kind, given = "classification_multiclass", {each: f"p{each}" for each in range(probabilities.shape[1])}
        for each, name in given.items():
            table[name] = probabilities[:, each]
    reference, live = table[day < warm], table[day >= warm]
    common = {"chunk_period": "D", "timestamp_column_name": "time"}
    judged = {"y_true": "truth", "y_pred": "prediction", "y_pred_proba": given, "problem_type": kind}

    drift = nannyml.UnivariateDriftCalculator(column_names=features, **common).fit(reference)
    found = drift.calculate(live).filter(period="analysis").to_df()
    drifted = found[[column for column in found.columns if column[-1] == "alert"]].any(axis=1)
    estimator = nannyml.CBPE(metrics=["accuracy"], **judged, **common).fit(reference)
    estimated = estimator.estimate(live.drop(columns="truth")).filter(period="analysis").to_df()["accuracy"]
    low = estimated["alert"] & (estimated["value"] < estimated["lower_threshold"])
    real = _realized(reference, table[(day >= warm - 1) & known], judged, common, warm, int(day.max()))
    return {
        "drift": drifted.tolist(),
        "any": drifted.tolist(),
        "performance": [bool(one or other) for one, other in zip(low.tolist(), real, strict=True)],
        "estimated": estimated["value"].tolist(),
    }


def _realized(
    reference: pd.DataFrame, known: pd.DataFrame, judged: Any, common: Any, warm: int, last: int
) -> list[bool]:
    """By day on which it is known: one after the rows'."""
    nothing = [False] * (last - warm + 1)
    if known.empty:
        return nothing
    calculator = nannyml.PerformanceCalculator(metrics=["accuracy"], **judged, **common).fit(reference)
    found = calculator.calculate(known).filter(period="analysis").to_df()
    days = (pd.to_datetime(found["chunk", "chunk", "start_date"] if ("chunk", "chunk", "start_date") in found
                           else found["chunk", "start_date"]) - START).dt.days  # fmt: skip
    values = found["accuracy"]
    low = values["alert"] & (values["value"] < values["lower_threshold"])
    alarming = set(days[low.to_numpy(bool)])
    return [today - 1 in alarming for today in range(warm, last + 1)]


for each in sys.argv[1:]:
    print(json.dumps({"file": each, **_days(each)}), flush=True)
