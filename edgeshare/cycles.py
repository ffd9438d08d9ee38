"""Python's search for reference cycles, kept from halting a node that holds much.

A full search looks at every object there is. With 30,000 lessons listed it takes 0.2 to 0.3 s, in which nobody is
served, and one new edition set off three of them. Nearly all of those objects stay for months, and are in no cycle. So:

- While many of them are made nothing is searched for, and then they are set apart: no later search looks at them. What
  is dropped goes all the same, by the count of its references.
- What of them was in a cycle and was dropped is searched for once a day, while nobody reads.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

import trio

SWEEP_EVERY_S: Final = 24 * 3600.0
LOOK_EVERY_S: Final = 60.0  # whether nobody reads

_lasting = 0  # how many make what lasts at this moment


@contextmanager
def lasting() -> Iterator[None]:
    """Much is made while the context lasts, in whatever thread, and it stays. Contexts may overlap."""
    global _lasting  # noqa: PLW0603 - as there is one collector for the process
    _lasting += 1
    gc.disable()
    try:
        yield
    finally:
        _lasting -= 1
        if not _lasting:
            set_apart()
            gc.enable()


def set_apart() -> None:
    """Have no later search look at what there is now."""
    gc.freeze()


async def sweep(is_calm: Callable[[], bool]) -> NoReturn:
    """Search everything, once in a day or two, when it `is_calm` if that is ever so; until cancelled."""
    while True:
        await trio.sleep(SWEEP_EVERY_S)
        with trio.move_on_after(SWEEP_EVERY_S):
            while not is_calm():  # noqa: ASYNC110 - nobody tells when it is
                await trio.sleep(LOOK_EVERY_S)
        gc.unfreeze()
        gc.collect()
        set_apart()
