"""The catalogue of contracts as HTML pages that need no server, no script and nothing from elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

from bus_core.events import model_of
from promenade_bus_cli.contracts import fields_of
from promenade_bus_contracts.boundary_settings import Boundaries
from promenade_bus_contracts.context_map import draw_map
from promenade_bus_contracts.examples import Examples
from promenade_bus_contracts.flows import Flow, consumer_of, flows_of
from promenade_bus_contracts.published import Contract, PublishedTopic, Subscriber

__all__ = ["pages_of"]

_STYLE: Final = """\
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem; }
code, pre { font: 0.9em ui-monospace, monospace; }
pre { background: #8881; overflow-x: auto; padding: 0.8rem; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; }
td, th { border-bottom: 1px solid #8885; padding: 0.3rem 0.8rem 0.3rem 0; }
td, th { text-align: left; vertical-align: top; }
section { border-top: 2px solid #8885; margin-top: 2rem; }
.mark { border: 1px solid; border-radius: 0.3rem; font-size: 0.8em; padding: 0 0.3rem; white-space: nowrap; }
"""


def pages_of(
    title: str,
    contracts: Mapping[str, Contract],
    subscribers: Sequence[Subscriber],
    examples: Examples,
    boundaries: Boundaries | None,
    *,
    knows_subscribers: bool,
) -> dict[str, str]:
    """Returns the pages by file name: ``index.html``, ``map.svg``, ``style.css``, and one per context."""
    flows = flows_of(contracts.values(), subscribers, boundaries)
    drawn = draw_map([*contracts], flows)
    site = _Pages(title, subscribers, examples, boundaries, knows_subscribers)
    pages = {"index.html": site.index(contracts, flows, drawn), "map.svg": drawn, "style.css": _STYLE}
    return pages | {_file(contract.context): site.context(contract) for contract in contracts.values()}


class _Pages:
    def __init__(
        self,
        title: str,
        subscribers: Sequence[Subscriber],
        examples: Examples,
        boundaries: Boundaries | None,
        knows_subscribers: bool,
    ) -> None:
        self._title = title
        self._subscribers = subscribers
        self._examples = examples
        self._boundaries = boundaries
        self._knows_subscribers = knows_subscribers

    # --- the first page ---

    def index(self, contracts: Mapping[str, Contract], flows: Sequence[Flow], drawn: str) -> str:
        """The map, the contexts, the flows between them, and every topic."""
        rows = [
            [_link(_file(each.context), each.context), escape(each.owner), str(len(each.topics))]
            for each in contracts.values()
        ]
        topics = [
            [
                _topic_link(topic.name, topic.context) + _deprecation(topic.topic.deprecated),
                f"<code>{escape(topic.event_class.__name__)}</code> {topic.version}",
                escape(topic.summary),
            ]
            for contract in contracts.values()
            for topic in contract.topics.values()
        ]
        moves = [
            [
                escape(flow.source),
                escape(flow.target),
                "<br>".join(_topic_link(name, flow.source) for name in flow.topics),
            ]
            for flow in flows
        ]
        return self._page(
            self._title,
            f'<h1>{escape(self._title)}</h1>\n<h2>Map</h2>\n<div class="wide">{drawn}</div>',
            "<p>An arrow leads from the context that publishes to the context or service that receives, "
            "with the number of topics.</p>",
            f"<h2>Contexts</h2>\n{_table(['context', 'owner', 'topics'], rows)}",
            f"<h2>Flows</h2>\n{_table(['from', 'to', 'topics'], moves)}" if moves else self._unknown(),
            f"<h2>Topics</h2>\n{_table(['topic', 'event', 'meaning'], topics)}",
        )

    def _unknown(self) -> str:
        if self._knows_subscribers:
            return "<h2>Flows</h2>\n<p>No subscription receives any of these topics.</p>"
        return "<h2>Flows</h2>\n<p>The subscriptions are not known: no application was given.</p>"

    # --- the page of a context ---

    def context(self, contract: Contract) -> str:
        """Each topic with its fields, an example, its publisher and its subscribers."""
        listed = "".join(f"<li>{_topic_link(name, '')}</li>" for name in contract.topics)
        release = "" if contract.release is None else f" {escape(contract.release)}"
        return self._page(
            f"{contract.context} - {self._title}",
            f"<p>{_link('index.html', self._title)}</p>\n<h1>{escape(contract.context)}</h1>",
            f"<p>Owner: {escape(contract.owner)}{release}</p>\n<ul>{listed}</ul>",
            *(self._topic(topic, contract) for topic in contract.topics.values()),
        )

    def _topic(self, topic: PublishedTopic, contract: Contract) -> str:
        cls = topic.event_class
        facts = [
            ["event", f"<code>{escape(f'{cls.__module__}.{cls.__qualname__}')}</code>"],
            ["type", f"<code>{escape(topic.type)}</code>, version {topic.version}"],
            ["aggregate id", escape(topic.ids)],
            ["published by", f"{escape(contract.context)} ({escape(contract.owner)})"],
            ["received by", self._receivers(topic)],
        ]
        deprecated = topic.topic.deprecated
        warning = f"<p>{_deprecation(deprecated)} {escape(deprecated)}</p>" if deprecated else ""
        return (
            f'<section id="{escape(topic.name)}">\n<h2>{escape(topic.name)}</h2>\n{warning}'
            f"<p>{escape(topic.summary)}</p>\n{_table([], facts)}\n<h3>Fields</h3>\n{_fields(topic)}\n"
            f"{self._example(topic)}</section>"
        )

    def _receivers(self, topic: PublishedTopic) -> str:
        lines = [
            f"{escape(each.name)} of {escape(consumer_of(each, self._boundaries))}, "
            f"<code>{escape(each.handler)}</code>"
            for each in self._subscribers
            if each.takes(topic.name)
        ]
        if not self._knows_subscribers:
            return "not known: no application was given"
        return "<br>".join(lines) or "no subscription"

    def _example(self, topic: PublishedTopic) -> str:
        event = self._examples.of(topic)
        if event is None:
            return ""
        text = json.dumps(event.to_dict(), indent=2, ensure_ascii=False)
        return f"<h3>Example</h3>\n<pre>{escape(text)}</pre>\n"

    def _page(self, title: str, *parts: str) -> str:
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<title>{escape(title)}</title>\n<link rel="stylesheet" href="style.css">\n</head>\n<body>\n'
            + "\n".join(parts)
            + "\n</body>\n</html>\n"
        )


def _fields(topic: PublishedTopic) -> str:
    if not topic.is_typed:
        return "<p>Any JSON object.</p>"
    advice = {field.key: field.deprecated for field in model_of(topic.event_class).own.fields}
    rows = [
        [
            f"<code>{escape(fact.name)}</code>",
            escape(fact.type),
            "required" if fact.required else f"<code>{escape(str(fact.default))}</code>",
            ('<span class="mark">personal</span> ' if fact.personal else "") + _advice(advice.get(fact.name)),
        ]
        for fact in fields_of(topic.event_class)
    ]
    return _table(["field", "type", "default", ""], rows) if rows else "<p>None.</p>"


def _advice(text: str | None) -> str:
    return "" if text is None else f"{_deprecation(text)} {escape(text)}"


def _deprecation(text: str | None) -> str:
    return "" if text is None else ' <span class="mark">deprecated</span>'


def _table(columns: Iterable[str], rows: Iterable[Sequence[Any]]) -> str:
    heads = "".join(f"<th>{escape(column)}</th>" for column in columns)
    head = f"<tr>{heads}</tr>\n" if heads else ""
    lines = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table>\n{head}{lines}\n</table></div>'


def _file(context: str) -> str:
    """Returns the file name of a context's page, which is never one of the others."""
    return f"context-{re.sub(r'[^A-Za-z0-9._-]', '_', context)}.html"


def _link(file: str, text: str) -> str:
    return f'<a href="{escape(file)}">{escape(text)}</a>'


def _topic_link(topic: str, context: str) -> str:
    file = _file(context) if context else ""
    return f'<a href="{escape(file)}#{escape(topic)}"><code>{escape(topic)}</code></a>'
