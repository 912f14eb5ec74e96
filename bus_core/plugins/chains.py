"""Finds middleware that others in its chains defeat, by the rules of their factories."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from bus_core.abc import ChainRule, Factory
from bus_core.config.bus_config import BusConfig
from bus_core.config.choices import PluginChoice
from bus_core.config.faults import Fault
from bus_core.errors import PluginError
from bus_core.plugins.registries import Plugins

__all__ = ["chain_warnings"]

Chain = Literal["consume", "publish"]

_Member = tuple[PluginChoice, Factory[Any, Any]]


def chain_warnings(config: BusConfig, plugins: Plugins) -> list[str]:
    """The middleware of a configuration that others in its chains defeat: who, why, and where.

    Each is a text ``<what> @ <path>``. Names that no plugin offers are passed over.
    """
    chains: dict[Chain, Sequence[_Member]] = {
        "consume": [*_members(config.middleware.consume, plugins)],
        "publish": [*_members(config.middleware.publish, plugins)],
    }
    return [
        *_warnings_of("consume", chains["consume"], chains["publish"]),
        *_warnings_of("publish", chains["publish"], chains["consume"]),
    ]


def _members(choices: Sequence[PluginChoice], plugins: Plugins) -> Iterator[_Member]:
    for choice in choices:
        try:
            yield choice, plugins.middleware.select(choice.name).value
        except PluginError:
            continue


def _warnings_of(chain: Chain, members: Sequence[_Member], others: Sequence[_Member]) -> Iterator[str]:
    for place, (choice, factory) in enumerate(members):
        rules = [rule for rule in factory.rules if rule.chain in (None, chain)]
        for rule in rules:
            if rule.never == "missing" and not any(_is_meant(rule, other) for other in others):
                where = "publish" if chain == "consume" else "consume"
                yield Fault(
                    f"{choice.name!r} needs {rule.other!r} in the chain {where!r}, too: {rule.because}",
                    choice.path,
                )
        for other_place, other in enumerate(members):
            side = "outside" if other_place < place else "inside"
            broken = [rule for rule in rules if rule.never == side and _is_meant(rule, other)]
            if other_place != place and broken:  # one reason is enough
                name = other[0].name
                moved = "after" if side == "outside" else "before"
                yield Fault(
                    f"{name!r} must not be {side} of {choice.name!r}: {broken[0].because}; "
                    f"list {name!r} {moved} {choice.name!r}",
                    other[0].path,
                )


def _is_meant(rule: ChainRule, member: _Member) -> bool:
    choice, factory = member
    return rule.other == choice.name or rule.other in factory.does
