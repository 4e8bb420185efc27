"""Test a promise on calls of which some depend on each other: those of one chain.

An exact binomial test needs independent calls. The calls of a chain share its text and its errors, so chains are the
units, and each counts as one call. If one call of each unit is drawn at random, the drawn calls are independent, and
the binomial test is right for them: unequal probabilities make it less likely, not more, that far fewer calls break
than expected (Hoeffding, On the distribution of the number of successes in independent trials, Annals of Mathematical
Statistics 27, 1956; so it is right for risks of some 10 %, of which we ask, not for large ones). A draw
would make the result a matter of luck. So we take the mean p-value over all draws, and double it: twice the mean of
p-values is a p-value, however they depend on each other (Vovk and Wang, Combining p-values via averaging, Biometrika
107, 2020). No draw is made: the distribution of the number of broken calls over all draws is computed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr


def chance_of_so_few(broken: NDArray[np.int64], calls: NDArray[np.int64], share: float) -> float:
    """The probability of so few broken calls if more than ``share`` of the calls break their bound, or a bound on it.

    All calls of a unit count together as one. The probability is exact if each unit has one call.

    Args:
        broken: [units], the broken calls of each unit.
        calls: [units], all its calls.
        share: the promised share, below 0.5.
    """
    units = len(calls)
    if (calls == 1).all():
        return binomial_tail(int(broken.sum()), units, share)
    drawn = np.ones(1)  # the probability of 0, 1, ... broken calls among those that are drawn
    for chance in (broken / calls)[broken > 0]:
        drawn = np.convolve(drawn, (1 - chance, chance))
    tails = bdtr(np.arange(len(drawn), dtype=float), units, share)
    return float(min(1.0, 2 * (drawn * tails).sum()))


def binomial_tail(broken: int, calls: int, share: float) -> float:
    """The probability that at most ``broken`` of ``calls`` calls break if each breaks with probability ``share``."""
    return float(bdtr(broken, calls, share))
