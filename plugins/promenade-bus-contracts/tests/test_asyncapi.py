"""``contracts asyncapi``: documents that the official schema of AsyncAPI 3.0 accepts."""

from __future__ import annotations

import enum
import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import attrs
import pytest
import yaml
from click.testing import CliRunner
from jsonschema import Draft7Validator

import promenade_customer
import promenade_identity
from bus_core import BaseEvent, Event, Personal, Topic, TopicCatalogue, event
from promenade_bus_contracts.asyncapi import document_of
from promenade_bus_contracts.command import contracts as command
from promenade_bus_contracts.examples import Examples
from promenade_bus_contracts.published import Subscriber, contracts_of
from support.distributions import Site

pytestmark = pytest.mark.once

SCHEMA = Path(__file__).parent / "data" / "asyncapi" / "schema-3.0.0.json"


@cache
def official() -> Any:
    """The schema of AsyncAPI 3.0.0, as the AsyncAPI Initiative publishes it."""
    return Draft7Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))


def check(document: dict[str, Any]) -> None:
    """Asserts that a document is valid, and that its examples are valid payloads."""
    assert [error.message for error in official().iter_errors(document)] == []
    for name, message in document["components"]["messages"].items():
        payload = Draft7Validator({**document, "allOf": [{"$ref": f"#/components/messages/{name}/payload"}]})
        for example in message.get("examples", ()):
            assert [error.message for error in payload.iter_errors(example["payload"])] == [], name


def document(
    catalogues: list[tuple[TopicCatalogue, str]], *subscribers: Subscriber, **options: Any
) -> dict[str, Any]:
    found = contracts_of(catalogues).values()
    made = document_of("Events", "1.0.0", found, subscribers, Examples(), **options)
    check(made)
    return made


def test_the_real_contexts() -> None:
    """The contexts of the repository, with all their types, make one valid document."""
    made = document(
        [
            (promenade_customer.CATALOGUE, "promenade-context-customer 0.1.0"),
            (promenade_identity.CATALOGUE, "promenade-context-identity 0.1.0"),
        ],
        Subscriber("welcome mail", "crm app", "identity.user.registered", "crm.mail.send"),
        Subscriber("audit", "audit", "identity.user.*", "crm.audit.note"),
    )
    assert len(made["channels"]) == 26
    assert made["channels"]["identity.user.registered"]["x-owner"] == "promenade-context-identity"
    message = made["components"]["messages"]["identity.user.registered"]
    assert (message["name"], message["title"], message["x-version"]) == (
        "user.registered",
        "UserRegistered",
        1,
    )
    assert message["x-personal"] == ["display_name", "email"]
    assert message["examples"][0]["payload"]["data"]["email"] == "ada@example.org"
    registered = {
        name: each["action"]
        for name, each in made["operations"].items()
        if each["channel"]["$ref"] == "#/channels/identity.user.registered"
    }
    assert registered == {
        "send.identity.user.registered": "send",
        "receive.crm_app.welcome_mail.identity.user.registered": "receive",
        "receive.audit.audit.identity.user.registered": "receive",
    }


def classes(module: str) -> SimpleNamespace:
    @attrs.frozen
    class Line:
        sku: str
        count: int = 1

    class Size(enum.Enum):
        LARGE = "L"

    @event(type="order.placed")
    class Placed(Event):
        """An order was placed."""

        lines: tuple[Line, ...] = ()
        size: Personal[Size] = Size.LARGE
        place: tuple[float, float] = (0.0, 0.0)
        type_of: UUID | None = None
        items: int = 0

    return SimpleNamespace(Placed=Placed, module=module)


def test_classes_of_the_same_name_stay_apart() -> None:
    """Two classes of one name, in one context or in two, have schemas of their own, nested classes too."""
    one, two, three = classes("a").Placed, classes("b").Placed, classes("c").Placed
    made = document(
        [
            (
                TopicCatalogue("shop", [Topic("shop.order.placed", one), Topic("shop.basket.placed", two)]),
                "x",
            ),
            (TopicCatalogue("mall", [Topic("mall.a.b", three), Topic("mall.a.c", three)]), "y"),
        ]
    )
    assert sorted(made["components"]["schemas"]) == [
        "mall.Placed",
        "mall.Placed.Line",
        "shop.Placed",
        "shop.Placed.2",
        "shop.Placed.2.Line",
        "shop.Placed.Line",
    ]
    payloads = {name: each["payload"] for name, each in made["components"]["messages"].items()}
    assert payloads["mall.a.b"]["properties"]["topic"] == {"type": "string", "const": "mall.a.b"}
    assert payloads["mall.a.c"]["properties"]["topic"] == {"type": "string", "const": "mall.a.c"}
    schema = made["components"]["schemas"]["shop.Placed.2"]
    assert schema["properties"]["place"]["items"] == [{"type": "number"}, {"type": "number"}]
    assert schema["properties"]["items"] == {"type": "integer"}
    assert schema["properties"]["lines"]["items"] == {
        "allOf": [{"$ref": "#/components/schemas/shop.Placed.2.Line"}]
    }


def test_untyped_and_deprecated_topics() -> None:
    """A topic without a class has any data, and a deprecated one says so."""
    cls = classes("a").Placed
    made = document(
        [
            (
                TopicCatalogue(
                    "shop",
                    [Topic("shop.any.thing", BaseEvent), Topic("shop.old.placed", cls, deprecated="use x")],
                ),
                "x",
            )
        ]
    )
    assert made["components"]["schemas"]["shop.BaseEvent"] == {"type": "object"}
    assert "dataversion" not in made["components"]["messages"]["shop.any.thing"]["payload"]["properties"]
    assert made["components"]["messages"]["shop.old.placed"]["deprecated"] is True
    assert made["channels"]["shop.old.placed"]["description"] == "Deprecated: use x"


BOOKS = """
    @event
    class BookSold(Event):
        "A book went to a new owner."
        title: str

    @hookimpl
    def promenade_bus_topics():
        return [TopicCatalogue("books", [Topic("books.book.sold", BookSold)])]
"""

APP = """
import promenade_bus_memory
from bus_core import *

@event
class Loose(Event):
    number: int

CONFIG = {"app": {"name": "crm"}, "bus": {"adapter": "memory"}}

def make_bus():
    bus = open_bus(CONFIG, plugins=[promenade_bus_memory])
    bus.subscribe(Topic("loose.end.found", Loose), print, name="ends")
    bus.subscribe("books.#", print, name="books")
    return bus
"""


def test_the_command(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command writes a document per context, or one of the application with its undeclared topics."""
    monkeypatch.chdir(tmp_path)
    site.install("promenade-context-books", BOOKS, version="2.1")
    (site.path / "asyncapi_app.py").write_text(APP)

    def run(*arguments: str) -> Any:
        result = CliRunner().invoke(command, ["asyncapi", *arguments, "--json"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)["written"]

    assert run() == ["asyncapi/books.asyncapi.json"]
    books = json.loads((tmp_path / "asyncapi/books.asyncapi.json").read_text())
    check(books)
    assert books["info"] == {"title": "Events of books", "version": "2.1", "tags": [{"name": "books"}]}
    options = ["--app", "asyncapi_app:make_bus", "--whole", "--format", "yaml", "--title", "Shop"]
    assert run(*options, "--output", "out") == ["out/application.asyncapi.yaml"]
    whole = yaml.safe_load((tmp_path / "out/application.asyncapi.yaml").read_text())
    check(whole)
    assert whole["info"]["title"] == "Shop"
    assert [*whole["channels"]] == ["books.book.sold", "loose.end.found"]
    assert "receive.crm.books.books.book.sold" in whole["operations"]
