"""Pages of the reference that are made from the installed plugins: offers, options, commands, metrics."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs
import click

from bus_core import DURATION, SECRET, Factory
from bus_core.config import format_duration
from bus_core.plugins import Offer, Plugins, discover
from promenade_site.pages import Page
from promenade_site.public import distributions

__all__ = ["SELECTED_BY", "commands", "found_plugins", "metrics", "options_of", "reference_pages"]

FOLDER = "reference/parts"

SELECTED_BY: Mapping[str, str] = {
    "adapter": "bus.adapter",
    "serializer": "bus.serializer",
    "retry policy": "bus.retry.policy",
    "middleware": "bus.middleware",
    "store": "store, an option of middleware",
    "health probe": "bus.health.probes",
    "observer": "bus.observers",
    "endpoint": "promenade-bus run",
    "command": "promenade-bus",
}
"""The place that selects an offer of a kind."""


def reference_pages() -> Mapping[str, Page]:
    """Every page by its name."""
    found = found_plugins()
    texts = {
        "offers": _offers_page(found),
        "options": _options_page(found),
        "commands": _commands_page(),
        "metrics": _metrics_page(),
    }
    return {f"{FOLDER}/{name}": Page(f"{FOLDER}/{name}", "\n".join(lines)) for name, lines in texts.items()}


def found_plugins() -> Plugins:
    """The offers of the installed plugins of this repository, without those of others and of the example."""
    return discover(environ={}, only=distributions())


# --- offers -----------------------------------------------------------------------------------------------


def _offers_page(found: Plugins) -> Iterator[str]:
    yield "# Offers of plugins\n"
    yield "All that the distributions of this repository offer, made from the code.\n"
    for registry in found.registries:
        yield f"## {registry.kind.capitalize()}\n"
        yield f"Selected by `{SELECTED_BY[registry.kind]}`.\n"
        yield "| name | distribution | |\n|---|---|---|"
        for offer in registry:
            yield f"| `{offer.name}` | `{offer.origin.partition(' ')[0]}` | {_about(offer)} |"
        yield ""


def _about(offer: Offer[Any]) -> str:
    if not isinstance(offer.value, Factory):
        return str(offer.value.help)
    return (
        "[options](options.md#" + _anchor(offer) + ")" if attrs.fields(offer.value.options) else "no options"
    )


def _anchor(offer: Offer[Any]) -> str:
    return f"{offer.kind}-{offer.name}".replace(" ", "-").lower()


# --- options ----------------------------------------------------------------------------------------------


def _options_page(found: Plugins) -> Iterator[str]:
    yield "# Options of plugins\n"
    yield "Every key of every part that a configuration can select, with type and default, from the code."
    yield "[Configuration](../configuration.md) explains the keys of the section `bus`.\n"
    for registry in found.registries:
        for offer in registry:
            if isinstance(offer.value, Factory) and attrs.fields(offer.value.options):
                yield f"## {registry.kind.capitalize()} `{offer.name}`\n"
                own = registry.kind == "adapter"
                place = f"`bus.{offer.name}`" if own else f"its entry in `{SELECTED_BY[registry.kind]}`"
                yield f"From `{offer.origin.partition(' ')[0]}`. The keys belong to {place}.\n"
                yield from _class_lines(offer.value.options, "")


def _class_lines(options: type[Any], path: str) -> Iterator[str]:
    yield _as_markdown(options.__doc__)
    yield "| key | type | default |\n|---|---|---|"
    rows = options_of(options)
    for name, (kind, default, _) in rows.items():
        yield f"| `{path}{name}` | {kind} | {default} |"
    yield ""
    for name, (_, _, inner) in rows.items():
        if inner is not None:
            yield f"**`{path}{name}`**\n"
            yield from _class_lines(inner, f"{path}{name}.")


def options_of(options: type[Any]) -> dict[str, tuple[str, str, type[Any] | None]]:
    """The keys of a class of options: type, default, and the class of the keys below it."""
    hints = get_type_hints(options, include_extras=True)
    return {
        (field.alias or field.name): (
            _type_text(hints[field.name]).replace("|", "\\|"),
            _default_text(field, hints[field.name]).replace("|", "\\|"),
            _section_in(hints[field.name]),
        )
        for field in attrs.fields(options)
        if field.init
    }


def _as_markdown(docstring: str | None) -> str:
    """A docstring as Markdown: both mark code with backticks, and lists alike."""
    return inspect.cleandoc(docstring or "") + "\n"


def _section_in(hint: Any) -> type[Any] | None:
    """The class of options that a hint names, alone or in a union; a syntax of its own has none."""
    if get_origin(hint) is Annotated:
        return None
    return next(
        (part for part in (hint, *get_args(hint)) if isinstance(part, type) and attrs.has(part)), None
    )


def _type_text(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        marks = arguments[1:]
        if DURATION in marks:
            return "duration" + (" or none" if type(None) in get_args(arguments[0]) else "")
        text = re.sub("section|given in code", "text", _type_text(arguments[0]))
        return f"secret {text}" if SECRET in marks else text
    if origin in (Union, types.UnionType):
        words = [_type_text(part) for part in arguments if part is not type(None)]
        return " or ".join(dict.fromkeys([*words, *(["none"] if type(None) in arguments else [])]))
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (tuple, list, frozenset) or getattr(origin, "__name__", "") == "Sequence":
        return f"list of {_type_text(arguments[0])}"
    if origin is not None or not isinstance(hint, type):
        return "mapping" if getattr(origin, "__name__", "") in ("Mapping", "dict") else "value"
    plain = {bool: "bool", int: "int", float: "number", str: "text"}
    return plain.get(hint, "section" if attrs.has(hint) else "given in code")


def _default_text(field: attrs.Attribute[Any], hint: Any) -> str:
    value: object = field.default
    if value is attrs.NOTHING:
        return "required"
    if isinstance(value, bool):
        return f"`{value}`".lower()
    if isinstance(value, int | float):
        return f"`{format_duration(value) if _type_text(hint).startswith('duration') else value}`"
    if isinstance(value, str) and value:
        return f"`{value}`"
    if isinstance(value, tuple) and value and all(isinstance(item, int | float | str) for item in value):
        return f"`{list(value)}`"
    return "see below" if attrs.has(type(value)) else "none"


# --- commands ---------------------------------------------------------------------------------------------


def commands() -> Mapping[str, click.Command]:
    """Every command that is not a group, by its full name."""
    from promenade_bus_cli.main import cli

    found: dict[str, click.Command] = {}

    def walk(command: click.Command, context: click.Context) -> None:
        if not isinstance(command, click.Group):
            found[context.command_path] = command
            return
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None and not inner.hidden:
                walk(inner, click.Context(inner, parent=context, info_name=name))

    walk(cli, click.Context(cli, info_name="promenade-bus"))
    return found


def _commands_page() -> Iterator[str]:
    yield "# Help of the commands\n"
    yield "The text of `--help` of every command. [Command line](../cli.md) explains them.\n"
    for name, command in commands().items():
        context = click.Context(command, info_name=name, terminal_width=96, max_content_width=96)
        yield f"## `{name}`\n"
        yield f"```text\n{command.get_help(context).rstrip()}\n```\n"


# --- metrics ----------------------------------------------------------------------------------------------


@attrs.frozen
class MetricRow:
    """A metric as an observer defines it."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()


class _RecordingMeter:
    """Stands in for a meter of OpenTelemetry, and keeps what is created."""

    def __init__(self) -> None:
        self.rows: list[MetricRow] = []

    def create_observable_counter(self, name: str, callbacks: object, unit: str, description: str) -> None:
        self.rows.append(MetricRow(name, f"counter, {unit}", description))

    def create_histogram(self, name: str, unit: str, description: str, **options: object) -> None:
        self.rows.append(MetricRow(name, f"histogram, {unit}", description))


def metrics() -> Mapping[str, list[MetricRow]]:
    """The metrics of each observer."""
    prometheus: Any = import_module("promenade_bus_prometheus.metrics")
    figures: Any = import_module("promenade_bus_opentelemetry.figures")
    meter = _RecordingMeter()
    figures.Figures(meter)
    return {
        "prometheus": [
            MetricRow(metric.name, metric.kind, metric.help, metric.labels) for metric in prometheus.METRICS
        ],
        "opentelemetry": meter.rows,
    }


def _metrics_page() -> Iterator[str]:
    yield "# Metrics\n"
    yield "The metrics of each observer, from the code. Counters of Prometheus get the suffix `_total`.\n"
    for observer, rows in metrics().items():
        yield f"## Observer `{observer}`\n"
        yield "| metric | kind | labels | |\n|---|---|---|---|"
        for row in rows:
            labels = ", ".join(f"`{label}`" for label in row.labels) or "those of the conventions"
            yield f"| `{row.name}` | {row.kind} | {labels} | {row.help} |"
        yield ""
