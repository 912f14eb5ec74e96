"""``promenade-bus publish``: one event, files, pipes, and the account of the outcomes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bus_core import uuid7

Run = Any
Start = Callable[..., Any]
Module = Callable[[str], str]
Config = Callable[[str], str]

APP = """
received = []
bus = open_bus(CONFIG)

@bus.subscribe(ORDER_PLACED, name="packing")
async def pack(event):
    received.append(event)
    if event.number == 13:
        raise PermanentError("unlucky")
    if event.number == 99 and received.count(event) == 1:
        raise ValueError("once")

@bus.subscribe("shop.#", name="audit")
async def audit(event): ...
"""
PRINT = """
@bus.subscribe(ORDER_PLACED, name="printing")
async def show(event):
    print("note", repr(event.note), "number", event.number)
"""
ONE = ["--topic", "shop.order.placed", "--aggregate-id", "new"]


def line(**changes: Any) -> str:
    document = {
        "specversion": "1.0",
        "id": str(uuid7()),
        "source": "test",
        "type": "order.placed",
        "subject": str(uuid7()),
        "topic": "shop.order.placed",
        "data": {"number": 1},
    }
    changed = {**document, **changes}
    return json.dumps({key: value for key, value in changed.items() if value is not None})


# --- one event --------------------------------------------------------------------------------------------


def test_one_event_is_handled_by_the_application(run: Run, module: Module) -> None:
    """With --app the handlers run in this process, and the account has the outcome of the event."""
    found = run.json("publish", *ONE, "--set", "number=5", "--app", f"{module(APP)}:bus")
    assert (found["accepted"], found["refused"], found["lost"], found["abandoned"]) == (1, 0, 0, 0)
    assert found["topics"] == [{"topic": "shop.order.placed", "published": 1, "abandoned": 0}]
    assert [(item["subscription"], item["handled"]) for item in found["subscriptions"]] == [
        ("packing", 1),
        ("audit", 1),
    ]


def test_json_is_all_that_goes_to_stdout(run: Run, module: Module) -> None:
    """With --json the handlers' prints go to stderr, so stdout is one JSON document."""
    result = run("publish", *ONE, "--set", "number=5", "--app", f"{module(APP + PRINT)}:bus", "--json")
    assert json.loads(result.stdout)["accepted"] == 1
    assert "number 5" in result.stderr


def test_the_account_is_a_table_for_people(run: Run, module: Module) -> None:
    """Without --json the account is printed per topic and per subscription, and then in one sentence."""
    result = run("publish", *ONE, "--data", '{"number": 13}', "--app", f"{module(APP)}:bus")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["TOPIC", "PUBLISHED", "ABANDONED"]
    assert ["packing", "shop.order.placed", "0", "0", "0", "1"] in [item.split() for item in lines]
    assert lines[-1].startswith("1 event published")


def test_retries_are_waited_for(run: Run, module: Module) -> None:
    """The command ends after the retries of what it published."""
    found = run.json("publish", *ONE, "--set", "number=99", "--app", f"{module(APP)}:bus")
    packing = found["subscriptions"][0]
    assert (packing["retried"], packing["handled"]) == (1, 1)


def test_settings_are_read_by_the_type_of_the_field(run: Run, module: Module) -> None:
    """--set keeps text for a str field, reads JSON for any other, and overrides --data."""
    fields = ["--data", '{"number": 1, "note": "x"}', "--set", "number=2", "--set", "note=3"]
    result = run("publish", *ONE, *fields, "--app", f"{module(APP + PRINT)}:bus")
    assert "note '3' number 2" in result.output


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--set", "numbr=5"], 1, "number is missing; it has no field 'numbr' (did you mean 'number'?)"),
        (["--set", "number=five"], 1, "number must be an int"),
        (["--data", '{"number": true, "note": 3}'], 1, "number must be an int; note must be a str"),
        (["--data", "[1]"], 2, "--data must be a JSON object"),
        (["--data", '{"number": NaN}'], 2, "--data must be a JSON object"),
        (["--set", "number"], 2, "--set takes KEY=VALUE"),
        (["--set", "number=1", "--set", "number=2"], 2, "--set gives 'number' twice"),
        (["--set", "number=1", "--type", "x"], 2, "--type is for topics without an event class"),
    ],
)
def test_what_is_wrong_with_an_event_is_told_by_field(
    run: Run, module: Module, options: list[str], status: int, message: str
) -> None:
    """The error names bad fields and the nearest valid ones; nothing is published."""
    result = run("publish", *ONE, *options, "--app", f"{module(APP)}:bus")
    assert result.exit_code == status
    assert message in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no event given"),
        (["--topic", "shop.order.placed", "--set", "number=1"], "pass --aggregate-id UUID, or 'new'"),
        (["--topic", "shop.order.placed", "--aggregate-id", "7"], "--aggregate-id must be a UUID or 'new'"),
        (["--topic", "shop.order.paced", "--aggregate-id", "new"], "did you mean 'shop.order.placed'?"),
        (["--file", "missing.jsonl"], "missing.jsonl"),
    ],
)
def test_what_is_missing_is_asked_for(run: Run, module: Module, options: list[str], message: str) -> None:
    """Incomplete options give status 2 and a message that names the missing option."""
    result = run("publish", *options, "--app", f"{module(APP)}:bus")
    assert result.exit_code == 2
    assert message in result.output


NUMBERED = """
from bus_core import Event, Topic, event, open_bus

@event
class Counted(Event[int]):
    pass

@event
class Coded(Event[str]):
    pass

COUNTED, CODED = Topic("shop.thing.counted", Counted), Topic("shop.thing.coded", Coded)
bus = open_bus({"bus": {"adapter": "memory"}})

@bus.subscribe(COUNTED, name="counts")
async def count(event):
    print("id", repr(event.aggregate_id))

@bus.subscribe(CODED, name="codes")
async def code(event):
    print("id", repr(event.aggregate_id))
"""


@pytest.mark.parametrize(
    ("topic", "given", "status", "message"),
    [
        ("shop.thing.counted", "7", 0, "id 7\n"),
        ("shop.thing.coded", "7", 0, "id '7'\n"),
        ("shop.thing.coded", "new", 0, "id 'new'\n"),
        ("shop.thing.counted", "new", 2, "--aggregate-id must be an int as text, got 'new'"),
        ("shop.thing.counted", "07", 2, "--aggregate-id must be an int as text, got '07'"),
        ("shop.thing.coded", "", 2, "--aggregate-id must be a text that is not empty"),
    ],
)
def test_ids_are_those_of_the_topics_class(
    run: Run, module: Module, topic: str, given: str, status: int, message: str
) -> None:
    """--aggregate-id has the id type of the topic's class; ``new`` works for UUIDs only."""
    result = run("publish", "--topic", topic, "--aggregate-id", given, "--app", f"{module(NUMBERED)}:bus")
    assert result.exit_code == status
    assert message in result.output
    asked = run("publish", "--topic", topic, "--app", f"{module(NUMBERED)}:bus")
    assert "pass --aggregate-id ID" in asked.output


def test_a_personal_value_is_never_shown(run: Run, module: Module) -> None:
    """A refused value of a personal field does not appear in the message."""
    result = run(
        "publish", *ONE, "--data", '{"number": 1, "note": ["secret-note"]}', "--app", f"{module(APP)}:bus"
    )
    assert result.exit_code == 1
    assert "note must be a str" in result.output
    assert "secret-note" not in result.output


def test_a_topic_without_a_class_takes_any_fields(run: Run, config: Config) -> None:
    """Without strict topics an event has the type of --type, or one made from the topic's name."""
    path = config("bus: {adapter: memory, strict_topics: false}")
    options = [
        "--topic",
        "a.b.happened",
        "--aggregate-id",
        "new",
        "--set",
        "x=1",
        "--config",
        path,
        "--dry-run",
    ]
    assert run("publish", *options).exit_code == 0
    assert run("publish", *options, "--type", "other").exit_code == 0


def test_on_memory_a_configuration_alone_reaches_nobody(run: Run, config: Config) -> None:
    """With --config on an in-process adapter the command warns that nobody receives the events."""
    path = config("bus: {adapter: memory, strict_topics: false}")
    result = run("publish", "--topic", "a.b.happened", "--aggregate-id", "new", "--config", path)
    assert result.exit_code == 0
    assert "'memory' stores nothing outside its process, so nobody receives" in result.stderr
    assert "--app MODULE:ATTR" in result.stderr
    assert "1 event reached nobody" in result.stderr


def test_what_is_abandoned_makes_the_command_fail(start: Start, module: Module) -> None:
    """An event whose handler outlives the shutdown timeout gives status 1 and is counted as abandoned."""
    source = """
    import asyncio
    CONFIG["bus"]["shutdown_timeout"] = "20ms"
    bus = open_bus(CONFIG)
    @bus.subscribe(ORDER_PLACED, name="packing")
    async def pack(event):
        while True:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                pass
    """
    process = start("publish", *ONE, "--set", "number=1", "--app", f"{module(source)}:bus")
    assert process.end() == 1
    assert "1 event abandoned" in process.output


# --- files and pipes --------------------------------------------------------------------------------------


def test_a_file_of_events_is_published(run: Run, module: Module, tmp_path: Path) -> None:
    """Each line of a file is an event; blank lines, a byte order mark and CRLF do no harm."""
    path = tmp_path / "events.jsonl"
    text = "\ufeff" + line() + "\r\n\n" + line(topic=None) + "\n" + line()
    path.write_bytes(text.encode())
    found = run.json(
        "publish", "--file", str(path), "--topic", "shop.order.placed", "--app", f"{module(APP)}:bus"
    )
    assert (found["accepted"], found["refused"]) == (3, 0)
    assert found["subscriptions"][0]["handled"] == 3


def test_bad_lines_are_reported_and_passed_over(run: Run, module: Module) -> None:
    """Each bad line is reported with number, topic, id and reason; good ones are published; status 1."""
    lines = [
        line(),
        "not json",
        line(topic="shop.order.paced"),
        line(topic=None),
        line(data={"number": "one", "nte": ""}, id="17"),
        "",
        line(type="order.paid"),
        line(topic=["shop"]),
        line(time="2026-01-01T00:00:00"),
        line(data={"number": 1, "more": 2}),
        line(),
    ]
    name = module(APP)
    text = "\n".join(lines)
    found = run.json("publish", "--file", "-", "--app", f"{name}:bus", input=text, status=1)
    assert (found["accepted"], found["refused"]) == (2, 8)
    assert [(fault["line"], fault["error"]) for fault in found["errors"]] == [
        (2, "DeserializationError"),
        (3, "UnknownTopic"),
        (4, "DeserializationError"),
        (5, "DeserializationError"),
        (7, "DeserializationError"),
        (8, "DeserializationError"),
        (9, "DeserializationError"),
        (10, "DeserializationError"),
    ]
    why = {fault["line"]: fault["why"] for fault in found["errors"]}
    assert "did you mean 'shop.order.placed'" in why[3]
    assert "topic is missing" in why[4]
    assert "id must be a UUID" in why[5]
    assert "number must be an int" in why[5]
    assert "it has no field 'nte' (did you mean 'note'?)" in why[5]
    assert "type must be 'order.placed', not another one ('order.paid')" in why[7]
    assert "it has no field 'more'" in why[10]
    assert found["errors"][3]["id"] == "17"


def test_the_report_is_on_stderr(run: Run, module: Module) -> None:
    """Plain output has one line on stderr for each bad line, and counts them in the last sentence."""
    text = f"{line()}\n{line(topic='shop.order.paced')}\n"
    result = run("publish", "--file", "-", "--app", f"{module(APP)}:bus", input=text)
    assert result.exit_code == 1
    assert result.stderr.startswith("line 2: shop.order.paced ")
    assert result.stdout.splitlines()[-1].startswith("1 event published, 1 line refused")


def test_a_newer_version_may_bring_more_fields(run: Run, module: Module) -> None:
    """Unknown fields of an event with a higher dataversion are ignored, as they are for handlers."""
    text = line(dataversion=2, data={"number": 1, "more": 2})
    assert run.json("publish", "--file", "-", "--app", f"{module(APP)}:bus", input=text)["accepted"] == 1


def test_an_older_version_has_the_fields_of_its_time(run: Run, module: Module) -> None:
    """The data of an older version passes the upcasters of its class, and may have the old fields."""
    app = module(
        """
        @event(version=2)
        class Sold(Event):
            count: int

        @upcaster(Sold, from_version=1)
        def step(data):
            return {"count": data["number"]}

        SOLD = Topic("shop.sold", Sold)
        bus = open_bus(CONFIG)

        @bus.subscribe(SOLD, name="stock")
        async def stock(event): ...
        """
    )
    old = line(topic="shop.sold", type="sold", dataversion=1)
    new = line(topic="shop.sold", type="sold", dataversion=2, data={"count": 1, "number": 1})
    found = run.json("publish", "--file", "-", "--app", f"{app}:bus", input=f"{old}\n{new}\n", status=1)
    assert found["accepted"] == 1
    assert [fault["line"] for fault in found["errors"]] == [2]
    assert "it has no field 'number'" in found["errors"][0]["why"]


def test_a_dry_run_checks_everything_and_publishes_nothing(run: Run, module: Module) -> None:
    """--dry-run reports like the real run, starts no bus, and reaches no handler."""
    name = module(APP)
    text = f"{line()}\n{line(data={})}\n"
    found = run.json("publish", "--file", "-", "--dry-run", "--app", f"{name}:bus", input=text, status=1)
    assert (found["dry_run"], found["accepted"], found["refused"]) == (True, 1, 1)
    result = run("publish", *ONE, "--set", "number=1", "--dry-run", "--app", f"{name}:bus")
    assert result.stdout == "1 event valid, nothing was published\n"


def test_hostile_bytes_are_refused_line_by_line(run: Run, module: Module) -> None:
    """Undecodable bytes, deep nesting and long lines are faults of their lines only."""
    bodies = [b"\xff\xfe", b"[" * 100_000, b'{"topic": "' + b"x" * 2_000_000 + b'"}', b'{"topic":1e999}']
    text = b"\n".join([*bodies, line().encode()])
    found = run.json("publish", "--file", "-", "--app", f"{module(APP)}:bus", input=text, status=1)
    assert [fault["line"] for fault in found["errors"]] == [1, 2, 3, 4]
    assert found["accepted"] == 1


def test_terminal_commands_in_a_document_are_not_printed(run: Run, module: Module) -> None:
    """Control characters of a document do not reach the terminal."""
    text = line(topic="shop.\x1b[2Jorder", id="\x1b]0;x\x07")
    result = run("publish", "--file", "-", "--app", f"{module(APP)}:bus", input=text)
    assert result.exit_code == 1
    assert "\x1b" not in result.output


def test_a_file_and_the_fields_of_one_event_exclude_each_other(run: Run, module: Module) -> None:
    """--file together with --set is refused."""
    result = run("publish", "--file", "-", "--set", "number=1", "--app", f"{module(APP)}:bus", input="")
    assert result.exit_code == 2
    assert "leave out --aggregate-id, --data, --set and --type" in result.output


def test_events_are_published_as_they_come_through_a_pipe(start: Start, module: Module) -> None:
    """A line that arrives is handled at once, while the pipe stays open for more."""
    process = start("publish", "--file", "-", "--app", f"{module(APP + PRINT)}:bus", stdin=subprocess.PIPE)
    process.popen.stdin.write(line(data={"number": 41}) + "\n")
    process.popen.stdin.flush()
    process.wait_for("number 41")
    process.popen.stdin.write(line(data={"number": 42}))
    process.popen.stdin.close()
    process.wait_for("number 42")
    assert process.end() == 0
    assert "2 events published" in process.output


def test_an_interrupt_tells_how_far_it_came(start: Start, module: Module) -> None:
    """Ctrl-C while waiting for more lines drains, prints the account, and ends with 130."""
    process = start("publish", "--file", "-", "--app", f"{module(APP + PRINT)}:bus", stdin=subprocess.PIPE)
    process.popen.stdin.write(line(data={"number": 41}) + "\n")
    process.popen.stdin.flush()
    process.wait_for("number 41")
    process.send(signal.SIGINT)
    assert process.end() == 130
    assert "interrupted: 1 event published" in process.output
    assert "Traceback" not in process.output


def test_ten_thousand_lines_pass_through_a_small_buffer(run: Run, module: Module, tmp_path: Path) -> None:
    """A file far larger than the buffer of the bus is published without loss."""
    path = tmp_path / "events.jsonl"
    path.write_text("\n".join(line() for _ in range(10_000)))
    name = module("CONFIG['bus']['buffer_size'] = 5\n" + APP)
    found = run.json("publish", "--file", str(path), "--app", f"{name}:bus")
    assert found["accepted"] == 10_000
    assert [item["handled"] for item in found["subscriptions"]] == [10_000, 10_000]
    assert found["lost"] == 0


def test_a_sync_bus_publishes_too(run: Run, module: Module) -> None:
    """The handlers of a SyncBus get the events of a file."""
    source = """
    bus = open_sync_bus(CONFIG)
    @bus.subscribe(ORDER_PLACED, name="packing")
    def pack(event): ...
    """
    found = run.json("publish", "--file", "-", "--app", f"{module(source)}:bus", input=line())
    assert found["subscriptions"][0]["handled"] == 1


def test_progress_is_shown_on_a_terminal(start: Start, module: Module, tmp_path: Path) -> None:
    """On a terminal errors are printed above a progress bar; elsewhere there is no bar."""
    pty = pytest.importorskip("pty")
    (tmp_path / "events.jsonl").write_text(f"{line()}\nnot json\n")
    controller, terminal = pty.openpty()
    command = ["-m", "promenade_bus_cli", "publish", "--file", "events.jsonl", "--app", f"{module(APP)}:bus"]
    with subprocess.Popen(
        [sys.executable, *command], cwd=tmp_path, stdout=subprocess.PIPE, stderr=terminal
    ) as run:
        os.close(terminal)
        shown = b""
        while True:
            try:
                chunk = os.read(controller, 65536)
            except OSError:
                break
            if not chunk:
                break
            shown += chunk
        assert run.wait(30) == 1
    os.close(controller)
    assert b"line 2: not a CloudEvent in JSON" in shown
    assert "━".encode() in shown
