"""Plugins that the configuration selects by name, with their raw options and paths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

import attrs

from bus_core.config.faults import Fault, join_path
from bus_core.config.secrets import mask_tree
from bus_core.config.settings import read_settings
from bus_core.config.values import Reader
from bus_core.config.variables import UNREADABLE, ExpandedMapping

__all__ = ["Name", "Names", "PluginChoice", "Retry", "TopicRetry", "read_choice", "read_names", "without"]

T = TypeVar("T")


@attrs.frozen
class PluginChoice:
    """A plugin that the configuration selects by name, with the raw options.

    ``path`` is the place of the options in the file. ``moved`` maps the paths of options that are elsewhere.
    """

    name: str
    options: Mapping[str, Any] = attrs.field(factory=dict, repr=lambda options: repr(mask_tree(options)))
    path: str = "$"
    moved: Mapping[str, str] = attrs.field(factory=dict, repr=False)

    def render(self) -> Any:
        """The choice as the file would have it, secrets masked."""
        return {self.name: mask_tree(self.options)} if self.options else self.name


def read_choice(options: type[T], choice: PluginChoice, faults: list[str]) -> T | None:
    """The typed options of a choice, or None and the faults with their paths."""
    found: list[str] = []
    result = read_settings(options, choice.options, choice.path, found)
    for fault in map(Fault.of, found):
        faults.append(Fault(fault.what, choice.moved.get(fault.path, fault.path)))
    return result


# --- readers of values with a syntax of their own ---------------------------------------------------------


def _read_name(value: Any, path: str, faults: list[str]) -> PluginChoice | None:
    """Reads ``name`` or ``{name: {options}}``."""
    if value is UNREADABLE:
        return None
    if isinstance(value, str) and value.strip():
        return PluginChoice(value, {}, path)
    if isinstance(value, Mapping):
        if len(value) != 1:
            keys = ", ".join(str(key) for key in value) or "none"
            faults.append(Fault(f"expected one name with its options, got {len(value)} keys: {keys}", path))
            return None
        (name, options), *_ = value.items()
        where = join_path(path, name)
        if not isinstance(name, str) or not name.strip():
            faults.append(Fault(f"expected a name, got {name!r}", path))
        elif options is None or isinstance(options, Mapping):
            return PluginChoice(name, {} if options is None else options, where)
        else:
            faults.append(Fault(f"the options of {name!r} must be a mapping", where))
        return None
    faults.append(Fault("expected a name, or a name with its options as in {json: {...}}", path))
    return None


def read_names(value: Any, path: str, faults: list[str]) -> tuple[PluginChoice, ...]:
    """Reads a list with items ``name`` or ``{name: {options}}``."""
    if not isinstance(value, list | tuple):
        faults.append(Fault("expected a list of names", path))
        return ()
    choices = [_read_name(item, f"{path}[{index}]", faults) for index, item in enumerate(value)]
    return tuple(choice for choice in choices if choice is not None)


def _read_retry(
    value: Any, path: str, faults: list[str], default: str = "exponential"
) -> PluginChoice | None:
    """Reads ``{policy: name, <options>}``, where the policy may be left out."""
    if isinstance(value, PluginChoice):
        return value
    if not isinstance(value, Mapping):
        faults.append(Fault("expected a mapping such as {policy: exponential, attempts: 5}", path))
        return None
    policy = value.get("policy", default)
    if policy is UNREADABLE:
        return None
    if not isinstance(policy, str) or ("policy" in value and not policy.strip()):
        faults.append(Fault("expected the name of a retry policy", join_path(path, "policy")))
        return None
    return PluginChoice(policy, without(value, "policy"), path)


def _read_topic_retry(value: Any, path: str, faults: list[str]) -> PluginChoice | None:
    """Reads the same; without a policy the name is empty, which means the policy of the bus."""
    return _read_retry(value, path, faults, default="")


def _render_names(choices: Iterable[PluginChoice]) -> list[Any]:
    return [choice.render() for choice in choices]


def _render_retry(choice: PluginChoice | None) -> Any:
    if choice is None:
        return None
    return {**({"policy": choice.name} if choice.name else {}), **mask_tree(choice.options)}


# The annotations of such values in settings.
Names = Annotated[tuple[PluginChoice, ...], Reader(read_names, _render_names)]
Name = Annotated[PluginChoice, Reader(_read_name, PluginChoice.render)]
Retry = Annotated[PluginChoice, Reader(_read_retry, _render_retry)]
TopicRetry = Annotated[PluginChoice, Reader(_read_topic_retry, _render_retry)]


def without(mapping: Mapping[str, Any], *keys: str) -> ExpandedMapping:
    """A copy without some keys that keeps the texts of expanded values."""
    copy = ExpandedMapping()
    copy.update((key, value) for key, value in mapping.items() if key not in keys)
    copy.texts.update((key, text) for key, text in getattr(mapping, "texts", {}).items() if key in copy)
    return copy
