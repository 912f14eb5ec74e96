"""Lock files: the state of a contract that subscribers rely on, in a form that diffs well.

A lock file is JSON with one line per key, sorted topics, and fields in the order of their class.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from promenade_bus_cli.failures import CommandFailed
from promenade_bus_contracts.published import Contract, PublishedTopic

__all__ = ["as_data", "lock_path", "locked_contexts", "read_lock", "write_lock"]

FORMAT: Final = 1
_SUFFIX: Final = ".lock.json"


def as_data(contract: Contract) -> dict[str, Any]:
    """Returns the content of a lock file."""
    return {
        "format": FORMAT,
        "context": contract.context,
        "owner": contract.owner,
        "topics": {name: _topic(topic) for name, topic in contract.topics.items()},
    }


def _topic(topic: PublishedTopic) -> dict[str, Any]:
    deprecated = {} if topic.topic.deprecated is None else {"deprecated": topic.topic.deprecated}
    return {
        "event": topic.event_class.__name__,
        "type": topic.type,
        "version": topic.version,
        **deprecated,
        "aggregate_id": topic.ids,
        "personal": topic.personal,
        "schema": topic.schema,
    }


def lock_path(directory: Path, context: str) -> Path:
    """Returns the path of the lock file of a context."""
    return directory / f"{context}{_SUFFIX}"


def locked_contexts(directory: Path) -> list[str]:
    """Returns the contexts that have a lock file."""
    return sorted(path.name.removesuffix(_SUFFIX) for path in directory.glob(f"*{_SUFFIX}"))


def write_lock(directory: Path, contract: Contract) -> bool:
    """Writes a lock file; returns False if it has this content already."""
    path = lock_path(directory, contract.context)
    text = json.dumps(as_data(contract), indent=2, ensure_ascii=False) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    directory.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return True


def read_lock(directory: Path, context: str) -> Mapping[str, Any] | None:
    """Returns the content of a lock file, or None if there is none; raises ``CommandFailed``."""
    path = lock_path(directory, context)
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CommandFailed(
            f"{path} cannot be read: {error}; restore it from the history of the repository"
        ) from error
    if not isinstance(found, dict) or not isinstance(found.get("topics"), dict):
        raise CommandFailed(f"{path} is not a lock file; restore it, or write it with 'contracts lock'")
    if found.get("format") != FORMAT:
        raise CommandFailed(
            f"{path} has format {found.get('format')!r}, and this version of promenade-bus-contracts "
            f"knows format {FORMAT}; install the version that wrote it"
        )
    return found
