"""The scenarios. What each of them is about stands in its story; the load is 2,000 events a second for four
consumers with 16 handlers each, unless it says otherwise.
"""

from __future__ import annotations

from chaos import checks
from chaos.events import topic
from chaos.injections import (
    BlockDeadLetters,
    ClientKill,
    Command,
    Kill,
    KillServer,
    OnTheWay,
    RollingRestart,
    StandStill,
    Strangers,
    Wait,
)
from chaos.scenario import Load, Scenario, Size
from chaos.sites import PREFIX, OneServer
from promenade_bus_redis.keys import Keys
from redis_support.faults import LoseReplies

_DEAD = Keys(PREFIX).dead(topic(0).name)

_IN_HAND = 32
"""What a consumer may have handled without its acknowledgement being stored: what 16 handlers have done,
and as many outcomes on their way."""


def _with_append_only_file() -> OneServer:
    return OneServer({"appendonly": "yes", "appendfsync": "everysec"})


PROCESSES = (
    Scenario(
        number=1,
        name="kill consumers",
        story="SIGKILL to a consumer every 200 ms",
        faults=(Kill(who="consumers", every=0.2, seconds=Size(60, 2)),),
        duplicates={"kills": _IN_HAND},
        checks=(checks.Happened("kills", 5),),
    ),
    Scenario(
        number=2,
        name="kill publishers",
        story="SIGKILL to a publisher every 500 ms",
        load=Load(producers=2),
        faults=(Kill(who="producers", every=0.5, seconds=Size(60, 2)),),
        checks=(checks.Happened("kills", 3),),
    ),
    Scenario(
        number=3,
        name="rolling restart",
        story="SIGTERM to one consumer after the other",
        faults=(RollingRestart(times=Size(30, 4)),),
        checks=(checks.attempts_are_first, checks.EndsWithin(5.0), checks.Happened("restarts", 3)),
    ),
    Scenario(
        number=5,
        name="standstill",
        story="SIGSTOP to a consumer for three leases, then SIGCONT",
        load=Load(work=0.05, consumers=Size(8, 3)),
        faults=(StandStill(leases=3, times=Size(5, 1)),),
        duplicates={"stops": _IN_HAND},
        checks=(checks.late_is_counted,),
    ),
    Scenario(
        number=6,
        name="slow handler",
        story="handlers that take ten leases",
        load=Load(rate=Size(500, 100), mix=(("sleep:10", 0.03),), concurrency=200, lease=Size(3, 0.6)),
        faults=(Wait(seconds=Size(60, 1)),),
        checks=(checks.attempts_are_first,),
    ),
)

NETWORK = (
    Scenario(
        number=9,
        name="lost reads",
        story="5 % of the replies to reads are lost, and their connections reset",
        proxied="consumers",
        faults=(OnTheWay(faults=(LoseReplies(0.05, 9, ("XREADGROUP", "EVALSHA")),), seconds=Size(60, 3)),),
        checks=(checks.Happened("lost_replies", 3),),
    ),
)

SERVERS = (
    Scenario(
        number=11,
        name="client kill",
        story="CLIENT KILL of every connection every 100 ms",
        faults=(ClientKill(every=0.1, seconds=Size(60, 3)),),
        duplicates={"client_kills": 1},
        checks=(checks.Happened("client_kills", 10), checks.Flat(memory=12e6)),
    ),
    Scenario(
        number=13,
        name="kill the server",
        story="SIGKILL to the server, which writes its file to the disk every second",
        site=_with_append_only_file,
        faults=(KillServer(times=Size(10, 2), every=2.0),),
        duplicates={"server_kills": 4 * _IN_HAND},
        checks=(checks.Happened("server_kills", 2), checks.RecoversWithin(2.0)),
    ),
)

OUTCOMES = (
    Scenario(
        number=21,
        name="poison",
        story="events that cannot be handled, among good ones, in an ordered group",
        load=Load(
            mix=(
                *(("raise", 0.002), ("cancel", 0.002), ("exit", 0.002), ("recurse", 0.002)),
                ("huge:10000000", 0.002),
            ),
            ordered=True,
            attempts=2,
            delay=0.01,
        ),
        faults=(Strangers(count=5), Wait(seconds=Size(60, 3)), Strangers(count=5)),
        checks=(
            checks.Letters(("cannot be decoded", "Poison", "CancelledError", "SystemExit", "RecursionError")),
        ),
    ),
    Scenario(
        number=22,
        name="dead letters down",
        story="there is something of another type where the dead letters go",
        load=Load(mix=(("raise", 0.02),), attempts=2, delay=0.05, rate=Size(500, 200)),
        before=(Command(words=("SET", _DEAD, "in the way"), then=0.0),),
        faults=(BlockDeadLetters(seconds=Size(30, 2)),),
        checks=(
            checks.Letters(("Poison",)),
            checks.Happened("held_while_down"),
            checks.NoteAtMost("commands_while_down", 5_000),
            checks.QuietLogs(),
        ),
    ),
)

SCENARIOS = tuple(sorted((*PROCESSES, *NETWORK, *SERVERS, *OUTCOMES), key=lambda each: each.number))
