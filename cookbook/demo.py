"""Questions over the standard library's documentation, with and without reuse: ``python -m cookbook.demo``.

Downloads nothing: the documents are this Python's own, both models come from installed packages.
"""

from __future__ import annotations

import argparse
import os
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported, which reads it once
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # waiting threads that spin ruin the times of a machine in use

from rich.console import Console
from rich.status import Status
from rich.text import Text
from transformers.utils import logging as transformers_logging

from cookbook.demo_chain import ANSWER_TOKENS, Answered, Conversation
from cookbook.demo_documents import as_context, documents, retriever
from cookbook.demo_page import Shown, render
from cookbook.demo_passages import Prompt, origins, place
from cookbook.demo_questions import QUESTIONS
from cookbook.demo_summary import notes, seconds
from cookbook.demo_table import answers, summary, table
from semshare_core import ReusePolicy
from semshare_integrations.langchain import SemShareLLM


def main() -> None:
    """Ask the questions, print what was reused, and write the page."""
    options = _options()
    console = Console() if os.isatty(1) else Console(width=150)
    transformers_logging.disable_progress_bar()
    started = time.perf_counter()
    with console.status("Loading the models and reading the documentation ..."):
        policy = ReusePolicy(level=options.reuse, canary=1.0)  # every answer is compared with the full prefill's
        llm = SemShareLLM(model_id="demo", reuse=policy, max_new_tokens=ANSWER_TOKENS)
        found_in = documents()
        conversation = Conversation(llm, retriever(found_in))
        conversation.warm_up()
    console.print(f"{len(found_in)} passages of the standard library's documentation are searchable.", highlight=False)
    answered = []
    for number, ask in enumerate(QUESTIONS[: options.calls], start=1):
        label = f"{number}/{len(QUESTIONS)} {ask.kind}: {ask.text}"
        with console.status(Text(label)) as status:
            done = conversation.ask(ask, partial(_say, status, label))
        answered.append(done)
        console.print(Text(f"{number:2}  {_progress(done)}"))
    page = options.page.resolve()
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(_page(llm, [as_context([each]) for each in found_in], answered), encoding="utf-8")
    for part in (summary(answered), table(answered), answers(answered, console.width), *notes(answered)):
        console.print()
        console.print(part, highlight=False)
    console.print(f"\nOpen the picture in a browser: {page.as_uri()}", highlight=False, soft_wrap=True)
    console.print(f"Run time {time.perf_counter() - started:.0f} s", style="dim", highlight=False)


def _say(status: Status, label: str, step: str) -> None:
    status.update(Text(f"{label} ({step})"))


def _progress(done: Answered) -> str:
    report = done.report
    return (
        f"{done.ask.kind}: first token after {seconds(report.ttft_ms)}, after a full prefill "
        f"{seconds(done.full_report.ttft_ms)} ({report.outcome})"
    )


def _page(llm: SemShareLLM, passages: list[str], answered: list[Answered]) -> str:
    names: dict[str, str] = {}
    prompts: list[Prompt] = []
    shown = []
    for number, done in enumerate(answered, start=1):
        tokens = [llm.engine.tokenizer.decode([token]) for token in llm.engine.token_ids(done.prompt)]
        prompt = place(number, tokens, passages, names)
        shown.append(Shown(done, prompt, origins(prompt, prompts, done.report)))
        prompts.append(prompt)
    return render(shown)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m cookbook.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--page", type=Path, default=Path("out/demo.html"), help="the page to write (%(default)s)")
    parser.add_argument("--reuse", choices=("exact", "high", "balanced", "fast"), default="balanced", help="level")
    parser.add_argument("--calls", type=int, default=len(QUESTIONS), help="ask only so many questions")
    return parser.parse_args()


if __name__ == "__main__":
    main()
