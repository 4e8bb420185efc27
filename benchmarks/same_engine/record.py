"""The child of the comparison: runs every scenario on the engine that this process imports, and writes what it saw.

``python -m benchmarks.same_engine.record ENGINE OUT [SCENARIO ...]`` with the folder that holds ``semshare_core``, and
the file to write without its suffix: OUT.npz has the arrays, OUT.json the rest.
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar

import semshare_core
from benchmarks.same_engine.cases import SCENARIOS, Ask, Scenario
from benchmarks.same_engine.models import make_engine
from benchmarks.same_engine.probes import Array, Probe, check_seen, install, zeros_for_fuzzy_rows
from semshare_core import ReuseReport, SemShareEngine

_NOT_COMPARED = {"id", "arrived_at", "canary", "calibration"}
"""Fields that name a call or a calibration, or are filled in later; and all times, which end with ``_ms``."""


@dataclass
class Record:
    """Per case, named "scenario / prompt": arrays by name, and plain values by name."""

    arrays: dict[str, dict[str, Array]] = field(default_factory=dict)
    values: dict[str, dict[str, Any]] = field(default_factory=dict)

    def save(self, stem: Path) -> None:
        flat = {f"{case}\t{name}": array for case, arrays in self.arrays.items() for name, array in arrays.items()}
        np.savez_compressed(f"{stem}.npz", **flat)  # type: ignore[arg-type]
        Path(f"{stem}.json").write_text(json.dumps(self.values, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, stem: Path) -> Record:
        values = json.loads(Path(f"{stem}.json").read_text(encoding="utf-8"))
        arrays: dict[str, dict[str, Array]] = {case: {} for case in values}
        with np.load(f"{stem}.npz") as stored:
            for key in stored.files:
                case, name = key.split("\t")
                arrays[case][name] = stored[key]
        return cls(arrays, values)


def record(scenarios: Sequence[Scenario]) -> Record:
    """What the engine of this process does."""
    probe, made = install(), Record()
    for scenario in scenarios:
        probe.forget()
        with tempfile.TemporaryDirectory() as folder:
            engine = _filled(scenario, Path(folder))
            try:
                for ask in scenario.asks:
                    case = f"{scenario.name} / {ask.name}"
                    assert case not in made.values, f"two cases are called {case!r}"
                    made.arrays[case], made.values[case] = _outcome(engine, ask, probe)
            finally:
                engine.pool.close()
    return made


def _filled(scenario: Scenario, folder: Path) -> SemShareEngine:
    pool = scenario.pool.model_copy(update={"path": folder}) if scenario.reopened else scenario.pool
    engine = make_engine(scenario.model, calibrated=scenario.calibrated, pool=pool)
    for fill in scenario.fills:
        engine.warm([fill.prompt], namespace=fill.namespace)
    if not scenario.reopened:
        return engine
    engine.pool.close()
    return make_engine(scenario.model, calibrated=scenario.calibrated, pool=pool)


def _outcome(engine: SemShareEngine, ask: Ask, probe: Probe) -> tuple[dict[str, Array], dict[str, Any]]:
    """What was seen, or which error there was: the other cases go on."""
    try:
        return _asked(engine, ask, probe)
    except Exception as error:
        traceback.print_exc()
        return {}, {"error": f"{type(error).__name__}: {error}"}


def _asked(engine: SemShareEngine, ask: Ask, probe: Probe) -> tuple[dict[str, Array], dict[str, Any]]:
    prompt = engine.token_ids(ask.prompt) if ask.as_ids else ask.prompt
    probe.take()
    with zeros_for_fuzzy_rows(ask.reuse) if ask.zeros else nullcontext(ask.reuse) as reuse:
        prefilled = engine.prefill(prompt, reuse=reuse, namespace=ask.namespace, store=ask.store and not ask.answer)
    seen = probe.take()
    report = dict(_compared(prefilled.report, probe))
    check_seen(seen, report)
    arrays = seen.arrays | {"logits": prefilled.logits.float().cpu().numpy()}
    arrays |= {f"cache, layer {number}": _digest(layer) for number, layer in enumerate(prefilled.cache.layers)}
    values = dict(seen.values)
    for name, value in report.items():
        if name.startswith("token_"):
            arrays[f"report: {name}"] = np.array(value, np.int64)
        else:
            values[f"report: {name}"] = value
    if ask.answer:
        out = engine.generate(
            prompt, max_new_tokens=ask.answer, reuse=ask.reuse, namespace=ask.namespace, store=ask.store
        )
        values["answer"] = out.token_ids
        probe.take()
    return arrays, values


def _digest(layer: Any) -> Array:
    """Mean and spread of keys and values over heads and sizes, per row: enough to see where a row is another one."""
    parts = [rows.float() for rows in (layer.keys, layer.values)]
    digest = [fold(part, dim=(0, 1, 3)) for part in parts for fold in (torch.mean, torch.std)]
    return np.asarray(torch.stack(digest).cpu().numpy())


def _compared(report: ReuseReport, probe: Probe) -> Iterator[tuple[str, Any]]:
    for name, value in report.model_dump(mode="json").items():
        if name == "reference_ids":
            yield name, [probe.entry_number(each) for each in value]
        elif name not in _NOT_COMPARED and not name.endswith("_ms"):
            yield name, value


def main(engine: str, out: str, *only: str) -> None:
    """See the module."""
    imported = Path(semshare_core.__file__).resolve()
    assert imported.is_relative_to(Path(engine).resolve()), f"{imported} was imported instead of what {engine} holds"
    torch.set_num_threads(1)
    disable_progress_bar()
    warnings.filterwarnings("ignore", message="this model is not calibrated")
    record([each for each in SCENARIOS if not only or each.name in only]).save(Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
