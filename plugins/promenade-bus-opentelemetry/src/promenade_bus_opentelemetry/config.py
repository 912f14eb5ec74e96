"""The options of the observer, with the names used in the configuration."""

from __future__ import annotations

from typing import Literal

import attrs

__all__ = ["OpenTelemetryOptions"]


@attrs.frozen(kw_only=True)
class OpenTelemetryOptions:
    """The choice of what is recorded.

    - ``spans``, ``metrics``: whether there are any.
    - ``process``: how the span of an attempt knows the span that created the event. ``link``: it is a trace
      of its own and links to it. ``parent``: it is its child.
    """

    spans: bool = True
    metrics: bool = True
    process: Literal["link", "parent"] = "link"
