"""``contracts lock`` and ``contracts check`` on a catalogue that is installed for the test."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from promenade_bus_contracts.command import contracts
from support.distributions import Site

pytestmark = pytest.mark.once

BOOKS = """
    from typing import Annotated
    from bus_core import Constraint, Personal, upcaster

    @event
    class BookSold(Event):
        "A book went to a new owner."
        title: str
        buyer: Personal[str] | None = None

    TOPICS = [Topic("books.book.sold", BookSold)]

    @hookimpl
    def promenade_bus_topics():
        return [TopicCatalogue("books", TOPICS)]
"""

APP = """
import promenade_bus_memory
from bus_core import open_bus

CONFIG = {"app": {"name": "crm"}, "bus": {"adapter": "memory"}}
bus = open_bus(CONFIG, plugins=[promenade_bus_memory])

@bus.subscribe("books.book.sold", name="ship")
async def ship(event): ...
"""


class Shop:
    """A directory with an application, and the catalogue ``books`` in a version of its source."""

    def __init__(self, site: Site, directory: Path) -> None:
        self._site = site
        self.directory = directory
        self._number = 0

    def install(self, *edits: tuple[str, str]) -> None:
        source = BOOKS
        for before, after in edits:
            assert before in source
            source = source.replace(before, after, 1)
        self._site.forget_modules()
        self._number += 1
        for old in self._site.path.glob("promenade_context_books-*"):
            for path in old.iterdir():
                path.unlink()
            old.rmdir()
        module = f"fake_books_{self._number}"
        self._site.install("promenade-context-books", source, module=module)

    def run(self, *arguments: str, status: int = 0) -> Result:
        result = CliRunner().invoke(contracts, arguments, catch_exceptions=False)
        assert result.exit_code == status, result.output
        return result

    def json(self, *arguments: str, status: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", status=status).stdout)

    def golden(self, version: int = 1) -> Path:
        return self.directory / f"contracts/golden/books.book.sold.v{version}.json"


@pytest.fixture
def shop(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop_app.py").write_text(APP)
    made = Shop(site, tmp_path)
    made.install()
    made.run("lock")
    yield made
    for name in ("shop_app", "book_examples"):
        sys.modules.pop(name, None)


AT_TOP = ("@event\n    class BookSold", "@event(version=2)\n    class BookSold")
RETYPED = ("title: str", "title: tuple[str, ...]")


def step(body: str) -> tuple[str, str]:
    function = f"@upcaster(BookSold, from_version=1)\n    def step(data):\n        {body}\n\n    TOPICS ="
    return "TOPICS =", function


GOOD = step('return data | {"title": [data["title"]]}')


def test_a_lock_file_is_readable_and_stable(shop: Shop) -> None:
    """A lock file has what subscribers rely on, and writing it again changes nothing."""
    path = shop.directory / "contracts/books.lock.json"
    assert json.loads(path.read_text()) == {
        "format": 1,
        "context": "books",
        "owner": "promenade-context-books",
        "topics": {
            "books.book.sold": {
                "event": "BookSold",
                "type": "book.sold",
                "version": 1,
                "aggregate_id": "uuid",
                "personal": ["buyer"],
                "schema": {
                    "type": "object",
                    "properties": {
                        "title": {"type": "string"},
                        "buyer": {"anyOf": [{"type": "string", "x-personal": True}, {"type": "null"}]},
                    },
                    "required": ["title"],
                },
            }
        },
    }
    assert shop.json("lock") == {"written": [], "without_example": []}
    assert "1 lock file up to date" in shop.run("lock").output
    assert shop.run("check", "--frozen").output == "the contracts are as locked\n"


def test_check_names_whom_a_change_breaks(shop: Shop) -> None:
    """The check fails, and names the change, the subscription with its handler, and the remedy."""
    shop.install(RETYPED)
    output = shop.run("check", "--app", "shop_app:bus", status=1).output
    assert output.splitlines()[:3] == [
        "BREAKING    books.book.sold: the field 'title' changed its type from string to array of string",
        "            breaks ship (service crm, shop_app.ship)",
        "            remedy: raise the version, @event(version=2), and write "
        "@upcaster(BookSold, from_version=1); or leave it as it was",
    ]
    assert "GOLDEN      books.book.sold: the golden event of version 1 cannot be read: not a valid" in output
    assert output.endswith("the contracts are broken\n")


def test_check_tells_programs(shop: Shop) -> None:
    """JSON has each change with its verdict, and the exit status is the same."""
    shop.install(RETYPED)
    found = shop.json("check", "--app", "shop_app:bus", status=1)
    assert (found["status"], found["knows_subscribers"], found["unlocked"]) == ("broken", True, [])
    (change,) = found["changes"]
    assert (change["kind"], change["verdict"], change["field"]) == ("field-retyped", "breaking", "title")
    assert change["subscribers"] == [
        {"name": "ship", "service": "crm", "topic": "books.book.sold", "handler": "shop_app.ship"}
    ]
    assert [(fault["topic"], fault["version"]) for fault in found["golden"]] == [("books.book.sold", 1)]
    shop.install(("title: str", 'title: str\n        isbn: str = ""'))
    found = shop.json("check")
    assert (found["status"], found["stale"], found["knows_subscribers"]) == ("fine", True, False)


def test_an_upcaster_heals_it_and_golden_events_prove_it(shop: Shop) -> None:
    """A new version with its upcaster passes, and the lock keeps a golden event of each version."""
    before = shop.golden().read_bytes()
    shop.install(AT_TOP, RETYPED, GOOD)
    assert "versioned   books.book.sold: the field 'title'" in shop.run("check").output
    assert shop.json("lock")["written"] == [
        "contracts/books.lock.json",
        "contracts/golden/books.book.sold.v2.json",
    ]
    assert shop.golden().read_bytes() == before
    assert json.loads(shop.golden(2).read_text())["dataversion"] == 2
    assert shop.run("check").output == "the contracts are as locked\n"


COUNTED = step('data["title"] = [data["title"], str(next(STEPS))]\n        return data')


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        ([step('return data | {"title": 7}')], "after its upcasters from version 1: title must be an array"),
        ([step('return data["name"]')], "raised KeyError"),
        (
            [COUNTED, ("TOPICS =", "import itertools\n    STEPS = itertools.count()\n    TOPICS =")],
            "not pure",
        ),
    ],
)
def test_a_wrong_upcaster_is_found(shop: Shop, edits: list[tuple[str, str]], words: str) -> None:
    """The golden event of each version goes through the upcasters in every check."""
    shop.install(AT_TOP, RETYPED, *edits)
    output = shop.run("check", status=1).output
    assert "GOLDEN      books.book.sold: the golden event of version 1" in output
    assert words in output


def test_lock_refuses_what_breaks(shop: Shop) -> None:
    """A breaking change is locked only when somebody says so."""
    path = shop.directory / "contracts/books.lock.json"
    before = path.read_text()
    shop.install(RETYPED)
    output = shop.run("lock", status=1).output
    assert "1 change would break subscribers" in output
    assert "pass --accept-breaking" in output
    assert path.read_text() == before
    shop.run("lock", "--accept-breaking")
    assert path.read_text() != before


def test_harmless_changes_pass_until_they_shall_be_locked(shop: Shop) -> None:
    """An optional field passes, and with --frozen it has to be locked."""
    shop.install(("title: str", 'title: str\n        isbn: str = ""'))
    assert "harmless    books.book.sold: the field 'isbn' is new and optional" in shop.run("check").output
    assert "the lock files are not up to date" in shop.run("check", "--frozen", status=1).output
    shop.run("lock")
    shop.run("check", "--frozen")


def test_a_context_must_be_locked(shop: Shop) -> None:
    """A catalogue without a lock file fails the check, and so does a lock file without its catalogue."""
    path = shop.directory / "contracts/books.lock.json"
    moved = path.rename(path.with_name("papers.lock.json"))
    moved.write_text(moved.read_text().replace("books", "papers"))
    output = shop.run("check", status=1).output
    assert "NOT LOCKED  books: there is no contracts/books.lock.json" in output
    assert "BREAKING    papers.book.sold was removed" in output
    assert "papers" not in shop.run("check", "--context", "books", status=1).output


def test_an_event_whose_rules_need_an_example(shop: Shop) -> None:
    """Without an example nothing is made up that breaks a rule: lock asks for one, and takes it."""
    rule = 'title: Annotated[str, Constraint("an even word", lambda text: text == "even")]'
    shop.install(("title: str", rule))
    shop.golden().unlink()
    assert (
        "no golden event of books.book.sold: the rules of BookSold"
        in shop.run("lock", "--accept-breaking").output
    )
    assert "no example  books.book.sold version 1 has no golden event" in shop.run("check").output
    (shop.directory / "book_examples.py").write_text(
        "from uuid import UUID\nfrom fake_books_2 import BookSold\n"
        "EXAMPLES = [BookSold(aggregate_id=UUID(int=1), title='even')]\n"
    )
    shop.run("lock", "--app", "shop_app:bus", "--examples", "book_examples")
    assert json.loads(shop.golden().read_text())["data"]["title"] == "even"


@pytest.mark.parametrize(
    ("break_it", "arguments", "words"),
    [
        (lambda path: path.write_text("{"), [], "cannot be read"),
        (lambda path: path.write_text("[]"), [], "is not a lock file"),
        (lambda path: path.write_text('{"format": 9, "topics": {}}'), [], "has format 9"),
        (
            lambda path: None,
            ["--context", "boks"],
            "no catalogue of the context 'boks' is installed (there are: books)",
        ),
    ],
)
def test_what_cannot_be_checked(
    shop: Shop, break_it: Callable[[Path], None], arguments: list[str], words: str
) -> None:
    """A broken lock file and an unknown context end the command with a message and status 2."""
    break_it(shop.directory / "contracts/books.lock.json")
    assert words in shop.run("check", *arguments, status=2).output
