"""Of histories themselves: how they are made, shrunk, and what their model knows."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from chaos.histories.acting import Acting
from chaos.histories.making import make, suits_memory
from chaos.histories.model import Model, matches
from chaos.histories.shrinking import shrink
from chaos.histories.steps import History


def test_a_seed_makes_the_same_history(tmp_path: Path) -> None:
    """A history is the same each time, and survives being written down."""
    made = make(7)
    assert made == make(7) != make(8)
    made.write(tmp_path / "history.json")
    assert History.read(tmp_path / "history.json") == made
    assert f"deploy(label={made.steps[0].facts['label']!r}" in "\n".join(made.lines())


def test_everything_happens() -> None:
    """Each thing that can be carried out is in some history, and nothing else is."""
    made = {step.do for seed in range(100) for step in make(seed).steps}
    known = {name[1:] for name in vars(Acting) if name.startswith("_") and not name.startswith("__")}
    assert made <= known
    assert len(made) >= 20


def test_what_suits_memory() -> None:
    """In memory nothing is killed, filled or trimmed, and other things happen."""
    steps = [step.do for seed in range(50) for step in suits_memory(make(seed)).steps]
    assert {"publish", "deploy", "redrive", "unsubscribe"} <= {*steps}
    assert not {"kill", "trim", "fill"} & {*steps}


def test_shrinking() -> None:
    """Of a history that fails what it takes to fail is left."""
    needed = [make(3).steps[2], make(3).steps[11]]

    async def fails(tried: History) -> bool:
        return all(step in tried.steps for step in needed)

    smallest = asyncio.run(shrink(make(3), fails, seconds=10.0, times=1))
    assert [*smallest.steps] == needed


# --- the model --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("shop.order.*", "shop.order.placed", True),
        ("shop.order.*", "shop.order", False),
        ("shop.#", "shop.order.placed", True),
        ("*.*.*", "crm.deal.won", True),
        ("crm.deal.won", "crm.deal.lost", False),
    ],
)
def test_patterns(pattern: str, topic: str, expected: bool) -> None:
    """The model has patterns of its own."""
    assert matches(pattern, topic) is expected


def test_what_is_due() -> None:
    """A group is due what is published after it is known, until it is forgotten."""
    model = Model()
    model.published("1", "shop.order.placed", 0, "", model.due("shop.order.placed"), doubtful=False)
    model.declared("billing.mail", "shop.order.*")
    model.published("2", "shop.order.placed", 0, "", model.due("shop.order.placed"), doubtful=False)
    model.published("3", "shop.order.placed", 0, "", model.due("shop.order.placed"), doubtful=True)
    assert [(group, sent.event_id) for group, sent in model.must_get()] == [("billing.mail", "2")]
    model.forgotten("billing.mail", "shop.order.*", ["shop.order.placed"])
    assert [*model.must_get()] == []
    assert model.due("shop.order.placed") == set()
