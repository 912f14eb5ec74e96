"""Bugs that histories must find: each takes out a mend of one kind, or breaks what all rests on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bus_core.dispatch import retries
from bus_core.dispatch.failure_decisions import Decision
from chaos import planted
from promenade_bus_memory import MemoryHub
from promenade_bus_memory.dead_letters import MemoryDeadLetters
from promenade_bus_redis.server import scripts
from promenade_bus_redis.server.scripts import Script
from promenade_bus_redis.streams import wire
from promenade_bus_redis.streams.adapter import StreamsAdapter
from promenade_bus_redis.streams.group_consumer import GroupConsumer
from promenade_bus_redis.streams.recovery import Recovery
from promenade_bus_redis.streams.service_record import Demand, ServiceRecord, SubscribedTopic
from promenade_bus_redis.streams.upkeep import Upkeep

__all__ = ["BUGS", "IN_MEMORY", "plant"]


def plant(bug: str) -> None:
    """Changes this process."""
    if bug in BUGS:
        BUGS[bug]()
    else:
        planted.plant(bug)


def _change_scripts(old: str, new: str) -> None:
    """Other text in all scripts that have it."""
    found = [each for each in vars(scripts).values() if isinstance(each, Script) and old in each.source]
    assert found, f"no script has {old!r} any more"
    for script in found:
        source = script.source.replace(old, new)
        digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(script, "source", source)
        object.__setattr__(script, "digest", digest)
        scripts._known[digest] = source


async def _nothing(*_arguments: object) -> None:
    """Instead of what would be done."""


# --- 1. what is owed --------------------------------------------------------------------------------------


def _remember_last_part() -> None:
    """Of the topics and patterns of a name retention knows one."""
    begin = Demand.__init__

    def begin_with_one(self: Demand, parts: Iterable[SubscribedTopic] = ()) -> None:
        begin(self, {part.group: part for part in parts}.values())

    Demand.__init__ = begin_with_one  # type: ignore[method-assign, assignment]


def _name_nobody() -> None:
    """Health does not say for whom events are kept that nobody handles."""

    def orphans(_self: ServiceRecord, _orphaned_after: float) -> tuple[SubscribedTopic, ...]:
        return ()

    ServiceRecord.orphans = orphans  # type: ignore[method-assign, assignment]


# --- 2., 3. and 6. ----------------------------------------------------------------------------------------


def _count_no_loss() -> None:
    """The script that drops entries does not count them."""
    for place in ("losses", "KEYS[4]", "KEYS[5]"):
        _change_scripts(f"'HINCRBY', {place}", f"'EXISTS', {place}")


def _write_at_the_start() -> None:
    """A bus writes before it reads: when the memory of the server is full, it cannot start."""
    start = StreamsAdapter.start

    async def start_by_writing(self: StreamsAdapter) -> None:
        await start(self)
        services = self.running
        assert services is not None
        key = f"{services.keys.prefix}:started"
        await services.pipe.call("SET", key, "x", key=key)

    StreamsAdapter.start = start_by_writing  # type: ignore[method-assign, assignment]


def _choke_on_odd_entries() -> None:
    """An entry that is no event ends the reading of its batch."""
    read = wire._read_any

    def read_strictly(topic: str, entry_id: bytes, fields: Mapping[bytes, bytes]) -> Any:
        if len(fields.get(b"id", b"")) != 36:
            raise ValueError("an entry has no id")
        return read(topic, entry_id, fields)

    wire._read_any = read_strictly


# --- what all rests on ------------------------------------------------------------------------------------


def _leave_what_the_dead_held() -> None:
    """Nobody takes over what the dead held."""
    Recovery._claim = _nothing  # type: ignore[method-assign, assignment]


def _leave_retries_of_the_dead() -> None:
    """The parked retries of a dead process come back to nobody."""

    def wait_for_nothing(_self: Upkeep, _feed: object, _left: object) -> None:
        """Instead of waiting for what others have parked."""

    Upkeep._wait_for_others = wait_for_nothing  # type: ignore[method-assign, assignment]


def _let_all_be_active() -> None:
    """Of an ordered group any instance reads that wants to."""
    _change_scripts("if holder and holder ~= ARGV[1] and holder ~= ARGV[2] then", "if false then")
    _change_scripts("if highest == token then return false end", "do return false end")


def _bury_what_is_newer() -> None:
    """An event of another version is given up at once."""

    def bury(_error: BaseException, _age: float, _wait: float | None) -> Decision:
        return Decision("dead_letter", reason="cannot be decoded")

    retries.decide_undecoded = bury  # type: ignore[attr-defined, assignment]


def _keep_the_turn() -> None:
    """An active instance keeps its turn, whatever it cannot decode."""

    async def nobody(_self: GroupConsumer) -> bool:
        return False

    GroupConsumer.has_standby = nobody  # type: ignore[method-assign, assignment]


def _leave_what_was_not_heard() -> None:
    """The entries of a lost reply are not read again."""
    Recovery._sweep = _nothing  # type: ignore[method-assign, assignment]


def _route_to_one_group() -> None:
    """In memory one group gets an event, and no other."""
    route = MemoryHub.route

    def route_to_one(self: MemoryHub, topic: str) -> Any:
        return route(self, topic)[:1]

    MemoryHub.route = route_to_one  # type: ignore[method-assign, assignment]


def _redrive_nowhere() -> None:
    """In memory a letter that is sent back arrives nowhere."""

    def way_back(_self: MemoryDeadLetters, _kept: object) -> Callable[[], None]:
        return lambda: None

    MemoryDeadLetters.way_back = way_back  # type: ignore[method-assign, assignment]


BUGS: dict[str, Callable[[], None]] = {
    "remember-last-part": _remember_last_part,
    "name-nobody": _name_nobody,
    "count-no-loss": _count_no_loss,
    "write-at-the-start": _write_at_the_start,
    "choke-on-odd-entries": _choke_on_odd_entries,
    "leave-what-the-dead-held": _leave_what_the_dead_held,
    "leave-retries-of-the-dead": _leave_retries_of_the_dead,
    "let-all-be-active": _let_all_be_active,
    "bury-what-is-newer": _bury_what_is_newer,
    "keep-the-turn": _keep_the_turn,
    "leave-what-was-not-heard": _leave_what_was_not_heard,
    "route-to-one-group": _route_to_one_group,
    "redrive-nowhere": _redrive_nowhere,
}
IN_MEMORY = ("route-to-one-group", "redrive-nowhere")
