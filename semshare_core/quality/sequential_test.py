"""Whether a promise is broken more often than it allows, judged after every check without fooling oneself.

A binomial test repeated after every check would cry wolf sooner or later. What is weighed here is a *bet against the
promise*: the likelihood of what was seen, averaged over all shares of broken calls above the promised one, over its
likelihood at the promised one. If the promise holds, the bet's value ever reaches ``1 / risk`` with a probability of at
most ``risk``, however long one looks (Ville's inequality; Ramdas, Grünwald, Vovk and Shafer: Game-theoretic statistics
and safe anytime-valid inference, Statistical Science 38(4), 2023).
"""

from __future__ import annotations

from math import lgamma, log, log1p

import numpy as np

RISK = 0.05
"""The probability that a promise that is kept is ever taken for a broken one."""


def log_bet(broken: int, checked: int, share: float) -> float:
    """The logarithm of what one unit bet against "at most ``share`` of the calls break their bound" is worth by now.

    The average over shares is an incomplete beta function, which is the tail of a binomial distribution:
    ``P(X' <= broken) / ((1 - share) (checked + 1) P(X = broken))``, X of ``checked`` trials and X' of one more.
    """
    tail = np.logaddexp.reduce([_log_binomial(count, checked + 1, share) for count in range(broken + 1)])
    return float(tail) - log1p(-share) - log(checked + 1) - _log_binomial(broken, checked, share)


def too_often(broken: int, checked: int, share: float) -> bool:
    """Whether ``broken`` of ``checked`` calls are evidence enough that more than ``share`` of all calls break."""
    return log_bet(broken, checked, share) >= -log(RISK)


def _log_binomial(count: int, trials: int, share: float) -> float:
    ways = lgamma(trials + 1) - lgamma(count + 1) - lgamma(trials - count + 1)
    return ways + count * log(share) + (trials - count) * log1p(-share)
