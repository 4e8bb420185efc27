"""``semshare calibrate``: measure a model, so that its levels keep their promises."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from semshare_core.budget.calibration import Calibration, Observation, chosen, kl_table
from semshare_core.budget.forecast import log_kl
from semshare_core.budget.levels import BOUNDS
from semshare_core.calibrate import fitting
from semshare_core.calibrate.fitting import check_enough, cross_fitted, promised
from semshare_core.calibrate.prompts import default_pairs, read_pairs
from semshare_core.calibrate.risk import beyond
from semshare_core.errors import ConfigError
from semshare_core.quality.calibration_files import calibration_file, identity, write_calibration

console = Console(soft_wrap=True, highlight=False, markup=False)
_POOL_BYTES = 4 * 2**30


def calibrate(
    model: Annotated[str, typer.Argument(help="Hub id, folder, GGUF file or 'demo'.", show_default=False)],
    prompts: Annotated[
        Path | None,
        typer.Option(help="JSONL of your own pairs: 'reference' (a text or several), 'target', 'question', 'kind'."),
    ] = None,
    pairs: Annotated[int, typer.Option(help="How many of the built-in pairs, without --prompts.")] = 320,
    chains: Annotated[int, typer.Option(help="How many built-in chains of turns in each of two rounds.", min=0)] = 44,
    dtype: Annotated[str, typer.Option(help="As the engine will load it: auto, float32, bfloat16, float16.")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...", show_default=False)] = None,
    threads: Annotated[int | None, typer.Option(help="Of torch.", min=1, show_default=False)] = None,
    out: Annotated[Path | None, typer.Option(help="Not the file in the cache, but this.", show_default=False)] = None,
    extend: Annotated[
        list[Path] | None,
        typer.Option(help="Begin with what this calibration or journal has. May be given several times."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed draws other chains.")] = 0,
    part: Annotated[
        str | None,
        typer.Option(
            help="Measure one part of one round, for example 1/2, and keep the journal for --extend.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Measure how far reused answers lie from the full prefill's, and what each level has to recompute for its promise.

    Takes five to eight full prefills per pair and twenty per chain: with the built-in ones some five hours for the demo
    model on one thread of a busy CPU. A run that is broken off goes on where it stopped.
    """
    from semshare_core.calibrate.journal import Journal
    from semshare_core.calibrate.progress import HEAD, Progress
    from semshare_core.calibrate.rounds import ROUNDS, Part, earlier_observations, measure_all, measure_part, missing
    from semshare_core.calibrate.substitutes import Substitutes, fitting_pairs
    from semshare_core.config import PoolConfig
    from semshare_core.engine import SemShareEngine

    if threads is not None:
        torch.set_num_threads(threads)
    if out is not None and out.is_dir():  # said before hours of measuring, not after
        raise ConfigError(f"--out={out} is a folder: name a file, such as {out / 'calibration.json'}.")
    share = Part.parse(part) if part is not None else None
    brought = read_pairs(prompts) if prompts is not None else default_pairs(pairs)
    if not extend:
        check_enough(len(brought))
    engine = SemShareEngine.from_pretrained(
        model, dtype=dtype, device=device, pool=PoolConfig(max_bytes=_POOL_BYTES, heal=False), calibration=None
    )
    parts = identity(engine.model, engine.tokenizer)
    known, base = earlier_observations(extend or [], parts, engine.model.device.type)
    brought = missing(brought, known)
    place = out or calibration_file(parts)
    journal = Journal(place.with_suffix(".observations.jsonl"), parts)
    # your own prompts are not diluted beyond need
    wanted = len(brought) if prompts is None else max(0, fitting.LEAST_PAIRS - len(known))
    spare = Substitutes(engine)
    brought = fitting_pairs(brought, wanted, spare, console.print)
    further = chains if share is not None else ROUNDS * chains
    progress = Progress(brought, further=further, known=len(journal.read()))
    console.print(HEAD)

    def tell(line: str) -> None:
        console.print(progress.line(line))

    if share is not None:
        measure_part(engine, share, brought, chains, base, journal, tell, seed=seed)
        console.print(f"Part {part} is in {journal.path}: pass it to --extend, after the calibration it extends.")
        return
    made = measure_all(
        engine,
        brought,
        chains,
        known,
        journal,
        tell,
        fingerprint=parts,
        source=prompts.name if prompts is not None else "the built-in prompts",
        spare=spare,
        wanted=wanted,
        seed=seed,
    )
    write_calibration(made, place)
    journal.remove()
    Console().print(_table(made))
    if any(item.level for item in made.observations):
        Console().print(_served_table(made))
    console.print(f"Calibration {made.name} ({made.prompts}): {place}")


def _served_table(made: Calibration) -> Table:
    """How far the chains were off as they were served, under earlier fits, and how many lie above their new account."""
    table = Table(title="Chains as they were served, under earlier fits")
    for column in ("level", "bound (KL)", "chains", "turns", "mean KL", "beyond the bound", "above the account"):
        table.add_column(column)
    for level, bound in BOUNDS.items():
        items = [item for item in made.observations if item.level == level]
        kl = np.array([item.served_kl for item in items])
        if len(kl):
            chains, broken = len({item.unit for item in items}), (kl > bound.kl).mean()
            above = _above_account(made, items)
            told = f"{np.mean(above):.1%}" if above else ""
            table.add_row(level, str(bound.kl), str(chains), str(len(kl)), f"{kl.mean():.4f}", f"{broken:.1%}", told)
    return table


def _above_account(made: Calibration, items: list[Observation]) -> list[bool]:
    """For each turn that was served at a measured ratio, whether its KL lies above its account: at most 10 % should."""
    served = [(item, item.ratios[item.kl.index(item.served_kl)]) for item in items if item.served_kl in item.kl]
    return [
        (item.served_kl or 0.0) > item.features.with_kept(made.account(item.features, ratio)) for item, ratio in served
    ]


def _table(made: Calibration) -> Table:
    """What each level spends on the prompts it was calibrated on, by forecasts that have not seen the call."""
    table = Table(title="What each level recomputes of calibration prompts that its forecast has not seen")
    for column in ("level", "bound (KL)", "margin", "mean ratio", "computed in full", "beyond the bound"):
        table.add_column(column)
    kl = kl_table(made.observations, made.ratios)
    plans, units = [item.features for item in made.observations], [item.unit for item in made.observations]
    at = promised(made.observations)
    forecast, spread, kl = (each[at] for each in (*cross_fitted(plans, kl, made.ratios, units)[:2], kl))
    for level, bound in BOUNDS.items():
        margin = made.margins[level]
        if margin is None:
            table.add_row(level, str(bound.kl), "none keeps it", "1.00", "100%", "0%")
            continue
        index = chosen(forecast, spread, float(log_kl(bound.kl)), margin)
        spent = np.where(index < 0, 1.0, np.array(made.ratios)[np.maximum(index, 0)])
        table.add_row(
            level,
            str(bound.kl),
            f"{margin:.2f}",
            f"{spent.mean():.2f}",
            f"{(index < 0).mean():.0%}",
            f"{beyond(kl, index, bound.kl).mean():.1%}",
        )
    return table
