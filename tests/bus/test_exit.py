from __future__ import annotations

import pytest

from support.scripts import run_script


def test_the_interpreter_exits_although_a_handler_hangs() -> None:
    """A handler thread that never returns keeps neither close nor the interpreter from ending."""
    result, _ = run_script(
        """
begun = threading.Event()

def hang(event):
    begun.set()
    threading.Event().wait()

with open_sync_bus(CONFIG) as bus:
    bus.subscribe(HAPPENED, hang, name="hang")
    bus.publish(HAPPENED, happened())
    begun.wait(15)
    report = bus.close(timeout=0)
print(json.dumps([report.completed, [item.subscription for item in report.abandoned]]))
"""
    )
    assert result == [False, ["hang"]]


@pytest.mark.parametrize("kind", ["async", "sync", "hangs"])
def test_the_interpreter_exits_although_the_bus_was_not_closed(kind: str) -> None:
    """A bus that nobody closed keeps the interpreter from nothing, whatever its handlers do."""
    result, _ = run_script(
        f"""
kind = "{kind}"
begun = threading.Event()

def hang(event):
    begun.set()
    threading.Event().wait()

async def main():
    bus = open_bus(CONFIG)
    await bus.start()
    bus.subscribe(HAPPENED, hang)
    await bus.publish(HAPPENED, happened())
    await asyncio.to_thread(begun.wait, 15)

if kind == "async":
    asyncio.run(main())
else:
    bus = open_sync_bus(CONFIG)
    bus.start()
    bus.subscribe(HAPPENED, hang if kind == "hangs" else handler)
    bus.publish(HAPPENED, happened())
    if kind == "hangs":
        begun.wait(15)
print(json.dumps("ended"))
"""
    )
    assert result == "ended"


def test_asyncio_run_ends_although_the_bus_was_not_closed() -> None:
    """A bus that nobody closed does not keep asyncio.run from ending, and logs how many events are lost."""
    result, log = run_script(
        """
async def main():
    bus = open_bus(CONFIG)
    await bus.start()
    begun = asyncio.Event()

    async def hang(event):
        begun.set()
        await asyncio.Event().wait()

    bus.subscribe(HAPPENED, hang, concurrency=1)
    for number in range(3):
        await bus.publish(HAPPENED, happened())
    await begun.wait()
    raise LookupError

try:
    asyncio.run(main())
except LookupError:
    print(json.dumps("ended"))
"""
    )
    assert result == "ended"
    assert "the event loop was closed, but the bus was not: 3 events are lost" in log
