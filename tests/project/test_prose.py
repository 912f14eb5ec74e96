"""Docstrings begin with the thing or a verb, and sentences stay short.

A docstring is the text at the beginning of a module, class or function, or below a name that it explains.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]

FIRST_WORDS = re.compile(r"(What|Whether|Who|Whoever|Whose|Whom|How)\b")
NO_SENTENCE = re.compile(r" {8}|>>>|\s*[├└│]|.*={4}|\s*(``\S+``|\w+( [A-Z]+)*)  ")
"""Lines of examples, trees and tables."""

MOST_WORDS = 30


def files(pattern: str) -> list[Path]:
    """The files of the checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", pattern], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


@cache
def docstrings_of(path: Path) -> tuple[tuple[int, str], ...]:
    """The line and the text of each docstring in a file."""
    return tuple(docstrings(path.read_text(encoding="utf-8")))


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """The line and the text of each docstring."""
    for node in ast.walk(ast.parse(source)):
        body: object = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            value: object = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield statement.lineno, value.value


def prose_of(page: str) -> str:
    """A page of documentation without its code and its comments; each cell of a table is a paragraph."""
    page = re.sub(r"^ *```.*?^ *```", "", page, flags=re.DOTALL | re.MULTILINE)
    page = re.sub(r"<!--.*?-->", "", page, flags=re.DOTALL)
    return re.sub(r"^ *\|.*$", lambda row: "\n\n".join(row[0].split("|")), page, flags=re.MULTILINE)


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text. An item of a list ends one, as a blank line does; examples are left out."""
    for block in re.split(r"\n\s*\n|\n\s*(?:[-*]|\d+\.)\s", text):
        block = re.sub(r"^\s*(?:[-*]|\d+\.)\s", "", block)
        lines = [line for line in block.splitlines() if not NO_SENTENCE.match(line)]
        for sentence in re.split(r"(?<=[.!?])[)\"”]?\s+(?=[A-Z`*(\[\"])", " ".join(lines)):
            yield " ".join(sentence.split())


def clumsy() -> Iterator[str]:
    """The docstrings that begin with a question word."""
    for path in files("*.py"):
        for line, text in docstrings_of(path):
            if FIRST_WORDS.match(text.strip()):
                yield f"{path.relative_to(ROOT)}:{line}: {text.strip().splitlines()[0]}"


def long() -> Iterator[str]:
    """The sentences of docstrings and pages that have too many words."""
    texts = [
        *((path, text) for path in files("*.py") for _, text in docstrings_of(path)),
        *((path, prose_of(path.read_text(encoding="utf-8"))) for path in files("*.md")),
    ]
    for path, text in texts:
        for sentence in sentences(text):
            if len(sentence.split()) > MOST_WORDS:
                yield f"{path.relative_to(ROOT)}: {len(sentence.split())} words: {sentence}"


def test_docstrings_begin_with_the_thing_or_a_verb() -> None:
    """No docstring begins with What, Whether, Who, Whoever or How."""
    assert [*clumsy()] == []


def test_sentences_are_short() -> None:
    """No sentence of a docstring or a page has more than thirty words."""
    assert [*long()] == []


def test_what_the_checks_find() -> None:
    """Docstrings of all kinds are read; code, comments and lists do not make a sentence longer."""
    source = (
        '"""Whether it is."""\nX = 1\n"""What X is."""\n\ndef f():\n    """Returns."""\n    "no docstring"'
    )
    assert [text for _, text in docstrings(source) if FIRST_WORDS.match(text)] == [
        "Whether it is.",
        "What X is.",
    ]
    words = " ".join(["word"] * 20)
    page = f"{words}:\n\n- {words}\n- {words}. {words.title()}.\n\n```\n{words} {words}\n```\n"
    page += f"<!-- {words} {words} -->\n| {words} | {words} |"
    assert max(len(sentence.split()) for sentence in sentences(prose_of(page))) == 20
    assert max(len(sentence.split()) for sentence in sentences(f"{words} {words}.")) == 40
