"""Compares the JSON Schemas of two versions of an event: each difference, and whom it hurts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

__all__ = ["Difference", "describe", "differences"]

Schema = Mapping[str, Any]

READERS: Final = "readers"
"""Hurts subscribers that run the old class and receive new events."""

STORED: Final = "stored"
"""Hurts subscribers that run the new class and receive events stored by the old one."""


@attrs.frozen
class Difference:
    """One difference. ``hurts`` has ``readers``, ``stored``, both or, for a harmless one, neither."""

    kind: str
    field: str
    text: str
    hurts: frozenset[str] = frozenset()


def differences(old: Schema, new: Schema) -> list[Difference]:
    """Returns the differences between the schemas of two versions, in the order of the fields."""
    return [*_Comparison(old.get("$defs", {}), new.get("$defs", {})).of_fields(old, new, "")]


class _Comparison:
    """Compares schemas. Definitions that refer to themselves are compared once."""

    def __init__(self, old: Schema, new: Schema) -> None:
        self._old = old
        self._new = new
        self._met: set[tuple[str, str]] = set()

    def of_fields(self, old: Schema, new: Schema, path: str) -> Iterator[Difference]:
        """Compares two objects with named fields."""
        before, after = old.get("properties", {}), new.get("properties", {})
        required, requires = old.get("required", ()), new.get("required", ())
        added = [name for name in after if name not in before]
        for name, schema in before.items():
            at = f"{path}{name}"
            if name not in after:
                yield _removed(at, name in required, [each for each in added if after[each] == schema])
                continue
            yield from self.of_values(schema, after[name], at)
            if name in requires and name not in required:
                text = "is required now: stored events may lack it"
                yield Difference("field-required", at, text, frozenset({STORED}))
            elif name in required and name not in requires:
                yield Difference("field-optional", at, "is optional now")
        for name in added:
            if name in requires:
                text = "is new and required: stored events lack it"
                yield Difference("required-field-added", f"{path}{name}", text, frozenset({STORED}))
            else:
                yield Difference("field-added", f"{path}{name}", "is new and optional")

    def of_values(self, old: Schema, new: Schema, at: str) -> Iterator[Difference]:
        """Compares the schemas of one value, marks included."""
        if _is_personal(old) and not _is_personal(new):
            text = "is no longer marked as personal: new code shows its values"
            yield Difference("personal-removed", at, text, frozenset({READERS}))
        elif _is_personal(new) and not _is_personal(old):
            yield Difference("personal-added", at, "is marked as personal now")
        if new.get("x-deprecated") != old.get("x-deprecated"):
            advice = new.get("x-deprecated")
            text = "is no longer deprecated" if advice is None else f"is deprecated: {advice}"
            yield Difference("field-deprecated", at, text)
        yield from self._of_types(old, new, at)

    def _of_types(self, old: Schema, new: Schema, at: str) -> Iterator[Difference]:
        before, after = _alternatives(old), _alternatives(new)
        if len(before) == len(after):
            pairs = [*zip(before, after, strict=True)]
            if all(_family(first) == _family(second) for first, second in pairs):
                for first, second in pairs:
                    yield from self._of_one(first, second, at)
                if "anyOf" in old:
                    yield from _rules(old, new, at)
                return
        yield _retyped(old, new, at)

    def _of_one(self, old: Schema, new: Schema, at: str) -> Iterator[Difference]:
        if "$ref" in old and "$ref" in new:
            yield from self._of_definitions(_named(old), _named(new), at)
        elif "enum" in old and "enum" in new:
            yield from _enum(old, new, at)
        elif (
            "prefixItems" in old
            and "prefixItems" in new
            and len(old["prefixItems"]) == len(new["prefixItems"])
        ):
            for place, pair in enumerate(zip(old["prefixItems"], new["prefixItems"], strict=True)):
                yield from self._of_types(*pair, f"{at}[{place}]")
        elif "items" in old and "items" in new and old.get("uniqueItems") == new.get("uniqueItems"):
            yield from self._of_types(old["items"], new["items"], f"{at}[]")
        elif (
            "additionalProperties" in old
            and "additionalProperties" in new
            and old.get("propertyNames") == new.get("propertyNames")
        ):
            yield from self._of_types(old["additionalProperties"], new["additionalProperties"], f"{at}{{}}")
        elif _bare(old) != _bare(new):
            yield _retyped(old, new, at)
        yield from _rules(old, new, at)

    def _of_definitions(self, old: str, new: str, at: str) -> Iterator[Difference]:
        if (old, new) in self._met:
            return
        self._met.add((old, new))
        before, after = self._old.get(old, {}), self._new.get(new, {})
        if "properties" in before and "properties" in after:
            yield from self.of_fields(before, after, f"{at}.")
        else:
            yield from self._of_types(before, after, at)


def _removed(at: str, was_required: bool, alike: Sequence[str]) -> Difference:
    then = "the old class refuses events without it" if was_required else "the old class sees its default"
    hint = f" (renamed to {alike[0]!r}?)" if alike else ""
    hurts = frozenset({READERS, STORED}) if alike else frozenset({READERS})
    return Difference("field-removed", at, f"was removed{hint}: {then}", hurts)


def _retyped(old: Schema, new: Schema, at: str) -> Difference:
    text = f"changed its type from {describe(old)} to {describe(new)}"
    return Difference("field-retyped", at, text, frozenset({READERS, STORED}))


def _enum(old: Schema, new: Schema, at: str) -> Iterator[Difference]:
    gone = [value for value in old["enum"] if value not in new["enum"]]
    more = [value for value in new["enum"] if value not in old["enum"]]
    if gone and new.get("x-tolerant"):
        yield Difference("enum-narrowed", at, f"no longer takes {_listed(gone)}, which it still tolerates")
    elif gone:
        text = f"no longer takes {_listed(gone)}: stored events may have it"
        yield Difference("enum-narrowed", at, text, frozenset({STORED}))
    if more and old.get("x-tolerant"):
        yield Difference("enum-widened", at, f"takes {_listed(more)}, which the old class tolerates")
    elif more:
        text = f"takes {_listed(more)}, which the old class refuses"
        yield Difference("enum-widened", at, text, frozenset({READERS}))
    if old.get("x-tolerant") and not new.get("x-tolerant"):
        text = "no longer tolerates unknown values"
        yield Difference("enum-intolerant", at, text, frozenset({STORED}))


def _rules(old: Schema, new: Schema, at: str) -> Iterator[Difference]:
    before, after = old.get("description"), new.get("description")
    if before == after:
        return
    if after is None:
        text, hurts = f"has no rule any more, it {before}: the old class has", {READERS}
    elif before is None:
        text, hurts = f"has a rule, it {after}: stored events may break it", {STORED}
    else:
        text, hurts = f"has another rule, it {after}; before, it {before}", {READERS, STORED}
    yield Difference("rule-changed", at, text, frozenset(hurts))


# --- single schemas -----------------------------------------------------------------------------------------


def _alternatives(schema: Schema) -> list[Schema]:
    """The schemas of a union, in an order of their own: that of the annotation means nothing."""
    return sorted(schema["anyOf"], key=lambda part: str(_family(part))) if "anyOf" in schema else [schema]


def _family(schema: Schema) -> object:
    """Which kind of schema it is: schemas of different kinds are different types."""
    if "$ref" in schema:
        return "definition"
    if "enum" in schema:
        return "enum"
    if "anyOf" in schema:
        return "union"
    return schema.get("type")


_NOT_OF_THE_TYPE: Final = ("description", "x-personal", "deprecated", "x-deprecated", "x-tolerant")


def _bare(schema: Schema) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in _NOT_OF_THE_TYPE}


def _is_personal(schema: Schema) -> bool:
    """True if the value, or a part of it outside of definitions, is marked."""
    if schema.get("x-personal"):
        return True
    parts = [*schema.get("anyOf", ()), *schema.get("prefixItems", ())]
    parts += [schema[key] for key in ("items", "additionalProperties") if key in schema]
    return any(map(_is_personal, parts))


def _named(schema: Schema) -> str:
    return str(schema["$ref"]).rpartition("/")[2]


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(repr, values))


def describe(schema: Schema) -> str:
    """Describes a schema in a few words: ``string (uuid) or null``."""
    if "anyOf" in schema:
        return " or ".join(map(describe, schema["anyOf"]))
    if "$ref" in schema:
        return _named(schema)
    if "enum" in schema:
        return f"one of {_listed(schema['enum'])}"
    if "prefixItems" in schema:
        return f"array of ({', '.join(map(describe, schema['prefixItems']))})"
    if "items" in schema:
        return f"array of {'unique ' if schema.get('uniqueItems') else ''}{describe(schema['items'])}"
    if "additionalProperties" in schema:
        return f"object of {describe(schema['additionalProperties'])}{_form_of_keys(schema)}"
    kind = str(schema.get("type", "any value"))
    detail = (
        schema.get("format") or schema.get("contentEncoding") or ("decimal" if "pattern" in schema else "")
    )
    return f"{kind} ({detail})" if detail else kind


def _form_of_keys(schema: Schema) -> str:
    """The form of the keys of an object, or nothing where any text is a key."""
    keys = schema.get("propertyNames")
    if keys is None:
        return ""
    # An int has a pattern alone, because a key in JSON is a text.
    return f" (keys: {'integer' if set(keys) == {'pattern'} else describe(keys)})"
