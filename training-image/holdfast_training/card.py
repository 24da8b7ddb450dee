"""The model card: what a person should know before using the model. The same run gives the same text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from holdfast_training import evaluation, slices
from holdfast_training.slices import Slice

MAX_FEATURES = 20


def write(
    name: str,
    lineage: Mapping[str, Any],
    metrics: Mapping[str, str],
    parts: Sequence[Slice],
    explanation: Mapping[str, Any],
    labels: Sequence[str],
) -> str:
    """Markdown.

    Args:
        lineage: as in the manifest. labels: the classes; none for Regression.
    """
    sections = [
        f"# {_cell(name)}",
        _purpose(lineage, labels),
        _section("Data", _data(lineage)),
        _section("Metrics on held-out rows", _table(("Metric", "Value"), metrics.items())),
        _section("Parts of the held-out rows", _slices(parts, explanation["metric"])) if parts else "",
        _section("What it looks at", _importance(explanation)),
        _section("How it was made", _making(lineage)),
        _section("Limits", _limits(lineage, labels, explanation)),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _purpose(lineage: Mapping[str, Any], labels: Sequence[str]) -> str:
    if labels:
        answer = f"one of {len(labels)} classes of {_cell(lineage['target'])}"
    else:
        answer = f"{_cell(lineage['target'])}, a number"
    return f"A {lineage['estimator']} that predicts {answer}."


def _data(lineage: Mapping[str, Any]) -> str:
    held_out = f"{lineage['testRows']:,} of {lineage['rows']:,} rows were held out"
    how = {"RowDigest": "by what each row is"}.get(lineage["splitMethod"], f"at random, by seed {lineage['seed']}")
    if order := lineage.get("orderColumn"):
        how = f"the last ones by {_cell(order)}"
    lines = [f"* Digest: `{lineage['dataDigest']}`", f"* {held_out}, {how}; the model has not learned from them."]
    lines += [
        f"* {finding['rule']}" + (f", column {_cell(finding['column'])}" if "column" in finding else "")
        + f": {_cell(finding['message'])}"
        for finding in lineage["findings"]
    ]  # fmt: skip
    return "\n".join(lines)


def _slices(parts: Sequence[Slice], metric: str) -> str:
    rows = [
        (part.name, part.text, f"{part.rows:,}", _or_dash(part.metrics.get(metric)))
        for part in parts
    ]  # fmt: skip
    few = f"\n\nNo value: fewer than {slices.MIN_ROWS} rows, or none that can be computed."
    return _table(("Part", "Of", "Rows", metric), rows) + few


def _or_dash(value: float | None) -> str:
    return "–" if value is None else evaluation.formatted(value)


def _importance(explanation: Mapping[str, Any]) -> str:
    if "leftOut" in explanation:
        return str(explanation["leftOut"])
    features = explanation["features"]
    shap = "shap" in features[0]
    heads = ("Column", f"Loss of {explanation['metric']} when shuffled", "±", *(["Mean |SHAP|"] if shap else []))
    rows = [
        (told["name"], *(f"{told[key]:.4g}" for key in ("importance", "deviation", *(["shap"] if shap else []))))
        for told in features[:MAX_FEATURES]
    ]
    text = _table(heads, rows)
    if len(features) > MAX_FEATURES:
        text += f"\n\nAnd {len(features) - MAX_FEATURES} columns more, in `explanation.json`."
    return text


def _making(lineage: Mapping[str, Any]) -> str:
    parameters = lineage["parameters"]
    set_to = ", ".join(f"{_cell(name)} = {_cell(value)}" for name, value in sorted(parameters.items()))
    steps = ", ".join(f"{key} {value}" for key, value in lineage["preprocessing"].items())
    lines = [
        f"* Parameters: {set_to or 'defaults'}",
        f"* Preprocessing: {steps or 'the network scales pixels itself, by channel'}",
        f"* Calibration: {lineage['calibration']}",
        f"* Seed: {lineage['seed']}",
    ]
    if workers := lineage.get("workers"):
        lines.append(f"* Workers that trained it together: {workers}")
    if tuning := lineage.get("tuning"):
        lines.append(
            f"* Best of {tuning['trials']} trials ({tuning['failed']} failed, {tuning['pruned']} pruned) by "
            f"{tuning['metric']} in {tuning['folds']}-fold cross-validation within the training rows: {tuning['value']}"
        )
    lines.append(
        f"* Packages: {', '.join(f'{name} {version}' for name, version in sorted(lineage['packages'].items()))}"
    )
    return "\n".join(lines)


def _limits(lineage: Mapping[str, Any], labels: Sequence[str], explanation: Mapping[str, Any]) -> str:
    lines = [
        "The metrics hold for rows like those of the data above; nothing is known of others.",
        f"They were measured on {lineage['testRows']:,} rows and shift by chance when these are few.",
    ]
    if "leftOut" in explanation:
        lines += [
            "Images of another size are refused. Pixels must have the range that they had in the data.",
            "An image of something else altogether gets one of the classes, too.",
        ]
    else:
        lines += [
            "Columns that go together share their importance: shuffling one of them alone can look harmless.",
            "Importance says what the model uses, not what causes the answer.",
            "A missing number is imputed; a category that the training rows did not have counts as none of theirs.",
        ]
    if explanation["rows"] < lineage["testRows"]:
        lines.append(f"Importance was measured on {explanation['rows']:,} of the held-out rows.")
    if labels and lineage["calibration"] == "None":
        lines.append("Probabilities, where it gives them, are the estimator's own and were not calibrated.")
    return "\n".join(f"* {line}" for line in lines)


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    """On one line, and without what Markdown would take for more than text."""
    plain = " ".join(str(text).split())
    return "".join(f"\\{letter}" if letter in "|`*_<>[]\\" else letter for letter in plain)
