"""``promenade-bus explain``: subscriptions, topics, middleware and retry policies with their origins."""

from __future__ import annotations

from typing import Any

import attrs
import click

from bus_core import BusConfig, RetryPolicy, Subscription, TopicPattern
from bus_core.config import PluginChoice, format_duration, join_path, render_settings
from bus_core.errors import PluginError
from bus_core.events import is_pattern
from bus_core.plugins import NamedRegistry, chain_warnings
from promenade_bus_cli.apps import App, run_with_app
from promenade_bus_cli.contracts import class_name, fields_of
from promenade_bus_cli.effective import effective_options
from promenade_bus_cli.failures import REFUSED, CommandFailed
from promenade_bus_cli.options import app_option, config_option, debug_option, json_option
from promenade_bus_cli.output import clean, counted, print_json
from promenade_bus_cli.worker import handler_name

__all__ = ["explain"]


@click.command()
@click.argument("topic", required=False)
@app_option
@config_option
@json_option
@debug_option
def explain(topic: str | None, app: str | None, config: str | None, as_json: bool) -> None:
    """Explain what happens to the events of TOPIC (a name or a pattern), or of every topic.

    With --app: shows each subscription with its topics, its middleware in order, its retry policy, and the
    distribution of each part. Without --app: shows the configuration and the installed catalogues. Both warn
    about middleware that others in its chain defeat. Starts nothing.
    """

    async def explained(app: App) -> dict[str, Any]:
        return _Explanation(app).of(topic)

    found = run_with_app(app, config, explained)
    if as_json:
        print_json(found)
    else:
        _print(found)


class _Explanation:
    """Describes a bus that is not started, and the parts that it was built from."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._bus = app.bus
        self._plugins = app.bus.parts.plugins
        self._config: BusConfig = app.bus.config

    def of(self, topic: str | None) -> dict[str, Any]:
        names = self._selected(topic)
        subscriptions = self._bus.subscriptions
        return {
            "service": self._bus.service,
            "config": self._config.source,
            "adapter": {
                **self._part("adapter", self._plugins.adapters, self._config.adapter_choice()),
                "remedy": self._bus.adapter.features.remedy,
            },
            "serializer": self._part("serializer", self._plugins.serializers, self._config.serializer),
            "publish_middleware": self._middleware(self._config.middleware.publish),
            "consume_middleware": self._middleware(self._config.middleware.consume),
            "chain_warnings": chain_warnings(self._config, self._plugins),
            "health_probes": [
                self._part("health probe", self._plugins.health_probes, choice)
                for choice in self._config.health.probes
            ],
            "observers": [
                self._part("observer", self._plugins.observers, choice) for choice in self._config.observers
            ],
            "worker_pool_size": self._config.worker_pool_size,
            "buffer_size": self._config.buffer_size,
            "subscriptions_known": self._app.has_handlers,
            "topics": [self._topic(name, subscriptions) for name in names],
            "subscriptions": [
                self._subscription(item, names)
                for item in subscriptions
                if topic is None or _covered(item.topic, names)
            ],
        }

    def _selected(self, topic: str | None) -> list[str]:
        known = [*self._bus.topics]
        if topic is None:
            return known
        if not is_pattern(topic):
            self._bus.parts.registry.find(topic)
            return [topic]
        pattern = TopicPattern(topic)
        names = [name for name in known if pattern.matches(name)]
        if not names:
            raise CommandFailed(f"no known topic matches {topic!r}; see 'promenade-bus topics'", REFUSED)
        return names

    # --- parts ---

    def _part(self, kind: str, registry: NamedRegistry[Any], choice: PluginChoice) -> dict[str, Any]:
        try:
            origin = registry.select(choice.name).origin
        except PluginError:
            origin = "given in code"
        options = effective_options(registry, choice)
        return {"kind": kind, "name": choice.name, "origin": origin, "options": options, "path": choice.path}

    def _middleware(self, choices: tuple[PluginChoice, ...]) -> list[dict[str, Any]]:
        return [self._part("middleware", self._plugins.middleware, choice) for choice in choices]

    def _topic(self, name: str, subscriptions: tuple[Subscription, ...]) -> dict[str, Any]:
        topic = self._bus.parts.registry.find(name)
        return {
            "topic": name,
            "event": class_name(topic.event_class),
            "deprecated": topic.deprecated,
            "deprecated_fields": {
                fact.name: fact.deprecated
                for fact in fields_of(topic.event_class)
                if fact.deprecated is not None
            },
            "origin": self._bus.parts.registry.origin(name) or "not declared (strict_topics is false)",
            "retry": self._configured_retry(name),
            "subscriptions": [item.name for item in subscriptions if TopicPattern(item.topic).matches(name)],
        }

    def _subscription(self, subscription: Subscription, names: list[str]) -> dict[str, Any]:
        names = _covered(subscription.topic, names)
        return {
            "subscription": subscription.name,
            "group": subscription.group,
            "topic": subscription.topic,
            "topics": names,
            "handler": handler_name(subscription),
            "mode": subscription.mode,
            "ordered": subscription.ordered,
            "concurrency": subscription.concurrency,
            "timeout": subscription.timeout,
            "give_up_on": [error.__qualname__ for error in subscription.give_up_on],
            "start": subscription.start,
            "retry": self._retries(subscription, names),
        }

    # --- retry policies ---

    def _retries(self, subscription: Subscription, names: list[str]) -> list[dict[str, Any]]:
        """Returns the retry policies of a subscription, each with its topics."""
        found: list[dict[str, Any]] = []
        for name in names:
            policy = subscription.retry_for(name)
            own = policy is not self._bus.parts.policy_for(name)
            retry = _given_retry(policy) if own else self._configured_retry(name)
            same = next((other for other in found if other["retry"] == retry), None)
            if same is None:
                found.append({"retry": retry, "topics": [name]})
            else:
                same["topics"].append(name)
        return found

    def _configured_retry(self, topic: str) -> dict[str, Any]:
        choice = self._config.retry_for(topic)
        part = self._part("retry policy", self._plugins.retry_policies, choice)
        sources = {name: _source(choice, name) for name in part["options"]}
        return {**part, "sources": sources}


def _covered(topic: str, names: list[str]) -> list[str]:
    pattern = TopicPattern(topic)
    return [name for name in names if pattern.matches(name)]


def _source(choice: PluginChoice, option: str) -> str:
    """Returns the place in the configuration that sets an option."""
    if option not in choice.options:
        return "default"
    path = join_path(choice.path, option)
    return choice.moved.get(path, path)


def _given_retry(policy: RetryPolicy) -> dict[str, Any]:
    cls = type(policy)
    return {
        "kind": "retry policy",
        "name": cls.__qualname__,
        "origin": "the subscribing code",
        "options": render_settings(policy) if attrs.has(cls) else {},
        "path": None,
        "sources": {},
    }


# --- for people -------------------------------------------------------------------------------------------


def _print(found: dict[str, Any]) -> None:
    click.echo(f"service     {found['service']}, configured by {found['config']}")
    click.echo(f"adapter     {_part_line(found['adapter'])}")
    if found["adapter"]["remedy"]:
        click.echo(f"            {found['adapter']['remedy']}")
    click.echo(f"serializer  {_part_line(found['serializer'])}")
    click.echo(
        f"workers     {counted(found['worker_pool_size'], 'handler')} at once, "
        f"queue of {counted(found['buffer_size'], 'event')}"
    )
    _print_chain("publish middleware", found["publish_middleware"], "none")
    _print_chain("consume middleware", found["consume_middleware"], "none")
    if found["chain_warnings"]:
        click.echo("warnings about the order of middleware:")
        for warning in found["chain_warnings"]:
            click.echo(f"  - {warning}")
    _print_chain("health probes", found["health_probes"], "none")
    _print_chain("observers", found["observers"], "none")
    click.echo()
    for subscription in found["subscriptions"]:
        _print_subscription(subscription, found["consume_middleware"])
    if not found["subscriptions_known"]:
        click.echo("subscriptions are made by an application: pass --app MODULE:ATTR to see them\n")
    elif not found["subscriptions"]:
        click.echo("no subscription matches any of these topics\n")
    for topic in found["topics"]:
        _print_topic(topic, subscriptions_known=found["subscriptions_known"])


def _part_line(part: dict[str, Any]) -> str:
    options = ", ".join(f"{key}={value}" for key, value in part["options"].items() if value is not None)
    return f"{part['name']}{f' ({options})' if options else ''}, from {part['origin']}"


def _print_chain(title: str, parts: list[dict[str, Any]], otherwise: str) -> None:
    click.echo(f"{title}:" if parts else f"{title}: {otherwise}")
    for number, part in enumerate(parts, 1):
        click.echo(f"  {number}. {_part_line(part)}")


def _print_subscription(found: dict[str, Any], middleware: list[dict[str, Any]]) -> None:
    click.secho(f"{found['subscription']}", bold=True)
    click.echo(f"  receives    {found['topic']}{_count_of(found)}")
    chain = " -> ".join([*(part["name"] for part in middleware), found["handler"]])
    click.echo(f"  calls       {chain}")
    how = [f"{found['mode']} {found['group']}" if found["mode"] == "group" else "broadcast: every instance"]
    if found["ordered"]:
        how.append("ordered by key")
    if found["concurrency"] is not None:
        how.append(f"at most {found['concurrency']} at once")
    if found["timeout"] is not None:
        how.append(f"each attempt within {format_duration(found['timeout'])}")
    if found["give_up_on"]:
        how.append(f"never retries {', '.join(found['give_up_on'])}")
    click.echo(f"  mode        {', '.join(how)}")
    for entry in found["retry"]:
        which = "" if len(found["retry"]) == 1 else f" for {_shortened(entry['topics'])}"
        click.echo(f"  retry       {_retry_line(entry['retry'])}{which}")
    click.echo()


def _count_of(found: dict[str, Any]) -> str:
    return f" ({counted(len(found['topics']), 'topic')})" if is_pattern(found["topic"]) else ""


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _retry_line(retry: dict[str, Any]) -> str:
    set_by = sorted({path for path in retry["sources"].values() if path != "default"})
    where = f", set by {', '.join(set_by)}" if set_by else ", by default" if retry["path"] else ""
    options = ", ".join(f"{key}={value}" for key, value in retry["options"].items())
    return f"{retry['name']}{f' ({options})' if options else ''}{where}, from {retry['origin']}"


def _print_topic(topic: dict[str, Any], *, subscriptions_known: bool) -> None:
    click.secho(topic["topic"], bold=True)
    origin = topic["origin"]
    click.echo(
        f"  carries     {topic['event']}, {origin if origin == 'declared in code' else f'from {origin}'}"
    )
    if topic["deprecated"] is not None:
        click.echo(f"  deprecated  {clean(topic['deprecated'])}")
    for name, advice in topic["deprecated_fields"].items():
        click.echo(f"  field       {clean(f'{name} is deprecated: {advice}')}")
    if subscriptions_known:
        click.echo(f"  goes to     {', '.join(topic['subscriptions']) or 'no subscription'}")
    else:
        click.echo(f"  retry       {_retry_line(topic['retry'])}")
