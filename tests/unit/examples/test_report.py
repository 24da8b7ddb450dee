"""The report of the demo's loop."""

from __future__ import annotations

from html.parser import HTMLParser

from examples.report import Chart, page, smoothed

DECISION = {
    "time": "2026-11-26T02:05:14Z",
    "action": "Notified",
    "reason": "MeasuredDrop",
    "message": "Accuracy <0.767>",
    "evidence": "n=3020",
}


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    return reader


def test_every_curve_mark_and_decision_is_on_the_page() -> None:
    curves = {"a": [(100.0, 0.9), (110.0, 0.8)], "b": [(100.0, 0.1), (120.0, 0.2)]}
    found = read(page("Story", "Words.", [Chart("Answers", "Shares.", curves)], [(105.0, "dearer")], [DECISION]))
    assert sum(tag == "polyline" for tag, _ in found.found) == 2
    assert sum(attributes.get("class") == "mark" for _, attributes in found.found) == 1
    for words in ("Story", "dearer", "02:05:14", "MeasuredDrop", "Accuracy <0.767>", "n=3020"):
        assert words in found.text


def test_higher_is_higher_and_later_is_further_right() -> None:
    found = read(page("S", "", [Chart("C", "", {"a": [(0.0, 1.0), (10.0, 3.0)]})], [], []))
    points = next(attributes["points"] for tag, attributes in found.found if tag == "polyline")
    assert points
    (x0, y0), (x1, y1) = [tuple(map(float, pair.split(","))) for pair in points.split()]
    assert x1 > x0
    assert y1 < y0


def test_the_page_asks_no_network_for_anything() -> None:
    found = read(page("S", "", [Chart("C", "", {"a": [(0.0, 1.0)]})], [], [DECISION]))
    assert not [tag for tag, attributes in found.found if {"src", "href"} & attributes.keys()]


def test_a_chart_without_numbers_says_so() -> None:
    assert "There are no numbers." in read(page("S", "", [Chart("C", "Text.", {})], [], [])).text


def test_shares_are_of_all_that_ended_within_the_time() -> None:
    points = [(0.0, 1.0, 1.0), (1.0, 0.0, 3.0), (20.0, 1.0, 2.0), (21.0, 0.0, 0.0)]
    assert smoothed(points, 10.0) == [(0.0, 1.0), (1.0, 0.25), (20.0, 0.5), (21.0, 0.5)]
