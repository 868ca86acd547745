"""The memory of bodies while they arrive."""

import asyncio
import random

from tests.serving.loops import run_async
from xraygpt.serving.body_memory import BodyMemory

FULL = 100


def test_a_body_of_which_nothing_comes_holds_nothing() -> None:
    async def run() -> None:
        memory = BodyMemory(num_bodies=2, max_body_bytes=FULL)
        for _ in range(50):
            await asyncio.wait_for(memory.share().grow(1), 1)
        with memory.share() as share:
            await asyncio.wait_for(share.grow(FULL), 1)

    run_async(run())


def test_bodies_that_come_together_stay_within_the_room_and_all_end() -> None:
    held = largest = 0

    async def receive(memory: BodyMemory, chance: random.Random) -> None:
        nonlocal held, largest
        with memory.share() as share:
            for _ in range(FULL):
                await share.grow(1)
                held += 1
                largest = max(largest, held)
                await asyncio.sleep(0.001 * chance.random())
            held -= FULL

    async def run() -> None:
        memory = BodyMemory(num_bodies=4, max_body_bytes=FULL)
        await asyncio.wait_for(asyncio.gather(*(receive(memory, random.Random(seed)) for seed in range(20))), 20)
        assert memory.free == 2 * FULL

    run_async(run())
    assert 2 * FULL < largest <= 4 * FULL


def test_a_body_that_is_given_up_gives_its_room_back() -> None:
    async def run() -> None:
        memory = BodyMemory(num_bodies=1, max_body_bytes=FULL)  # one after another
        with memory.share() as first:
            await first.grow(1)
            waiting = asyncio.create_task(memory.share().grow(1))
            await asyncio.sleep(0.01)
            assert not waiting.done()
            waiting.cancel()
        with memory.share() as second:
            await asyncio.wait_for(second.grow(FULL), 1)

    run_async(run())
