"""Checks what was built: two builds of the same bytes, complete metadata, READMEs without broken links."""

from __future__ import annotations

import re
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from trove_classifiers import classifiers as known_classifiers

__all__ = ["differences", "faults", "metadata_of", "upload_order"]

_LINK = re.compile(r"\]\((?!#|[a-z]+:)([^)\s]+)\)")


def differences(first: Path, second: Path) -> list[str]:
    """The files that two builds do not have in common, byte for byte."""
    names = {path.name for directory in (first, second) for path in directory.iterdir()}
    return [name for name in sorted(names) if _content(first / name) != _content(second / name)]


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def metadata_of(file: Path) -> Metadata:
    """The metadata of a wheel or an sdist; raises ``ExceptionGroup`` when they are not valid."""
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as wheel:
            (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
            return Metadata.from_email(wheel.read(name))
    with tarfile.open(file) as sdist:
        (member,) = (each for each in sdist.getmembers() if re.fullmatch(r"[^/]+/PKG-INFO", each.name))
        content = sdist.extractfile(member)
        assert content is not None
        return Metadata.from_email(content.read())


def faults(files: Iterable[Path]) -> Iterator[str]:
    """Everything that an index would refuse, or show broken."""
    for file in sorted(files):
        try:
            metadata = metadata_of(file)
        except ExceptionGroup as group:
            yield from (f"{file.name}: {error}" for error in group.exceptions)
            continue
        wanted: Mapping[str, object] = {
            "summary": metadata.summary,
            "description": metadata.description,
            "requires-python": metadata.requires_python,
            "license": metadata.license_expression,
            "keywords": metadata.keywords,
            "classifiers": metadata.classifiers,
        }
        yield from (f"{file.name}: has no {name}" for name, value in wanted.items() if not value)
        unknown = {*(metadata.classifiers or ())} - known_classifiers
        yield from (f"{file.name}: {name!r} is no classifier" for name in sorted(unknown))
        if metadata.description_content_type != "text/markdown":
            yield f"{file.name}: its description is no Markdown"
        links = _LINK.findall(re.sub(r"^```.*?^```", "", metadata.description or "", flags=re.S | re.M))
        yield from (f"{file.name}: its README has the relative link {link}" for link in links)


def upload_order(wheels: Iterable[Path]) -> list[str]:
    """The names of the distributions, each after those that it needs; extras do not count."""
    needs: dict[str, set[str]] = {}
    for wheel in sorted(wheels):
        metadata = metadata_of(wheel)
        requirements = [Requirement(str(line)) for line in metadata.requires_dist or ()]
        needs[canonicalize_name(metadata.name)] = {
            canonicalize_name(requirement.name)
            for requirement in requirements
            if "extra" not in str(requirement.marker or "")
        }
    ours = {name: needed & needs.keys() for name, needed in needs.items()}
    order: list[str] = []
    sorter = TopologicalSorter(ours)
    sorter.prepare()
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        order += ready
        sorter.done(*ready)
    return order
