"""Is the cascade still what was certified? An anytime-valid watch over its audited early returns.

A random share of early returns also goes to the large model. While both disagree at a rate <= `reference`, a gambler
who bets on disagreement before each audit plays a losing game: the wealth is a supermartingale that starts at 1. The
probability that it ever reaches 1 / delta is <= delta, over all time and however often one looks (Ville, 1939; Shafer,
"Testing by betting", 2021; for deployed models Podkopaev and Ramdas, arXiv 2110.06177).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from elastriton.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class AuditPlan:
    """Audit a random `share` of early returns; alarm when their disagreement rate is not <= `reference`.

    `delta` bounds the probability of a false alarm, ever. `fall_back`: on alarm, always ask the large model.
    """

    share: float
    reference: float
    delta: float
    fall_back: bool


class Audit:
    """The gambler's wealth after each audit.

    The bet on an item is Kelly's for the current estimate of the rate, none while that is <= reference. The estimate
    starts at twice the reference and forgets over MEMORY expected disagreements, so that a late change shows soon.
    """

    MEMORY = 20.0
    BOLDNESS = 0.75  # of the largest bet that could ruin; the wealth never falls to zero

    def __init__(self, plan: AuditPlan) -> None:
        """Start with a wealth of 1. Raises ConfigError for a reference or delta outside (0, 1)."""
        for name, value in (("reference", plan.reference), ("delta", plan.delta)):
            if not 0.0 < value < 1.0:
                raise ConfigError(f"audit: {name} is {value}; pass a number in (0, 1)")
        self.plan = plan
        self.seen = 0
        self.disagreed = 0
        self._log_wealth = 0.0
        self._alarm = False
        self._recent_disagreed = 2.0
        self._recent = 1.0 / plan.reference

    def observe(self, disagrees: bool) -> None:
        """Note one audited early return: whether the large model disagrees."""
        reference = self.plan.reference
        keep = 1.0 - reference / self.MEMORY
        self._log_wealth += math.log1p(self._bet() * (disagrees - reference))
        self._alarm = self._alarm or self._log_wealth >= -math.log(self.plan.delta)
        self._recent_disagreed = keep * self._recent_disagreed + disagrees
        self._recent = keep * self._recent + 1.0
        self.seen += 1
        self.disagreed += disagrees

    @property
    def alarm(self) -> bool:
        """Whether the wealth has ever reached 1 / delta; once raised it stays, until the cascade is certified anew."""
        return self._alarm

    @property
    def rate(self) -> float:
        """The share of all audits in which the models disagreed; 0 before the first."""
        return self.disagreed / self.seen if self.seen else 0.0

    @property
    def wealth(self) -> float:
        """The evidence against "the rate is <= reference": 1 is none, 1 / delta raises the alarm."""
        return math.exp(min(self._log_wealth, 700.0))

    def _bet(self) -> float:
        reference = self.plan.reference
        estimate = self._recent_disagreed / self._recent
        kelly = (estimate - reference) / (reference * (1.0 - reference))
        return min(max(0.0, kelly), self.BOLDNESS / reference)
