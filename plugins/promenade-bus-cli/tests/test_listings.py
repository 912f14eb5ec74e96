"""``topics`` and ``plugins``: listings of the installed plugins, for people and programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.distributions import Site

Run = Any

CONTEXT = """
    from enum import Enum
    from typing import Annotated
    from uuid import UUID
    from bus_core import Deprecated, Personal

    class Channel(Enum):
        SHOP = "shop"
        PHONE = "phone"

    @event(version=3)
    class BookSold(Event):
        "A book went to\\n    a new owner.\\n\\nMore."
        title: str
        buyer: Personal[str] | None = None
        channel: Channel = Channel.SHOP
        previous: Annotated[UUID | None, Deprecated("use history")] = None

    @event
    class BookLost(Event): ...

    @hookimpl
    def promenade_bus_topics():
        sold = Topic("books.book.sold", BookSold)
        lost = Topic("books.book.lost", BookLost, deprecated="none is lost")
        return [TopicCatalogue("books", [sold, lost])]
"""


@pytest.fixture
def books(site: Site) -> None:
    site.install("promenade-context-books", CONTEXT, version="2.1")


@pytest.mark.usefixtures("books")
def test_topics_are_listed_with_their_contract(run: Run) -> None:
    """JSON has everything about a topic: class, version, fields with types and marks, schema, origin."""
    found = run.json("topics", "books.book.sold")
    schema = found[0].pop("schema")
    assert schema["required"] == ["title"]
    assert schema["properties"]["buyer"] == {
        "anyOf": [{"type": "string", "x-personal": True}, {"type": "null"}]
    }
    assert found[0].pop("event").endswith("promenade_context_books.BookSold")
    assert found == [
        {
            "topic": "books.book.sold",
            "type": "book.sold",
            "version": 3,
            "description": "A book went to a new owner.",
            "deprecated": None,
            "fields": [
                {
                    "name": "title",
                    "type": "str",
                    "required": True,
                    "default": None,
                    "personal": False,
                    "deprecated": None,
                },
                {
                    "name": "buyer",
                    "type": "str | None",
                    "required": False,
                    "default": "None",
                    "personal": True,
                    "deprecated": None,
                },
                {
                    "name": "channel",
                    "type": "'shop' | 'phone'",
                    "required": False,
                    "default": "'shop'",
                    "personal": False,
                    "deprecated": None,
                },
                {
                    "name": "previous",
                    "type": "UUID | None",
                    "required": False,
                    "default": "None",
                    "personal": False,
                    "deprecated": "use history",
                },
            ],
            "origin": "promenade-context-books 2.1",
        }
    ]


@pytest.mark.usefixtures("books")
def test_topics_are_a_table_for_people(run: Run) -> None:
    """Plain output is one aligned line per topic; '?' marks optional fields, and deprecations are marked."""
    lines = run("topics", "books.#").output.splitlines()
    assert lines[0].split() == ["TOPIC", "EVENT", "VERSION", "FIELDS", "FROM"]
    assert lines[1].split() == [
        "books.book.lost",
        "(deprecated)",
        "BookLost",
        "1",
        "promenade-context-books",
        "2.1",
    ]
    assert "title buyer? channel? previous?(deprecated)" in lines[2]
    assert len({line.index("promenade-context") for line in lines[1:]}) == 1


@pytest.mark.usefixtures("books")
def test_verbose_topics_tell_types_and_personal_marks(run: Run) -> None:
    """--verbose describes every field."""
    output = run("topics", "books.book.sold", "--verbose").output
    assert "promenade_context_books.BookSold, version 3, from promenade-context-books 2.1" in output
    assert "    buyer     str | None = None  [personal]" in output
    assert "    channel   'shop' | 'phone' = 'shop'\n" in output


@pytest.mark.usefixtures("books")
def test_deprecations_are_told_with_their_advice(run: Run) -> None:
    """--verbose and JSON say what to use instead of a deprecated topic or field."""
    output = run("topics", "books.#", "--verbose").output
    assert "version 1, from promenade-context-books 2.1\n  deprecated: none is lost\n" in output
    assert "    previous  UUID | None = None  [deprecated: use history]\n" in output
    assert output.count("deprecated") == 2
    assert [topic["deprecated"] for topic in run.json("topics", "books.#")] == ["none is lost", None]


@pytest.mark.usefixtures("books")
def test_a_pattern_that_matches_nothing_is_an_error(run: Run) -> None:
    """A typo in a name gives status 1 and suggests the nearest topic."""
    result = run("topics", "books.book.sol")
    assert result.exit_code == 1
    assert "no known topic matches 'books.book.sol'; did you mean 'books.book.sold'" in result.output


def test_no_catalogue_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an installed catalogue the listing says so; JSON is an empty list."""
    monkeypatch.setenv("PROMENADE_BUS_PLUGINS", "off")
    assert "no topic catalogue is installed" in run("topics").output
    assert run.json("topics") == []


@pytest.mark.usefixtures("books")
def test_a_configuration_leaves_plugins_out(run: Run, config: Callable[[str], str]) -> None:
    """With --config only the plugins that it enables count."""
    path = config("bus: {adapter: memory, plugins: {disable: [books]}}")
    assert run("topics", "books.#", "--config", path).exit_code == 1
    listed = {plugin["name"]: plugin for plugin in run.json("plugins", "list", "--config", path)}
    assert listed["books"]["status"] == "disabled"


def test_plugins_are_listed_with_what_they_offer(run: Run, site: Site) -> None:
    """Each plugin has its distribution, version, status and offers; a broken one its cause."""
    site.install("promenade-bus-broken", "raise ImportError('no libfoo')", version="0.3")
    listed = {plugin["name"]: plugin for plugin in run.json("plugins", "list")}
    assert listed["memory"]["distribution"] == "promenade-bus-memory"
    assert listed["memory"]["offers"] == [{"kind": "adapter", "name": "memory"}]
    assert {"kind": "command", "name": "run"} in listed["cli"]["offers"]
    assert listed["broken"]["status"] == "quarantined"
    assert listed["broken"]["cause"] == "ImportError: no libfoo"
    table = run("plugins", "list").output
    assert "promenade-bus-broken 0.3" in table
    assert "adapter memory" in table


def test_the_doctor_finds_what_is_broken(run: Run, site: Site) -> None:
    """An error gives status 1 and a remedy."""
    site.install("promenade-bus-broken", "raise ImportError('no libfoo')", version="0.3")
    findings = run.json("plugins", "doctor", status=1)
    assert findings[0]["severity"] == "error"
    assert findings[0]["plugin"] == "broken (promenade-bus-broken 0.3)"
    assert "no libfoo" in findings[0]["what"]
    output = run("plugins", "doctor").output
    assert output.startswith("error: broken (promenade-bus-broken 0.3)")
    assert "what to do: repair, upgrade or uninstall promenade-bus-broken" in output


def test_the_doctor_finds_no_problem_in_a_valid_installation(run: Run) -> None:
    """Without problems the doctor prints one sentence or an empty list, with status 0."""
    assert run("plugins", "doctor").output.startswith("no problems found: ")
    assert run.json("plugins", "doctor") == []
