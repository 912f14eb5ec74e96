"""The diagrams of docs/diagrams, drawn from the tables of the code.

- ``rooms``: the table of rooms that tests/project/test_architecture.py checks.
- ``event``: the steps of an event; each names a part of the code, which must exist.
- ``outcomes``: the answers of ``decide`` for each way in which a handler can end.
- ``states``: the stages of a bus, and the calls that each of them allows.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from bus_core import BusError, FixedRetry, PermanentError, Postpone, RetryLater
from bus_core.bus.lifecycle import Lifecycle, Stage
from bus_core.dispatch.failure_decisions import decide, decide_undecoded
from promenade_site.drawing import Box, Drawing

__all__ = ["DIAGRAMS", "event", "outcomes", "rooms", "rooms_table", "states"]

ROOT = Path(__file__).resolve().parents[2]


# --- rooms ------------------------------------------------------------------------------------------------


def rooms_table() -> Mapping[str, set[str]]:
    """The rooms of the core, each with the rooms that it may import."""
    text = (ROOT / "tests" / "project" / "test_architecture.py").read_text(encoding="utf-8")
    for node in ast.parse(text).body:
        if isinstance(node, ast.AnnAssign) and node.value and ast.unparse(node.target) == "ROOMS":
            table = ast.literal_eval(ast.unparse(node.value).replace("set()", "()"))["bus_core"]
            return {room: set(others) for room, others in table.items() if not room.startswith("__")}
    raise LookupError("tests/project/test_architecture.py has no table ROOMS")


def _direct(table: Mapping[str, set[str]]) -> Mapping[str, set[str]]:
    """Without the imports that another import implies."""

    def reach(room: str) -> set[str]:
        return {room}.union(*(reach(other) for other in table[room]))

    return {
        room: {
            other
            for other in others
            if not any(other in reach(between) for between in others if between != other)
        }
        for room, others in table.items()
    }


def rooms() -> str:
    """The rooms of the core in layers; an arrow is an import, and leads down."""
    table = rooms_table()

    def level(room: str) -> int:
        return 1 + max((level(other) for other in table[room]), default=-1)

    layers: dict[int, list[str]] = {}
    for room in table:
        layers.setdefault(level(room), []).append(room)
    width, gap, high = 130, 30, 74
    widest = max(len(layer) for layer in layers.values())
    drawing = Drawing(
        40 + widest * (width + gap), 30 + high * len(layers), "The rooms of the core and their imports"
    )
    boxes: dict[str, Box] = {}
    for number, layer in sorted(layers.items()):
        start = (drawing.width - len(layer) * (width + gap) + gap) / 2
        y = drawing.height - high * (number + 1)
        for place, room in enumerate(layer):
            boxes[room] = drawing.box(start + place * (width + gap), y, width, room, strong=room == "bus")
    for room, others in _direct(table).items():
        for other in sorted(others):
            drawing.down(boxes[room], boxes[other])
    return drawing.svg()


# --- the way of an event ----------------------------------------------------------------------------------

PUBLISHING = [
    ("check bus, topic and class", "bus.publishing:PublishPipeline.publish"),
    ("publish middleware", "bus.publishing:PublishPipeline.middleware_of"),
]
IN_PROCESS = [
    ("route to the lanes", "transport.routes:Route.deliver"),
]
REMOTE = [
    ("encode", "dispatch.codec:Codec.encode"),
    ("batch of all publishes", "transport.publisher:Publisher.publish"),
    ("Adapter.publish", "abc:Adapter.publish"),
    ("Consumer.receive", "abc:Consumer.receive"),
    ("pump of a subscription", "transport.pump:Pump.start"),
]
HANDLING = [
    ("queue of the engine", "dispatch.queue:Buffer.append"),
    ("worker", "dispatch.worker_pool:Worker"),
    ("decode, where, middleware, handler", "dispatch.invocation:Invocation"),
]
ENDS = [
    ("settle", "dispatch.jobs:Settler.acknowledge"),
    ("decide", "dispatch.failure_decisions:decide"),
    ("retry later", "dispatch.retries:RetryScheduler.attempt_failed"),
]


def part_of_the_code(place: str) -> object:
    """The thing that a step names: ``module:name.name``, below ``bus_core``."""
    module, _, path = place.partition(":")
    found: object = import_module(f"bus_core.{module}")
    for name in path.split("."):
        found = getattr(found, name)
    return found


def event() -> str:
    """The way of an event from publish to settle, in the process and over a server."""
    drawing = Drawing(720, 750, "The way of an event from publish to settle")
    width, step = 300, 72

    def column(x: float, y: float, steps: list[tuple[str, str]], strong: str = "") -> list[Box]:
        boxes = []
        for number, (words, place) in enumerate(steps):
            part_of_the_code(place)
            small = [place.partition(":")[0].replace(".", "/") + ".py"]
            boxes.append(drawing.box(x, y + number * step, width, words, small, strong=words == strong))
        for above, below in pairwise(boxes):
            drawing.down(above, below)
        return boxes

    top = column(210, 20, PUBLISHING)
    local = column(20, 20 + 3.5 * step, IN_PROCESS)
    remote = column(400, 20 + 2 * step + 14, REMOTE)
    bottom = column(20, 20 + 6 * step + 10, HANDLING)
    ends = column(20, 20 + 9 * step + 20, ENDS[:1])
    decided = column(400, 20 + 8 * step + 10, ENDS[1:])
    drawing.text(local[0].middle + 10, local[0].y - 8, "in the process", kind="small")
    drawing.text(remote[0].middle + 10, remote[0].y - 6, "over a server or a file", kind="small")
    drawing.down(top[-1], local[0])
    drawing.down(top[-1], remote[0])
    drawing.down(local[-1], bottom[0])
    x, y = remote[-1].x, remote[-1].centre
    drawing.arrow(f"M{x:g} {y:g}C{x - 40:g} {y:g} {x - 40:g} {bottom[0].centre:g} 323 {bottom[0].centre:g}")
    drawing.down(bottom[-1], ends[0])
    drawing.text(bottom[-1].middle + 8, bottom[-1].y + bottom[-1].height + 20, "returned", kind="small")
    drawing.right(bottom[-1], decided[0])
    drawing.text(328, bottom[-1].centre - 8, "raised", kind="small")
    x, y = decided[-1].x, decided[-1].centre
    drawing.arrow(
        f"M{x:g} {y:g}C{x - 60:g} {y:g} {x - 60:g} {bottom[0].centre + 12:g} 323 {bottom[0].centre + 12:g}"
    )
    x, y = decided[0].x, decided[0].centre + 14
    drawing.arrow(f"M{x:g} {y:g}C{x - 36:g} {y:g} {x - 36:g} {ends[0].centre:g} 323 {ends[0].centre:g}")
    drawing.text(326, ends[0].centre + 24, "dead letter", kind="small")
    return drawing.svg()


# --- outcomes ---------------------------------------------------------------------------------------------


class _Broken:
    """A retry policy that fails."""

    def next_delay(self, attempt: int, error: BaseException) -> float | None:
        raise LookupError("no such policy")


def endings() -> list[tuple[str, str, str]]:
    """Each way in which a handler can end: the words, the action of the bus, and its reason or delay."""
    policy = FixedRetry(attempts=3, delay=1.0)
    decisions = [
        ("raises, attempts are left", decide(ValueError(), 1, policy)),
        ("raises RetryLater(after=30)", decide(RetryLater(after=30), 1, policy)),
        ("raises Postpone(after=30)", decide(Postpone(after=30), 1, policy)),
        ("raises at the last attempt", decide(ValueError(), 3, policy)),
        ("raises PermanentError", decide(PermanentError("no"), 1, policy)),
        ("raises a class of give_up_on", decide(KeyError(), 1, policy, (KeyError,))),
        ("raises, and the policy fails", decide(ValueError(), 1, cast(Any, _Broken()))),
        ("cannot be called: no decoding", decide_undecoded(ValueError(), 0.0, None)),
    ]
    rows = [("returns", "settle", "")]
    for words, decision in decisions:
        reason = re.sub(r" at .*", "", decision.reason)
        counted = {"retry": "counts as an attempt", "postpone": "does not count"}.get(decision.action, "")
        detail = f"after {decision.delay:g} s; {counted}" if counted else reason
        rows.append((words, decision.action.replace("_", " "), detail))
    return rows


def outcomes() -> str:
    """The outcome of each way in which a handler can end."""
    rows = endings()
    step = 46
    drawing = Drawing(900, 40 + step * len(rows), "The outcome of each way in which a handler can end")
    drawing.text(20, 26, "the handler", kind="small")
    drawing.text(350, 26, "the bus", kind="small")
    for number, (words, action, detail) in enumerate(rows):
        y = 38 + step * number
        left = drawing.box(20, y, 270, words)
        drawing.right(left, drawing.box(350, y, 130, action, strong=action in ("settle", "dead letter")))
        drawing.text(500, y + 20, detail, kind="small")
    return drawing.svg()


# --- states -----------------------------------------------------------------------------------------------

CALLS: Mapping[str, Callable[[Lifecycle], object]] = {
    "subscribe": lambda lifecycle: lifecycle.check_usable("subscribe"),
    "publish": lambda lifecycle: lifecycle.check_accepting(),
    "drain": lambda lifecycle: lifecycle.check_open("drain"),
}


def allowed(stage: Stage) -> Mapping[str, str]:
    """For each call: "yes", or the error that it raises in this stage, outside of handlers."""
    lifecycle = Lifecycle(cast(Any, object()))
    lifecycle.stage = stage
    found = {}
    for name, call in CALLS.items():
        try:
            call(lifecycle)
        except BusError as error:
            found[name] = type(error).__name__
        else:
            found[name] = "yes"
    return found


def states() -> str:
    """The stages of a bus, with the calls that each of them allows."""
    width, gap = 160, 30
    drawing = Drawing(
        40 + len(Stage) * (width + gap) - gap, 185, "The stages of a bus and the calls they allow"
    )
    boxes: dict[Stage, Box] = {}
    for number, stage in enumerate(Stage):
        x = 20 + number * (width + gap)
        boxes[stage] = drawing.box(x, 60, width, stage.value, strong=stage is Stage.OPEN)
        for row, (call, answer) in enumerate(allowed(stage).items()):
            drawing.text(x, 120 + 22 * row, f"{call}: {answer}", kind="small")
    order = list(Stage)
    for first, second in pairwise(order):
        drawing.right(boxes[first], boxes[second])
    new, starting = boxes[order[0]].middle, boxes[order[1]].middle
    drawing.arrow(f"M{starting:g} 60C{starting:g} 24 {new:g} 24 {new:g} 57")
    drawing.text((new + starting) / 2, 26, "the start fails", kind="small", anchor="middle")
    return drawing.svg()


DIAGRAMS: Mapping[str, Callable[[], str]] = {
    "rooms": rooms,
    "event": event,
    "outcomes": outcomes,
    "states": states,
}
