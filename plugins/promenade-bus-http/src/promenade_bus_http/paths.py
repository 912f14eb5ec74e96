"""The ASGI part of an application that answers GET and HEAD at a few paths."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

import attrs

__all__ = ["JSON", "TEXT", "Answer", "App", "PathsApp", "Receive", "Scope", "Send", "json_answer"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"


@attrs.frozen
class Answer:
    """The answer to one request."""

    status: int
    body: bytes
    content_type: str = JSON


def json_answer(code: int, /, **content: Any) -> Answer:
    """An answer of JSON."""
    return Answer(code, json.dumps(content).encode())


class PathsApp:
    """Answers at each path by calling its function with the header ``Accept`` of the request."""

    def __init__(self, paths: Mapping[str, Callable[[str], Awaitable[Answer]]]) -> None:
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; takes part in the lifespan of a server without doing anything in it."""
        match scope["type"]:
            case "http":
                await _send(send, await self._answer(scope), head_only=scope["method"] == "HEAD")
            case "lifespan":
                while (await receive())["type"] != "lifespan.shutdown":
                    await send({"type": "lifespan.startup.complete"})
                await send({"type": "lifespan.shutdown.complete"})
            case "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1008})
            case kind:
                raise RuntimeError(f"an ASGI scope of type {kind!r} is not served here")

    async def _answer(self, scope: Scope) -> Answer:
        path = scope["path"].removeprefix(scope.get("root_path", "")).rstrip("/")
        answer = self._paths.get(path)
        if answer is None:
            return json_answer(
                404, error=f"there is nothing at this path; paths are {', '.join(self._paths)}"
            )
        if scope["method"] not in ("GET", "HEAD"):
            return json_answer(405, error="only GET and HEAD are answered")
        accept = next((value for name, value in scope["headers"] if name == b"accept"), b"")
        return await answer(accept.decode("latin-1"))


async def _send(send: Send, answer: Answer, *, head_only: bool) -> None:
    headers = [
        (b"content-type", answer.content_type.encode("latin-1")),
        (b"content-length", str(len(answer.body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head_only else answer.body})
