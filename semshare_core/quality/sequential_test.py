"""A sequential test that asks after every check: is a promise broken more often than it allows?

A binomial test that is repeated after every check gives a false alarm sooner or later. This test computes the value of
a *bet against the promise*: the likelihood of the results, averaged over all shares of broken calls above the promised
share, divided by their likelihood at the promised share. If the promise holds, the value ever reaches ``1 / risk`` with
a probability of at most ``risk``, however many checks there are (Ville's inequality; Ramdas, Grünwald, Vovk and Shafer:
Game-theoretic statistics and safe anytime-valid inference, Statistical Science 38(4), 2023).
"""

from __future__ import annotations

from math import lgamma, log, log1p

import numpy as np

FALSE_ALARM_RISK = 0.05
"""The probability that a kept promise is ever judged to be broken."""


def log_bet(broken: int, checked: int, share: float) -> float:
    """The logarithm of the value of one unit that was bet against "at most ``share`` of the calls break their bound".

    The average over shares is an incomplete beta function, which is the tail of a binomial distribution:
    ``P(X' <= broken) / ((1 - share) (checked + 1) P(X = broken))``, X of ``checked`` trials and X' of one more.
    """
    tail = np.logaddexp.reduce([_log_binomial(count, checked + 1, share) for count in range(broken + 1)])
    return float(tail) - log1p(-share) - log(checked + 1) - _log_binomial(broken, checked, share)


def too_often(broken: int, checked: int, share: float) -> bool:
    """Whether ``broken`` of ``checked`` calls show that more than ``share`` of all calls break their bound."""
    return log_bet(broken, checked, share) >= -log(FALSE_ALARM_RISK)


def _log_binomial(count: int, trials: int, share: float) -> float:
    ways = lgamma(trials + 1) - lgamma(count + 1) - lgamma(trials - count + 1)
    return ways + count * log(share) + (trials - count) * log1p(-share)
