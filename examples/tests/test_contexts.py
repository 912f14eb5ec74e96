"""The contexts of the example and the events that they get."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from bus_core import Event
from crm.app import Application, build, make_bus
from crm.customer import visible_name
from crm.customer.customers import customer_id, first_word
from crm.customer.reference import ReferenceData, UnknownCurrency
from crm.identity import MailGateway, Population
from crm.identity.welcome import GatewayUnavailable
from promenade_customer import CUSTOMER_CREATED, CustomerCreated, DealCreated, DealStage, DealStageChanged
from promenade_identity import USER_DELETED, USER_REGISTERED, UserDeleted, UserDeletionReason, UserRegistered
from promenade_shared import CurrencyCreated, CurrencyDeactivated, currency_id

pytestmark = pytest.mark.once

if TYPE_CHECKING:
    from promenade_bus_contracts.boundary_settings import Boundaries

CONFIG = {"bus": {"adapter": "memory", "retry_delay": "1ms"}}


def watched(app: Application, topic: str) -> list[Any]:
    """Everything that is published to the topics from now on."""
    seen: list[Any] = []

    async def note(event: Event) -> None:
        seen.append(event)

    app.bus.subscribe(topic, note, name="test.watch")
    return seen


def test_contexts_are_apart(context_boundaries: Boundaries) -> None:
    """No context imports the code of another one, or a private part of its contract."""
    assert [*context_boundaries.contexts] == ["audit", "customer", "identity", "shared"]


async def enrolled(app: Application, *, users: int, seed: int = 1) -> None:
    """Publishes the reference data, and lets people register."""
    await app.reference_data_publisher.publish_all()
    await app.bus.drain()
    for person in Population(seed=seed, size=users):
        await app.registration.enrol(person)
    await app.bus.drain()


def franc(**changes: Any) -> CurrencyCreated:
    fields: dict[str, Any] = {"code": "CHF", "numeric": "756", "name": "Swiss Franc", "minor_units": 2}
    return CurrencyCreated(aggregate_id=currency_id("CHF"), **{**fields, **changes})


async def test_a_currency_is_known_while_it_is_announced() -> None:
    """A currency can be used once `shared` has announced it, and no longer after it was withdrawn."""
    known = ReferenceData()
    with pytest.raises(UnknownCurrency, match="CHF"):
        known.minor_units("CHF")
    await known.learn(franc())
    assert known.minor_units("CHF") == 2
    await known.learn(CurrencyDeactivated(aggregate_id=currency_id("CHF"), code="CHF"))
    with pytest.raises(UnknownCurrency):
        known.minor_units("CHF")


async def test_what_has_no_minor_unit_cannot_be_paid_with() -> None:
    """Gold has an ISO 4217 code, but no deal is worth an amount of it."""
    known = ReferenceData()
    await known.learn(franc(code="XAU", numeric="959", name="Gold", minor_units=None))
    with pytest.raises(UnknownCurrency, match="XAU"):
        known.minor_units("XAU")


async def test_the_read_model_knows_what_was_published() -> None:
    """`customer` learns countries, languages and zones from events, and finds them by a language tag."""
    app = build(CONFIG)
    async with app.bus:
        await app.reference_data_publisher.publish_all()
        await app.bus.drain()
    known = app.reference_data
    assert known.country_of("de-CH") == "CH"
    assert known.country_of("tlh-QQ") is None
    assert known.language_of("de-CH") == "deu"
    assert known.language_of("haw-US") == "haw"
    assert known.timezone_of("CH") == "Europe/Zurich"
    assert known.countries["VN"] == "Vietnam"
    assert (known.minor_units("JPY"), known.minor_units("KWD")) == (0, 3)
    assert not {"XTS", "XXX"} & known.currencies.keys()
    assert "zxx" not in known.languages
    assert "Factory" not in known.timezones


@pytest.mark.usefixtures("short_tables")
async def test_customers_carry_reference_data() -> None:
    """A customer gets country, currency, language and time zone by what `customer` has learned."""
    app = build(CONFIG)
    created = watched(app, CUSTOMER_CREATED.name)
    async with app.bus:
        await enrolled(app, users=60)
    japanese: list[CustomerCreated] = [event for event in created if event.country == "JP"]
    assert japanese
    assert {(event.currency, event.language) for event in japanese} == {("JPY", "jpn")}


@pytest.mark.usefixtures("short_tables")
async def test_unknown_currencies_are_refused() -> None:
    """A wish for a currency that does not exist, or was withdrawn, ends in a deal in euros."""
    app = build(CONFIG)
    deals = watched(app, "customer.deal.created")
    async with app.bus:
        await enrolled(app, users=300)
    assert set(app.sales.refused_currencies) == {"XBT", "XTS", "BTC"}
    assert {deal.value.currency for deal in deals} <= app.reference_data.currencies.keys()


@pytest.mark.usefixtures("short_tables")
async def test_the_stages_of_a_deal_come_in_order() -> None:
    """Every deal moves through the stages one by one, and is won or lost exactly once."""
    app = build(CONFIG)
    events = watched(app, "customer.deal.*")
    async with app.bus:
        await enrolled(app, users=80)
    by_deal: dict[UUID, list[Event]] = {}
    for event in events:
        by_deal.setdefault(event.aggregate_id, []).append(event)
    assert len(by_deal) > 20
    for first, *moves, last in by_deal.values():
        assert isinstance(first, DealCreated)
        stages = [
            DealStage.PROSPECTING,
            *(move.to_stage for move in moves if isinstance(move, DealStageChanged)),
        ]
        assert stages == [*DealStage][: len(stages)]
        assert last.type in {"deal.won", "deal.lost"}
    assert app.pipeline.won + app.pipeline.lost == len(by_deal)


@pytest.mark.usefixtures("short_tables")
async def test_who_leaves_at_once_was_a_customer_before() -> None:
    """The events of one user are followed in their order, so that nobody leaves before they came."""
    app = build(CONFIG)
    seen = watched(app, "customer.customer.*")
    users = [uuid4() for _ in range(200)]
    async with app.bus:
        for user in users:
            await app.bus.publish(USER_REGISTERED, UserRegistered(aggregate_id=user, email="a@example.org"))
            left = UserDeleted(aggregate_id=user, reason=UserDeletionReason.ADMINISTRATIVE)
            await app.bus.publish(USER_DELETED, left)
        await app.bus.drain()
    for user in users:
        of_user = [event.type for event in seen if event.aggregate_id == customer_id(user)]
        assert of_user.index("customer.created") < of_user.index("customer.churned")


async def test_the_gateway_fails_for_a_while_only() -> None:
    """A mail that the gateway refuses goes through at the third try at the latest."""
    gateway = MailGateway(seed=1)
    needed: set[int] = set()
    for number in range(300):
        user = UUID(int=number)
        for attempt in (1, 2, 3):
            try:
                await gateway.send(user, "a@example.org", "Welcome")
            except GatewayUnavailable:
                continue
            needed.add(attempt)
            break
    assert needed == {1, 2, 3}
    assert gateway.sent == 300


def test_the_bug_and_its_fix() -> None:
    """The first version cannot address somebody whose name looks empty, the mended one can."""
    with pytest.raises(IndexError):
        first_word("\u200b")
    assert visible_name("\u200b") == "customer"
    assert visible_name("Ada Lovelace") == first_word("Ada Lovelace") == "Ada"


def test_the_application_can_be_opened_by_name() -> None:
    """`make_bus` gives a bus that is not started, with the subscriptions of every context."""
    bus = make_bus()
    assert sorted(subscription.name for subscription in bus.subscriptions) == [
        "audit.trail",
        "customer.accounts",
        "customer.master-data",
        "customer.pipeline",
        "customer.reference-data",
        "customer.sales",
        "identity.welcome-mail",
    ]


def test_the_configuration_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """`CRM_CONFIG` names another configuration than the one of the checkout."""
    config = tmp_path / "app.yaml"
    config.write_text("app: {name: elsewhere}\nbus: {adapter: memory}\n")
    monkeypatch.setenv("CRM_CONFIG", str(config))
    assert make_bus().service == "elsewhere"


async def test_the_journal_sees_attempts_that_fail() -> None:
    """An attempt that fails is written down as begun and not as handled."""
    app = build(CONFIG)
    event = UserRegistered(aggregate_id=uuid4(), email="a@example.org", display_name="\u200b")
    async with app.bus:
        await app.bus.publish(USER_REGISTERED, event)
        await app.bus.drain()
    entry = app.journal.handlers["customer.accounts"]
    assert entry.begun == {USER_REGISTERED.name: {event.event_id: 3}}
    assert entry.handled == {}
