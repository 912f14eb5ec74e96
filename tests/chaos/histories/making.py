"""Makes a history from a seed: the same one on every machine."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from chaos.histories.model import matches
from chaos.histories.steps import TOPICS, History, Step

__all__ = ["make", "suits_memory"]

_PATTERNS = ("shop.order.*", "shop.#", "*.*.*", "crm.deal.*", "shop.payment.*")
_SERVICES = ("billing", "web", "web-1", "team@eu")
_NAMES = ("mail", "audit", "view")
_PLANS = ("", "", "", "fail:1", "fail", "later", "slow", "permanent")
_ODD_FIELDS: tuple[dict[str, str], ...] = (
    {"x": "y"},
    {"id": "", "body": ""},
    {"id": "no-uuid\n\x1b[31m", "body": "{"},
    {"body": "[" * 5000},
    {"id": "0190a0a0-0000-7000-8000-000000000000", "body": "null", "key": "\x00"},
)
_COMMANDS = ("EVALSHA", "XREADGROUP", "XACK", "FCALL", "XADD")

_ON_SERVERS_ONLY = frozenset(
    [
        *("kill", "stop", "freeze", "thaw", "trim", "delete", "destroy", "foreign", "forget"),
        *("fill", "empty", "lose", "find", "restart", "failover"),
        *("remember", "lessen", "clock"),
    ]
)

WishData = list[Any]


def make(seed: int, *, steps: int = 18) -> History:
    """The history of a seed."""
    return _Maker(random.Random(seed)).make(seed, steps)


def suits_memory(history: History) -> History:
    """The steps that can happen in memory, where events are handed over as they are."""
    return history.with_steps(
        [
            Step(step.do, {name: fact for name, fact in step.facts.items() if name != "version"})
            for step in history.steps
            if step.do not in _ON_SERVERS_ONLY
        ]
    )


class _Maker:
    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._steps: list[Step] = []
        self._codes: dict[str, list[WishData]] = {}
        self._versions: dict[str, int] = {}  # of the class of events, by services
        self._living: dict[str, str] = {}  # services by labels
        self._gone: set[str] = set()  # services that got another name
        self._labels = 0
        self._open: list[str] = []  # what ends a fault that lasts

    def make(self, seed: int, count: int) -> History:
        chance = self._chance
        persistent = chance.random() < 0.25
        self._deploy(self._pick(_SERVICES), self._code())
        kinds = self._kinds(persistent)
        while len(self._steps) < count:
            act = chance.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0]
            act()
        return History(
            seed=seed,
            lease=chance.choice((0.5, 0.8)),
            retry_delay=chance.choice((0.02, 1.0)),
            orphaned_after=chance.choice((1.5, 86_400.0)),
            persistent=persistent,
            steps=tuple(self._steps),
        )

    def _kinds(self, persistent: bool) -> list[tuple[Callable[[], None], float]]:
        kinds: list[tuple[Callable[[], None], float]] = [
            (self._publish, 7),
            (self._begin_service, 1.5),
            (self._change, 4),
            (self._one_more, 1),
            (self._end_one, 2.5),
            (self._freeze, 0.7),
            (self._unsubscribe, 0.8),
            (self._pause, 0.4),
            (self._wait, 2),
            (self._redrive, 1),
            (self._purge, 0.3),
            (self._forget, 0.6),
            (self._remove, 0.8),
            (self._destroy, 0.3),
            (self._foreign, 0.7),
            (self._fill, 0.4),
            (self._lose, 0.6),
            (self._step_clock, 0.5),
            (self._fail_over, 0.3),
        ]
        kinds.append((self._restart, 1) if persistent else (self._lessen, 0.4))
        return kinds

    # --- help ---------------------------------------------------------------------------------------------

    def _pick(self, choices: Any) -> Any:
        return self._chance.choice([*choices])

    def _add(self, do: str, **facts: Any) -> None:
        self._steps.append(Step(do, facts))

    def _topic(self) -> str:
        """One that somebody wants, mostly."""
        wanted = [wish[1] for code in self._codes.values() for wish in code]
        found = [topic for topic in TOPICS if any(matches(pattern, topic) for pattern in wanted)]
        return str(self._pick(found if found and self._chance.random() < 0.85 else TOPICS))

    def _wish(self) -> WishData:
        place = self._pick(_PATTERNS if self._chance.random() < 0.4 else TOPICS)
        return [self._pick(_NAMES), place, self._chance.random() < 0.35]

    def _code(self) -> list[WishData]:
        code: list[WishData] = []
        for _ in range(self._pick((1, 1, 2, 2, 3))):
            self._join(code, self._wish())
        return code

    def _join(self, code: list[WishData], wish: WishData) -> None:
        """A name does not repeat on topics that overlap; what has one name is ordered, or is not."""
        same = [other for other in code if other[0] == wish[0]]
        if any(_overlap(other[1], wish[1]) for other in same):
            return
        code.append([wish[0], wish[1], same[0][2] if same else wish[2]])

    def _deploy(self, service: str, code: list[WishData]) -> None:
        self._labels += 1
        label = f"{service.partition('@')[0]}-{self._labels}"
        self._codes[service] = code
        self._living[label] = service
        lease = self._pick((1, 1, 1, 0.6, 2))
        self._add(
            "deploy",
            label=label,
            service=service,
            code=code,
            lease=lease,
            version=self._versions.get(service, 1),
        )

    def _label(self) -> str | None:
        return self._pick(self._living) if self._living else None

    # --- services -----------------------------------------------------------------------------------------

    def _begin_service(self) -> None:
        service = self._pick(_SERVICES)
        if service not in self._codes:
            self._deploy(service, self._code())

    def _one_more(self) -> None:
        service = self._pick(self._codes)
        self._deploy(service, self._codes[service])

    def _change(self) -> None:
        """Other code, and the instances with the old one end, before or after it has begun."""
        service = self._pick(self._codes)
        old = [label for label, of in self._living.items() if of == service]
        code = [[*wish] for wish in self._codes[service]]
        index = self._chance.randrange(len(code))
        match self._pick(("name", "topic", "order", "drop", "add", "version", "all")):
            case "name":
                code[index][0] = self._pick(_NAMES)
            case "topic":
                code[index][1] = self._wish()[1]
            case "order":
                for wish in code:
                    if wish[0] == code[index][0]:
                        wish[2] = not code[index][2] if wish is not code[index] else wish[2]
                code[index][2] = not code[index][2]
            case "drop" if len(code) > 1:
                del code[index]
            case "add":
                code.append(self._wish())
            case "version":
                self._versions[service] = 3 - self._versions.get(service, 1)
            case _:
                code = self._code()
        sound: list[WishData] = []
        for wish in code:
            self._join(sound, wish)
        first = self._chance.random() < 0.4
        if first:
            self._end(old)
        elif self._chance.random() < 0.5:  # what the old code has in hand while the new one begins
            self._publish("slow")
        self._deploy(service, sound)
        if not first:
            if self._chance.random() < 0.5:
                self._publish()
            self._end(old)

    def _end(self, labels: list[str]) -> None:
        for label in labels:
            self._add(self._pick(("stop", "stop", "kill")), label=label)
            del self._living[label]

    def _end_one(self) -> None:
        if label := self._label():
            self._end([label])

    def _freeze(self) -> None:
        if label := self._label():
            self._add("freeze", label=label)
            if self._chance.random() < 0.5:
                self._publish()
            self._add("wait", leases=self._pick((0.5, 1.5, 3)))
            self._add("thaw", label=label)

    def _unsubscribe(self) -> None:
        if label := self._label():
            name = self._pick(self._codes[self._living[label]])[0]
            self._add("unsubscribe", label=label, name=name)
            if self._chance.random() < 0.5:
                self._add("subscribe_again", label=label, name=name)

    def _pause(self) -> None:
        if label := self._label():
            self._add("pause", label=label, name=self._pick(self._codes[self._living[label]])[0])

    def _wait(self) -> None:
        self._add("wait", leases=self._pick((0.3, 1, 2)))

    # --- publishers, operators, strangers -----------------------------------------------------------------

    def _publish(self, plan: str | None = None) -> None:
        plan = self._pick(_PLANS) if plan is None else plan
        version = self._pick((1, max(self._versions.values(), default=1)))
        self._add("publish", topic=self._topic(), count=self._pick((1, 4, 12)), plan=plan, version=version)

    def _redrive(self) -> None:
        self._add("redrive", topic=self._pick((None, self._topic())))

    def _purge(self) -> None:
        self._add("purge", topic=self._pick((None, self._topic())))

    def _forget(self) -> None:
        service = self._pick(self._codes)
        name, topic, _ = self._pick(self._codes[service] + [self._wish()])
        force = self._chance.random() < 0.5
        self._add("forget", group=f"{service}.{name}", topic=self._pick((None, topic)), force=force)

    def _remove(self) -> None:
        if self._chance.random() < 0.5:
            self._add("trim", topic=self._topic(), keep=self._pick((0, 1, 3)))
        else:
            self._add("delete", topic=self._topic(), which=round(self._chance.random(), 3))

    def _destroy(self) -> None:
        service = self._pick(self._codes)
        name = self._pick(self._codes[service])[0]
        self._add("destroy", topic=self._topic(), group=f"{service}.{name}")

    def _foreign(self) -> None:
        self._add("foreign", topic=self._topic(), fields=self._pick(_ODD_FIELDS))

    # --- servers ------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        self._add("fill", room=self._pick((-100_000, 0, 20_000)))
        self._pick((self._publish, self._change, self._end_one))()
        self._pick((self._publish, self._one_more, self._wait))()
        self._add("empty")

    def _lose(self) -> None:
        self._add("lose", share=self._pick((0.02, 0.05, 0.1)), commands=self._pick(([], [*_COMMANDS])))
        self._publish()
        self._pick((self._publish, self._change, self._end_one, self._wait))()
        self._add("find")

    def _lessen(self) -> None:
        if self._chance.random() < 0.8:
            self._add("remember")
            self._pick((self._publish, self._change, self._wait))()
            self._publish()
        self._add("lessen")

    def _step_clock(self) -> None:
        self._add("clock", ahead=self._pick((-3_600, -8, 120, 86_400 * 365)))

    def _fail_over(self) -> None:
        self._add("failover")

    def _restart(self) -> None:
        self._add("restart")


def _overlap(one: str, other: str) -> bool:
    """True when two patterns have a topic in common, among those that there are."""
    return any(matches(one, topic) and matches(other, topic) for topic in TOPICS)
