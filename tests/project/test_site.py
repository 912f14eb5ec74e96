"""The site shows every page and every public name, and its links and diagrams fit the code.

Sphinx is not needed: the pages are looked at as ``make docs`` gives them to it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import attrs
import pytest
from promenade_site.api import api_pages
from promenade_site.autodoc import about_value, as_rst
from promenade_site.checking import broken_links
from promenade_site.diagrams import DIAGRAMS, endings
from promenade_site.pages import Page, Site, headings_of, links_of
from promenade_site.public import homes, names_of, public_modules
from promenade_site.reference import commands, found_plugins, metrics, options_of, reference_pages
from pygments.lexers import get_lexer_by_name

import bus_core
from bus_core import Factory

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]


@cache
def site() -> tuple[Site, dict[str, Page]]:
    found = Site(ROOT, {**api_pages(), **reference_pages()})
    return found, found.pages()


def slug(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


# --- pages ------------------------------------------------------------------------------------------------


def test_every_page_has_one_place_in_the_navigation() -> None:
    """Each page but the first is in exactly one table of contents, and nothing else is."""
    _, pages = site()
    listed: Counter[str] = Counter()
    for page in pages.values():
        for block in re.findall(r"^```\{toctree\}\n(.*?)^```", page.text, re.MULTILINE | re.DOTALL):
            listed.update(re.findall(r"^/(.+)$", block, re.MULTILINE))
        for block in re.findall(r"^\.\. toctree::\n(.*?)^\S", page.text, re.MULTILINE | re.DOTALL):
            listed.update(
                f"reference/api/{name}" for name in re.findall(r"^   ([\w.]+)$", block, re.MULTILINE)
            )
    assert listed == Counter(pages.keys() - {"index"})


def test_links_lead_to_pages_of_the_site() -> None:
    """A link between pages names a page and a heading of it; a link to a file names one that is copied."""
    found, pages = site()
    broken = []
    for page in pages.values():
        for target in links_of(page.text) if page.suffix == ".md" else ():
            place, _, fragment = target.partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            name = (ROOT / page.name).parent.joinpath(place).resolve().relative_to(ROOT).as_posix()
            other = pages.get(name.removesuffix(".md")) if place else page
            anchors = {slug(words) for _, words in headings_of(other.text)} if other else set()
            if (other is None and name not in found.files) or (fragment and fragment not in anchors):
                broken.append(f"{page.name}: {target}")
    assert broken == []


def test_pages_are_what_the_markdown_reader_accepts_without_a_warning() -> None:
    """A page has one title, headings that skip no level, and code in languages that can be coloured."""
    faults = []
    for page in site()[1].values():
        if page.suffix != ".md":
            continue
        levels = [level for level, _ in headings_of(page.text)]
        if levels[:1] != [1] or levels.count(1) != 1:
            faults.append(
                f"{page.source or page.name}: has {levels.count(1)} titles, and must begin with one"
            )
        faults += [
            f"{page.source or page.name}: a heading of level {second} below one of level {first}"
            for first, second in pairwise(levels)
            if second > first + 1
        ]
        for language in re.findall(r"^```(\w+)$", page.text, re.MULTILINE):
            get_lexer_by_name(language)
    assert faults == []


def test_a_file_that_is_no_page_is_offered_or_linked(tmp_path: Path) -> None:
    """Without an address of the repository such a file is copied beside the pages; with one it is linked."""
    (tmp_path / "docs" / "decisions").mkdir(parents=True)
    (tmp_path / "docs" / "decisions" / "README.md").write_text("# Decisions\n")
    (tmp_path / "LICENSE").write_text("MIT")
    (tmp_path / "NOTES.md").write_text("# Notes, which are no page\n")
    links = "[licence](LICENSE) [why](docs/decisions/README.md#x) [notes](NOTES.md)"
    (tmp_path / "README.md").write_text(f"# Bus\n{links}\n")

    copied = Site(tmp_path)
    shown = "[licence](files/LICENSE) [why](decisions/README.md#x) [notes](files/NOTES.md.txt)"
    assert shown in copied.pages()["index"].text
    assert copied.files == {
        "files/LICENSE": tmp_path / "LICENSE",
        "files/NOTES.md.txt": tmp_path / "NOTES.md",
    }

    linked = Site(tmp_path, address="https://code.example/bus")
    assert "[licence](https://code.example/bus/blob/main/LICENSE)" in linked.pages()["index"].text
    assert linked.files == {}


def test_a_broken_link_of_the_built_site_is_found(tmp_path: Path) -> None:
    """A link to a missing page, picture or place is reported with its page."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "b.html").write_text('<h1 id="top">B</h1>')
    (tmp_path / "a.html").write_text(
        '<a href="more/b.html#top">1</a><a href="more/b.html#end">2</a><a href="c.html">3</a>'
        '<img src="d.svg"><a href="https://example.org/x">4</a><a href="#here">5</a>'
    )
    assert broken_links(tmp_path) == [
        f"a.html: {link}" for link in ("more/b.html#end", "c.html", "d.svg", "#here")
    ]


# --- the reference ----------------------------------------------------------------------------------------


def directives() -> Counter[str]:
    texts = [page.text for page in api_pages().values()]
    return Counter(
        name for text in texts for name in re.findall(r"^\.\. auto\w+:: (\S+)$", text, re.MULTILINE)
    )


def test_every_public_name_is_documented_once() -> None:
    """Each name of each public module is described on one page, where it is offered first."""
    described = directives()
    assert {*described.values()} == {1}
    places = {name: module for module, names in homes().items() for name in names}
    missing = [
        f"{module}.{name}"
        for module in public_modules()
        for name in names_of(module)
        if f"{places.get(name, module)}.{name}" not in described
    ]
    assert missing == []
    assert {f"bus_core.{name}" for name in bus_core.__all__} <= {*described}
    assert {"promenade_bus_testing.contract.AdapterContract", "bus_core.events.TopicIndex"} <= {*described}


def test_every_name_is_in_the_list_of_all_names() -> None:
    """The first page of the API links each name, with the beginning of its docstring."""
    index = api_pages()["reference/api/index"].text
    assert directives().keys() == set(re.findall(r":py:obj:`\w+ <([\w.]+)>`", index))
    assert "     - One attempt to hand one event to one subscription, as its handler sees it\n" in index


def offers() -> Iterator[tuple[str, str, str, object]]:
    """The kind, the name, the distribution and the value of every offer."""
    for registry in found_plugins().registries:
        for offer in registry:
            yield registry.kind, offer.name, offer.origin.partition(" ")[0], offer.value


def written_about(distribution: str) -> str:
    """The pages that people wrote about a distribution, and the reference."""
    pages = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob(f"[pc]*/{distribution}/README.md")]
    return "\n".join(path.read_text(encoding="utf-8") for path in pages)


def keys_of(options: type[object]) -> Iterator[str]:
    for key, (_, _, inner) in options_of(options).items():
        yield key
        if inner is not None:
            yield from keys_of(inner)


def test_every_offer_and_every_option_is_documented() -> None:
    """Each offer of a plugin is on the generated pages, and explained with its options by a written one."""
    pages = reference_pages()
    missing = []
    for kind, name, distribution, value in offers():
        text = written_about(distribution)
        if f"| `{name}` | `{distribution}` |" not in pages["reference/parts/offers"].text:
            missing.append(f"{kind} {name}: not in the list of offers")
        if not re.search(rf"`{name}`|promenade-bus {name}\b|--{name}\b", text):
            missing.append(f"{kind} {name}: explained nowhere")
        if isinstance(value, Factory):
            missing += [
                f"{kind} {name}: no page explains the option {key!r}"
                for key in keys_of(value.options)
                if not re.search(rf"\b{key}\b", text)
            ]
            if attrs.fields(value.options):
                assert f"{kind.capitalize()} `{name}`" in pages["reference/parts/options"].text
    assert missing == []


def test_every_command_shows_its_help() -> None:
    """The page of the commands has the help of each, with every option that is not hidden."""
    text = reference_pages()["reference/parts/commands"].text
    sections = dict(re.findall(r"^## `(.+?)`\n\n```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    assert sections.keys() == commands().keys()
    assert "promenade-bus dead-letters redrive" in sections
    for name, command in commands().items():
        for parameter in command.params:
            for option in parameter.opts if not getattr(parameter, "hidden", False) else ():
                assert not option.startswith("--") or option in sections[name], f"{name} {option}"


def test_every_metric_is_documented() -> None:
    """The page of metrics has those of Prometheus and the four of the conventions of OpenTelemetry."""
    text = reference_pages()["reference/parts/metrics"].text
    rows = {row.name for found in metrics().values() for row in found}
    conventions = import_module("promenade_bus_opentelemetry.names")
    names = {
        getattr(conventions, name) for name in ("SENT", "CONSUMED", "OPERATION_SECONDS", "PROCESS_SECONDS")
    }
    names |= {metric.name for metric in import_module("promenade_bus_prometheus.metrics").METRICS}
    assert rows == names == set(re.findall(r"^\| `(\S+)` \|", text, re.MULTILINE))


# --- docstrings and diagrams ------------------------------------------------------------------------------


def test_indented_examples_become_code() -> None:
    """An example that a docstring indents below a colon is marked as code; other text stays."""
    text = ["Open it:", "", "    bus = open_bus()", "", "Then::", "", "    close()", "", "One: two."]
    assert as_rst(text) == ["Open it::", *text[1:]]


def test_constants_say_what_they_are() -> None:
    """A topic names its class, a number its value."""
    topics = import_module("promenade_identity")
    assert about_value(topics.USER_REGISTERED) == (
        "The topic ``identity.user.registered``, with events of"
        " :py:class:`~promenade_identity.UserRegistered`."
    )
    assert about_value(5.0) == "``5.0``"


@pytest.mark.parametrize("name", DIAGRAMS)
def test_diagrams_fit_the_code(name: str) -> None:
    """A diagram is what the tables of the code give now; `make diagrams` draws them again."""
    drawn = (ROOT / "docs" / "diagrams" / f"{name}.svg").read_text(encoding="utf-8")
    assert drawn == DIAGRAMS[name](), f"docs/diagrams/{name}.svg is outdated: run `make diagrams`"


def test_outcomes_come_from_the_function_that_decides() -> None:
    """The picture of outcomes has each action, and says which delays count."""
    assert {action for _, action, _ in endings()} == {"settle", "retry", "postpone", "dead letter"}
    assert ("raises Postpone(after=30)", "postpone", "after 30 s; does not count") in endings()
