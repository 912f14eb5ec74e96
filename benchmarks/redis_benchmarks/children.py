"""The processes of a measurement: ``children.py consume|produce CONTENDER ADDRESS NAME BODY``."""

from __future__ import annotations

import asyncio
import json
import sys
from importlib import import_module
from typing import Any

from redis_benchmarks.protocol import Meter, answer, publish_as_told, say, stamped

__all__ = ["main"]


async def _play(role: str, contender: Any, address: str, name: str, body: dict[str, Any]) -> None:
    if role == "consume":
        meter = Meter()
        async with contender.consumer(address, name, meter):
            await answer(meter)
    else:
        async with contender.producer(address, name, stamped(body)) as publish:
            await publish_as_told(publish)


def main() -> None:
    """Plays one role until there are no more lines; tells what went wrong."""
    role, contender, address, name, body = sys.argv[1:]
    try:
        module = import_module(f"redis_benchmarks.contenders.{contender}")
        asyncio.run(_play(role, module, address, name, json.loads(body)))
    except ModuleNotFoundError as error:
        say(failed=f"not installed: {error}")
    except Exception as error:
        say(failed=f"does not run here: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
