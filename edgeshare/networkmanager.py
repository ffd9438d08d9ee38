"""NetworkManager's word that a connection is metered, over the system's D-Bus: a telephone's line, say.

Where there is no bus, no NetworkManager, or one that says nothing, nothing is metered: a node is not to stop working
because a service that it can do without has stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import jeepney
import trio
from jeepney.bus_messages import message_bus
from jeepney.io.common import RouterClosed
from jeepney.io.trio import DBusConnection, open_dbus_connection

logger = logging.getLogger(__name__)

RETRY_EVERY_S = 300.0  # a bus that is restarted takes the session with it: then this is a matter of minutes
_CONNECT_S = 10.0

_NAME = "org.freedesktop.NetworkManager"
_PATH = "/org/freedesktop/NetworkManager"
_METERED = (1, 3)  # NMMetered: NM_METERED_YES and NM_METERED_GUESS_YES

# What a bus that ends, or is none, has jeepney raise; ValueError is an address, or bytes, that it cannot read.
_TROUBLE = (
    OSError,
    RouterClosed,
    RuntimeError,
    ValueError,
    trio.BrokenResourceError,
    trio.EndOfChannel,
    trio.TooSlowError,
)


async def watch_metered(tell: Callable[[bool], None], bus: str = "SYSTEM") -> None:
    """Tell whether NetworkManager says that the connection is metered, now and whenever that changes, until cancelled.

    `bus` is an address in D-Bus' form, or the system's.
    """
    said: str | None = None
    while True:
        reason = "it is gone"
        try:
            with trio.fail_after(_CONNECT_S) as connecting:
                async with await open_dbus_connection(bus) as connection:
                    connecting.deadline = float("inf")
                    said = None
                    await _follow(connection, tell)
        except* _TROUBLE as group:
            reason = _first(group)
        tell(False)
        if reason != said:
            logger.info("the system's D-Bus does not answer (%s): no connection counts as metered", reason)
            said = reason
        await trio.sleep(RETRY_EVERY_S)


async def _follow(connection: DBusConnection, tell: Callable[[bool], None]) -> None:
    """Ask once, and hear of changes, until the connection ends."""
    changes = jeepney.MatchRule(
        type="signal",
        sender=_NAME,
        path=_PATH,
        interface="org.freedesktop.DBus.Properties",
        member="PropertiesChanged",
    )
    owners = jeepney.MatchRule(type="signal", sender=message_bus.bus_name, member="NameOwnerChanged")
    owners.add_arg_condition(0, _NAME)
    for rule in (changes, owners):
        await connection.send(message_bus.AddMatch(rule))
    asked = await _ask(connection)
    while True:
        message = await connection.receive()
        is_answer = message.header.fields.get(jeepney.HeaderFields.reply_serial) == asked
        match message.header.message_type, message.header.fields.get(jeepney.HeaderFields.member), message.body:
            case jeepney.MessageType.method_return, _, ((_, value),) if is_answer:
                tell(value in _METERED)
            case jeepney.MessageType.error, _, _ if is_answer:
                tell(False)
                logger.info("NetworkManager does not answer: no connection counts as metered")
            case jeepney.MessageType.signal, "PropertiesChanged", (_, dict() as changed, _) if "Metered" in changed:
                tell(changed["Metered"][1] in _METERED)
            case jeepney.MessageType.signal, "NameOwnerChanged", (_, _, ""):
                tell(False)
            case jeepney.MessageType.signal, "NameOwnerChanged", _:
                asked = await _ask(connection)


async def _ask(connection: DBusConnection) -> int:
    """Ask for the property; gives the number that its answer will name."""
    address = jeepney.DBusAddress(_PATH, _NAME, _NAME)
    question = jeepney.Properties(address).get("Metered")
    question.header.flags |= jeepney.MessageFlag.no_auto_start  # it is not for us to start it
    number: int = next(connection.outgoing_serial)
    await connection.send(question, serial=number)
    return number


def _first(group: BaseExceptionGroup[Any]) -> str:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__
