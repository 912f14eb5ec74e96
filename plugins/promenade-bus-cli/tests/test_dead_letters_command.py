"""``promenade-bus dead-letters``: counting, listing and showing letters, and the way back."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import attrs
import pytest

from bus_core import AdapterError, DeadLetterFilter
from support.remote import RemoteAdapter, Server

Run = Any
Module = Callable[[str], str]

APP = """
from support.remote import Server, make_remote_bus

SERVER = Server()
INVOICED = Topic("shop.order.invoiced", OrderPlaced)
broken = True

def deep():
    raise LookupError("no price")

async def receipt(order):
    if broken:
        deep()

async def stock(order):
    if broken:
        raise PermanentError(f"out of stock, says {order.note}")

def make():
    bus = make_remote_bus(SERVER, tracebacks=True, retry_attempts=2, retry_delay="1ms", strict_topics=False)
    bus.subscribe(ORDER_PLACED, receipt, name="receipts")
    bus.subscribe("shop.#", stock, name="stock")
    return bus

def other():
    return make_remote_bus(SERVER)

async def fill(*numbers):
    async with make() as bus:
        for number in numbers:
            for topic in (ORDER_PLACED, INVOICED):
                event = OrderPlaced(aggregate_id=UUID(int=1), number=number, note="planted7secret")
                await bus.publish(topic, event, headers={"trace": "abc"})
                await bus.drain()

async def work():
    async with make() as bus:
        await bus.drain()
        return {item.name: item.handled for item in bus.state().subscriptions}
"""


class Shop:
    """An application whose handlers gave up: for each number one letter of receipts and two of stock."""

    def __init__(self, name: str, run: Run) -> None:
        self.name = name
        self.module = sys.modules[name]
        self.server: Server = self.module.SERVER
        self._run = run

    def __call__(self, *arguments: str, make: str = "make", **options: Any) -> Any:
        return self._run("dead-letters", *arguments, "--app", f"{self.name}:{make}", **options)

    def json(self, *arguments: str, make: str = "make", status: int = 0, **options: Any) -> Any:
        command = ("dead-letters", *arguments, "--app", f"{self.name}:{make}")
        return self._run.json(*command, status=status, **options)

    @property
    def ids(self) -> list[str]:
        return [*self.server.letters]

    def letter_of(self, subscription: str) -> str:
        """The id of the first letter of a subscription."""
        letters = self.server.letters.items()
        return next(key for key, (letter, _, _) in letters if letter.subscription == subscription)

    def work(self) -> dict[str, int]:
        """Handles what is there, which goes well now; returns how many each subscription handled."""
        self.module.broken = False  # type: ignore[attr-defined]
        return asyncio.run(self.module.work())  # type: ignore[no-any-return]


@pytest.fixture
def shop(run: Run, module: Module, tmp_path: Path) -> Shop:
    name = module(APP)
    sys.path.insert(0, str(tmp_path))
    __import__(name)
    asyncio.run(sys.modules[name].fill(1, 2, 3))
    return Shop(name, run)


# --- looking ----------------------------------------------------------------------------------------------


def test_letters_are_counted(shop: Shop) -> None:
    """The number is that of the letters which the options select."""
    assert shop("count").stdout == "9 dead letters\n"
    assert shop.json("count") == {"count": 9}
    assert shop.json("count", "--subscription", "stock") == {"count": 6}
    assert shop.json("count", "--topic", "shop.*.invoiced") == {"count": 3}
    assert shop.json("count", "--error", "no price") == {"count": 3}
    assert shop.json("count", "--older-than", "1h") == {"count": 0}
    assert shop.json("count", "--newer-than", "1h") == {"count": 9}
    middle = sorted(letter.dead_at for letter, _, _ in shop.server.letters.values())[4]
    assert shop.json("count", "--older-than", middle.isoformat()) == {"count": 4}
    assert shop.json("count", "--newer-than", middle.replace(tzinfo=None).isoformat()) == {"count": 5}
    first = next(iter(shop.server.letters.values()))[0]
    assert shop.json("count", "--event-id", str(first.event_id)) == {"count": 2}


def test_letters_are_grouped(shop: Shop) -> None:
    """Letters of the same error class and place are one group, the largest first."""
    found = shop.json("count", "--by", "error")
    assert (found["count"], found["by"]) == (9, "error")
    assert [(group["error_type"], group["count"]) for group in found["groups"]] == [
        ("PermanentError", 6),
        ("LookupError", 3),
    ]
    assert found["groups"][1]["place"].endswith(" in deep")
    assert f"{shop.name}.py:" in found["groups"][1]["place"]
    assert found["groups"][0]["oldest"] < found["groups"][0]["newest"]
    by_topic = shop.json("count", "--by", "topic")["groups"]
    assert [(each["topic"], each["count"]) for each in by_topic] == [
        ("shop.order.placed", 6),
        ("shop.order.invoiced", 3),
    ]
    lines = shop("count", "--by", "subscription").stdout.splitlines()
    assert lines[0].split() == ["SUBSCRIPTION", "COUNT", "OLDEST", "NEWEST"]
    assert [line.split()[:2] for line in lines[1:3]] == [["stock", "6"], ["receipts", "3"]]


def test_pages_follow_each_other(shop: Shop) -> None:
    """A cursor goes on where the page has ended, until there is none."""
    first = shop.json("list", "--limit", "5")
    rest = shop.json("list", "--limit", "5", "--cursor", first["next_cursor"])
    assert [letter["id"] for letter in [*first["letters"], *rest["letters"]]] == shop.ids
    assert rest["next_cursor"] is None
    assert all("body" not in letter for letter in first["letters"])
    told = shop("list", "--limit", "5", "--subscription", "stock")
    assert told.stdout.splitlines()[0].split() == [
        "ID", "DIED", "TOPIC", "SUBSCRIPTION", "ATTEMPTS", "ERROR", "PLACE",
    ]  # fmt: skip
    assert len(told.stdout.splitlines()) == 6
    assert told.stderr.startswith("there are more: --cursor ")
    assert shop("list", "--topic", "nobody.#").stdout == "no dead letter\n"
    assert "cursor" in shop.json("list", "--cursor", "nonsense", status=2)["error"]["message"]


def test_a_letter_is_shown(shop: Shop) -> None:
    """Attempts with time, error and place, the headers, and the event without what is personal."""
    receipt = shop.letter_of("receipts")
    letter = shop.json("show", receipt)
    assert [attempt["error"] for attempt in letter["attempts"]] == ["LookupError: no price"] * 2
    assert letter["attempts"][0]["place"].endswith(" in deep")
    assert "traceback" not in letter["attempts"][0]
    assert letter["headers"] == {"trace": "abc"}
    assert letter["event"]["data"] == {"number": 1, "note": "<personal>"}
    assert "body" not in letter
    assert "raise LookupError" in shop.json("show", receipt, "--traceback")["attempts"][1]["traceback"]
    text = shop("show", receipt).stdout
    assert "LookupError: no price" in text
    assert f"{shop.name}.py:" in text
    assert '"note": "<personal>"' in text
    assert "planted7secret" not in text
    assert "     | " not in text
    assert "     |     raise LookupError" in shop("show", receipt, "--traceback").stdout
    assert "out of stock, says <personal>" in shop("show", shop.letter_of("stock")).stdout


def test_what_nobody_knows_is_withheld(shop: Shop) -> None:
    """Without the class nobody knows what is personal: the event is shown only when it is asked for."""
    letter = shop.json("show", shop.ids[0], make="other")
    assert letter["withheld"] == "the class of the events of 'shop.order.placed' is not installed here"
    assert "event" not in letter
    assert "body" not in letter
    text = shop("show", shop.ids[0], make="other").stdout
    assert "withheld: the class of the events" in text
    assert "planted7secret" not in text
    assert '"note": "planted7secret"' in shop("show", shop.ids[0], "--show-data", make="other").stdout
    assert "planted7secret" in shop.json("show", shop.ids[0], "--show-data")["body"]


def test_a_letter_that_is_not_there(shop: Shop) -> None:
    """An unknown id is an error with status 1."""
    assert shop.json("show", "never-there", status=1)["error"]["kind"] == "failed"


def test_bad_options_are_explained(shop: Shop) -> None:
    """A time that is none, and a bad pattern, are errors with status 2 that say what to write."""
    assert "neither a duration, such as 90s" in shop("count", "--older-than", "soon").stderr
    assert shop("count", "--topic", "a.*b").exit_code == 2


# --- redrive and purge ------------------------------------------------------------------------------------


def test_a_dry_run_does_nothing(shop: Shop) -> None:
    """A dry run tells how many letters are meant, and asks nothing."""
    for action in ("redrive", "purge"):
        told = shop(action, "--subscription", "stock", "--dry-run").stdout
        assert told == f"would {action} 6 dead letters; nothing was done\n"
    assert shop.json("purge", "--all", "--dry-run")["selected"] == 9
    assert len(shop.ids) == 9


@pytest.mark.parametrize("action", ["redrive", "purge"])
def test_it_has_to_be_said_which(shop: Shop, action: str) -> None:
    """Without any selection, or with --all beside one, nothing is done."""
    for selection in ([], ["--all", "--subscription", "stock"], ["--all", "some-id"]):
        result = shop(action, *selection, "--yes")
        assert result.exit_code == 2
        assert f"{action} which letters?" in result.stderr
    assert len(shop.ids) == 9


@pytest.mark.parametrize("action", ["redrive", "purge"])
@pytest.mark.parametrize("answer", ["n\n", ""])
def test_it_asks_first(shop: Shop, action: str, answer: str) -> None:
    """Nothing happens unless the answer is yes."""
    result = shop(action, "--all", input=answer)
    assert result.exit_code == 1
    assert f"{action} 9 dead letters?" in result.stderr
    assert "nothing was done" in result.stderr
    assert len(shop.ids) == 9


def test_letters_are_redriven(shop: Shop) -> None:
    """Letters go back to the subscription that failed, and to no other; the rest stays."""
    result = shop("redrive", "--subscription", "stock", input="y\n")
    assert result.exit_code == 0
    assert result.stdout == "6 of 6 dead letters redriven\n"
    assert len(shop.ids) == 3
    assert shop.work() == {"receipts": 0, "stock": 6}
    assert shop.json("redrive", *shop.ids[:2], "--yes")["redriven"] == 2
    assert shop.work() == {"receipts": 2, "stock": 0}
    assert shop.json("redrive", "--all", "--yes", "--error", "x", status=2)["error"]["kind"] == "invalid"


def test_nothing_is_handled_by_the_command(shop: Shop) -> None:
    """The application's subscriptions are not opened: what waits for them waits on."""
    assert shop.json("redrive", "--all", "--yes")["redriven"] == 9
    assert shop.json("count") == {"count": 0}
    assert sum(len(group.ready) for group in shop.server.groups.values()) == 9


def test_letters_are_purged(shop: Shop) -> None:
    """Only selected letters are deleted."""
    assert shop("purge", "--topic", "shop.order.invoiced", "--yes").stdout == "3 of 3 dead letters purged\n"
    assert shop.json("count", "--topic", "shop.order.invoiced") == {"count": 0}
    assert shop.json("purge", shop.ids[0], "--yes")["purged"] == 1
    assert len(shop.ids) == 5
    assert shop.json("purge", "--all", "--yes")["purged"] == 5


def test_a_subscription_that_is_gone_keeps_its_own(shop: Shop) -> None:
    """Letters of a subscription that is unknown are kept, and told; the others are redriven. Status 1."""
    gone = next(key for key, group in shop.server.groups.items() if group.spec.name == "receipts")
    del shop.server.groups[gone]
    told = shop.json("redrive", "--all", "--yes", status=1)
    assert (told["selected"], told["redriven"], told["gone"]) == (9, 6, 0)
    assert told["kept"] == [
        {
            "subscription": "receipts",
            "topic": "shop.order.placed",
            "count": 3,
            "reason": "no subscription 'receipts'",
        }
    ]
    assert {each.subscription for each, _, _ in shop.server.letters.values()} == {"receipts"}


@pytest.mark.parametrize(("ahead", "later"), [(1, 9), (-3600, 0)])
def test_what_dies_anew_is_left_alone(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, ahead: int, later: int
) -> None:
    """Letters that come while the command runs are not taken, whatever the clock of their consumer says."""
    monkeypatch.setattr("promenade_bus_cli.letters._AT_ONCE", 2)
    redrive = RemoteAdapter.redrive

    async def dies_again(adapter: RemoteAdapter, ids: list[str]) -> int:
        letters = [adapter.server.letters[each] for each in ids]
        moved = await redrive(adapter, ids)
        for letter, group, entry in letters:
            again = str(uuid4())
            late = datetime.now(UTC) + timedelta(seconds=ahead)
            adapter.server.letters[again] = attrs.evolve(letter, id=again, dead_at=late), group, entry
        return moved

    monkeypatch.setattr(RemoteAdapter, "redrive", dies_again)
    told = shop.json("redrive", "--all", "--yes")
    assert (told["selected"], told["redriven"], told["later"]) == (9, 9, later)
    assert len(shop.ids) == 9


def test_how_to_go_on_is_said(shop: Shop) -> None:
    """The command that goes on has the same selection, and the time at which this one began."""
    before = datetime.now(UTC)
    result = shop("redrive", "--error", "no price", "--topic", "shop.#", "--yes")
    line = result.stderr.splitlines()[0]
    assert line.startswith("if it is cut short, go on with: promenade-bus dead-letters redrive --app ")
    words = line.split()
    assert words[words.index("--topic") + 1] == "shop.#".join("''")
    assert before <= datetime.fromisoformat(words[words.index("--older-than") + 1]) <= datetime.now(UTC)


def test_a_server_that_goes_away_is_told(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the server ends it with status 4, and says how far it came."""
    monkeypatch.setattr("promenade_bus_cli.letters._AT_ONCE", 2)
    purge = RemoteAdapter.purge
    calls: list[DeadLetterFilter] = []

    async def fails(adapter: RemoteAdapter, where: DeadLetterFilter) -> int:
        calls.append(where)
        if len(calls) == 3:
            raise AdapterError("the server is gone")
        return await purge(adapter, where)

    monkeypatch.setattr(RemoteAdapter, "purge", fails)
    result = shop("purge", "--all", "--yes")
    assert result.exit_code == 4
    assert "cut short: 4 of 9 dead letters purged" in result.stderr
    assert len(shop.ids) == 5


# --- statuses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ["dead-letters", "count"],
        ["dead-letters", "list"],
        ["dead-letters", "show", "x"],
        ["dead-letters", "purge", "--all", "--yes"],
        ["groups", "list"],
        ["groups", "forget", "shop.mail"],
        ["health"],
        ["tail", "shop.#"],
    ],
    ids=" ".join,
)
def test_an_unreachable_server_has_a_status_of_its_own(
    run: Run, config: Callable[[str], str], command: list[str]
) -> None:
    """A server that is down is status 4, and a configuration that is wrong status 2, in JSON as well."""
    down = config("bus: {adapter: redis, redis: {addr: 'localhost:1'}}")
    error = run.json(*command, "--config", down, status=4)["error"]
    assert (error["kind"], error["status"]) == ("unreachable", 4)
    assert "localhost:1" in error["message"]
    wrong = config("bus: {adapter: redis, workers: 5}")
    error = run.json(*command, "--config", wrong, status=2)["error"]
    assert (error["kind"], error["status"]) == ("invalid", 2)


def test_on_memory_it_says_what_it_cannot_see(run: Run, config: Callable[[str], str]) -> None:
    """An adapter that keeps its letters inside of a process has none for the command, which says so."""
    result = run("dead-letters", "count", "--config", config("bus: {adapter: memory}"))
    assert result.stdout == "0 dead letters\n"
    assert "inside of the process that left them" in result.stderr


def test_an_application_that_is_wrong_is_invalid(run: Run, module: Module) -> None:
    """An application whose subscriptions cannot be made is status 2, and not a failure of the work."""
    name = module("""
        def make():
            bus = open_bus(CONFIG)
            bus.subscribe(ORDER_PLACED, "no handler")
            return bus
        """)
    assert run.json("dead-letters", "count", "--app", f"{name}:make", status=2)["error"]["kind"] == "invalid"
