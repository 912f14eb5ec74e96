"""Events for Sentry: written by hand, so that nothing gets into them that nobody has looked at.

``capture_exception`` would add local variables, and whatever the current scope has: a user, a request, log
lines. These may be personal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Final

from bus_core import AttemptFailure, EventLoss
from bus_core.runtime import place_of, printable

__all__ = ["report_of_failure", "report_of_loss"]

_MOST_FRAMES: Final = 50
_MOST_CAUSES: Final = 5
_LONGEST_TEXT: Final = 1_000
_LONGEST_TAG: Final = 200
"""Sentry refuses longer tags."""

_NOT_THE_APPLICATION: Final = re.compile(
    r"[/\\](?:bus_core|promenade_bus_\w+|(?:site|dist)-packages|lib[/\\]python[\d.]+)[/\\]"
)

Report = dict[str, Any]


def report_of_failure(service: str, failure: AttemptFailure, *, error_text: bool) -> Report:
    """The event for a failed attempt: its error with frames, and the names and ids of the delivery."""
    place = place_of(failure.error)
    return {
        "level": "error" if failure.action == "dead_letter" else "warning",
        "logger": "promenade.bus",
        "transaction": failure.subscription,
        "fingerprint": [
            "promenade-bus",
            type(failure.error).__qualname__,
            re.sub(r":\d+ in ", " in ", place),  # a line moves with every change of the file
            failure.subscription,
        ],
        "exception": {"values": _chain(failure.error, error_text=error_text)},
        "tags": {
            **_tags(service, failure.topic, failure.subscription, failure.event_id),
            "promenade.attempt": str(failure.attempt),
            "promenade.action": failure.action,
            "promenade.place": _tag(place),
        },
        "extra": {"delay_s": failure.delay} if failure.delay else {},
    }


def report_of_loss(service: str, loss: EventLoss) -> Report:
    """The event for an event that the engine has lost."""
    return {
        "level": "fatal",
        "logger": "promenade.bus",
        "transaction": loss.subscription,
        "fingerprint": ["promenade-bus", "lost", loss.subscription],
        "logentry": {"message": f"lost an event: {printable(loss.reason)}"},
        "threads": {"values": []},  # otherwise attach_stacktrace adds frames with their local variables
        "tags": _tags(service, loss.topic, loss.subscription, loss.event_id),
    }


def _tags(service: str, topic: str, subscription: str, event_id: str) -> Mapping[str, str]:
    return {
        "promenade.service": _tag(service),
        "promenade.topic": _tag(topic),
        "promenade.subscription": _tag(subscription),
        "promenade.event_id": _tag(event_id),
    }


def _tag(text: str) -> str:
    return printable(text, _LONGEST_TAG)


# --- errors -----------------------------------------------------------------------------------------------


def _chain(error: BaseException, *, error_text: bool) -> list[Report]:
    """An error and its causes, the first cause first, as Sentry wants them."""
    found: list[Report] = []
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen and len(found) < _MOST_CAUSES:
        seen.add(id(at))
        found.append(_exception(at, error_text=error_text))
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)
    return found[::-1]


def _exception(error: BaseException, *, error_text: bool) -> Report:
    told: Report = {
        "type": type(error).__qualname__,
        "module": type(error).__module__,
        "mechanism": {"type": "promenade-bus", "handled": True},
    }
    if error_text:
        told["value"] = _text_of(error)
    frames = [*_frames(error.__traceback__)]
    if frames:
        told["stacktrace"] = {"frames": frames[-_MOST_FRAMES:]}
    return told


def _text_of(error: BaseException) -> str:
    try:
        return printable(str(error), _LONGEST_TEXT)
    except Exception:
        return "<its text cannot be shown>"


def _frames(traceback: TracebackType | None) -> Iterator[Report]:
    """The frames from the outermost to the innermost, without their variables."""
    while traceback is not None:
        code = traceback.tb_frame.f_code
        yield {
            "filename": code.co_filename,
            "abs_path": code.co_filename,
            "function": code.co_qualname,
            "module": traceback.tb_frame.f_globals.get("__name__"),
            "lineno": traceback.tb_lineno,
            "in_app": _NOT_THE_APPLICATION.search(code.co_filename) is None,
        }
        traceback = traceback.tb_next
