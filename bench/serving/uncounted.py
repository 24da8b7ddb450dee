"""Our server with nothing counted: what its counters cost is measured against this. It takes the same arguments."""

from __future__ import annotations

import sys

from holdfast_serving import metrics
from holdfast_serving.__main__ import main


def _ignore(self: metrics.Histogram, values: object) -> None: ...


metrics.Histogram.observe = metrics.Histogram.observe_all = _ignore  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
