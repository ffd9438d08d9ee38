"""One drill, from the release of its lesson to its withdrawal.

The lesson is withdrawn whatever happens, also after Ctrl-C; where that cannot be, `Ended.left_to_do` says what to run.
Times are the wall clock's, of this machine: the nodes keep the appointment by theirs.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import attrs
import trio

from edgeshare.drill import accesslog, stage
from edgeshare.drill.report import Report
from edgeshare.drill.stage import Plan
from edgeshare.drill.watch import Watch
from edgeshare.errors import EdgeshareError, RepositoryError
from edgeshare.manifest import LessonId
from edgeshare.units import size

_WITHDRAW_WITHIN_S = 60.0  # another publisher may have the lock


@attrs.frozen(kw_only=True)
class Ended:
    """How a drill ended."""

    report: Report | None  # None when it was interrupted before its start
    left_to_do: str | None  # what to do by hand; None when the lesson is withdrawn


async def rehearse(plan: Plan, say: Callable[[str], None], interrupted: trio.Event) -> Ended:
    """Publish, wait, watch, withdraw; `interrupted` cuts the middle short.

    Raises:
        EdgeshareError: it cannot be begun; nothing is left published.
    """
    with ExitStack() as logs:
        tails = [logs.enter_context(accesslog.Tail(path)) for path in plan.logs]
        published = await trio.to_thread.run_sync(stage.publish, plan)
        lesson = published.lesson
        left_to_do: str | None = None
        watch = Watch(plan, published, say)
        try:
            for gone in published.cleared:
                say(f"{gone}, which an earlier drill left behind, is withdrawn")
            say(f"{lesson.id} is published: {size(lesson.size)}, to be fetched from {plan.start:%H:%M:%S} on")
            await _after_release(plan, say)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when, interrupted, nursery.cancel_scope)
                await watch.run()
                nursery.cancel_scope.cancel()
        finally:
            with trio.move_on_after(_WITHDRAW_WITHIN_S + 10.0, shield=True):
                left_to_do = await _withdraw(plan, lesson.id, say)
        return Ended(report=watch.report(tails), left_to_do=left_to_do)


async def _withdraw(plan: Plan, lesson: LessonId, say: Callable[[str], None]) -> str | None:
    """Withdraw the lesson; what is left to do by hand, where that cannot be."""
    until = trio.current_time() + _WITHDRAW_WITHIN_S
    while True:
        try:
            await trio.to_thread.run_sync(stage.withdraw, plan, lesson)
        except EdgeshareError as error:
            if trio.current_time() < until and isinstance(error, RepositoryError):
                say(f"{error.what}: trying again")  # another publisher is at work, most likely
                await trio.sleep(_WITHDRAW_WITHIN_S / 12)
                continue
            where = f"{shlex.quote(str(plan.repository))}"
            keys = f"--keys {shlex.quote(str(plan.keys))}"
            return (
                f"{lesson} is still published ({error.what}): run "
                f'`edgeshare publish withdraw {where} {lesson} --reason "{stage.REASON}" {keys}` '
                f"and `edgeshare publish release {where} {keys}`"
            )
        say(f"{lesson} is withdrawn; nodes drop it when they hear of it")
        await _after_release(plan, say)
        return None


async def _after_release(plan: Plan, say: Callable[[str], None]) -> None:
    """Run the operator's command; a failure costs the tracker's part of the report, and not the drill."""
    if plan.after_release is None:
        return
    try:
        run = partial(trio.run_process, shlex.split(plan.after_release), check=False, stdin=subprocess.DEVNULL)
        done = await run(capture_stdout=True, capture_stderr=True)
    except (OSError, ValueError) as error:
        say(f"warning: `{plan.after_release}` cannot be run ({error})")
        return
    if done.returncode:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["without a word"])[-1]
        say(f"warning: `{plan.after_release}` ended with {done.returncode} ({last})")


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
