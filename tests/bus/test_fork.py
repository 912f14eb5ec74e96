from __future__ import annotations

import os
from typing import Any

import pytest

from support.scripts import run_script

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")

FORKING = """
def in_child(function):
    '''What the function returns in a forked child, which must not take long.'''
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(15)
        try:
            result = function()
        except BaseException as error:
            result = f"raised {type(error).__name__}: {error}"
        os.write(writing, json.dumps(result).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child ended with {status}: it hung, or crashed"
    return json.loads(text)

def error_of(call):
    '''The name of what a call raises, the call being plain or a coroutine function.'''
    try:
        result = call()
        if asyncio.iscoroutine(result):
            try:
                result.send(None)  # without a loop: an error comes before the first pause
            except StopIteration:
                pass
            finally:
                result.close()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"
"""


def run(script: str) -> Any:
    """The last line that a script prints; it may fork."""
    result, _ = run_script(FORKING + script)
    return result


CALLS = """
def errors(bus, subscription):
    return {
        "start": error_of(bus.start),
        "publish": error_of(lambda: bus.publish(HAPPENED, happened())),
        "publish_many": error_of(lambda: bus.publish_many([(HAPPENED, happened())])),
        "after_commit": error_of(lambda: enter(bus.after_commit())),
        "subscribe": error_of(lambda: bus.subscribe(HAPPENED, handler, name="late")),
        "unsubscribe": error_of(lambda: bus.unsubscribe(HAPPENED, handler)),
        "drain": error_of(bus.drain),
        "list": error_of(bus.dead_letters.list),
        "redrive": error_of(lambda: bus.dead_letters.redrive("x")),
        "pause": error_of(subscription.pause),
        "resume": error_of(subscription.resume),
        "ready": error_of(subscription.ready),
        "leave": error_of(subscription.unsubscribe),
    }

def enter(block):
    return block.__aenter__() if hasattr(block, "__aenter__") else block.__enter__()
"""


def check_errors(errors: dict[str, str]) -> None:
    for call, error in errors.items():
        if call == "publish_many":
            assert "BusForked" in error, (call, error)
        else:
            assert error.startswith("BusForked: cannot "), (call, error)
            assert "inherited by a fork" in error
            assert "in post_worker_init, not at import" in error


def test_async_bus() -> None:
    """In a forked child every call of an inherited bus raises BusForked; the parent goes on."""
    result = run(
        CALLS
        + """
def look():
    closed = asyncio_result(bus.close())
    return {
        "errors": errors(bus, subscription),
        "nowait": error_of(lambda: bus.publish_nowait(HAPPENED, happened())),
        "health": asyncio_result(bus.health()).checks["bus"].summary,
        "closed": closed.completed,
        "repr": repr(bus),
    }

def asyncio_result(coroutine):
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")

received = []

async def main():
    global bus, subscription
    async with open_bus(CONFIG) as bus:
        async def note(event):
            received.append(event.number)
        bus.subscribe(HAPPENED, note)
        subscription = bus.subscribe(HAPPENED, handler)
        for number in range(3):  # so that the child inherits the way that publish takes without checks
            await bus.publish(HAPPENED, happened(number))
        result = in_child(look)
        await bus.publish(HAPPENED, happened(3))
        await bus.drain()
        result["received"] = received
        result["healthy"] = (await bus.health()).status
        print(json.dumps(result))

asyncio.run(main())
"""
    )
    check_errors(result["errors"])
    assert result["nowait"].startswith("BusForked: cannot publish")
    assert result["health"] == "the bus is inherited by a fork"
    assert result["closed"] is True
    assert result["received"] == [0, 1, 2, 3]
    assert result["healthy"] == "healthy"


def test_sync_bus() -> None:
    """In a forked child every call of an inherited sync bus raises BusForked at once, and closing returns."""
    result = run(
        CALLS
        + """
def look():
    return {
        "errors": errors(bus, subscription),
        "state": error_of(bus.state),
        "health": bus.health().checks["bus"].summary,
        "closed": bus.close().completed,
        "with": error_of(lambda: bus.__enter__()),
        "exit": error_of(lambda: bus.__exit__(None, None, None)),
    }

numbers = []
with open_sync_bus(CONFIG) as bus:
    bus.subscribe(HAPPENED, lambda event: numbers.append(event.number))
    subscription = bus.subscribe(HAPPENED, handler)
    bus.publish(HAPPENED, happened(1))
    bus.drain()
    result = in_child(look)
    bus.publish(HAPPENED, happened(2))
    bus.drain()
result["numbers"] = numbers
print(json.dumps(result))
"""
    )
    check_errors(result["errors"])
    assert result["state"].startswith("BusForked")
    assert result["health"] == "the bus is inherited by a fork"
    assert result["closed"] is True
    assert result["with"].startswith("BusForked")
    assert result["exit"] == "nothing"
    assert result["numbers"] == [1, 2]


def test_forked_while_other_threads_are_busy() -> None:
    """The child does not hang either when it was forked while other threads were in the middle of calls."""
    result = run(
        CALLS
        + """
def look():
    return errors(bus, subscription)

begun, release, over = threading.Event(), threading.Event(), threading.Event()

def slow(event):
    begun.set()
    release.wait(15)

bus = open_sync_bus(CONFIG)
bus.start()
subscription = bus.subscribe(HAPPENED, handler)
bus.subscribe(HAPPENED, slow)
bus.publish(HAPPENED, happened())
begun.wait(15)

def publish():
    try:
        while not over.is_set():
            bus.publish(Topic("test.other.happened", Happened), happened())
    except BusClosed:
        pass

threads = [threading.Thread(target=publish) for _ in range(3)] + [threading.Thread(target=bus.close)]
for thread in threads:
    thread.start()
results = [in_child(look) for _ in range(5)]
release.set()
over.set()
for thread in threads:
    thread.join()
print(json.dumps(results))
"""
    )
    assert len(result) == 5
    for errors in result:
        check_errors(errors)


@pytest.mark.parametrize("opened", ["open_bus", "open_sync_bus"])
def test_a_bus_of_its_own(opened: str) -> None:
    """A child opens a bus of its own, which works, beside the inherited one."""
    result = run(
        f"""
kind = "{opened}"

async def use():
    numbers = []
    async with open_bus(CONFIG) as bus:
        async def note(event):
            numbers.append(event.number)
        bus.subscribe(HAPPENED, note)
        await bus.publish(HAPPENED, happened(5))
        await bus.drain()
    return numbers

def look():
    if kind == "open_bus":
        return asyncio.run(use())
    numbers = []
    with open_sync_bus(CONFIG) as bus:
        bus.subscribe(HAPPENED, lambda event: numbers.append(event.number))
        bus.publish(HAPPENED, happened(5))
        bus.drain()
    return numbers

with open_sync_bus(CONFIG) as inherited:
    inherited.subscribe(HAPPENED, handler)
    print(json.dumps(in_child(look)))
"""
    )
    assert result == [5]


def test_multiprocessing() -> None:
    """A process of multiprocessing that was forked gets the error like any child."""
    result = run(
        """
import multiprocessing

def work(queue):
    queue.put(error_of(lambda: bus.publish(HAPPENED, happened())))

with open_sync_bus(CONFIG) as bus:
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=work, args=(queue,))
    process.start()
    print(json.dumps(queue.get()))
    process.join()
"""
    )
    assert result.startswith("BusForked: cannot publish")
