"""Carries out the steps of a history, and tells the model what was done."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attrs

from chaos.histories.model import Model, matches
from chaos.histories.places import OnServer, Place
from chaos.histories.steps import History, Wish
from chaos.histories.troupe import Actor, Failed
from redis_support.faults import LoseReplies

__all__ = ["Acting", "Code", "Running"]

_KEYS = 3
_STARTS = 4
_SEEN_WITHIN = 30.0
_CANNOT_NOW = ("AdapterError", "AdapterUnavailable", "PublishFailed", "PublishUncertain", "TimeoutError")


@attrs.frozen
class Code:
    """The code of a service: its subscriptions, and the version of the class of events that it knows."""

    wishes: tuple[Wish, ...]
    version: int = 1

    @classmethod
    def of(cls, wishes: Sequence[Sequence[Any]], version: int = 1) -> Code:
        return cls(tuple(Wish(*wish) for wish in wishes), version)


@attrs.define
class Running:
    """An instance of a service. ``ended`` are the names that were unsubscribed here."""

    label: str
    service: str
    code: Code
    actor: Actor
    frozen: bool = False
    ended: set[str] = attrs.field(factory=set)

    @property
    def groups(self) -> frozenset[str]:
        """The groups that it is of."""
        return frozenset(f"{self.service}.{wish.name}" for wish in self.code.wishes)

    def serves(self, group: str, topic: str) -> bool:
        """True when it serves a group on a topic, or on exactly this pattern."""
        return any(
            group == f"{self.service}.{wish.name}"
            and wish.name not in self.ended
            and (wish.topic == topic or matches(wish.topic, topic))
            for wish in self.code.wishes
        )

    def reads(self, topic: str, version: int) -> bool:
        """True when its code can read a version. A topic covered by a pattern alone has no class here."""
        return self.code.version == version or topic not in {wish.topic for wish in self.code.wishes}


class Acting:
    """The state of a history that is under way. ``faults`` are sentences about what should not be."""

    def __init__(self, history: History, place: Place) -> None:
        self.history = history
        self.place = place
        self.model = Model()
        self.running: dict[str, Running] = {}
        self.newest: dict[str, Code] = {}
        self.faults: list[str] = []
        self.published = 0
        self.press: Actor
        self._newer_press: Actor | None = None
        self._numbers = 0
        self._disturbed = False
        self._loses = False

    @property
    def on_server(self) -> OnServer:
        """The place, for what is done to servers only."""
        assert isinstance(self.place, OnServer), "this happens on a server only"
        return self.place

    async def begin(self) -> None:
        """Starts the one who publishes, and who operates."""
        self.press = await self._begin_press("press", 1)

    async def _begin_press(self, label: str, version: int) -> Actor:
        press = await self.place.troupe.start(self.place.part(label, "press", version=version))
        await press.ask("start", wishes=[])
        return press

    async def _press_of(self, version: int) -> Actor:
        """The publisher of events of a version: two classes of one topic are two codes."""
        if version == 1:
            return self.press
        if self._newer_press is None:
            self._newer_press = await self._begin_press("newer-press", version)
        return self._newer_press

    @property
    def presses(self) -> Sequence[Actor]:
        """All who publish."""
        return [self.press] if self._newer_press is None else [self.press, self._newer_press]

    async def carry_out(self) -> None:
        """All steps."""
        for step in self.history.steps:
            await getattr(self, f"_{step.do}")(**step.facts)

    async def _try(self, actor: Actor, do: str, *excused: str, **facts: Any) -> Any:
        """Its answer; None when it could not give one, which is a fault unless something is excused."""
        try:
            return await actor.ask(do, **facts)
        except Failed as failed:
            if failed.error not in excused and not (self._disturbed and failed.error in _CANNOT_NOW):
                self.faults.append(str(failed))
            return None

    # --- services -----------------------------------------------------------------------------------------

    async def start(self, service: str, code: Code, label: str, lease: float = 1.0) -> None:
        """An instance of a service is started, and is ready."""
        self.newest[service] = code
        for wish in code.wishes:
            self.model.wanted(f"{service}.{wish.name}", wish.topic, wish.ordered)
        wishes = [[wish.name, wish.topic, wish.ordered] for wish in code.wishes]
        for attempt in range(_STARTS):
            part = self.place.part(f"{label}{attempt or ''}", service, lease=lease, version=code.version)
            actor = await self.place.troupe.start(part)
            try:
                await actor.ask("start", wishes=wishes)
            except Failed as failed:
                await actor.kill()
                # Who starts while replies are lost is told, and starts again.
                if not self._loses:
                    self.faults.append(str(failed))
                    return
            else:
                break
        else:
            return
        self.running[label] = Running(label, service, code, actor)
        for wish in code.wishes:
            self.model.declared(f"{service}.{wish.name}", wish.topic)

    async def _deploy(
        self, label: str, service: str, code: Sequence[Sequence[Any]], lease: float = 1.0, version: int = 1
    ) -> None:
        await self.start(service, Code.of(code, version), label, lease)

    async def _stop(self, label: str) -> None:
        if running := self.running.pop(label, None):
            await self.end(running)

    async def end(self, running: Running) -> None:
        """An instance is ended in good order."""
        if running.frozen:
            running.actor.thaw()
        try:
            await running.actor.end()
        except Failed as failed:
            self.faults.append(str(failed))

    async def _kill(self, label: str) -> None:
        if running := self.running.pop(label, None):
            await running.actor.kill()
            self.model.may_repeat(running.groups, out_of_order=False)

    async def _freeze(self, label: str) -> None:
        if running := self.running.get(label):
            running.actor.freeze()
            running.frozen = True
            self.model.may_repeat(running.groups, out_of_order=False)

    async def _thaw(self, label: str) -> None:
        if (running := self.running.get(label)) and running.frozen:
            running.actor.thaw()
            running.frozen = False

    async def _unsubscribe(self, label: str, name: str) -> None:
        if (running := self.running.get(label)) and not running.frozen:
            await self._try(running.actor, "unsubscribe", name=name)
            running.ended.add(name)

    async def _subscribe_again(self, label: str, name: str) -> None:
        running = self.running.get(label)
        if running is None or running.frozen or name not in running.ended:
            return
        for wish in running.code.wishes:
            if wish.name == name:
                await self._try(running.actor, "subscribe", name=name, topic=wish.topic, ordered=wish.ordered)
                self.model.declared(f"{running.service}.{name}", wish.topic)
        running.ended.discard(name)
        self.model.may_repeat({f"{running.service}.{name}"}, out_of_order=True)

    async def _pause(self, label: str, name: str) -> None:
        if (running := self.running.get(label)) and not running.frozen:
            await self._try(running.actor, "pause", name=name)

    async def _wait(self, leases: float) -> None:
        await asyncio.sleep(leases * self.history.lease)

    async def _until(self, what: str, topic: str, group: str) -> None:
        """Waits until the server has something of a group that is ``held`` by a consumer, or ``parked``."""
        place, keys = self.on_server, self.on_server.keys
        async with asyncio.timeout(_SEEN_WITHIN):
            while True:
                if what == "held":
                    (count, *_) = await place.ask("XPENDING", keys.stream(topic), group)
                else:
                    count = await place.ask("ZCARD", keys.parked(topic, group))
                if count:
                    return
                await asyncio.sleep(0.02)

    # --- publishing and operating -------------------------------------------------------------------------

    async def _publish(self, topic: str, count: int, plan: str, version: int = 1) -> None:
        # One in three follows the plan: the others are to get past it.
        due = self._due(topic)
        plans = [plan if number % 3 == 1 else "" for number in range(count)]
        try:
            press = await self._press_of(version)
        except Failed as failed:  # it cannot begin now: nothing was published
            if not self._disturbed:
                self.faults.append(str(failed))
            return
        ends = await self._try(press, "publish", topic=topic, first=self.published, plans=plans, keys=_KEYS)
        self.published += count
        if ends is None:
            return
        readers = self._readers(topic, version, due)
        for number, event_id in enumerate(ends["order"]):
            if event_id not in ends["refused"]:
                doubtful = event_id in ends["uncertain"]
                self.model.published(
                    event_id, topic, number % _KEYS, plans[number], due, doubtful=doubtful, readers=readers
                )
        self.model.refused.update(ends["refused"])
        if ends["refused"] and not self._disturbed:
            self.faults.append(f"{len(ends['refused'])} publishes to {topic} were refused")

    def _readers(self, topic: str, version: int, due: set[str]) -> Mapping[str, Collection[str]]:
        """See ``Sent``."""
        readers: dict[str, Collection[str]] = {}
        for group in due - self.model.unordered:
            serving = [each for each in self.running.values() if each.serves(group, topic)]
            able = [each.label for each in serving if each.reads(topic, version)]
            if able and len(serving) - len(able) < 2:
                readers[group] = able
        return readers

    def _due(self, topic: str) -> set[str]:
        """The receivers of an event published now: in memory the running ones."""
        due = self.model.due(topic)
        if isinstance(self.place, OnServer):
            return due
        running = self.running.values()
        return {group for group in due if any(each.serves(group, topic) for each in running)}

    @property
    def _operators(self) -> Sequence[Actor]:
        """Those who reach all letters: one where they are on a server, everybody where each has his own."""
        if isinstance(self.place, OnServer):
            return [self.press]
        return [running.actor for running in self.running.values()]

    async def _redrive(self, topic: str | None) -> None:
        for actor in self._operators:
            await self._try(actor, "redrive", "UnknownSubscription", topic=topic)
        if any(step.facts.get("version", 1) != 1 for step in self.history.steps):
            # What nobody could read within its time may be read by now, behind what came later.
            self.model.disordered.update(self.model.groups)

    async def _purge(self, topic: str | None) -> None:
        before = (await self.place.kept(self.model.groups)).letters
        for actor in self._operators:
            await self._try(actor, "purge", topic=topic)
        self.model.purged |= {(group, event_id) for (group, _), ids in before.items() for event_id in ids}

    async def _forget(self, group: str, topic: str | None, force: bool) -> None:
        done = await self._try(
            self.press, "forget", "UnknownSubscription", "GroupInUse", group=group, topic=topic, force=force
        )
        if done is not None:
            self.model.forgotten(group, topic, done)
            self.model.may_repeat({group}, out_of_order=True)

    # --- strangers ----------------------------------------------------------------------------------------

    async def _trim(self, topic: str, keep: int) -> None:
        await self._remove(topic, "XTRIM", self.on_server.keys.stream(topic), "MAXLEN", keep)

    async def _delete(self, topic: str, which: float) -> None:
        key = self.on_server.keys.stream(topic)
        entries = await self.on_server.ask("XRANGE", key, "-", "+")
        if entries:
            await self._remove(topic, "XDEL", key, entries[int(which * len(entries))][0])

    async def _remove(self, topic: str, *command: Any) -> None:
        place, groups = self.on_server, self.model.groups
        before = await place.kept(groups)
        await place.ask(*command)
        after = await place.kept(groups)
        gone = {*before.stored[topic]} - {*after.stored[topic]}
        # Of what went before the group of a pattern was made there is told that somebody has removed it,
        # and not to whom it was due.
        self.model.removed(gone, topic, made=after.made[topic])

    async def _destroy(self, topic: str, group: str) -> None:
        place = self.on_server
        if topic in await place.ask("SMEMBERS", place.keys.topics):
            await place.ask("XGROUP", "DESTROY", place.keys.stream(topic), group)
            self.model.may_repeat({group}, out_of_order=True)

    async def _foreign(self, topic: str, fields: Mapping[str, str]) -> None:
        place = self.on_server
        words = [word for pair in fields.items() for word in pair]
        await place.ask("SADD", place.keys.topics, topic)
        await place.ask("XADD", place.keys.stream(topic), "*", *words)

    # --- servers ------------------------------------------------------------------------------------------

    async def _fill(self, room: int) -> None:
        used = (await asyncio.to_thread(self.on_server.server.info, "memory"))["used_memory"]
        await self.on_server.ask("CONFIG", "SET", "maxmemory", int(used) + room)
        self._disturbed = True

    async def _empty(self) -> None:
        await self.on_server.ask("CONFIG", "SET", "maxmemory", 0)

    async def _lose(self, share: float, commands: Sequence[str]) -> None:
        seed = random.Random(self.history.seed).randrange(2**32)
        self.on_server.proxy.use(LoseReplies(share, seed, tuple(commands)))
        self._disturbed = self._loses = True

    async def _find(self) -> None:
        self.on_server.proxy.heal()
        self._loses = False

    async def _restart(self) -> None:
        """The server is killed, and comes back with all that it had."""
        self._disturbed = True
        await asyncio.to_thread(self.on_server.server.kill)
        await asyncio.to_thread(self.on_server.server.restart)

    async def _failover(self) -> None:
        """A replica takes over that has everything, and has it on its disk."""
        self._disturbed = True
        await self.on_server.fail_over()
        await self._remember()

    async def _clock(self, ahead: float) -> None:
        """The time of day of the server is so many seconds ahead of the real one from now on."""
        if self.on_server.clock is not None:
            self.on_server.clock.set(ahead)

    async def _remember(self) -> None:
        """Writes the data of the server to its disk."""
        await self.on_server.ask("SAVE")
        self.model.remembered()

    async def _lessen(self) -> None:
        """The server is killed, and comes back with what was on its disk, which may be nothing."""
        await self._restart()
        self.model.lessened()

    async def heal(self) -> None:
        """Ends whatever is still wrong."""
        if isinstance(self.place, OnServer):
            await self._find()
            await self._empty()
        for running in self.running.values():
            if running.frozen:
                running.actor.thaw()
                running.frozen = False
            await self._try(running.actor, "resume")
        self._disturbed = False
