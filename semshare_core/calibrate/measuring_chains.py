"""Measure chains of prompts: every turn finds the pool as the policy itself left it.

At each turn the full prefill answers once, and a few ratios are compared with it. Then the policy serves the turn. Its
answer is the history of the next turn, and its rows, approximate ones too, serve the next turn.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from hashlib import blake2b

from semshare_core.budget.calibration import Observation, choices, measured_ratios
from semshare_core.budget.features import PlanFeatures
from semshare_core.budget.wording import MIN_SAVED_TOKENS
from semshare_core.calibrate.chains import Chain, as_text
from semshare_core.calibrate.full_answer import NAMESPACE, FullAnswer
from semshare_core.calibrate.journal import Journal
from semshare_core.config import ReusePolicy
from semshare_core.engine import SemShareEngine
from semshare_core.errors import PromptError
from semshare_core.prompt.encode import Prompt

_ANSWER_TOKENS = 40  # most answers of small models have one whole sentence by then
_TURNS_PER_GRID = 4  # each turn measures every fourth ratio, and the smallest


def measure_chain(engine: SemShareEngine, chain: Chain, log: Callable[[str], None]) -> list[Observation]:
    """Measure one chain in an extra namespace. A turn that no level serves approximately gives no observation.

    If a prompt is too long for the model, the chain ends before it.

    Raises:
        NumericalError: the model's logits are not numbers.
    """
    observations = []
    form = _form(engine)
    prompts = chain.prompts()
    digest = chain_digest(chain)
    engine.pool.clear(NAMESPACE)
    try:
        messages = next(prompts)
        for turn in range(1, chain.turns + 1):
            prompt = form(messages)
            try:
                item = _measure_turn(engine, chain, turn, prompt, digest) if turn > 1 else None
                served = engine.generate(prompt, reuse=chain.policy, namespace=NAMESPACE, max_new_tokens=_ANSWER_TOKENS)
            except PromptError as error:
                log(f"{chain.id}: ends before turn {turn}: {error}")
                break
            if item is not None:
                observations.append(item)
            if turn < chain.turns:
                messages = prompts.send(served.text)
    finally:
        engine.pool.clear(NAMESPACE)
    return observations


def measure_chains(
    engine: SemShareEngine, chains: Sequence[Chain], log: Callable[[str], None], *, journal: Journal
) -> list[Observation]:
    """Measure ``chains`` one after the other under the engine's calibration.

    Args:
        log: gets a line for each chain.
        journal: gets each chain's observations. Its earlier chains are not measured again.
    """
    done: dict[str, list[Observation]] = {}
    for item in journal.read():
        done.setdefault(item.prompts, []).append(item)
    observations = []
    for number, chain in enumerate(chains, 1):
        items = done.get(chain_digest(chain))
        if items is None:
            items = measure_chain(engine, chain, log)
            if items:
                journal.append(items)
        log(f"{number}/{len(chains)} {_told(chain, items)}")
        observations += items
    return observations


def chain_digest(chain: Chain) -> str:
    """A digest of the chain's texts but for its answers, by which a later run knows it again."""
    prompts = chain.prompts()
    texts = [next(prompts), *(prompts.send("") for _ in range(chain.turns - 1))]
    return blake2b(json.dumps([texts, chain.level, chain.ratio]).encode(), digest_size=8).hexdigest()


def thrifty_ratios(features: PlanFeatures, turn: int) -> list[float]:
    """The ratios, ascending, that are measured at a turn: the smallest that a level may take, and every fourth other.

    Four turns measure all of them. Of ratios that compute the same rows, one is measured. If too little is left to
    reuse, the largest ratio is.
    """
    offered = choices(features) or measured_ratios(features)[-1:]
    different = list({features.computed(ratio): ratio for ratio in reversed(offered)}.values())[::-1]
    return different[:1] + different[1:][turn % _TURNS_PER_GRID :: _TURNS_PER_GRID]


def _measure_turn(engine: SemShareEngine, chain: Chain, turn: int, prompt: Prompt, digest: str) -> Observation | None:
    """Measure a turn, and leave the pool as it was. Returns None if levels would serve it without approximation."""
    features = engine.plan_features(prompt, namespace=NAMESPACE, reuse=chain.policy)
    if features is None or not (features.approximate or features.suffix - features.must >= MIN_SAVED_TOKENS):
        return None
    name = f"{chain.id}, turn {turn}"
    full = FullAnswer.to(engine, prompt)
    as_served = engine.prefill(prompt, reuse=chain.policy, store=False, namespace=NAMESPACE)
    served_kl = full.kl(engine, as_served, name)
    measured: dict[float, tuple[float, float]] = {}
    chosen = _chosen(engine, chain, features, as_served.report.expected_kl)
    if chosen is not None:
        measured[chosen] = (served_kl, as_served.report.ttft_ms / 1e3)
    for ratio in thrifty_ratios(features, turn):
        if ratio not in measured:
            # with the level, the plan is the level's own: it takes a prefix only if its account is within the bound
            at_ratio = ReusePolicy(level=chain.level, recompute_ratio=ratio)
            reused = engine.prefill(prompt, reuse=at_ratio, store=False, namespace=NAMESPACE)
            kl = full.kl(engine, reused, f"{name} at a ratio of {ratio}")
            measured[ratio] = (kl, reused.report.ttft_ms / 1e3)
    ratios = sorted(measured)
    return Observation(
        id=f"{chain.id}-{turn}",
        prompts=digest,
        kind=chain.kind,
        features=features,
        ratios=ratios,
        kl=[measured[ratio][0] for ratio in ratios],
        seconds=[measured[ratio][1] for ratio in ratios],
        full_seconds=full.seconds,
        chain=chain.id,
        turn=turn,
        level=chain.level or "",
        served_kl=served_kl,
    )


def _chosen(engine: SemShareEngine, chain: Chain, features: PlanFeatures, expected: float | None) -> float | None:
    """The ratio at which the policy served this very plan; None if it computed the prompt, or cut the plan."""
    if not chain.level:
        return chain.ratio
    calibration = engine.calibration
    if calibration is None or expected is None:
        return None
    ratio = calibration.ratio_for(chain.level, features)
    same = ratio is not None and math.isclose(calibration.expected_kl(features, ratio), expected, rel_tol=1e-6)
    return ratio if same else None


def _form(engine: SemShareEngine) -> Callable[[list[dict[str, str]]], Prompt]:
    """Messages as they are, or as text if the model's chat template refuses such messages."""
    roles = ("system", "user", "assistant", "user")
    try:
        engine.token_ids([{"role": role, "content": "Hello."} for role in roles])
    except PromptError:
        return as_text
    return lambda messages: messages


def _told(chain: Chain, items: list[Observation]) -> str:
    served = " ".join(f"{item.served_kl:.3f}" for item in items)
    how = chain.level or f"ratio {chain.ratio}"
    return f"{chain.id} ({how}): {len(items)} of {chain.turns} turns measured, KL as served {served}"
