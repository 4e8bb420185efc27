"""Test a promise on calls of which some depend on each other: those of one chain.

An exact binomial test needs independent calls. The calls of a chain share its text and its errors, so chains are the
units. For units of several calls we bet against the hypothesis "more than the promised share of calls break their
bound". Each unit multiplies the capital by ``1 + stake * weight * (share * calls - broken)``. If the hypothesis is
true, the expected capital is at most 1: the units are independent, the mean factor is at most 1, and a product of means
is largest if they are equal. So the capital reaches ``1 / risk`` with a probability of at most ``risk`` (Markov's
inequality). Betting on means of bounded numbers: Waudby-Smith and Ramdas, Estimating means of bounded random variables
by betting, arXiv 2010.09686.

The share is a weighted one. A call of a chain weighs less than a pair, because the chain's other calls tell most of the
same (weights for correlated proportions: Kleinman, Proportions with extraneous variance, JASA 68, 1973). Without the
weights, few chains would outvote many pairs. A wrong correlation would cost power, but the test would stay valid.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, logsumexp

_STAKES = (1.0, 0.5)
"""The capital is divided evenly. A high stake wins most if few calls break, a low one survives broken chains."""

_CORRELATION = 0.25  # of the calls of one chain


def chance_of_so_few(broken: NDArray[np.int64], calls: NDArray[np.int64], share: float) -> float:
    """The probability of so few broken calls if more than ``share`` of all calls break their bound, or a bound on it.

    It is exact if each unit has one call.

    Args:
        broken: [units], the broken calls of each unit.
        calls: [units], all its calls.
        share: the promised share, below 0.5.
    """
    if (calls == 1).all():
        return binomial_tail(int(broken.sum()), len(calls), share)
    weight = 1 / (1 + _CORRELATION * (calls - 1))
    won = weight * (share * calls - broken) / (weight * calls).max()  # at most all of the stake is lost
    capital = logsumexp([np.log1p(stake * won).sum() for stake in _STAKES]) - np.log(len(_STAKES))
    return float(np.exp(-max(0.0, capital)))


def binomial_tail(broken: int, calls: int, share: float) -> float:
    """The probability that at most ``broken`` of ``calls`` calls break if each breaks with probability ``share``."""
    return float(bdtr(broken, calls, share))
