"""A sample of what `make fuzz` does for hours."""

from __future__ import annotations

import pytest
from tests.hostile.mutate import mutants
from tests.hostile.targets import FINDINGS, TARGETS

SAMPLE = 1500


@pytest.mark.parametrize("name", TARGETS)
def test_octets_of_any_kind_end_in_what_is_expected(name: str) -> None:
    run, seeds = TARGETS[name]()
    for content in [b"", *seeds, *FINDINGS.get(name, ())]:
        run(content)
    for content in mutants(seeds, SAMPLE, seed=1):
        try:
            run(content)
        except BaseException as error:
            raise AssertionError(f"{name}: {content!r}") from error
