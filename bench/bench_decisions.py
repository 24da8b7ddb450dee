"""`make bench-decisions`: how often the statistics decide wrongly, and how soon they decide rightly.

Simulated rollouts, seeded, all of a case side by side:

* **null**: the candidate is as good as the stable revision, and the weather is bad. Each rollout is looked at 360
  times, every 5 s, by our rule and, on the same requests, by a z-test at the same error rate and by the rules of
  Flagger's and Argo Rollouts' documentation. Any abort is false.
* **promotion**: the candidate is worse by exactly the tolerance, half a percentage point. Any promotion is false.
  Beside our bound two usual ones, looked at as often. Then what the bound does not cover, defects that hit all requests
  of a few clients; and clean candidates, and what they need.
* **detection**: a bad candidate, from the moment when it becomes bad.

Ours are twins of the operator's classes that know all rollouts of a case at once; some rollouts of each case are
replayed through the classes themselves, and must end with the same numbers. The last line on standard output is one
JSON object: rates are means over the cases, and `_worst` is the worst case's.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from bench.decisions import rules, streams
from bench.decisions.rules import ALPHA, EXCESS, Bounds, ClopperPearson, Evidences, Rule, Wald, ZTest
from bench.decisions.streams import LOOKS, POLL_SECONDS, Arms, Block, Counts, Stream
from bench.serving.findings import say

from holdfast.stats import sequence
from holdfast.stats.arms import Arm
from holdfast.stats.eprocess import Evidence, is_worse
from holdfast.stats.sequence import NonInferiority

SEED = 20261125
REPLAYED = 2
"""Rollouts of each case that the operator's own classes see as well; there must be as many."""

OURS, Z, FLAGGER, ARGO = "ours", "z-test", "Flagger", "Argo Rollouts"
WARMING = "ours, were warming counted"
EXACT, NORMAL = "Clopper-Pearson", "normal bound"

CANARY = Arms()
HALF = Arms(weight=0.5)
GUARD = Arms(weight=0.98)
WORSE = Arms(excess=EXCESS)


@dataclass(frozen=True, slots=True)
class Case:
    """Requests of a rollout. What comes in the looks before `onset` is history: it is seen, and decides nothing."""

    name: str
    stream: Stream
    onset: int = 0
    poll_seconds: float = POLL_SECONDS


NULL = (
    Case("steady, 0.1 % bad", streams.steady(CANARY, 0.001)),
    Case("steady, 2 % bad", streams.steady(CANARY, 0.02)),
    Case("half of the requests", streams.steady(HALF, 0.005)),
    Case("one request a second", streams.steady(Arms(per_second=1), 0.01)),
    Case("0.1 % to 5 % and back", streams.varying(CANARY, lambda look: 0.05 if 120 <= look < 240 else 0.001)),
    Case("up and down", streams.varying(CANARY, lambda look: 0.011 + 0.01 * math.sin(look / 30))),
    Case("outage of both, five minutes", streams.outages(CANARY, 0.001)),
    Case("bursts of fifty", streams.bursts(CANARY, 0.001)),
    Case("sessions of ten", streams.sessions(CANARY, 0.005)),
    Case("four pods, one on a bad node", streams.pods((0.001, 0.002, 0.001, 0.1))),
    Case("rate rises with the weight", streams.steps((CANARY, 0.001), (HALF, 0.02), (Arms(weight=0.9), 0.03))),
    Case("cold start, 20 % bad", streams.cold(CANARY, 0.001)),
    Case("guard, control of 2 %", streams.steady(GUARD, 0.001)),
)

PROMOTION = (
    Case("stable never fails", streams.steady(WORSE, 0.0)),
    Case("stable fails 0.1 %", streams.steady(WORSE, 0.001)),
    Case("stable fails 2 %", streams.steady(WORSE, 0.02)),
    Case("half of the requests", streams.steady(Arms(weight=0.5, excess=EXCESS), 0.001)),
    Case("one request a second", streams.steady(Arms(per_second=1, weight=0.5, excess=EXCESS), 0.001)),
    Case("0.1 % to 5 % and back", streams.varying(WORSE, lambda look: 0.05 if 120 <= look < 240 else 0.001)),
    Case("outage of both, five minutes", streams.outages(WORSE, 0.001)),
)

CLIENTS = tuple(
    Case(
        f"{size} requests of each client that the candidate fails, {weight:.0%}",
        streams.defective(Arms(weight=weight, excess=EXCESS), 0.001, size),
    )
    for size in (3, 10)
    for weight in (0.1, 0.5)
)
"""What the bound does not promise anything about: it takes requests for independent of each other."""

_OUTAGE = 60
_AFTER_OUTAGE = streams.after(streams.steady(CANARY, 0.6), _OUTAGE, streams.steady(CANARY, 0.001, looks=3 * LOOKS))
CLEAN = (
    Case("never fails", streams.steady(CANARY, 0.0)),
    Case("0.1 %, as stable", streams.steady(CANARY, 0.001)),
    Case("0.5 %, as stable", streams.steady(CANARY, 0.005, looks=3 * LOOKS)),
    Case("0.1 %, as stable; half of the requests", streams.steady(HALF, 0.001)),
    Case("0.1 %, as stable; after an outage of both", _AFTER_OUTAGE, _OUTAGE),
)


def _bad(share: float, per_second: float = 50, weight: float = 0.1, poll: float = POLL_SECONDS) -> Stream:
    return streams.steady(Arms(per_second, weight, share), 0.001, seconds=poll, looks=round(1800 / poll))


def _late(arms: Arms, rate: float, looks: int, bad: Stream) -> Stream:
    return streams.after(streams.steady(arms, rate), looks, bad)


DETECTION = (
    *(
        Case(f"{per_second} rps, {weight:.0%}, {share:.0%} bad", _bad(share, per_second, weight))
        for per_second, weight in ((50, 0.1), (10, 0.1), (10, 0.25))
        for share in (1.0, 0.2, 0.05)
    ),
    *(
        Case(f"50 rps, 10%, {share:.0%} bad, looks every 2 s", _bad(share, poll=2), poll_seconds=2)
        for share in (1.0, 0.2, 0.05)
    ),
    Case("50 rps, 10%, 20% bad, after 30 good minutes", _late(CANARY, 0.001, LOOKS, _bad(0.2)), LOOKS),
    Case("50 rps, 10%, 20% bad, after an outage of both", _late(CANARY, 0.6, _OUTAGE, _bad(0.2)), _OUTAGE),
    *(
        Case(
            f"guard, 50 rps, control 2%, {share:.0%} bad, after 30 good minutes",
            _late(GUARD, 0.001, LOOKS, _bad(share, 50, 0.98)),
            LOOKS,
        )
        for share in (1.0, 0.2)
    ),
)


class Replay:
    """The operator's own class on the first rollouts of a case, beside its twin."""

    def __init__(self, twin: Evidences | Bounds, count: int) -> None:
        self._twin = twin
        first: Evidence | NonInferiority = Evidence.none() if isinstance(twin, Evidences) else NonInferiority.none()
        self._originals = [first] * count

    def look(self, blocks: tuple[Block, ...]) -> None:
        for block in blocks:
            for place, original in enumerate(self._originals):
                control = Arm(int(block.n_control[place]), int(block.x_control[place]))
                treated = Arm(int(block.n_treated[place]), int(block.x_treated[place]))
                self._originals[place] = original.observed(control, treated)

    def check(self) -> None:
        """Raises AssertionError where the twin says something else."""
        said = self._twin.look(())
        for place, original in enumerate(self._originals):
            if isinstance(original, Evidence):
                log_e, decided = original.log_e, is_worse(original, ALPHA, EXCESS)
            else:
                log_e, decided = original.log_e(EXCESS), original.log_e(EXCESS) >= -math.log(sequence.BETA)
            np.testing.assert_allclose(self._twin.log_e[place], log_e, rtol=1e-9, atol=1e-7)
            assert said[place] == decided


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rule made of the rollouts of a case."""

    looks: Counts
    """From the onset until it decided; 0 where it never did."""
    requests: Counts
    """Of the candidate since the onset, until then or the end."""
    bad: Counts

    @property
    def share(self) -> float:
        """Of rollouts in which it decided."""
        return float((self.looks > 0).mean())

    def quantile(self, share: float, values: Counts) -> float | None:
        """Of all rollouts; None where that many did not come to a decision."""
        ranked = np.sort(np.where(self.looks > 0, values, np.iinfo(np.int64).max))
        at = ranked[math.ceil(share * ranked.size) - 1]
        return None if at == np.iinfo(np.int64).max else float(at)


def run(case: Case, rollouts: int, deciding: dict[str, Rule]) -> dict[str, Outcome]:
    """Lets all rules look at the same requests."""
    nothing = np.zeros(rollouts, np.int64)
    found = {name: Outcome(nothing.copy(), nothing.copy(), nothing.copy()) for name in deciding}
    twins = {name: rule for name, rule in deciding.items() if isinstance(rule, Evidences | Bounds)}
    replays = {name: Replay(twin, REPLAYED) for name, twin in twins.items()}
    random = np.random.default_rng([SEED, zlib.crc32(case.name.encode())])
    for place, look in enumerate(case.stream(random, rollouts), 1):
        steady = () if look.warming else look.blocks
        for name, rule in deciding.items():
            blocks = look.blocks if rule.sees_warming else steady
            decided = rule.look(blocks)
            if name in replays:
                replays[name].look(blocks)
            outcome = found[name]
            undecided = outcome.looks == 0
            if place > case.onset:
                for block in look.blocks:
                    outcome.requests[undecided] += block.n_treated[undecided]
                    outcome.bad[undecided] += block.x_treated[undecided]
                outcome.looks[undecided & decided] = place - case.onset
    for replay in replays.values():
        replay.check()
    return found


def nulls(rollouts: int, cases: tuple[Case, ...] = NULL) -> dict[str, dict[str, float]]:
    """Share of aborted rollouts by case and rule."""
    found = {}
    for case in cases:
        deciding: dict[str, Rule] = {
            OURS: Evidences(rollouts),
            Z: ZTest(rollouts, ALPHA),
            FLAGGER: rules.flagger(rollouts, POLL_SECONDS),
            ARGO: rules.argo(rollouts, POLL_SECONDS),
        }
        if case.name.startswith("cold"):
            deciding[WARMING] = Evidences(rollouts, sees_warming=True)
        found[case.name] = {rule: outcome.share for rule, outcome in run(case, rollouts, deciding).items()}
        say(f"aborted, and should not be · {case.name}: {_percents(found[case.name])}")
    return found


def promotions(rollouts: int, cases: tuple[Case, ...] = PROMOTION) -> dict[str, dict[str, float]]:
    """Share of promoted rollouts by case and rule, where none should be."""
    found = {}
    for case in cases:
        deciding: dict[str, Rule] = {
            OURS: Bounds(rollouts, EXCESS),
            EXACT: ClopperPearson(rollouts, EXCESS),
            NORMAL: Wald(rollouts, EXCESS),
        }
        found[case.name] = {rule: outcome.share for rule, outcome in run(case, rollouts, deciding).items()}
        say(f"promoted, and should not be · {case.name}: {_percents(found[case.name])}")
    return found


def clean(rollouts: int) -> dict[str, dict[str, float | None]]:
    """What good candidates need until they are promoted."""
    found = {}
    for case in CLEAN:
        outcome = run(case, rollouts, {OURS: Bounds(rollouts, EXCESS)})[OURS]
        found[case.name] = {
            "promoted": outcome.share,
            "p50_requests": outcome.quantile(0.5, outcome.requests),
            "p95_requests": outcome.quantile(0.95, outcome.requests),
        }
        say(f"promoted, as it should be · {case.name}: {found[case.name]}")
    return found


def detections(rollouts: int, cases: tuple[Case, ...] = DETECTION) -> dict[str, dict[str, float | None]]:
    """How soon bad candidates are found, and how often they had failed until then."""
    found = {}
    for case in cases:
        deciding: dict[str, Rule] = {
            OURS: Evidences(rollouts),
            FLAGGER: rules.flagger(rollouts, case.poll_seconds),
            ARGO: rules.argo(rollouts, case.poll_seconds),
        }
        outcomes = run(case, rollouts, deciding)

        def seconds(
            rule: str, share: float, case: Case = case, outcomes: dict[str, Outcome] = outcomes
        ) -> float | None:
            looks = outcomes[rule].quantile(share, outcomes[rule].looks)
            return None if looks is None else looks * case.poll_seconds

        found[case.name] = {
            "p50_s": seconds(OURS, 0.5),
            "p95_s": seconds(OURS, 0.95),
            "bad_p95": outcomes[OURS].quantile(0.95, outcomes[OURS].bad),
            "flagger_p50_s": seconds(FLAGGER, 0.5),
            "argo_p50_s": seconds(ARGO, 0.5),
        }
        say(f"found · {case.name}: {found[case.name]}")
    return found


def _percents(shares: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.2%}" for name, share in shares.items())


def _mean(found: dict[str, dict[str, float]], rule: str) -> float:
    return round(float(np.mean([case[rule] for case in found.values()])), 6)


def _worst(found: dict[str, dict[str, float]], rule: str) -> float:
    return round(max(case[rule] for case in found.values()), 6)


def result(null_rollouts: int, others: int) -> dict[str, Any]:
    """Runs everything, with so many null rollouts and so many of the others, for each case."""
    null, promotion = nulls(null_rollouts), promotions(others)
    return {
        "null_rollouts": null_rollouts * len(NULL),
        "looks": LOOKS,
        "false_abort_rate": _mean(null, OURS),
        "false_abort_rate_worst": _worst(null, OURS),
        "ztest_false_abort_rate": _mean(null, Z),
        "flagger_false_abort_rate": _mean(null, FLAGGER),
        "argo_false_abort_rate": _mean(null, ARGO),
        "false_promotion_rate": _mean(promotion, OURS),
        "false_promotion_rate_worst": _worst(promotion, OURS),
        "clopper_pearson_false_promotion_rate": _mean(promotion, EXACT),
        "normal_false_promotion_rate": _mean(promotion, NORMAL),
        "null": null,
        "promotion": promotion,
        "promotion_by_clients": promotions(others, CLIENTS),
        "clean": clean(others),
        "detection": detections(others),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--null", type=int, default=4000, help="null rollouts of each case")
    parser.add_argument("--others", type=int, default=4000, help="rollouts of each other case")
    options = parser.parse_args()
    print(json.dumps(result(options.null, options.others)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
