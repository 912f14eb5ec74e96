"""Golden events: one stored event of each version of a topic, which the code of today must read."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from bus_core import DeserializationError, Event
from bus_core.events import upcast
from bus_core.serialization import JsonSerializer
from promenade_bus_contracts.examples import Examples
from promenade_bus_contracts.published import Contract, PublishedTopic

__all__ = ["GoldenFault", "golden_faults", "golden_path", "keep_golden_events"]

_DIRECTORY: Final = "golden"
_NAME: Final = re.compile(r"(?P<topic>.+)\.v(?P<version>[1-9][0-9]*)\.json")
_serializer: Final = JsonSerializer()


@attrs.frozen
class GoldenFault:
    """A golden event that the code of today does not read as it should."""

    topic: str
    version: int
    text: str

    def as_data(self) -> dict[str, Any]:
        """Returns the fault as plain data for programs."""
        return attrs.asdict(self)

    def __str__(self) -> str:
        return f"{self.topic}: the golden event of version {self.version} {self.text}"


def golden_path(directory: Path, topic: str, version: int) -> Path:
    """Returns the path of the golden event of a version."""
    return directory / _DIRECTORY / f"{topic}.v{version}.json"


def keep_golden_events(
    directory: Path, contract: Contract, examples: Examples
) -> tuple[list[Path], list[PublishedTopic]]:
    """Writes a golden event of the current version of each topic, if there is none yet.

    Never replaces one: a stored event does not change either. Returns the paths that were written, and the
    topics without an example.
    """
    written: list[Path] = []
    missing: list[PublishedTopic] = []
    for name, topic in contract.topics.items():
        path = golden_path(directory, name, topic.version)
        if path.exists() or not topic.is_typed:
            continue
        example = examples.of(topic)
        if example is None:
            missing.append(topic)
            continue
        body = _serializer.encode(example, topic=name, source=contract.context)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(json.loads(body), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        written.append(path)
    return written, missing


def golden_faults(directory: Path, contract: Contract) -> Iterator[GoldenFault]:
    """Reads each golden event of a contract with the code of today, through its upcasters."""
    for path in sorted((directory / _DIRECTORY).glob("*.json")):
        match = _NAME.fullmatch(path.name)
        topic = None if match is None else contract.topics.get(match["topic"])
        if match is None or topic is None or not topic.is_typed:
            continue
        text = _fault_of(path, topic)
        if text is not None:
            yield GoldenFault(topic.name, int(match["version"]), text)


def _fault_of(path: Path, topic: PublishedTopic) -> str | None:
    body = path.read_bytes()
    try:
        first = _serializer.decode(body, event_class=topic.event_class)
        second = _serializer.decode(body, event_class=topic.event_class)
    except DeserializationError as error:
        return f"cannot be read: {error}"
    if not _are_same(first, second):
        return "is read in two ways: an upcaster is not pure"
    document: Mapping[str, Any] = json.loads(body)
    data, version = document.get("data"), document.get("dataversion")
    if isinstance(data, dict) and isinstance(version, int):
        made = upcast(topic.event_class, copy.deepcopy(data), version)
        if made != upcast(topic.event_class, copy.deepcopy(data), version):
            return "is upcasted in two ways: an upcaster is not pure"
    return None


def _are_same(first: Event[Any], second: Event[Any]) -> bool:
    return first.to_dict() == second.to_dict()
