"""Assertions of contract tests: no event lost, none twice, every key in order."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from promenade_bus_testing.contract.events import Happened

__all__ = ["account_of", "assert_in_order", "assert_once"]


def account_of(got: Iterable[int], expected: Iterable[int]) -> list[str]:
    """Returns the differences from ``expected``: lost, repeated, or unexpected numbers."""
    arrived, published = Counter(got), Counter(expected)
    wrong = {
        "lost": published - arrived,
        "delivered too often": Counter(
            {number: count for number, count in (arrived - published).items() if number in published}
        ),
        "delivered but never meant to be": Counter(
            {number: count for number, count in arrived.items() if number not in published}
        ),
    }
    return [
        f"{what}: {found.total()} of {published.total()} events, such as {sorted(found)[:10]}"
        for what, found in wrong.items()
        if found
    ]


def assert_once(got: Iterable[int], expected: Iterable[int], who: str = "the subscription") -> None:
    """Fails unless each expected number arrived exactly once, and no other."""
    wrong = account_of(got, expected)
    assert not wrong, f"{who}: " + "; ".join(wrong)


def assert_in_order(events: Sequence[Happened]) -> None:
    """Fails unless the numbers of each key only increase."""
    by_key: dict[object, list[int]] = defaultdict(list)
    for happened in events:
        by_key[happened.aggregate_id].append(happened.number)
    for key, numbers in by_key.items():
        assert numbers == sorted(numbers), f"the events of the key {key} came as {numbers}"
