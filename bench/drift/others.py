"""What other projects say of the same streams, each at its defaults, in an environment of its own, a day at a time.

They get as much as they ask for. Evidently: as many rows to compare with as our reference has, drawn from the two weeks
before. NannyML: the whole of these two weeks, with the truth of all rows. Both: the truth that our feedback gets.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bench.drift.rows import DAY, WARM, Array, Episode
from tests.unit.serving import environments

HERE = Path(__file__).parent
PEERS = ("evidently", "nannyml")
_PYTHON = ">=3.11,<3.14"


@dataclass(frozen=True, slots=True)
class Days:
    """What a peer says at the end of each judged day.

    Attributes:
        drift: that the data has drifted, by its own verdict on all of it.
        any: that some column has.
        performance: that the accuracy is alarming.
        estimated: accuracy, where it estimates one.
    """

    drift: list[bool]
    any: list[bool]
    performance: list[bool]
    estimated: list[float]


def store(
    file: Path, episode: Episode, said: tuple[Array, Array], known: Array, reference_rows: int, seed: int
) -> None:
    """What a peer needs of an episode.

    Args:
        said: labels and probabilities of all live rows.
        known: whose truth comes back.
    """
    rows = np.diff(episode.ends, prepend=0)
    day = np.repeat(np.arange(len(episode.ends)) // DAY, rows)
    warm = int(episode.ends[WARM - 1])
    random = np.random.default_rng([seed, 2])
    np.savez(
        file,
        **{f"column {name}": values for name, values in episode.live.columns.items()},
        prediction=said[0],
        probabilities=said[1],
        truth=episode.live.truth,
        known=known,
        day=day,
        warm=WARM // DAY,
        reference=np.sort(random.choice(warm, reference_rows, replace=False)),
    )


def days(peer: str, files: Sequence[Path], seconds: float) -> dict[Path, Days]:
    """What it says, by file; nothing of files that it did not come to in this time.

    Raises:
        subprocess.CalledProcessError: its environment cannot be made.
        OtherError: it failed.
    """
    python = environments.python(f"bench-{peer}", made_with=_PYTHON)
    command = [str(python), "-W", "ignore", str(HERE / "peers" / f"{peer}_days.py"), *map(str, files)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            output, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            output, errors = process.communicate()
        else:
            if process.returncode:
                raise OtherError(f"{peer}: {errors[-2000:]}")
    found = {}
    for line in output.splitlines():
        document = json.loads(line)
        file = Path(document.pop("file"))
        found[file] = Days(**document)
    return found


class OtherError(Exception):
    """A peer could not be run; the text holds the end of what it wrote."""
