"""A bus in a process, and what it is told to do, line by line through a socket."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from bus_core import (
    Bus,
    BusError,
    DeadLetterFilter,
    Delivery,
    Event,
    PermanentError,
    PublishUncertain,
    RetryLater,
    Subscription,
    Topic,
    open_bus,
)
from chaos.events import NewTask, Task, key
from promenade_bus_testing import Journal

__all__ = ["Part", "Player", "play"]

_READY = 12.0


class Poison(Exception):
    """The error of a handler that was told to fail."""


@attrs.frozen(kw_only=True)
class Part:
    """The role of a process. ``config`` is that of its bus, ``bug`` is planted into it.

    ``version`` is that of the class of events which its code knows.
    """

    label: str
    service: str
    directory: str
    config: Mapping[str, Any]
    lease: float
    version: int = 1
    socket: str = ""
    bug: str = ""
    kind: str = "player"


class Player:
    """A bus that does what it is told to. Each method is one thing to do; its arguments are plain data."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._journal = Journal(Path(part.directory) / "journals", part.label)
        self._bus: Bus = open_bus(part.config)
        self._subscriptions: dict[str, list[Subscription]] = {}
        self._class = Task if part.version == 1 else NewTask

    async def perform(self, do: str, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Does it; an error of the bus is told by its name and text."""
        try:
            return {"answer": await getattr(self, f"do_{do}")(**facts)}
        except (BusError, TimeoutError) as error:
            return {"error": type(error).__name__, "text": str(error)}

    async def do_start(self, wishes: list[list[Any]]) -> None:
        """Subscribes, starts, and waits until all of it is open."""
        for wish in wishes:
            self._subscribe(*wish)
        async with asyncio.timeout(_READY):
            await self._bus.start()
            for subscription in self._bus.subscriptions:
                await subscription.ready()

    async def do_subscribe(self, name: str, topic: str, ordered: bool) -> None:
        """One more subscription, while it runs."""
        subscription = self._subscribe(name, topic, ordered)
        async with asyncio.timeout(_READY):
            await subscription.ready()

    def _subscribe(self, name: str, topic: str, ordered: bool) -> Subscription:
        place = topic if "*" in topic or "#" in topic else Topic[Any](topic, self._class)
        group = f"{self._part.service}.{name}"
        handler = self._journal.wrap(group, self._handle)
        subscription = self._bus.subscribe(place, handler, name=name, ordered=ordered, concurrency=8)
        self._subscriptions.setdefault(name, []).append(subscription)
        return subscription

    async def do_unsubscribe(self, name: str) -> None:
        """Ends the subscriptions of a name here."""
        for subscription in self._subscriptions.pop(name, []):
            await subscription.unsubscribe()

    async def do_pause(self, name: str) -> None:
        """Pauses the subscriptions of a name."""
        for subscription in self._subscriptions.get(name, []):
            subscription.pause()

    async def do_resume(self) -> None:
        """Resumes all subscriptions."""
        for subscription in self._bus.subscriptions:
            subscription.resume()

    async def do_publish(self, topic: str, first: int, plans: list[str], keys: int) -> dict[str, list[str]]:
        """Publishes one event for each plan; tells the ids by what became of them."""
        place = Topic[Any](topic, self._class)
        kind: Any = int if self._class is Task else str
        events = [
            self._class(aggregate_id=key(number % keys), number=kind(first + number), plan=plan)
            for number, plan in enumerate(plans)
        ]
        ends: dict[str, list[str]] = {"accepted": [], "uncertain": [], "refused": []}

        async def publish(event: Event) -> None:
            end = "accepted"
            try:
                await self._bus.publish(place, event)
            except PublishUncertain:
                end = "uncertain"
            except BusError:
                end = "refused"
            ends[end].append(str(event.event_id))

        await asyncio.gather(*map(publish, events))
        return {**ends, "order": [str(event.event_id) for event in events]}

    async def do_health(self) -> dict[str, Any]:
        """The answer of health."""
        report = await self._bus.health()
        told = {name: check.summary for name, check in report.checks.items()}
        return {"status": report.status.value, "told": told}

    async def do_redrive(self, topic: str | None) -> int:
        """Sends letters back; tells how many."""
        return await self._bus.dead_letters.redrive(DeadLetterFilter(topic=topic))

    async def do_purge(self, topic: str | None) -> int:
        """Deletes letters; tells how many."""
        return await self._bus.dead_letters.purge(DeadLetterFilter(topic=topic))

    async def do_letters(self) -> list[list[str]]:
        """The letters: subscription, topic, and event."""
        letters = await self._bus.dead_letters.list(limit=1_000_000)
        return [[letter.subscription, letter.topic, str(letter.event_id)] for letter in letters]

    async def do_forget(self, group: str, topic: str | None, force: bool) -> list[str]:
        """Forgets a group; tells on which topics."""
        adapter: Any = self._bus.adapter
        forgotten = await adapter.groups.forget(group, topic=topic, force=force)
        return [*forgotten.topics]

    async def do_drain(self) -> None:
        """Waits until nothing is left to do here."""
        async with asyncio.timeout(_READY):
            await self._bus.drain()

    async def do_close(self) -> list[list[str]]:
        """Closes the bus; tells what it left undone: subscription, topic, and event."""
        report = await self._bus.close()
        self._journal.close()
        return [[each.subscription, each.topic, str(each.event_id)] for each in report.abandoned]

    async def _handle(self, event: Event, delivery: Delivery) -> None:
        """Does what the event says; one whose class is not known here has it among its data."""
        plan = str(
            event.plan if isinstance(event, Task | NewTask) else getattr(event, "data", {}).get("plan", "")
        )
        name, _, number = plan.partition(":")
        match name:
            case "":
                await asyncio.sleep(0.002)
            case "slow":
                await asyncio.sleep(1.5 * self._part.lease)
            case "fail" if not number or delivery.attempt <= int(number):
                raise Poison("it was told to fail")
            case "later" if delivery.attempt == 1:
                raise RetryLater(after=1.5 * self._part.lease)
            case "permanent":
                raise PermanentError("it was told to fail for good")
            case _:
                pass


async def _obey(part: Part) -> None:
    reader, writer = await asyncio.open_unix_connection(part.socket, limit=2**24)
    player = Player(part)
    writer.write(json.dumps({"label": part.label}).encode() + b"\n")
    async for line in reader:
        order = json.loads(line)
        do = order.pop("do")
        writer.write(json.dumps(await player.perform(do, order)).encode() + b"\n")
        await writer.drain()
        if do == "close":
            return


def play(facts: Mapping[str, Any]) -> None:
    """Runs a process from its beginning to its end."""
    part = Part(**facts)
    logging.basicConfig(level=logging.WARNING, format="%(created).3f %(levelname)s %(name)s %(message)s")
    if part.bug:
        from chaos.histories.planted import plant

        plant(part.bug)
    asyncio.run(_obey(part))
