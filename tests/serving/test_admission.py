"""Places for requests: first come, first served, and none is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from semshare_integrations.serving import ServeSettings
from semshare_integrations.serving.admission import Admission
from semshare_integrations.serving.errors import RequestError


def admission(**settings: Any) -> Admission:
    return Admission(ServeSettings(**{"model": "tiny", "max_running": 1, **settings}))


async def hold(places: Admission, until: asyncio.Event, order: list[int], number: int, tokens: int = 1) -> float:
    async with places.place(tokens) as waited:
        order.append(number)
        await until.wait()
        return waited


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_who_came_first_is_served_first() -> None:
    places, go, order = admission(), asyncio.Event(), list[int]()
    held = [asyncio.create_task(hold(places, go, order, number, tokens=3)) for number in range(4)]
    await turns()
    assert (order, places.running, places.waiting, places.tokens) == ([0], 1, 3, 12)
    go.set()
    waited = await asyncio.gather(*held)
    assert order == [0, 1, 2, 3]
    assert waited[0] < 0.1
    assert (places.running, places.waiting, places.tokens) == (0, 0, 0)


async def test_nobody_passes_those_who_wait() -> None:
    places, first, go, order = admission(), asyncio.Event(), asyncio.Event(), list[int]()
    tasks = [asyncio.create_task(hold(places, first, order, 0)), asyncio.create_task(hold(places, go, order, 1))]
    await turns()
    first.set()
    await turns(2)
    tasks.append(asyncio.create_task(hold(places, go, order, 2)))
    go.set()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2]
    assert places.running == 0


async def test_one_that_leaves_while_it_gets_its_place_passes_it_on() -> None:
    places, first, go, order = admission(), asyncio.Event(), asyncio.Event(), list[int]()
    running = asyncio.create_task(hold(places, first, order, 0))
    leaving, last = (asyncio.create_task(hold(places, go, order, number)) for number in (1, 2))
    await turns()
    places._queue[0].add_done_callback(lambda _: leaving.cancel())
    first.set()
    go.set()
    await asyncio.wait((running, leaving, last), timeout=5)
    assert (last.done(), order[-1]) == (True, 2)
    assert (places.running, places.waiting, places.tokens) == (0, 0, 0)


async def test_a_wait_that_is_too_long_ends_with_504_and_is_not_tried_again() -> None:
    places, go, order = admission(timeout=0.05), asyncio.Event(), list[int]()
    running = asyncio.create_task(hold(places, go, order, 0))
    await turns()
    with pytest.raises(RequestError, match=r"has waited for 0\.05 seconds") as caught:
        await hold(places, go, order, 1)
    assert caught.value.status == 504
    assert caught.value.headers["x-should-retry"] == "false"
    assert (places.running, places.waiting, places.tokens) == (1, 0, 1)
    go.set()
    await running


async def test_a_request_larger_than_the_limit_of_tokens_runs_alone() -> None:
    places, go, order = admission(max_waiting_tokens=10), asyncio.Event(), list[int]()
    alone = asyncio.create_task(hold(places, go, order, 0, tokens=100))
    await turns()
    with pytest.raises(RequestError, match="100 tokens are waiting already"):
        await hold(places, go, order, 1)
    go.set()
    await alone
    assert places.tokens == 0
