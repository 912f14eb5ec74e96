"""``promenade-bus tail``: follows the events of a topic or a pattern, without taking them from anybody."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import click

from bus_core import Bus, Consumer, Outcome, Received, SubscriptionSpec, TopicPattern
from promenade_bus_cli.apps import App, run_with_app
from promenade_bus_cli.failures import INTERRUPTED, CommandFailed
from promenade_bus_cli.options import app_option, config_option, debug_option, json_option
from promenade_bus_cli.output import clean, json_line, print_json_line, remark
from promenade_bus_cli.showing import shown_event
from promenade_bus_cli.signals import Signals

__all__ = ["tail"]

_AT_ONCE = 100


@click.command()
@click.argument("topic", metavar="TOPIC|PATTERN")
@click.option("--limit", type=click.IntRange(min=1), help="End after so many events.")
@click.option("--show-data", is_flag=True, help="Show bodies as they are, with all personal data.")
@app_option
@config_option
@json_option
@debug_option
@click.pass_context
def tail(
    ctx: click.Context,
    topic: str,
    limit: int | None,
    show_data: bool,
    app: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """Follow the events of a topic or a pattern, from now on.

    It reads along and takes no event from any subscription; it handles none. Values that are marked as
    personal are hidden. Events whose class is not installed are withheld. --json prints one JSON document
    per line. Ctrl-C ends it, with status 130.
    """
    TopicPattern(topic)
    signals = Signals()

    async def followed(opened: App) -> None:
        await _Tail(opened.bus, topic, limit, show_data=show_data, as_json=as_json).run(signals)

    run_with_app(app, config, followed, signals)
    if signals.first is not None:
        ctx.exit(INTERRUPTED)


class _Tail:
    """One run of the command: a broadcast consumer of its own, without the engine of a bus."""

    def __init__(self, bus: Bus, topic: str, limit: int | None, *, show_data: bool, as_json: bool) -> None:
        self._bus = bus
        self._topic = topic
        self._left = limit
        self._show_data = show_data
        self._as_json = as_json
        self._is_over = False

    async def run(self, signals: Signals) -> None:
        adapter: Any = self._bus.adapter
        if adapter.features.in_process:
            raise CommandFailed(
                f"tail cannot read along: the adapter {adapter.name!r} keeps its events inside of one process"
            )
        if not adapter.features.broadcast:
            raise CommandFailed(f"tail cannot read along: the adapter {adapter.name!r} cannot broadcast")
        await adapter.start()
        try:
            name = f"tail-{os.getpid()}"
            group = f"{self._bus.service}.{name}"
            spec = SubscriptionSpec(name=name, group=group, topic=self._topic, mode="broadcast")
            consumer: Consumer = await adapter.open_consumer(spec)
            try:
                await self._follow(consumer, signals)
            finally:
                await consumer.close()
        finally:
            await adapter.close()

    async def _follow(self, consumer: Consumer, signals: Signals) -> None:
        def stop() -> None:
            self._is_over = True
            consumer.stop()

        signals.take_over(stop, "ending")
        remark(f"following {self._topic} on {self._bus.adapter.name!r}; Ctrl-C ends it")
        while not self._is_over:
            received = await consumer.receive(min(self._left or _AT_ONCE, _AT_ONCE))
            self._print(received)
            await consumer.settle([Outcome("ack", each.receipt) for each in received])

    def _print(self, received: Sequence[Received]) -> None:
        for each in received:
            if self._as_json:
                print_json_line(self._as_data(each))
            else:
                click.echo(self._line(each))
        if self._left is not None:
            self._left -= len(received)
            self._is_over = self._is_over or self._left <= 0

    def _as_data(self, received: Received) -> dict[str, Any]:
        message = received.message
        told: dict[str, Any] = {
            "topic": message.topic,
            "event_id": message.id,
            "key": message.key,
            "published_at": received.published_at.isoformat(),
            "headers": dict(message.headers),
        }
        if self._show_data:
            return {**told, "body": message.body.decode(errors="backslashreplace")}
        if received.fault is not None:
            return {**told, "withheld": received.fault}
        return {**told, **shown_event(self._bus, message)}

    def _line(self, received: Received) -> str:
        told = self._as_data(received)
        if "body" in told:
            shown = told["body"]
        elif "event" in told:
            shown = json_line(told["event"]["data"])
        else:
            shown = f"withheld: {told['withheld']}"
        return clean(f"{told['published_at']}  {told['topic']}  {told['event_id']}  {shown}")
