"""Bugs to be planted into the engine and into adapters, each with the contract tests that have to find it."""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

import attrs
from pytest import MonkeyPatch  # noqa: PT013 - a name for annotations

from bus_core import (
    BusError,
    DeadLetter,
    DeadLetterFilter,
    DeadLetterPage,
    Delivery,
    FrozenMapping,
    Inlet,
    Message,
    Outcome,
    SubscriptionSpec,
)
from bus_core.bus import arguments, publishing
from bus_core.bus.bus import Bus
from bus_core.dispatch import codec
from bus_core.dispatch.codec import Codec
from bus_core.dispatch.engine import Engine
from bus_core.dispatch.failure_decisions import Decision
from bus_core.dispatch.invocation import NOTHING, Invocation
from bus_core.dispatch.jobs import Job, PendingEvent
from bus_core.dispatch.lane import Lane
from bus_core.dispatch.queue import Buffer
from bus_core.dispatch.retries import RetryScheduler
from bus_core.dispatch.worker import Worker
from bus_core.dispatch.worker_pool import WorkerPool
from bus_core.events.messages import EventRecord
from bus_core.events.topic_index import TopicIndex
from bus_core.events.topics import is_pattern
from bus_core.runtime.schedule import Schedule
from bus_core.runtime.timeouts import Deadlines
from bus_core.transport import routes
from promenade_bus_memory.adapter import MemoryAdapter
from promenade_bus_memory.dead_letters import MemoryDeadLetters
from promenade_bus_memory.hub import MemoryHub
from support.remote import Consumer, CountingRemoteAdapter, RemoteAdapter, Server

__all__ = ["BUGS", "Bug"]

Plant = Callable[[MonkeyPatch], Callable[[], object] | None]
"""Plants a bug; what it returns is called at the end, to clean up after it."""


@attrs.frozen
class Bug:
    """The bug, its suite of ``support.contract_suites``, and the tests that have to fail."""

    name: str
    suite: str
    caught_by: tuple[str, ...]
    plant: Plant


BUGS: list[Bug] = []


def bug(name: str, *caught_by: str, suite: str = "OnMemory") -> Callable[[Plant], Plant]:
    """Adds a bug to the table."""

    def add(plant: Plant) -> Plant:
        BUGS.append(Bug(name, suite, caught_by, plant))
        return plant

    return add


def around_each_attempt(patch: MonkeyPatch, change: Callable[[Lane, Callable[[Any], Any], Any], Any]) -> None:
    """Calls ``change`` with the lane, what is called for an attempt, and what it is called with."""
    set_ports = Lane._set_ports

    def changed(lane: Lane) -> None:
        set_ports(lane)
        lane.port = None  # so that each event has a record
        for port in (lane.record_port, lane.job_port):
            port.call = partial(change, lane, port.call)

    patch.setattr(Lane, "_set_ports", changed)


def nth(number: int) -> Callable[[], bool]:
    """True at each call whose number is a multiple."""
    calls = itertools.count(1)
    return lambda: next(calls) % number == 0


# --- loss and repetition ----------------------------------------------------------------------------------


@bug("the engine loses one event in a thousand", "test_volume")
def lose_one_in_a_thousand(patch: MonkeyPatch) -> None:
    unlucky = nth(1000)
    around_each_attempt(patch, lambda _lane, call, payload: NOTHING if unlucky() else call(payload))


@bug("the adapter says stored, and loses one message in a thousand", "test_volume", suite="OnRemote")
def lose_one_stored_in_a_thousand(patch: MonkeyPatch) -> None:
    unlucky, store = nth(1000), Server.store

    def losing(server: Server, message: Message, *, fault: str | None = None) -> None:
        if not unlucky():
            store(server, message, fault=fault)

    patch.setattr(Server, "store", losing)


@bug("the adapter forgets one outcome in a thousand", "test_volume", suite="OnRemote")
def forget_acknowledgements(patch: MonkeyPatch) -> None:
    unlucky, settle = nth(1000), Consumer._settle

    def forgetful(consumer: Consumer, outcome: Outcome) -> BusError | None:
        if unlucky() and outcome.action == "ack":
            outcome.action = "release"
        return settle(consumer, outcome)

    patch.setattr(Consumer, "_settle", forgetful)


@bug("the engine delivers one event in a thousand twice", "test_volume")
def deliver_one_in_a_thousand_twice(patch: MonkeyPatch) -> None:
    unlucky = nth(1000)

    async def doubling(_lane: Lane, call: Callable[[Any], Any], payload: Any) -> None:
        if unlucky():
            await call(payload)
        await call(payload)

    around_each_attempt(patch, doubling)


@bug("the engine runs plain handlers twice", "test_publish_subscribe", "test_volume")
def deliver_twice_on_the_short_way(patch: MonkeyPatch) -> None:
    port_for = Engine.port_for

    def doubling(engine: Engine, ports: Sequence[Any]) -> Any:
        return port_for(engine, [*ports, ports[0]])

    patch.setattr(Engine, "port_for", doubling)


@bug("an event that was cancelled while it was published drags others along",
     "test_cancelled_publisher_leaves_the_others_alone", suite="OnRemote")  # fmt: skip
def cancel_the_whole_batch(patch: MonkeyPatch) -> None:
    from bus_core.transport.publisher import Publisher

    publish, send = Publisher.publish, RemoteAdapter.publish

    async def sending(adapter: RemoteAdapter, messages: Sequence[Message]) -> Any:
        for _ in range(5):  # as long as a server takes
            await asyncio.sleep(0)
        return await send(adapter, messages)

    def dragging(publisher: Publisher, message: Message, counts: Any) -> asyncio.Future[None]:
        def drag(done: asyncio.Future[None]) -> None:
            if done.cancelled():
                for item in (*publisher._sent, *publisher._waiting):
                    item.done.cancel()

        done = publish(publisher, message, counts)
        done.add_done_callback(drag)
        return done

    patch.setattr(Publisher, "publish", dragging)
    patch.setattr(RemoteAdapter, "publish", sending)


# --- acknowledging ----------------------------------------------------------------------------------------


@bug("the engine acknowledges whatever the handler does",
     "test_raising_is_retried", "test_plain_handler_is_retried", "test_permanent_error")  # fmt: skip
def acknowledge_failures(patch: MonkeyPatch) -> None:
    patch.setattr(
        WorkerPool, "_attempt_failed", lambda pool, worker, _error: _attempt_succeeded(pool, worker)
    )


def _attempt_succeeded(pool: WorkerPool, worker: Worker) -> None:
    """Nothing: a delivery that has not failed is settled by the worker."""


@bug("the adapter acknowledges before the handler", "test_release_counts_no_attempt",
     "test_close_releases_what_it_did_not_begin", suite="OnRemote")  # fmt: skip
def acknowledge_on_receipt(patch: MonkeyPatch) -> None:
    receive = Consumer.receive

    async def receive_and_forget(consumer: Consumer, limit: int) -> Sequence[Any]:
        received = await receive(consumer, limit)
        for each in received:
            consumer.group.owned.remove(each.receipt)
            each.receipt.owner = None
        return received

    patch.setattr(Consumer, "receive", receive_and_forget)


@bug("SystemExit of a handler is taken for its success", "test_error_is_contained[SystemExit]",
     "test_thread_error_is_contained")  # fmt: skip
def let_exits_pass(patch: MonkeyPatch) -> None:
    failed = WorkerPool._attempt_failed

    def lenient(pool: WorkerPool, worker: Any, error: BaseException) -> None:
        if isinstance(error, SystemExit):
            _attempt_succeeded(pool, worker)
        else:
            failed(pool, worker, error)

    patch.setattr(WorkerPool, "_attempt_failed", lenient)


@bug("a cancelled handler takes its event along", "test_error_is_contained[CancelledError]", "test_timeout")
def lose_what_was_cancelled(patch: MonkeyPatch) -> None:
    attempt_failed = RetryScheduler.attempt_failed

    def losing(retries: RetryScheduler, job: Job, error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError) or isinstance(error.__cause__, asyncio.CancelledError):
            retries._finish(job)
        else:
            attempt_failed(retries, job, error)

    patch.setattr(RetryScheduler, "attempt_failed", losing)


# --- retries ----------------------------------------------------------------------------------------------


def decide_otherwise(patch: MonkeyPatch, change: Callable[[Decision, BaseException, int], Decision]) -> None:
    import bus_core.dispatch.retries

    decide = bus_core.dispatch.retries.decide

    def otherwise(error: BaseException, attempt: int, *rest: Any, **options: Any) -> Decision:
        return change(decide(error, attempt, *rest, **options), error, attempt)

    patch.setattr(bus_core.dispatch.retries, "decide", otherwise)


@bug("the engine forgets the number of the attempt",
     "test_raising_is_retried", "test_exhausted_retries_are_dead_lettered")  # fmt: skip
def forget_attempts(patch: MonkeyPatch) -> None:
    resume_jobs = Lane.resume_jobs

    def forgetful(lane: Lane, jobs: Sequence[Job]) -> None:
        for job in jobs:
            job.comes_again(1)
        resume_jobs(lane, jobs)

    patch.setattr(Lane, "resume_jobs", forgetful)


@bug("the adapter forgets the number of the attempt", "test_attempts_outlive_the_bus", suite="OnRemote")
def forget_attempts_on_the_server(patch: MonkeyPatch) -> None:
    settle = Consumer._settle

    def forgetful(consumer: Consumer, outcome: Outcome) -> BusError | None:
        outcome.attempt, outcome.history = 1, ()
        return settle(consumer, outcome)

    patch.setattr(Consumer, "_settle", forgetful)


@bug("a shutdown uses up an attempt", "test_release_counts_no_attempt", suite="OnRemote")
def count_releases(patch: MonkeyPatch) -> None:
    settle = Consumer._settle

    def counting(consumer: Consumer, outcome: Outcome) -> BusError | None:
        if outcome.action == "release":
            outcome.attempt += 1
        return settle(consumer, outcome)

    patch.setattr(Consumer, "_settle", counting)


@bug("retries do not wait", "test_retry_schedule[default]", "test_retry_schedule[fixed]")
def retry_at_once(patch: MonkeyPatch) -> None:
    decide_otherwise(patch, lambda decision, _error, _attempt: attrs.evolve(decision, delay=0.0))


@bug("there is one attempt too many", "test_retry_schedule[one]", "test_exhausted_retries_are_dead_lettered")
def one_more_attempt(patch: MonkeyPatch) -> None:
    def generous(decision: Decision, _error: BaseException, attempt: int) -> Decision:
        exhausted = decision.reason.startswith("retries exhausted")
        return Decision("retry", 0.1) if exhausted and attempt < 4 else decision

    decide_otherwise(patch, generous)


@bug("PermanentError is retried", "test_permanent_error", "test_give_up_on")
def never_give_up(patch: MonkeyPatch) -> None:
    def stubborn(decision: Decision, _error: BaseException, attempt: int) -> Decision:
        return Decision("retry", 0.1) if decision.action == "dead_letter" and attempt < 3 else decision

    decide_otherwise(patch, stubborn)


@bug("the delay of RetryLater is ignored", "test_retry_later")
def ignore_the_asked_delay(patch: MonkeyPatch) -> None:
    def ignoring(decision: Decision, _error: BaseException, _attempt: int) -> Decision:
        return attrs.evolve(decision, delay=0.1) if decision.action == "retry" else decision

    decide_otherwise(patch, ignoring)


@bug("a postponement counts as an attempt", "test_postpone")
def count_postponements(patch: MonkeyPatch) -> None:
    def counting(decision: Decision, _error: BaseException, _attempt: int) -> Decision:
        return attrs.evolve(decision, action="retry") if decision.action == "postpone" else decision

    decide_otherwise(patch, counting)


@bug("retries follow the wall clock", "test_clock_steps")
def retry_by_the_wall_clock(patch: MonkeyPatch) -> None:
    decide_, retries_due = RetryScheduler._decide, RetryScheduler._retries_due
    due: dict[int, float] = {}

    def deciding(retries: RetryScheduler, job: Job, error: BaseException) -> None:
        before = retries._clock.now().timestamp()
        decide_(retries, job, error)
        if job in retries._waiting:
            due[id(job)] = before + 1

    def look(retries: RetryScheduler, jobs: Sequence[Job]) -> None:
        for job in jobs:
            late = due[id(job)] - retries._clock.now().timestamp()
            if late > 0.001:
                retries._waiting.add(job, min(late, 60))
            else:
                retries_due(retries, [job])

    patch.setattr(RetryScheduler, "_decide", deciding)
    patch.setattr(RetryScheduler, "_retries_due", look)


@bug("a retry loses the headers", "test_raising_is_retried", "test_unicode_metadata_and_headers")
def lose_headers(patch: MonkeyPatch) -> None:
    resume_jobs = Lane.resume_jobs

    def losing(lane: Lane, jobs: Sequence[Job]) -> None:
        for job in jobs:
            payload, topic, accepted, _, key = job.record
            job.record = (payload, topic, accepted, {}, key)
        resume_jobs(lane, jobs)

    patch.setattr(Lane, "resume_jobs", losing)


@bug("a waiting retry holds a worker", "test_waiting_retry_holds_no_worker")
def hold_a_worker(patch: MonkeyPatch) -> None:
    async def holding(lane: Lane, call: Callable[[Any], Any], payload: Any) -> None:
        try:
            await call(payload)
        except ValueError:
            gate = asyncio.Event()
            lane.engine.clock.call_later(3600, gate.set)
            await gate.wait()
            raise

    around_each_attempt(patch, holding)


@bug("timeouts are ignored", "test_timeout", "test_timeout_dead_letters_at_last")
def ignore_timeouts(patch: MonkeyPatch) -> None:
    patch.setattr(Deadlines, "limit", lambda _deadlines, _seconds, _error, call: call)


# --- order ------------------------------------------------------------------------------------------------


@bug("the engine swaps two events of one key", "test_order_of_one_key", "test_order_under_concurrency")
def swap_two_of_a_key(patch: MonkeyPatch) -> None:
    attempt_done = Lane.attempt_done
    unlucky = nth(20)

    def swapping(lane: Lane, job: Job, *, settled: bool) -> None:
        held = lane._held.get(job.key)
        if held is not None and len(held) > 1 and unlucky():
            held[0], held[1] = held[1], held[0]
        attempt_done(lane, job, settled=settled)

    patch.setattr(Lane, "attempt_done", swapping)


@bug("ordered subscriptions are not ordered", "test_order_of_one_key", "test_order_under_concurrency",
     "test_key_of_the_topic")  # fmt: skip
def ignore_order(patch: MonkeyPatch) -> None:
    def admit(lane: Lane, record: EventRecord, pending: PendingEvent | None) -> Job:
        lane._active += 1
        return lane.job_of(record, pending)

    patch.setattr(Lane, "accept", Lane._admit)
    patch.setattr(Lane, "admit", admit)


@bug("a retry gives its key away", "test_key_waits_for_its_retry[raise]", "test_order_under_retry")
def free_the_key_while_waiting(patch: MonkeyPatch) -> None:
    attempt_done = Lane.attempt_done

    def freeing(lane: Lane, job: Job, *, settled: bool) -> None:
        attempt_done(lane, job, settled=True)

    patch.setattr(Lane, "attempt_done", freeing)


@bug("a dead letter keeps its key", "test_dead_letter_frees_its_key", "test_order_under_retry")
def keep_the_key_of_the_dead(patch: MonkeyPatch) -> None:
    finish = WorkerPool.finish

    def keeping(pool: WorkerPool, job: Job) -> None:
        if job.history and job.attempt and job.lane.spec.ordered and job.lane.dead_lettered:
            pool._buffer.delivery_settled(job.pending)
            cast(Lane, job.lane)._active -= 1
        else:
            finish(pool, job)

    patch.setattr(WorkerPool, "finish", keeping)


@bug("all keys are one", "test_other_keys_run_meanwhile")
def one_key_for_all(patch: MonkeyPatch) -> None:
    import bus_core.dispatch.jobs
    import bus_core.dispatch.lane

    for module in (bus_core.dispatch.lane, bus_core.dispatch.jobs):
        patch.setattr(module, "key_of_record", lambda _record: "the only one")


@bug("instances of an ordered group take turns", "test_order_over_instances")
def take_turns_in_ordered_groups(patch: MonkeyPatch) -> None:
    import bus_core.transport.routes

    patch.setattr(bus_core.transport.routes, "_member_for", lambda group, turn: group[turn % len(group)])


# --- who gets what ----------------------------------------------------------------------------------------


@bug("a topic leaks into those that begin like it", "test_topics_are_isolated")
def leak_between_topics(patch: MonkeyPatch) -> None:
    patch.setattr(
        TopicIndex,
        "matching",
        lambda index, topic: [
            item for text, items in index._items.items() if topic.startswith(text) for item in items
        ],
    )


@bug("a star stands for several words", "test_patterns")
def greedy_star(patch: MonkeyPatch) -> None:
    add = TopicIndex.add

    def greedy(index: TopicIndex[Inlet], text: str, item: Inlet) -> None:
        add(index, text.replace("*", "#"), item)

    patch.setattr(TopicIndex, "add", greedy)


@bug("a new topic is not covered by older patterns", "test_pattern_covers_new_topics", suite="OnRemote")
def forget_new_topics(patch: MonkeyPatch) -> None:
    store = Server.store

    def forgetful(server: Server, message: Message, *, fault: str | None = None) -> None:
        known = {former.topic for former in server.log}
        patterns = {key: group for key, group in server.groups.items() if group.spec.topic != message.topic}
        if message.topic not in known and patterns:
            server.log.append(message)
            return
        store(server, message, fault=fault)

    patch.setattr(Server, "store", forgetful)


def route_otherwise(patch: MonkeyPatch, group_of: Callable[[Inlet], object]) -> None:
    def route(hub: MemoryHub, topic: str) -> Sequence[Sequence[Inlet]]:
        groups: dict[object, list[Inlet]] = {}
        for inlet in hub._inlets.matching(topic):
            groups.setdefault(group_of(inlet), []).append(inlet)
        return [*groups.values()]

    patch.setattr(MemoryHub, "route", route)


@bug("the adapter ignores the group", "test_instances_of_a_group_compete", "test_groups_of_several_instances",
     "test_retries_of_a_group")  # fmt: skip
def ignore_the_group(patch: MonkeyPatch) -> None:
    route_otherwise(patch, lambda inlet: inlet)


@bug("groups of different services are one", "test_groups_are_isolated", "test_failures_stay_in_their_group")
def ignore_the_service(patch: MonkeyPatch) -> None:
    route_otherwise(patch, lambda inlet: inlet if inlet.spec.mode == "broadcast" else inlet.spec.name)


@bug("broadcast subscriptions compete", "test_broadcast_reaches_each_instance",
     "test_groups_and_broadcast_side_by_side")  # fmt: skip
def let_broadcast_compete(patch: MonkeyPatch) -> None:
    route_otherwise(patch, lambda inlet: inlet.spec.group)


@bug("a bus does not notice new subscriptions", "test_subscribing_while_traffic_flows")
def do_not_notice(patch: MonkeyPatch) -> None:
    watch = MemoryHub.watch
    noticed = itertools.count()

    def once(hub: MemoryHub, changed: Callable[[str], None]) -> None:
        watch(hub, lambda text: changed(text) if next(noticed) < 2 else None)

    patch.setattr(MemoryHub, "watch", once)


def tell_of_some(patch: MonkeyPatch, told: Callable[[str], bool]) -> None:
    changed = MemoryHub._changed

    def tell(hub: MemoryHub, text: str) -> None:
        if told(text):
            changed(hub, text)

    patch.setattr(MemoryHub, "_changed", tell)


@bug("a bus is told of no pattern that changes", "test_subscribing_while_traffic_flows")
def keep_patterns_to_itself(patch: MonkeyPatch) -> None:
    tell_of_some(patch, lambda text: not is_pattern(text))


@bug("a bus is told of no topic that changes", "test_subscribing_while_traffic_flows")
def keep_topics_to_itself(patch: MonkeyPatch) -> None:
    tell_of_some(patch, is_pattern)


@bug("a bus is not told who leaves", "test_unsubscribing_one_of_many")
def keep_departures_to_itself(patch: MonkeyPatch) -> None:
    def leave_quietly(hub: MemoryHub, inlet: Inlet) -> None:
        hub._inlets.discard(inlet.spec.topic, inlet)

    patch.setattr(MemoryHub, "detach", leave_quietly)


@bug("unsubscribing ends every subscription of the topic", "test_unsubscribing_one_of_many")
def detach_all_of_the_topic(patch: MonkeyPatch) -> None:
    detach = MemoryHub.detach

    def careless(hub: MemoryHub, inlet: Inlet) -> None:
        for other in hub._inlets.matching(inlet.spec.topic):
            if other.spec.topic == inlet.spec.topic:
                detach(hub, other)

    patch.setattr(MemoryHub, "detach", careless)


@bug("the adapter begins at the latest event", "test_from_the_earliest", "test_publisher_alone",
     suite="OnRemote")  # fmt: skip
def begin_at_the_latest(patch: MonkeyPatch) -> None:
    open_consumer = RemoteAdapter.open_consumer

    async def from_now(adapter: RemoteAdapter, spec: Any) -> Consumer:
        return await open_consumer(adapter, attrs.evolve(spec, start="latest"))

    patch.setattr(RemoteAdapter, "open_consumer", from_now)


@bug("the adapter begins at the earliest event", "test_from_now_on", suite="OnRemote")
def begin_at_the_earliest(patch: MonkeyPatch) -> None:
    open_consumer = RemoteAdapter.open_consumer

    async def from_the_first(adapter: RemoteAdapter, spec: Any) -> Consumer:
        return await open_consumer(adapter, attrs.evolve(spec, start="earliest"))

    patch.setattr(RemoteAdapter, "open_consumer", from_the_first)


@bug("the group ends with its last consumer", "test_group_outlives_its_instances",
     "test_unsubscribing_keeps_the_group", suite="OnRemote")  # fmt: skip
def end_the_group(patch: MonkeyPatch) -> None:
    close = Consumer.close

    async def ending(consumer: Consumer) -> None:
        await close(consumer)
        for key, group in [*consumer.server.groups.items()]:
            if group is consumer.group:
                del consumer.server.groups[key]

    patch.setattr(Consumer, "close", ending)
    begin_at_the_latest(patch)


@bug("where is ignored", "test_where_selects", "test_counters_tell_the_truth")
def ignore_where(patch: MonkeyPatch) -> None:
    patch.setattr(Invocation, "_selects", lambda _invocation, _event: True)


@bug("a pause is ignored", "test_pause_and_resume")
def ignore_pauses(patch: MonkeyPatch) -> None:
    def ignore(lane: Lane) -> None:
        lane.paused = False

    patch.setattr(Lane, "pause", ignore)


@bug("concurrency is ignored", "test_concurrency_bounds_a_subscription")
def ignore_concurrency(patch: MonkeyPatch) -> None:
    def admit(lane: Lane, job: Job) -> None:
        lane._active += 1
        lane.engine.push(job)

    patch.setattr(Lane, "_admit", admit)


@bug("handlers see each other's context", "test_handlers_do_not_see_each_others_context")
def share_context(patch: MonkeyPatch) -> None:
    class Alike:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    init = Worker.__init__

    def careless(worker: Any, pool: WorkerPool) -> None:
        init(worker, pool)
        worker.base = Alike()

    patch.setattr(Worker, "__init__", careless)


# --- dead letters -----------------------------------------------------------------------------------------


@bug("a redrive reaches everyone", "test_redrive_goes_to_who_failed", "test_redrive_by_filter")
def redrive_to_everyone(patch: MonkeyPatch) -> None:
    async def redrive(store: MemoryDeadLetters, letter_ids: Sequence[str]) -> int:
        moving = [store._kept.pop(each) for each in letter_ids if each in store._kept]
        for kept in moving:
            for group in store._hub.route(kept.letter.topic):
                group[0].redeliver(kept.letter, kept.payload)
        return len(moving)

    patch.setattr(MemoryDeadLetters, "redrive", redrive)


@bug("a letter can be redriven again and again", "test_redrive_happens_once",
     "test_redrive_goes_to_who_failed")  # fmt: skip
def keep_redriven_letters(patch: MonkeyPatch) -> None:
    redrive = MemoryDeadLetters.redrive

    async def keeping(store: MemoryDeadLetters, letter_ids: Sequence[str]) -> int:
        before = {**store._kept}
        moved = await redrive(store, letter_ids)
        store._kept = before
        return moved

    patch.setattr(MemoryDeadLetters, "redrive", keeping)


def redeliver_changed(patch: MonkeyPatch, change: Callable[[Job], None]) -> None:
    redeliver = Engine.redeliver

    def changed(engine: Engine, lane: Lane, letter: DeadLetter, payload: Any) -> None:
        accept = Lane.accept

        def accept_changed(other: Lane, job: Job) -> None:
            change(job)
            accept(other, job)

        Lane.accept = accept_changed  # type: ignore[method-assign]
        try:
            redeliver(engine, lane, letter, payload)
        finally:
            Lane.accept = accept  # type: ignore[method-assign]

    patch.setattr(Engine, "redeliver", changed)


@bug("a redrive forgets the history", "test_redriven_event_fails_again")
def forget_history(patch: MonkeyPatch) -> None:
    redeliver_changed(patch, lambda job: setattr(job.state, "history", ()))


@bug("a redrive goes on counting", "test_redriven_event_fails_again", "test_redrive_goes_to_who_failed")
def go_on_counting(patch: MonkeyPatch) -> None:
    redeliver_changed(patch, lambda job: job.comes_again(len(job.history) + 1))


@bug("letters are listed newest first", "test_letters_are_listed")
def list_newest_first(patch: MonkeyPatch) -> None:
    async def reverse(
        store: MemoryDeadLetters, where: DeadLetterFilter, _after: str | None, limit: int
    ) -> DeadLetterPage:
        selected = [kept.letter for kept in store._kept.values() if where.selects(kept.letter)]
        return DeadLetterPage(selected[::-1][:limit])

    patch.setattr(MemoryDeadLetters, "page", reverse)


@bug("a cursor counts letters", "test_pages_while_letters_come_and_go")
def count_letters_for_a_cursor(patch: MonkeyPatch) -> None:
    async def page(
        store: MemoryDeadLetters, where: DeadLetterFilter, after: str | None, limit: int
    ) -> DeadLetterPage:
        selected = [kept.letter for kept in store._kept.values() if where.selects(kept.letter)]
        end = int(after or 0) + limit
        return DeadLetterPage(selected[int(after or 0) : end], str(end) if end < len(selected) else None)

    patch.setattr(MemoryDeadLetters, "page", page)


@bug("a page begins with the last letter of the one before", "test_letters_are_paged",
     "test_pages_while_letters_come_and_go")  # fmt: skip
def repeat_the_last_letter(patch: MonkeyPatch) -> None:
    page = MemoryDeadLetters.page

    async def repeating(
        store: MemoryDeadLetters, where: DeadLetterFilter, after: str | None, limit: int
    ) -> DeadLetterPage:
        return await page(store, where, str(int(after) - 1) if after else None, limit)

    patch.setattr(MemoryDeadLetters, "page", repeating)


@bug("a filter takes every error for the wanted one", "test_letters_are_selected")
def select_any_error(patch: MonkeyPatch) -> None:
    patch.setattr(DeadLetterFilter, "_error_is_in", lambda _where, _letter: True)


@bug("a filter does not know when a letter died", "test_letters_are_selected")
def select_any_time(patch: MonkeyPatch) -> None:
    page = MemoryDeadLetters.page

    async def timeless(
        store: MemoryDeadLetters, where: DeadLetterFilter, after: str | None, limit: int
    ) -> DeadLetterPage:
        return await page(store, attrs.evolve(where, dead_before=None, dead_after=None), after, limit)

    patch.setattr(MemoryDeadLetters, "page", timeless)


@bug("a count forgets the filter", "test_letters_are_paged", "test_letters_are_selected")
def count_everything(patch: MonkeyPatch) -> None:
    async def count(store: MemoryDeadLetters, _where: DeadLetterFilter) -> int:
        return len(store._kept)

    patch.setattr(MemoryDeadLetters, "count", count)


@bug("purging deletes every letter", "test_letters_are_purged")
def purge_everything(patch: MonkeyPatch) -> None:
    async def purge(store: MemoryDeadLetters, _where: DeadLetterFilter) -> int:
        count = len(store._kept)
        store._kept.clear()
        return count

    patch.setattr(MemoryDeadLetters, "purge", purge)


@bug("what cannot be decoded is dropped", "test_undecodable_is_dead_lettered_raw", suite="OnRemote")
def drop_undecodable(patch: MonkeyPatch) -> None:
    decide_otherwise(patch, lambda decision, _error, _attempt: decision)
    bury = RetryScheduler._dead_letter

    def dropping(retries: RetryScheduler, job: Job, reason: str) -> None:
        if job.event is None:
            job.lane.settler.acknowledge(job)
        else:
            bury(retries, job, reason)

    patch.setattr(RetryScheduler, "_dead_letter", dropping)


@bug("how long it has waited is forgotten", "test_another_version_waits_within_bounds", suite="OnRemote")
def forget_the_wait(patch: MonkeyPatch) -> None:
    settle = Consumer._settle

    def forgetting(consumer: Consumer, outcome: Outcome) -> BusError | None:
        outcome.waited = 0.0
        return settle(consumer, outcome)

    patch.setattr(Consumer, "_settle", forgetting)


@bug("letters end with the bus", "test_letters_outlive_the_bus", suite="OnRemote")
def forget_letters(patch: MonkeyPatch) -> None:
    async def close(adapter: RemoteAdapter) -> None:
        adapter.server.letters.clear()

    patch.setattr(RemoteAdapter, "close", close)


# --- drain and close --------------------------------------------------------------------------------------


@bug("the engine drops its queue on close", "test_close_drains", "test_close_under_traffic")
def drop_on_close(patch: MonkeyPatch) -> None:
    stop = Engine.stop

    async def dropping(engine: Engine, *arguments: Any) -> Any:
        for port, _, counter in engine.buffer.take_all():
            for _each in port.ports:
                engine.buffer.delivery_settled(counter.pending if isinstance(counter, Job) else counter)
        return await stop(engine, *arguments)

    patch.setattr(Engine, "stop", dropping)


@bug("the adapter drops what is released", "test_close_releases_what_it_did_not_begin", suite="OnRemote")
def drop_released(patch: MonkeyPatch) -> None:
    settle = Consumer._settle

    def dropping(consumer: Consumer, outcome: Outcome) -> BusError | None:
        if outcome.action == "release":
            outcome.action = "ack"
        return settle(consumer, outcome)

    patch.setattr(Consumer, "_settle", dropping)


@bug("closing does not wait for handlers", "test_close_finishes_what_runs", "test_close_drains")
def close_at_once(patch: MonkeyPatch) -> None:
    async def nothing(_engine: Engine, _lanes: Any) -> None:
        return None

    patch.setattr(Engine, "_drain_all", nothing)


@bug("a drain does not wait for what handlers cause", "test_drain_waits_for_all_that_follows")
def forget_causes(patch: MonkeyPatch) -> None:
    put = Engine.put

    def forgetful(engine: Engine, *arguments: Any) -> None:
        import bus_core.dispatch.engine as module

        marks, engine._marks = engine._marks, set()
        running, module.running_worker = module.running_worker, lambda: None
        try:
            put(engine, *arguments)
        finally:
            engine._marks, module.running_worker = marks, running

    patch.setattr(Engine, "put", forgetful)


@bug("a drain waits for nothing", "test_drain_waits_for_all_that_follows",
     "test_unfinished_handler_settles_nothing")  # fmt: skip
def drain_at_once(patch: MonkeyPatch) -> None:
    async def nothing(_bus: Bus, timeout: Any = None) -> None:
        await asyncio.sleep(0)

    patch.setattr(Bus, "drain", nothing)


@bug("the adapter counts for many in an order of its own", "test_backlog_is_counted_for_each",
     suite="OnRemote")  # fmt: skip
def count_in_any_order(patch: MonkeyPatch) -> None:
    backlogs = CountingRemoteAdapter.backlogs

    async def sorting(adapter: CountingRemoteAdapter, specs: Sequence[SubscriptionSpec]) -> Sequence[int]:
        return sorted(await backlogs(adapter, specs))

    patch.setattr(CountingRemoteAdapter, "backlogs", sorting)


@bug("the adapter does not count what it has handed out", "test_backlog_is_counted_for_each",
     suite="OnRemote")  # fmt: skip
def forget_what_is_owned(patch: MonkeyPatch) -> None:
    def unread(server: Server, spec: SubscriptionSpec) -> int:
        return sum(len(group.ready) for group in server.groups.values() if group.spec.group == spec.group)

    patch.setattr(Server, "backlog", unread)


@bug("a second close gives another report", "test_close_many_times")
def report_again(patch: MonkeyPatch) -> None:
    close = Bus.close

    async def copying(bus: Bus, timeout: Any = None) -> Any:
        return attrs.evolve(await close(bus, timeout))

    patch.setattr(Bus, "close", copying)


# --- load and payloads ------------------------------------------------------------------------------------


@bug("the buffer has no bound", "test_buffer_bounds_what_is_unsettled")
def no_bound(patch: MonkeyPatch) -> None:
    patch.setattr(Buffer, "has_room", lambda _buffer, *, for_handler: True)


@bug("a handler waits for room that only itself could make", "test_handler_publishes",
     "test_handlers_go_over_the_bound")  # fmt: skip
def let_handlers_wait(patch: MonkeyPatch) -> None:
    has_room = Buffer.has_room
    patch.setattr(Buffer, "has_room", lambda buffer, *, for_handler: has_room(buffer, for_handler=False))


@bug("publishers go on in any order", "test_buffer_bounds_what_is_unsettled")
def reverse_publishers(patch: MonkeyPatch) -> None:
    wake_publishers = Buffer.wake_publishers

    def reversing(buffer: Buffer) -> None:
        for place in [*buffer._publishers]:
            buffer._publishers.move_to_end(place, last=False)
        wake_publishers(buffer)

    patch.setattr(Buffer, "wake_publishers", reversing)


@bug("long texts are cut", "test_sizes", suite="OnSerializingMemory")
def cut_long_texts(patch: MonkeyPatch) -> None:
    change_decoded(patch, text=lambda text: text[:65_535])


@bug("texts lose their zero characters", "test_naughty_text", suite="OnSerializingMemory")
def strip_zero_characters(patch: MonkeyPatch) -> None:
    change_decoded(patch, text=lambda text: text.replace("\x00", ""))


@bug("headers of any size are accepted", "test_headers_are_bounded")
def accept_any_headers(patch: MonkeyPatch) -> None:
    patch.setattr(arguments, "MOST_HEADER_BYTES", 10**9)


@bug("metadata loses what is empty", "test_unicode_metadata_and_headers", "test_naughty_text",
     suite="OnSerializingMemory")  # fmt: skip
def lose_empty_metadata(patch: MonkeyPatch) -> None:
    change_decoded(patch, metadata=lambda texts: {key: text for key, text in texts.items() if text})


@bug("times lose their microseconds", "test_times_and_ids", suite="OnSerializingMemory")
def cut_times(patch: MonkeyPatch) -> None:
    change_decoded(patch, occurred_at=lambda time: time.replace(microsecond=0))


def change_decoded(patch: MonkeyPatch, **changes: Callable[[Any], Any]) -> None:
    decode = Codec.decode

    def changed(codec: Codec, message: Message) -> Any:
        event = decode(codec, message)
        return attrs.evolve(event, **{name: change(getattr(event, name)) for name, change in changes.items()})

    patch.setattr(Codec, "decode", changed)


@bug("an event is handled once only, however often it is published", "test_the_same_event_again")
def remember_ids(patch: MonkeyPatch) -> None:
    seen: set[object] = set()

    def remembering(lane: Lane, call: Callable[[Any], Any], payload: Any) -> Any:
        name = (lane.spec.name, payload.event_id if isinstance(payload, Job) else payload[0].event_id)
        if name in seen:
            return NOTHING
        seen.add(name)
        return call(payload)

    around_each_attempt(patch, remembering)


# --- resources, and what an adapter says of itself --------------------------------------------------------


def leak_at_start(patch: MonkeyPatch, leak: Callable[[], object]) -> None:
    start = MemoryAdapter.start
    leaks: list[object] = []

    async def leaking(adapter: MemoryAdapter) -> None:
        await start(adapter)
        leaks.append(leak())

    patch.setattr(MemoryAdapter, "start", leaking)


@bug("the adapter leaks a task", "test_nothing_is_left_behind[in calm]")
def leak_a_task(patch: MonkeyPatch) -> None:
    leak_at_start(patch, lambda: asyncio.ensure_future(asyncio.Event().wait()))


@bug("the adapter leaks a thread", "test_nothing_is_left_behind[in calm]")
def leak_a_thread(patch: MonkeyPatch) -> Callable[[], object]:
    over = threading.Event()

    def leak() -> threading.Thread:
        thread = threading.Thread(target=over.wait, args=(60,), name="leaked", daemon=True)
        thread.start()
        return thread

    leak_at_start(patch, leak)
    return over.set


@bug("the adapter leaks a connection", "test_nothing_is_left_behind[in trouble]")
def leak_a_connection(patch: MonkeyPatch) -> Callable[[], object]:
    leaked: list[socket.socket] = []
    leak_at_start(patch, lambda: leaked.extend(socket.socketpair()))

    def close() -> None:
        for each in leaked:
            each.close()

    return close


@bug("the engine leaks a timer", "test_nothing_is_left_behind[in trouble]")
def leak_a_timer(patch: MonkeyPatch) -> None:
    patch.setattr(Schedule, "_stop_timer", lambda _schedule: None)


@bug("a closed bus stays in the hub", "test_closed_bus_is_collected")
def stay_in_the_hub(patch: MonkeyPatch) -> None:
    kept: list[object] = []
    watch = MemoryHub.watch

    def keeping(hub: MemoryHub, changed: Callable[[str], None]) -> None:
        kept.append(changed)
        watch(hub, changed)

    patch.setattr(MemoryHub, "watch", keeping)


@bug("the adapter has features that the suite does not know of", "test_features_are_what_the_adapter_says")
def claim_more(patch: MonkeyPatch) -> None:
    patch.setattr(MemoryAdapter, "features", attrs.evolve(MemoryAdapter.features, replay=True))


@bug("a delivery gives the wrong time", "test_delivery_tells")
def naive_times(patch: MonkeyPatch) -> None:
    def naive(_source: object) -> datetime:
        return datetime.now(UTC).replace(tzinfo=None)

    patch.setitem(cast(Any, Delivery._worked_out), "published_at", naive)


@bug("headers are not looked at", "test_one_bad_value_harms_itself")
def take_any_headers(patch: MonkeyPatch) -> None:
    patch.setattr(publishing, "checked_headers", lambda headers: FrozenMapping(headers))


@bug("nobody asks for a key that is not needed", "test_one_bad_value_harms_itself")
def ask_for_no_key(patch: MonkeyPatch) -> None:
    for module in (arguments, publishing, codec, routes):
        patch.setattr(module, "key_of", lambda *_: "")


# --- administration ---------------------------------------------------------------------------------------


@bug("a replay hands out what is in a handler", "test_replay_leaves_the_unsettled", suite="OnSqlite")
def replay_the_unsettled(patch: MonkeyPatch) -> None:
    patch.setattr("promenade_bus_sqlite.administration._is_held", lambda *_arguments: False)
