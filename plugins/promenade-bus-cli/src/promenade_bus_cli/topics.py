"""``promenade-bus topics``: the declared topics with their event classes and fields."""

from __future__ import annotations

from typing import Any

import click

from bus_core import Topic, TopicPattern, load_config
from bus_core.errors import suggestion
from bus_core.events import event_version_of, nearest_names
from bus_core.plugins import Plugins, discover
from bus_core.serialization import schema_of
from promenade_bus_cli.contracts import FieldFacts, class_name, fields_of, summary_of
from promenade_bus_cli.failures import REFUSED, CommandFailed
from promenade_bus_cli.options import config_option, debug_option, json_option
from promenade_bus_cli.output import clean, print_json, print_table

__all__ = ["topics"]


@click.command()
@click.argument("pattern", required=False)
@click.option("-v", "--verbose", is_flag=True, help="Show types, personal marks and documentation.")
@config_option
@json_option
@debug_option
def topics(pattern: str | None, verbose: bool, config: str | None, as_json: bool) -> None:
    """List the topics of the installed catalogues.

    PATTERN selects topics: '*' matches one word, '#' matches any number of words.
    """
    known = known_topics(installed_plugins(config))
    names = selected_names(pattern, [*known])
    if as_json:
        print_json([_as_data(*known[name]) for name in names])
    elif not names:
        click.echo("no topics: no topic catalogue is installed, such as promenade-context-identity")
    elif verbose:
        for name in names:
            _print_details(*known[name])
    else:
        rows = [_row(*known[name]) for name in names]
        print_table(["topic", "event", "version", "fields", "from"], rows)


def installed_plugins(config: str | None) -> Plugins:
    """Returns the plugins that the configuration enables, or all without a configuration."""
    if config is None:
        return discover()
    chosen = load_config(config).plugins
    return discover(disable=chosen.disable, only=chosen.only)


def known_topics(plugins: Plugins) -> dict[str, tuple[Topic[Any], str]]:
    """Returns every topic with the distribution that declares it, by name."""
    found = {topic.name: (topic, origin) for catalogue, origin in plugins.catalogues for topic in catalogue}
    return dict(sorted(found.items()))


def selected_names(pattern: str | None, names: list[str]) -> list[str]:
    """Returns the names that match a pattern; fails when no name matches."""
    if pattern is None:
        return names
    chosen = TopicPattern(pattern)
    covered = [name for name in names if chosen.matches(name)]
    if names and not covered:
        raise CommandFailed(
            f"no known topic matches {pattern!r}{suggestion(nearest_names(pattern, names))}", REFUSED
        )
    return covered


def _row(topic: Topic[Any], origin: str) -> list[str]:
    names = [
        fact.name + ("" if fact.required else "?") + ("" if fact.deprecated is None else "(deprecated)")
        for fact in fields_of(topic.event_class)
    ]
    return [
        topic.name if topic.deprecated is None else f"{topic.name} (deprecated)",
        topic.event_class.__name__,
        str(event_version_of(topic.event_class)),
        " ".join(names),
        origin,
    ]


def _as_data(topic: Topic[Any], origin: str) -> dict[str, Any]:
    cls = topic.event_class
    return {
        "topic": topic.name,
        "event": class_name(cls),
        "type": cls.__event_type__,
        "version": event_version_of(cls),
        "description": summary_of(cls),
        "deprecated": topic.deprecated,
        "fields": [fact.as_data() for fact in fields_of(cls)],
        "schema": schema_of(cls),
        "origin": origin,
    }


def _print_details(topic: Topic[Any], origin: str) -> None:
    cls = topic.event_class
    click.secho(topic.name, bold=True)
    click.echo(f"  {class_name(cls)}, version {event_version_of(cls)}, from {origin}")
    if topic.deprecated is not None:
        click.echo(f"  deprecated: {clean(topic.deprecated)}")
    if summary := summary_of(cls):
        click.echo(f"  {clean(summary)}")
    facts = fields_of(cls)
    width = max((len(fact.name) for fact in facts), default=0)
    for fact in facts:
        click.echo(f"    {fact.name.ljust(width)}  {_details(fact)}")
    click.echo()


def _details(fact: FieldFacts) -> str:
    text = fact.type if fact.required else f"{fact.type} = {fact.default}"
    marks = "  [personal]" if fact.personal else ""
    if fact.deprecated is not None:
        marks += f"  [deprecated: {fact.deprecated}]"
    return clean(text + marks)
