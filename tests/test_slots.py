"""The slots: methods are found by name, and a name that is none says which ones there are."""

from __future__ import annotations

import pytest

from semshare_core import PoolConfig, Retention, ReusePolicy
from semshare_core.errors import ConfigError
from semshare_core.slots import CODECS, LIVE_COMPRESSORS, MATCHERS, SELECTIONS, Slot


def test_the_methods_of_semshare_are_found_without_being_imported() -> None:
    assert {"ordered", "runs", "lsh"} <= {*MATCHERS.names()}
    assert {"combined", "deviation", "paper"} <= {*SELECTIONS.names()}
    assert LIVE_COMPRESSORS.get("retention") is Retention
    assert CODECS.get("none")().lossless


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda: ReusePolicy(matching="orderd"),
            r"matching='orderd' is not known: .*Did you mean ordered\?",
        ),
        (lambda: ReusePolicy(selection="devation"), r"selection='devation' .*combined, .*Did you mean deviation\?"),
        (lambda: ReusePolicy(compress="retension"), r"compress='retension' .*Did you mean retention\?"),
        (lambda: ReusePolicy(compress=3), "compress: int is not registered: pass one of .*retention"),
        (lambda: ReusePolicy(compress=PoolConfig()), "compress: PoolConfig is not registered"),
        (
            lambda: ReusePolicy(compress={"name": "retention", "first": 2}),
            "first=2: Input should be less",
        ),
        (lambda: ReusePolicy(compress={"first": 0.5}), "compress: dict is not registered"),
        (lambda: ReusePolicy(retention=Retention()), r"retention=.* Did you mean compress\?"),
        (lambda: PoolConfig(codec="int9"), "codec='int9' is not known: pass one of .*none"),
    ],
)
def test_an_unknown_name_says_which_are_known(make: object, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make()  # type: ignore[operator]


def test_a_name_is_registered_once() -> None:
    slot = Slot("colour", ())

    @slot.register("red")
    class Red: ...

    with pytest.raises(ConfigError, match=r"colour='red' is .*Red already: choose another name"):

        @slot.register("red")
        class Crimson: ...

    assert slot.names() == ["red"]
    assert slot.get("red") is Red
    assert slot.name_of(Red) == "red"
    with pytest.raises(ConfigError, match="colour: int is not registered: pass one of red, or yours"):
        slot.name_of(int)


def test_a_class_that_is_defined_again_takes_its_own_place() -> None:
    """As in a notebook, whose cell runs twice."""
    slot = Slot("colour", ())
    for lightness in (1, 2):
        red = slot.register("red")(type("Red", (), {"lightness": lightness, "__module__": __name__}))
        assert slot.get("red") is red


@pytest.mark.parametrize("given", ["retention", Retention(), {"name": "retention"}])
def test_a_compressor_by_name_by_itself_and_by_its_settings(given: object) -> None:
    policy = ReusePolicy(compress=given)
    assert policy.compress == Retention()
    assert policy.model_dump(mode="json")["compress"] == {"name": "retention", **Retention().model_dump(mode="json")}


def test_the_published_methods_are_made_of_registered_parts() -> None:
    paper, cacheblend = ReusePolicy.paper(), ReusePolicy.cacheblend()
    assert (paper.matching, paper.selection, paper.schedule, paper.compress) == ("lsh", "paper", "decay", Retention())
    assert (paper.recompute_ratio, paper.max_references) == (None, 1)
    assert (cacheblend.matching, cacheblend.selection, cacheblend.compress) == ("runs", "deviation", None)
    assert cacheblend.recompute_ratio == 0.15
    assert ReusePolicy.paper(0.2, compress=None, seed=4) == ReusePolicy(
        recompute_ratio=0.2, matching="lsh", selection="paper", schedule="decay", max_references=1, seed=4
    )
