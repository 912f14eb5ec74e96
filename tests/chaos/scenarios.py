"""The scenarios. What each of them is about stands in its story; the load is 2,000 events a second for four
consumers with 16 handlers each, unless it says otherwise.
"""

from __future__ import annotations

from chaos import checks
from chaos.events import topic
from chaos.injections import (
    AnyOf,
    BlockDeadLetters,
    ClientKill,
    ClientPause,
    Command,
    CutReplies,
    DestroyGroup,
    FailOver,
    FillMemory,
    Freeze,
    HalfClose,
    Kill,
    KillNode,
    KillServer,
    LosePower,
    MoveSlot,
    OnTheWay,
    RestartWithoutData,
    RollingRestart,
    StandStill,
    StepClocks,
    StopServer,
    Strangers,
    TrimByHand,
    UntilPublished,
    Wait,
    WithoutConsumers,
)
from chaos.scenario import Load, Scenario, Size
from chaos.sites import PREFIX, OfCluster, OneServer, Sentinels
from promenade_bus_redis.streams.keys import Keys
from redis_support.faults import Drop, LoseReplies, SlowBytes

_DEAD = Keys(PREFIX).dead(topic(0).name)

_IN_HAND = 32
"""The most that a consumer may have handled without a stored acknowledgement: what 16 handlers have done,
and as many outcomes on their way."""


def _with_append_only_file() -> OneServer:
    return OneServer({"appendonly": "yes", "appendfsync": "everysec"})


PROCESSES = (
    Scenario(
        number=1,
        name="kill consumers",
        story="SIGKILL to a consumer every 200 ms",
        faults=(Kill(who="consumers", every=0.2, seconds=Size(60, 2)),),
        duplicates={"kills": 16},
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
        load=Load(work=0.01, concurrency=4, consumers=Size(8, 3), rate=Size(3_400, 1_300)),
        faults=(StandStill(leases=3, times=Size(5, 1)),),
        duplicates={"stops": 4},  # the handlers that were running
        checks=(checks.late_is_counted, checks.Happened("held_by_stopped", 5)),
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

HANDLERS = (
    Scenario(
        number=4,
        name="end while waiting",
        story="SIGTERM while retries wait, and while handlers hang",
        load=Load(
            mix=(("fail:1", 0.03), ("hang", 0.002)), rate=Size(1_000, 300), delay=3.0, shutdown_timeout=1.0
        ),
        faults=(RollingRestart(times=Size(30, 3)),),
        checks=(checks.EndsWithin(1.5), checks.Happened("restarts", 3)),
    ),
    Scenario(
        number=7,
        name="blocking handler",
        story="handlers that block the thread of the event loop for three leases",
        load=Load(rate=Size(100, 40), mix=(("block:3", 0.02),), limit=Size(1_000, 100), lease=Size(1.5, 0.6)),
        faults=(UntilPublished(timeout=Size(60, 30)),),
        checks=(checks.begun_once, checks.Told("the event loop was blocked")),
        patience=180.0,
    ),
)

NETWORK = (
    Scenario(
        number=8,
        name="lost publishes",
        story="the reply to a publish is lost, and its connection reset; the publisher tries again",
        load=Load(producers=4, in_flight=1, insists=True, rate=Size(2_000, 400)),
        proxied="producers",
        faults=(CutReplies(command="XADD", every=0.1, seconds=Size(60, 3)),),
        duplicates={"lost_replies": 1},
        checks=(checks.Happened("lost_replies", 5),),
    ),
    Scenario(
        number=9,
        name="lost reads",
        story="5 % of the replies to reads are lost, and their connections reset",
        proxied="consumers",
        faults=(OnTheWay(faults=(LoseReplies(0.05, 9, ("XREADGROUP", "EVALSHA")),), seconds=Size(60, 3)),),
        checks=(checks.Happened("lost_replies", 3),),
    ),
    Scenario(
        number=10,
        name="half-open connections",
        story="one byte every 100 ms, half-closed connections, and a black hole for 30 s",
        proxied="consumers",
        faults=(
            OnTheWay(faults=(SlowBytes(0.1),), seconds=Size(20, 1)),
            HalfClose(),
            OnTheWay(faults=(Drop(),), seconds=Size(30, 2)),
        ),
        duplicates={"cuts": 4 * _IN_HAND},
        checks=(checks.RecoversWithin(5.0), checks.QuietLogs()),
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
        number=12,
        name="paused server",
        story="CLIENT PAUSE for 8 s, then SIGSTOP of the server for 12 s",
        faults=(ClientPause(seconds=Size(8, 2)), StopServer(seconds=Size(12, 2.5))),
        duplicates={"pauses": 4 * _IN_HAND},
        checks=(checks.RecoversWithin(5.0), checks.QuietLogs()),
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

LOSSES = (
    Scenario(
        number=15,
        name="lost groups",
        story="FLUSHALL, a restart without persistence, and XGROUP DESTROY",
        faults=(
            Command(words=("FLUSHALL",)),
            RestartWithoutData(),
            Wait(seconds=Size(20, 0.5)),
            DestroyGroup(),
        ),
        duplicates={"destroyed": 1},
        checks=(
            checks.RecoversWithin(2.0),
            checks.QuietLogs(),
            checks.Told("the server has lost its data"),
        ),
        losses_are_told=True,
    ),
    Scenario(
        number=16,
        name="failover",
        story="SIGKILL to the primary; sentinels put a replica in charge",
        site=Sentinels,
        load=Load(durability="replicated", rate=Size(1_000, 300), more={"wait_timeout": 1.0}),
        faults=(FailOver(times=Size(10, 1)),),
        duplicates={"failovers": 4 * _IN_HAND},
        checks=(checks.Happened("failovers"),),
    ),
    Scenario(
        number=17,
        name="cluster",
        story="a node of a cluster is killed and comes back, and a slot moves to another node",
        site=OfCluster,
        load=Load(topics=6, publish_timeout=1.0, rate=Size(1_000, 300)),
        faults=(KillNode(seconds=Size(10, 3)), MoveSlot()),
        duplicates={"server_kills": 4 * _IN_HAND},
        checks=(checks.refused_some, checks.Happened("moves")),
    ),
    Scenario(
        number=18,
        name="full memory",
        story="maxmemory is reached, and later there is room again",
        load=Load(filling=2_000, publish_timeout=1.0),
        faults=(FillMemory(seconds=Size(20, 3)),),
        checks=(checks.refused_some, checks.RecoversWithin(3.0)),
    ),
)

_POWER_FAILURE = WithoutConsumers(
    faults=(Wait(seconds=Size(1.5, 1.5)), LosePower(seconds=0.4, times=Size(10, 1)))
)

POWER = (
    Scenario(
        number=14,
        name="power failure",
        story="while no consumer runs, the server loses what was not on its disk",
        site=_with_append_only_file,
        load=Load(rate=Size(2_000, 200)),
        faults=(_POWER_FAILURE,),
        checks=(
            checks.Happened("cut_bytes", 4_000),
            checks.losses_are_exact,
            checks.Told("the log names them", kind="producer"),
        ),
    ),
    Scenario(
        number=27,
        name="power failure, and durability",
        story="the same with durability: fsync",
        site=_with_append_only_file,
        load=Load(rate=Size(2_000, 400), in_flight=512, durability="fsync", more={"wait_timeout": 1.8}),
        faults=(_POWER_FAILURE,),
        checks=(checks.Happened("cut_bytes", 4_000), checks.nothing_was_lost),
    ),
)

TRIMS = (
    Scenario(
        number=19,
        name="trims",
        story="while no consumer runs, retention.max_length drops events, and somebody trims the topic",
        load=Load(rate=Size(2_000, 200), more={"retention": {"min_age": "2s", "max_length": 500}}),
        faults=(WithoutConsumers(faults=(Wait(seconds=Size(20, 7)), TrimByHand(keep=40))),),
        checks=(
            checks.Happened("trimmed_by_hand"),
            checks.losses_are_exact,
            checks.Told("the log names them", kind="producer"),
        ),
    ),
)

PUBSUB = (
    Scenario(
        number=20,
        name="slow broadcast subscriber",
        story="mode: pubsub, slow handlers, and SIGSTOP until the server cuts the connection",
        site=lambda: OneServer({"client-output-buffer-limit": "pubsub 1mb 0 0"}),
        load=Load(
            broadcast=True,
            consumers=Size(4, 2),
            rate=Size(500, 400),
            filling=20_000,
            work=0.08,
            more={"mode": "pubsub", "pubsub": {"buffer": 1_000_000}},
        ),
        faults=(Freeze(seconds=Size(5, 3)), Wait(seconds=Size(10, 1)), Freeze(seconds=Size(5, 1))),
        calm=Size(5.0, 1.5),
        checks=(
            checks.Happened("freezes", 2),
            checks.missed_is_counted,
            checks.Logged("dropped by the server, or published without a connection"),
            checks.Logged("the handlers are too slow, and the buffer was full"),
            checks.Told("the log names them"),
            checks.QuietLogs(),
        ),
    ),
)

SOAKS = (
    Scenario(
        number=25,
        name="soak",
        story="an hour of faults by chance, clocks that step, and publishers that are threads",
        load=Load(rate=Size(300, 200), threads=4, producers=2),
        proxied="consumers",
        faults=(
            AnyOf(
                faults=(
                    Kill(who="consumers", every=0.2, seconds=Size(0.4, 0.4)),
                    RollingRestart(times=Size(1, 1)),
                    StepClocks(),
                    ClientKill(every=0.1, seconds=Size(0.5, 0.5)),
                    OnTheWay(faults=(LoseReplies(0.05, 25),), seconds=Size(1, 1)),
                    StopServer(seconds=Size(1, 1)),
                ),
                seconds=Size(3_600, 5),
            ),
        ),
        duplicates={"kills": _IN_HAND, "client_kills": 1, "lost_replies": 1, "pauses": 4 * _IN_HAND},
        checks=(checks.Flat(memory=20e6),),
        patience=120.0,
    ),
    Scenario(
        number=26,
        name="a million events",
        story="memory, descriptors and tasks of a worker over a million events",
        load=Load(rate=Size(4_000, 1_000), limit=Size(1_000_000, 3_000), consumers=Size(1, 1), in_flight=512),
        faults=(UntilPublished(timeout=Size(1_800, 30)),),
        checks=(checks.attempts_are_first, checks.Flat(memory=4e6)),
        patience=600.0,
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
            checks.NoteAtMost("commands_per_event_while_down", 20),
            checks.QuietLogs(),
        ),
    ),
)

SCENARIOS = tuple(
    sorted(
        (*PROCESSES, *HANDLERS, *NETWORK, *SERVERS, *LOSSES, *POWER, *TRIMS, *OUTCOMES, *PUBSUB, *SOAKS),
        key=lambda each: each.number,
    )
)
