"""``semshare why``: why a prompt is served as it is, and where it first differs from an earlier one."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from semshare_core.cli.prompt_file import read_prompt
from semshare_core.config import PoolConfig, ReusePolicy, resolve_policy
from semshare_core.errors import QualityWarning
from semshare_core.report import ReuseReport

console = Console(soft_wrap=True, highlight=False, markup=False)

_BESIDE_THE_QUESTION = "Put what changes at every call behind what stays: into the last message, beside the question."
_ADVICE = {
    "date or time": _BESIDE_THE_QUESTION,
    "number": _BESIDE_THE_QUESTION,
    "id": _BESIDE_THE_QUESTION,
    "blocks in another order": "Keep blocks (tools, passages, memories) in one order, for example by name.",
    "text inserted": "Add new text behind what stays: a new tool behind the others, memories behind the history.",
    "text removed": "Remove seldom and much at once: every removal moves all that stands behind it.",
    "other text": "Put text that changes behind text that stays.",
    "text added at the end": "Nothing is to be done: so a conversation grows.",
}


def why(
    prompts: Annotated[
        list[Path],
        typer.Argument(
            help="Earlier prompts in their order, then the prompt itself. Text, or .json with messages and tools.",
            metavar="[EARLIER]... PROMPT",
            show_default=False,
        ),
    ],
    model: Annotated[str, typer.Option(help="Hub id, folder, GGUF file or 'demo'.")] = "demo",
    pool: Annotated[Path | None, typer.Option(help="A pool's folder. It is only read.", show_default=False)] = None,
    namespace: Annotated[str | None, typer.Option(help="Whose prompts serve.", show_default=False)] = None,
    reuse: Annotated[str, typer.Option(help="The level: off, exact, high, balanced, fast.")] = "balanced",
    dtype: Annotated[str, typer.Option(help="As the engine loads it: auto, float32, bfloat16, float16.")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The report, for programs.")] = False,
) -> None:
    """Say why a prompt is served as it is, and where it first differs from the nearest earlier one.

    The earlier prompts are read first, as if they had been asked; a pool's folder holds those of another process.
    Nothing is generated and nothing is written.
    """
    if len(prompts) < 2 and pool is None:
        raise typer.BadParameter("name an earlier prompt before the prompt itself, or a pool's folder with --pool.")
    *earlier, prompt = map(read_prompt, prompts)
    policy = resolve_policy(reuse, ReusePolicy(), "--reuse")

    from semshare_core.engine import SemShareEngine

    config = PoolConfig() if pool is None else PoolConfig(path=pool, read_only=True)
    engine = SemShareEngine.from_pretrained(model, dtype=dtype, device=device, pool=config, policy=policy)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", QualityWarning)
        engine.warm(earlier, namespace=namespace)
        report = engine.prefill(prompt, namespace=namespace, store=False).report
    if as_json:
        print(report.model_dump_json(indent=1, exclude={"token_sources", "token_recomputed"}))
        return
    for name, text in _told(report):
        console.print(f"{name:<9} {text}".rstrip())
    for each in heard:
        if issubclass(each.category, QualityWarning):
            console.print(f"{'note':<9} {each.message}")


def _told(report: ReuseReport) -> list[tuple[str, str]]:
    """The lines of a report: a name and a text each."""
    lines = [
        ("outcome", f"{report.outcome} at level {report.level!r}"),
        ("why", report.reason),
        (
            "tokens",
            f"{report.prompt_tokens} = {report.prefix_tokens} prefix + {report.moved_tokens} moved + "
            f"{report.fuzzy_tokens} fuzzy + {report.new_tokens} new; {report.recompute_ratio:.0%} of the rows computed",
        ),
    ]
    if report.expected_kl is not None:
        lines.append(("forecast", f"KL {report.expected_kl:.4f}"))
    difference = report.first_difference
    if difference is None:
        return [*lines, ("differs", "nowhere: no earlier prompt is near, or the nearest begins with this one")]
    return [
        *lines,
        ("differs", f"at {difference.summary()}"),
        ("  here", repr(difference.here)),
        ("  before", repr(difference.there)),
        ("advice", _ADVICE[difference.kind]),
    ]
