"""Errors as text: bounded for people, and without personal data for logs."""

from __future__ import annotations

__all__ = ["describe_error", "place_of"]


def describe_error(error: BaseException, limit: int = 2000) -> str:
    """``"Type: message"`` for a person, bounded in length; survives errors whose ``str`` raises."""
    name = type(error).__name__
    try:
        text = str(error).encode("utf-8", "backslashreplace").decode()
    except BaseException:  # a hostile __str__ must not take the worker down
        text = "<its text cannot be shown>"
    described = f"{name}: {text}" if text else name
    return described if len(described) <= limit else described[: limit - 3] + "..."


def place_of(error: BaseException) -> str:
    """Where an error was raised, as ``file:line``: what a log may say of it besides its class.

    Neither its text nor what led to it may be logged: both may be personal.
    """
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return "?" if at is None else f"{at.tb_frame.f_code.co_filename}:{at.tb_lineno}"
