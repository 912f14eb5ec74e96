from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import pytest

import promenade_bus_middleware
from bus_core import BuildContext, ChainRule, Factory, InvalidPlugin, Middleware, hookimpl, load_config
from bus_core.plugins import chain_warnings, discover

pytestmark = pytest.mark.once


@attrs.frozen
class Options: ...


def _build(_options: Options, _context: BuildContext) -> Middleware:
    return lambda handler: handler


class Tenant:
    """A plugin of somebody else, whose middleware takes part in the rules."""

    @hookimpl
    def promenade_bus_middleware(self) -> Mapping[str, Factory[Any, Middleware]]:
        rule = ChainRule(other="logs", never="outside", because="the tenant is not logged")
        return {
            "tenant": Factory(Options, _build, rules=(rule,)),
            "sieve": Factory(Options, _build, does=frozenset({"skips"})),
        }


def warnings_of(consume: list[Any], publish: list[Any] | None = None) -> list[str]:
    chains = {"consume": consume, "publish": publish or []}
    config = load_config({"bus": {"adapter": "memory", "middleware": chains}})
    plugins = discover(extra=[promenade_bus_middleware, Tenant()], installed=False)
    return chain_warnings(config, plugins)


RATE = {"rate-limit": {"rate": 1}}
TIMEOUT = {"timeout": {"seconds": 1}}
VALIDATE = {"validate": {"validator": "shop.rules:check"}}


def test_the_recommended_order() -> None:
    """The order that the page about middleware recommends has no warning, with validate in its place."""
    limits = ["expiry", "idempotency", VALIDATE, "circuit-breaker", RATE, TIMEOUT]
    publish = ["correlation", "redact", VALIDATE, "logging", "expiry", TIMEOUT]
    assert warnings_of(["correlation", "redact", "logging", *limits], publish) == []


def test_validate_and_redact() -> None:
    """In the publish chain values are masked before they are checked, and always before they are logged."""
    (warning,) = warnings_of([], [VALIDATE, "redact"])
    assert warning.startswith("'redact' must not be inside of 'validate': what it checks is not what is ")
    assert warnings_of([VALIDATE, "redact"]) == []
    (warning,) = warnings_of(["logging", "redact"])
    assert warning.startswith("'logging' must not be outside of 'redact': ")
    (warning,) = warnings_of([RATE, VALIDATE])
    assert warning.startswith("'validate' must not be inside of 'rate-limit': ")


@pytest.mark.parametrize(
    ("outside", "inside"),
    [
        (TIMEOUT, "logging"),
        (TIMEOUT, "idempotency"),
        (TIMEOUT, "circuit-breaker"),
        (TIMEOUT, RATE),
        ("idempotency", "logging"),
        (RATE, "logging"),
        ("circuit-breaker", "logging"),
        ("idempotency", "expiry"),
        ("circuit-breaker", "idempotency"),
        ("circuit-breaker", "expiry"),
        (RATE, "idempotency"),
        (RATE, "expiry"),
        (RATE, "circuit-breaker"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_orders_that_defeat_a_member(outside: Any, inside: Any) -> None:
    """In one order of the two there is one warning, which names both; in the other order there is none."""
    (warning,) = warnings_of([outside, inside])
    for member in (outside, inside):
        assert repr(member if isinstance(member, str) else next(iter(member))) in warning
    assert "; list '" in warning
    assert " @ $.bus.middleware.consume[" in warning
    assert warnings_of([inside, outside]) == []


def test_a_chain_without_its_counterpart() -> None:
    """Correlation in one chain only is told, with the chain that lacks it."""
    (warning,) = warnings_of(["correlation"])
    assert warning == (
        "'correlation' needs 'correlation' in the chain 'publish', too: one chain reads the ids, and the "
        "other one writes them @ $.bus.middleware.consume[0]"
    )
    assert len(warnings_of([], ["correlation"])) == 1


def test_middleware_of_others_takes_part() -> None:
    """Rules and words of any plugin count: who is named by a word need not be known."""
    assert warnings_of(["logging", "tenant"]) == [
        "'logging' must not be outside of 'tenant': the tenant is not logged; list 'logging' after "
        "'tenant' @ $.bus.middleware.consume[0]"
    ]
    (warning,) = warnings_of([RATE, "sieve"])
    assert warning.startswith(
        "'sieve' must not be inside of 'rate-limit': events that it skips use up tokens; "
    )
    assert warnings_of(["nobody", "tenant"]) == []


@pytest.mark.parametrize(
    "wrong", [{"chains": ("both",)}, {"chains": ()}, {"rules": ("timeout",)}, {"stores": ("x",)}]
)
def test_a_factory_that_is_wrong(wrong: dict[str, Any]) -> None:
    """Chains, rules and stores that are none make the plugin invalid."""

    class Wrong:
        @hookimpl
        def promenade_bus_middleware(self) -> Mapping[str, Factory[Any, Middleware]]:
            return {"wrong": Factory(Options, _build, **wrong)}

    with pytest.raises(InvalidPlugin, match="offers 'wrong' with"):
        discover(extra=[Wrong()], installed=False)
