"""The registry of the canary's checks: listeners to one check, and to all checks of an engine."""

from __future__ import annotations

import gc
import weakref

from semshare_core.quality.canary_registry import CanaryRegistry, Listener
from semshare_core.report import Canary


class Engine:
    def __init__(self) -> None:
        self.listeners: list[Listener] = []
        self.heard: list[Canary] = []

    def listen(self, canary: Canary) -> None:
        self.heard.append(canary)


def pending(name: str) -> Canary:
    return Canary(id=name, level="fast", served_level="fast", bound=0.15)


def test_both_kinds_of_listeners_are_called_until_they_end() -> None:
    registry, engine = CanaryRegistry(), Engine()
    one: list[Canary] = []
    end = registry.listen(engine.listeners, engine.listen)
    registry.begin(pending("a"))
    registry.when_done(pending("a"), one.append)
    done = pending("a").model_copy(update={"status": "measured", "kl": 0.1})
    for listener in registry.finish(done, engine.listeners):
        listener(done)
    assert one == engine.heard == [done]
    registry.when_done(pending("a"), one.append)
    assert one == [done, done], "a late listener gets the result at once"
    end()
    registry.begin(pending("b"))
    assert registry.finish(pending("b"), engine.listeners) == []


def test_a_listener_that_refers_to_its_engine_does_not_keep_it_in_memory() -> None:
    registry, engine = CanaryRegistry(), Engine()
    registry.listen(engine.listeners, engine.listen)
    gone = weakref.ref(engine)
    del engine
    gc.collect()
    assert gone() is None
