"""Chains on a model that nobody calibrated: the demo's weights with a little noise."""

from __future__ import annotations

import copy

import torch
from transformers import PreTrainedModel

from benchmarks.agents.measuring import Place, full_turn
from benchmarks.agents.old_text import OldText
from benchmarks.agents.plan import LEVEL
from benchmarks.agents.promises import short_chains
from benchmarks.agents.run import AgentRun, emptied, engine_on

PART = "uncalibrated"
NOISE = 0.02
"""Of each matrix's standard deviation."""
NOISY = f"{LEVEL}, noisy weights"


def uncalibrated(run: AgentRun) -> None:
    """``balanced`` without a calibration: fixed shares decide."""
    model = noisy_copy(run.engine.model)
    engine = engine_on(model, run.engine.tokenizer, calibration="auto")
    for chain in run.take(PART, short_chains(run, run.plan.noisy, PART)):
        old = OldText()
        with emptied(engine):
            for turn, asked in enumerate(chain.turns, 1):
                full = full_turn(engine, asked.prompt, asked.ask)
                run.serve(engine, full, LEVEL, Place(PART, chain.id, chain.edit, turn), old, system=NOISY)
                old.add(full.base.ids[0].numpy())


def noisy_copy(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """The model with normal noise of :data:`NOISE` of its standard deviation on every matrix."""
    made = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
                parameter += (NOISE * parameter.std() * noise.to(parameter.device)).to(parameter.dtype)
    return made
