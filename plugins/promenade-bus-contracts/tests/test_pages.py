"""``contracts docs``: a catalogue of plain pages, with a map."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Annotated, Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

import promenade_customer
import promenade_identity
from bus_core import BaseEvent, Deprecated, Event, Topic, TopicCatalogue, event
from promenade_bus_contracts.boundary_settings import Boundaries, ContextPackages
from promenade_bus_contracts.command import contracts as command
from promenade_bus_contracts.context_map import draw_map
from promenade_bus_contracts.examples import Examples
from promenade_bus_contracts.flows import Flow, flows_of
from promenade_bus_contracts.pages import pages_of
from promenade_bus_contracts.published import Subscriber, contracts_of

pytestmark = pytest.mark.once

CONTRACTS = contracts_of(
    [
        (promenade_customer.CATALOGUE, "promenade-context-customer 0.1.0"),
        (promenade_identity.CATALOGUE, "promenade-context-identity 0.1.0"),
    ]
)
WELCOME = Subscriber("welcome-mail", "crm", "identity.user.registered", "crm.customer.mail.send")
AUDIT = Subscriber("audit", "audit<&>", "#", "audit.note")
BOUNDARIES = Boundaries(contexts={"customer": ContextPackages(code=("crm.customer",))})
VOID = {"meta", "link", "br"}


class Checker(HTMLParser):
    """Collects links and anchors, and fails for tags that are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.anchors: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        found = dict(attrs)
        self.links += [value for name in ("href", "src") if (value := found.get(name)) is not None]
        if (anchor := found.get("id")) is not None:
            self.anchors.append(anchor)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(pages: dict[str, str]) -> Iterator[tuple[str, Checker]]:
    for name, text in pages.items():
        if name.endswith(".html"):
            checker = Checker()
            checker.feed(text)
            assert checker.open == []
            yield name, checker


def pages(*subscribers: Subscriber, **options: Any) -> dict[str, str]:
    return pages_of(
        "CRM & more",
        options.get("contracts", CONTRACTS),
        subscribers,
        Examples(),
        options.get("boundaries"),
        knows_subscribers=bool(subscribers),
    )


def test_the_pages_stand_alone() -> None:
    """Every link leads to a page or an anchor of the catalogue, and nothing comes from elsewhere."""
    made = pages(WELCOME, AUDIT, boundaries=BOUNDARIES)
    assert sorted(made) == [
        "context-customer.html",
        "context-identity.html",
        "index.html",
        "map.svg",
        "style.css",
    ]
    found = dict(checked(made))
    for name, checker in found.items():
        assert "script" not in checker.tags
        for link in checker.links:
            file, _, anchor = link.partition("#")
            assert (file or name) in made, link
            assert not anchor or anchor in found[file or name].anchors, link


def test_a_topic_has_fields_example_publisher_and_subscribers() -> None:
    """The page of a context says everything about a topic, with values escaped."""
    text = pages(WELCOME, AUDIT, boundaries=BOUNDARIES)["context-identity.html"]
    section = text.partition('<section id="identity.user.registered">')[2].partition("</section>")[0]
    assert "A person created an account" in section
    assert "<code>promenade_identity.events.UserRegistered</code>" in section
    assert "identity (promenade-context-identity)" in section
    assert "welcome-mail of customer, <code>crm.customer.mail.send</code>" in section
    assert "audit of audit&lt;&amp;&gt;, <code>audit.note</code>" in section
    assert re.search(r"<code>email</code></td><td>str \(an e-mail.*?required.*?personal", section)
    assert "&quot;email&quot;: &quot;ada@example.org&quot;" in section


def test_the_subscribers_may_be_unknown() -> None:
    """Without an application the pages do not claim that nobody subscribes."""
    made = pages()
    assert "not known: no application was given" in made["context-identity.html"]
    assert "The subscriptions are not known" in made["index.html"]
    known = pages(Subscriber("x", "y", "other.#", "z.f"))
    assert "No subscription receives any of these topics" in known["index.html"]
    assert "no subscription" in known["context-identity.html"]


def test_deprecations_are_shown() -> None:
    """A deprecated topic and a deprecated field have a mark and the advice."""

    @event
    class Moved(Event):
        """Somebody moved."""

        street: Annotated[str, Deprecated("use lines")] = ""

    topics = [Topic("home.person.moved", Moved, deprecated="use <x>"), Topic("home.any.thing", BaseEvent)]
    made = pages(contracts=contracts_of([(TopicCatalogue("home", topics), "code")]))
    text = made["context-home.html"]
    assert "use &lt;x&gt;" in text
    assert re.search(r"<code>street</code>.*deprecated</span> use lines", text)
    assert "Any JSON object" in text
    assert len(dict(checked(made))) == 2


def test_the_map() -> None:
    """The map is well-formed SVG with a node for each context and service, and an arrow for each flow."""
    flows = flows_of(CONTRACTS.values(), (WELCOME, AUDIT), BOUNDARIES)
    assert [(flow.source, flow.target, len(flow.topics)) for flow in flows] == [
        ("customer", "audit<&>", 16),
        ("identity", "audit<&>", 10),
        ("identity", "customer", 1),
    ]
    root = ElementTree.fromstring(draw_map([*CONTRACTS], flows))
    svg = "{http://www.w3.org/2000/svg}"
    groups = [group.get("class") for group in root.iter(f"{svg}g")]
    assert (groups.count("context"), groups.count("service"), groups.count(None)) == (2, 1, 3)
    titles = [title.text for title in root.iter(f"{svg}title")]
    assert "identity to customer: identity.user.registered" in titles


@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_the_map_has_room(count: int) -> None:
    """Every node and arrow is inside of the picture, and nodes do not overlap, however many there are."""
    names = [f"context-with-a-name-{number}" for number in range(count)]
    flows = [Flow(one, two, ("t",)) for one in names for two in names]
    root = ElementTree.fromstring(draw_map(names, flows))
    _, _, width, height = map(float, (root.get("viewBox") or "").split())
    boxes = [
        [float(rect.get(key) or "nan") for key in ("x", "y", "width", "height")]
        for rect in root.iter("{http://www.w3.org/2000/svg}rect")
    ]
    assert len(boxes) == count
    for number, (x, y, w, h) in enumerate(boxes):
        assert 0 <= x <= x + w <= width
        assert 0 <= y <= y + h <= height
        for ox, oy, ow, oh in boxes[:number]:
            assert x + w <= ox or ox + ow <= x or y + h <= oy or oy + oh <= y


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command writes the pages of the installed catalogues to a directory."""
    monkeypatch.chdir(tmp_path)
    arguments = ["docs", "--context", "identity", "--title", "My events"]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert (result.exit_code, result.output) == (0, "wrote 4 files to contract-docs\n")
    assert "<h1>My events</h1>" in (tmp_path / "contract-docs/index.html").read_text()
