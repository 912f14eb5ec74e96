"""The faults. Each is a value that is called with the stage, and returns when it is over."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator

import attrs

from chaos.crew import Post
from chaos.scenario import Injection, Size
from chaos.stage import Stage
from redis_support.child_processes import wait_until
from redis_support.faults import CutAtReply, Fault
from redis_support.servers import Server

_AT_WORK = 30.0
_BETWEEN = 0.03
"""Seconds within which a consumer is met while a handler of it runs, and between two looks."""

# --- processes --------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Kill:
    """SIGKILL to one process after the other; each is replaced at once. Noted as ``kills``."""

    who: str
    every: float
    seconds: Size

    def __call__(self, stage: Stage) -> None:
        for _ in stage.ticks(self.seconds, self.every):
            posts = stage.crew.consumers if self.who == "consumers" else stage.crew.producers
            stage.crew.kill(stage.random.choice(posts))
            stage.notes["kills"] += 1


@attrs.frozen(kw_only=True)
class RollingRestart:
    """SIGTERM to one consumer after the other; the next one comes when it has been replaced.

    Noted as ``restarts``.
    """

    times: Size

    def __call__(self, stage: Stage) -> None:
        for number in range(stage.times(self.times)):
            post = stage.crew.consumers[number % len(stage.crew.consumers)]
            stage.crew.end(post)
            stage.crew.replace(post)
            stage.crew.wait_ready(post)
            stage.notes["restarts"] += 1


@attrs.frozen(kw_only=True)
class StandStill:
    """SIGSTOP to a consumer that runs a handler, for some leases, then SIGCONT.

    Noted as ``stops``, and what was pending for it as ``held_by_stopped``.
    """

    leases: float
    times: Size

    def __call__(self, stage: Stage) -> None:
        for number in range(stage.times(self.times)):
            post = stage.crew.consumers[number % len(stage.crew.consumers)]
            with _stopped_at_work(stage, post):
                stage.notes["stops"] += 1
                stage.notes["held_by_stopped"] += stage.held_by(post)
                time.sleep(self.leases * stage.lease)
            time.sleep(stage.lease / 2)


@attrs.frozen(kw_only=True)
class Freeze:
    """SIGSTOP to one consumer for some seconds, then SIGCONT. Noted as ``freezes``."""

    seconds: Size

    def __call__(self, stage: Stage) -> None:
        with _stopped(stage.crew.consumers[0]):
            stage.notes["freezes"] += 1
            time.sleep(stage.size(self.seconds))


@contextlib.contextmanager
def _stopped(post: Post) -> Iterator[None]:
    post.member.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        post.member.signal(signal.SIGCONT)


@contextlib.contextmanager
def _stopped_at_work(stage: Stage, post: Post) -> Iterator[None]:
    """Stops a process at a moment when one of its handlers runs."""
    until = time.monotonic() + _AT_WORK
    while time.monotonic() < until:
        with _stopped(post):
            if stage.runs_a_handler(post):
                yield
                return
        time.sleep(_BETWEEN)
    raise AssertionError(f"no handler of process {post.member.pid} ran within {_AT_WORK:g} s")


@attrs.frozen(kw_only=True)
class WithoutConsumers:
    """All consumers are ended by SIGTERM; what else goes wrong does so before others take their places."""

    faults: tuple[Injection, ...]

    def __call__(self, stage: Stage) -> None:
        consumers = stage.crew.consumers
        stage.crew.end(*consumers)
        for fault in self.faults:
            fault(stage)
        for post in consumers:
            stage.crew.replace(post)
        for post in consumers:
            stage.crew.wait_ready(post)


@attrs.frozen(kw_only=True)
class StepClocks:
    """The clocks of all consumers go an hour forward, then back. Noted as ``steps``."""

    times: int = 1

    def __call__(self, stage: Stage) -> None:
        for _ in range(self.times):
            for post in stage.crew.consumers:
                post.member.signal(signal.SIGUSR1)
            stage.notes["steps"] += 1
            time.sleep(0.2)


@attrs.frozen(kw_only=True)
class Wait:
    """Nothing goes wrong for a while: what the handlers do is the fault."""

    seconds: Size

    def __call__(self, stage: Stage) -> None:
        time.sleep(stage.size(self.seconds))


@attrs.frozen(kw_only=True)
class UntilPublished:
    """Waits until the producers, which have a limit, have published all of it."""

    timeout: Size

    def __call__(self, stage: Stage) -> None:
        for post in stage.crew.producers:
            post.member.wait(stage.size(self.timeout))


# --- the way to the server --------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class OnTheWay:
    """Faults of the proxy, for some time. Noted as ``cuts``, besides what the proxy counts itself."""

    faults: tuple[Fault, ...]
    seconds: Size

    def __call__(self, stage: Stage) -> None:
        stage.one.proxy.use(*self.faults)
        stage.notes["cuts"] += 1
        time.sleep(stage.size(self.seconds))
        stage.one.proxy.heal()


@attrs.frozen(kw_only=True)
class CutReplies:
    """Every so many seconds the reply to the next command of that name is lost, and its connection reset."""

    command: str
    every: float
    seconds: Size

    def __call__(self, stage: Stage) -> None:
        for _ in stage.ticks(self.seconds, self.every):
            stage.one.proxy.use(CutAtReply(self.command))
        stage.one.proxy.heal()


@attrs.frozen(kw_only=True)
class HalfClose:
    """The connections that exist are half closed, as seen by the clients. Noted as ``cuts``."""

    def __call__(self, stage: Stage) -> None:
        stage.one.proxy.half_close()
        stage.notes["cuts"] += 1
        time.sleep(0.5)


# --- the server -------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class ClientKill:
    """CLIENT KILL of all connections but its own, again and again. Noted as ``client_kills``."""

    every: float
    seconds: Size

    def __call__(self, stage: Stage) -> None:
        with stage.one.server.client() as client:
            for _ in stage.ticks(self.seconds, self.every):
                client.client_kill_filter(_type="normal", skipme=True)
                stage.notes["client_kills"] += 1


@attrs.frozen(kw_only=True)
class ClientPause:
    """CLIENT PAUSE. Noted as ``pauses``."""

    seconds: Size

    def __call__(self, stage: Stage) -> None:
        stage.one.server.ask("CLIENT", "PAUSE", round(stage.size(self.seconds) * 1000), "ALL")
        stage.notes["pauses"] += 1
        time.sleep(stage.size(self.seconds))


@attrs.frozen(kw_only=True)
class StopServer:
    """SIGSTOP to the server, then SIGCONT. Noted as ``pauses``."""

    seconds: Size

    def __call__(self, stage: Stage) -> None:
        stage.one.server.pause()
        stage.notes["pauses"] += 1
        try:
            time.sleep(stage.size(self.seconds))
        finally:
            stage.one.server.resume()


@attrs.frozen(kw_only=True)
class KillServer:
    """SIGKILL to the server, and a restart on the same data. Noted as ``server_kills``."""

    times: Size
    every: float

    def __call__(self, stage: Stage) -> None:
        for _ in range(stage.times(self.times)):
            stage.one.server.kill()
            stage.notes["server_kills"] += 1
            stage.one.server.restart()
            time.sleep(self.every)


@attrs.frozen(kw_only=True)
class LosePower:
    """The machine of the server loses its power: what was not on its disk yet is gone.

    The server says when its file is on the disk, and writes it there every second. Beyond what it had then,
    the file is cut where no second write was over when the server died. It dies at a moment when the file has
    grown by ``least`` bytes since. Noted as ``power_failures``, and how much was cut as ``cut_bytes``.
    """

    seconds: float
    times: Size
    then: float = 1.0
    least: int = 4_000

    def __call__(self, stage: Stage) -> None:
        for _ in range(stage.times(self.times)):
            kept = None
            while kept is None:
                kept = self._die_with_unsynced_data(stage.one.server)
            file = stage.one.server.append_only_file
            stage.notes["cut_bytes"] += file.stat().st_size - kept
            os.truncate(file, kept)
            stage.notes["power_failures"] += 1
            stage.one.server.restart()
            time.sleep(self.then)

    def _die_with_unsynced_data(self, server: Server) -> int | None:
        """Kills the server; returns how many bytes of its file were on the disk, or None: it was too late."""
        with server.client() as first, server.client() as second:
            first.execute_command("INCR", "probe")
            first.execute_command("WAITAOF", 1, 0, 5_000)
            kept = server.append_only_file.stat().st_size
            # As soon as this is answered more of the file is on the disk.
            second.execute_command("INCR", "probe")
            connection = second.connection_pool.get_connection()
            connection.send_command("WAITAOF", 1, 0, 5_000)
            time.sleep(self.seconds)
            server.pause()
            grown = server.append_only_file.stat().st_size - kept
            if grown < self.least or connection.can_read(timeout=0.05):
                server.resume()
                return None
        server.kill()
        return kept


@attrs.frozen(kw_only=True)
class Command:
    """One command, by an operator who should not have. Noted by its name."""

    words: tuple[str | int, ...]
    then: float = 1.0

    def __call__(self, stage: Stage) -> None:
        stage.one.server.ask(*self.words)
        stage.notes[str(self.words[0]).lower()] += 1
        time.sleep(self.then)


@attrs.frozen(kw_only=True)
class DestroyGroup:
    """XGROUP DESTROY of a group that is in use. Noted as ``destroyed``: how many events begin again."""

    then: float = 1.0

    def __call__(self, stage: Stage) -> None:
        ((topic, group),) = stage.groups
        stream = stage.site.keys.stream(topic)
        stage.one.server.ask("XGROUP", "DESTROY", stream, group)
        # Counted afterwards: what was handled until the group was gone is among it.
        stage.notes["destroyed"] += int(stage.one.server.ask("XLEN", stream))
        time.sleep(self.then)


@attrs.frozen(kw_only=True)
class TrimByHand:
    """XTRIM to so many entries, by an operator who should not have. Noted as ``trimmed_by_hand``."""

    keep: int

    def __call__(self, stage: Stage) -> None:
        ((topic, _group),) = stage.groups
        removed = stage.one.server.ask("XTRIM", stage.site.keys.stream(topic), "MAXLEN", self.keep)
        stage.notes["trimmed_by_hand"] += int(removed)


@attrs.frozen(kw_only=True)
class RestartWithoutData:
    """The server is killed, and comes back empty. Noted as ``emptied``."""

    then: float = 1.0

    def __call__(self, stage: Stage) -> None:
        stage.one.server.kill()
        stage.notes["emptied"] += 1
        stage.one.server.restart()
        time.sleep(self.then)


@attrs.frozen(kw_only=True)
class FillMemory:
    """maxmemory falls to what is used, and some time later there is room again."""

    seconds: Size

    def __call__(self, stage: Stage) -> None:
        server = stage.one.server
        used = int(server.info("memory")["used_memory"])
        server.ask("CONFIG", "SET", "maxmemory", used + 200_000)
        time.sleep(stage.size(self.seconds))
        server.ask("CONFIG", "SET", "maxmemory", 0)
        stage.notes["fillings"] += 1


@attrs.frozen(kw_only=True)
class BlockDeadLetters:
    """There is something of another type where the dead letters go; later it is taken away."""

    seconds: Size

    def __call__(self, stage: Stage) -> None:
        ((topic, _group),) = stage.groups
        server = stage.one.server
        before = server.info("stats")["total_commands_processed"]
        time.sleep(stage.size(self.seconds))
        spent = server.info("stats")["total_commands_processed"] - before
        published = stage.scenario.load.rate.of(stage.full) * stage.size(self.seconds)
        stage.notes["commands_per_event_while_down"] = round(spent / published)
        stage.notes["held_while_down"] = stage.left()
        server.ask("DEL", stage.site.keys.dead(topic))


_NO_EVENTS = (
    b"\x00\xff no event {",
    b"[" * 100_000,
    b'{"specversion": "1.0", "id": NaN}',
    b'{"specversion": "1.0", "data": "%s"}' % (b"x" * 10_000_000),
    b'{"specversion": "1.0", "data": {"number": "\\ud800"}}',
)


@attrs.frozen(kw_only=True)
class Strangers:
    """Entries that somebody else puts into the stream, and that are no events. Noted as ``strangers``."""

    count: int

    def __call__(self, stage: Stage) -> None:
        ((topic, _group),) = stage.groups
        stream = stage.site.keys.stream(topic)
        for _ in range(self.count):
            number = stage.notes["strangers"]
            event_id = f"0190a0a0-0000-7000-8000-{number:012x}"
            stage.journal.write("attempted", topic=topic, event_id=event_id)
            body = _NO_EVENTS[number % len(_NO_EVENTS)]
            stage.one.server.ask("XADD", stream, "*", "id", event_id, "body", body)
            stage.journal.write("acknowledged", topic=topic, event_id=event_id)
            stage.notes["strangers"] += 1


# --- several servers --------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class FailOver:
    """SIGKILL to the primary; a replica takes over, and the old one comes back as a replica.

    Noted as ``failovers``.
    """

    times: Size

    def __call__(self, stage: Stage) -> None:
        group = stage.sentinels.group
        for _ in range(stage.times(self.times)):
            old = group.primary()
            old.kill()
            stage.notes["failovers"] += 1
            group.wait_failed_over(old)
            time.sleep(0.5)
            group.rejoin(old)


@attrs.frozen(kw_only=True)
class KillNode:
    """SIGKILL to the node of the first topic, and some time later a restart. Noted as ``server_kills``."""

    seconds: Size

    def __call__(self, stage: Stage) -> None:
        cluster = stage.cluster.cluster
        node = cluster.owner_of(stage.site.keys.stream(stage.groups[0][0]))
        node.kill()
        stage.notes["server_kills"] += 1
        time.sleep(stage.size(self.seconds))
        node.restart()
        wait_until(
            lambda: "cluster_state:ok" in node.ask("CLUSTER", "INFO"), "the node serves its slots", 30.0
        )


@attrs.frozen(kw_only=True)
class MoveSlot:
    """The slot of the second topic moves to another node while it is in use. Noted as ``moves``."""

    then: float = 1.0

    def __call__(self, stage: Stage) -> None:
        cluster = stage.cluster.cluster
        key = stage.site.keys.stream(stage.groups[1][0])
        source = cluster.owner_of(key)
        target = next(server for server in cluster.primaries if server is not source)
        cluster.move_slot(cluster.slot_of(key), source, target)
        stage.notes["moves"] += 1
        time.sleep(self.then)


@attrs.frozen(kw_only=True)
class AnyOf:
    """One of several faults after the other, by chance, for some time."""

    faults: tuple[Injection, ...]
    seconds: Size
    pause: float = 0.5

    def __call__(self, stage: Stage) -> None:
        for _ in stage.ticks(self.seconds, self.pause):
            stage.random.choice(self.faults)(stage)
