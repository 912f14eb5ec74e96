"""Storing events: the messages of a call are one statement, which is one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from bus_core import BusError, Message, PublishError, PublishFailed, PublishUncertain
from bus_core.adapters import text_fault_of, text_of_headers, together_or_apart
from promenade_bus_postgres.connections import Connection, Database, Sql
from promenade_bus_postgres.failures import Kind, PostgresFailure
from promenade_bus_postgres.positions import POSITION
from promenade_bus_postgres.topics import Topics

__all__ = ["Publisher"]

_MOST_ROWS: Final = 1_000
_MOST_BYTES: Final = 8_000_000
"""Rows and bytes of one statement; a larger message is alone in its own."""

_ONE_MAY_FIT: Final = (Kind.FULL, Kind.TOO_LARGE, Kind.VALUE, Kind.REFUSED, Kind.OTHER)
"""Where another message may be stored although this one is not."""

# It stores nothing where the topics have other numbers, as after a restore.
# Columns go in binary form: as texts, lists cost three times as much processor time.
_INSERT: Final = f"""
INSERT INTO promenade_event (tx, topic, id, key, headers, body)
SELECT {POSITION}, topic, id, key, headers, body
FROM unnest(%b::int[], %b::text[], %b::bytea[], %b::text[], %b::bytea[])
    WITH ORDINALITY AS new (topic, id, key, headers, body, place)
WHERE (SELECT count(*) FROM unnest(%s::int[], %s::text[]) AS used (id, name)
    JOIN promenade_topic USING (id, name)) = %s
ORDER BY place"""

_TRIES: Final = 3
"""Attempts of one call to store messages under the numbers that topics have now."""


class Publisher:
    """Stores messages, those of a call in one transaction."""

    def __init__(self, database: Database, sql: Sql, topics: Topics) -> None:
        self._database = database
        self._insert = sql(_INSERT)
        self._topics = topics

    async def publish(self, messages: Sequence[Message]) -> Sequence[PublishError | None]:
        """One result for each; see ``bus_core.Adapter``."""
        results: list[PublishError | None] = [None] * len(messages)
        sound: list[int] = []
        for index, message in enumerate(messages):
            why = text_fault_of(message)
            if why is None:
                sound.append(index)
            else:
                results[index] = PublishFailed(why, permanent=True)
        for part in _parts(messages, sound):
            answers = await together_or_apart([messages[index] for index in part], self._store)
            for index, answer in zip(part, answers, strict=True):
                results[index] = None if answer is None else _as_publish_error(answer)
        return results

    async def _store(self, messages: Sequence[Message]) -> Sequence[BusError | None]:
        def run(connection: Connection) -> None:
            columns = (
                [each.id for each in messages],
                [each.key.encode() for each in messages],
                [text_of_headers(each.headers) for each in messages],
                [each.body for each in messages],
            )
            for _ in range(_TRIES):
                topics = self._topics.add(connection, (each.topic for each in messages))
                numbers = [topics[each.topic] for each in messages]
                used = [*topics.values()], [*topics], len(topics)
                if connection.execute(self._insert, (numbers, *columns, *used)).rowcount:
                    return
                self._topics.learn(connection)
            raise PostgresFailure(self._database.place, Kind.CONFLICT)

        try:
            await self._database.run(run)
        except PostgresFailure as failure:
            if failure.is_uncertain or failure.kind not in _ONE_MAY_FIT:
                return [failure] * len(messages)
            raise
        return [None] * len(messages)


def _parts(messages: Sequence[Message], sound: Sequence[int]) -> Iterator[Sequence[int]]:
    part: list[int] = []
    size = 0
    for index in sound:
        own = len(messages[index].body)
        if part and (len(part) == _MOST_ROWS or size + own > _MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(index)
        size += own
    if part:
        yield part


def _as_publish_error(error: BusError) -> PublishError:
    failure: PublishError
    if not isinstance(error, PostgresFailure) or error.is_uncertain:
        failure = PublishUncertain(str(error))
    else:
        kind = error.kind
        failure = PublishFailed(str(error), transient=kind.passes, permanent=kind.is_of_value)
    failure.__cause__ = error
    return failure
