"""A release is reproducible, and its metadata, its changelogs and its public API are complete."""

from __future__ import annotations

import os
import re
import subprocess
import zipfile
from pathlib import Path

import pytest
from promenade_release.__main__ import build
from promenade_release.changelog import collect, fragments_of
from promenade_release.checking import differences, faults, metadata_of, upload_order
from promenade_release.sources import complete, members_of, project_of, readme_for_index
from promenade_site.snapshot import broken_lines, snapshot

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
SNAPSHOT = ROOT / "tests" / "project" / "public_api.txt"


def copy_of_the_checkout(target: Path) -> Path:
    """The files of the checkout, those included that are not committed yet."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/", "benchmarks/", "examples/")):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((ROOT / name).read_bytes())
    return target


# --- building ---------------------------------------------------------------------------------------------


@pytest.mark.long
def test_two_builds_are_the_same_byte_for_byte(tmp_path: Path) -> None:
    """Wheels and sdists do not depend on the place, the time, or the process that builds them."""
    builds = []
    for number, place in (("1", "here"), ("2", "elsewhere/deep")):
        copy = copy_of_the_checkout(tmp_path / place)
        complete(copy, "https://code.example/bus")
        for path in copy.rglob("*"):
            os.utime(path, (int(number) * 10**8, 0))
        builds.append(tmp_path / f"built-{number}")
        build(copy, builds[-1], "1764547200", number)

    assert differences(*builds) == []
    assert [*faults(builds[0].iterdir())] == []
    members = {str(project_of(directory)["name"]) for directory in members_of(ROOT)}
    order = upload_order(builds[0].glob("*.whl"))
    assert set(order) == members
    assert len([*builds[0].iterdir()]) == 2 * len(members)
    assert order[0] == "promenade-bus"
    assert order.index("promenade-context-identity") < order.index("promenade-context-customer")

    (wheel,) = builds[0].glob("promenade_bus_memory-*.whl")
    metadata = metadata_of(wheel)
    assert metadata.project_urls is not None
    assert metadata.project_urls["Repository"] == "https://code.example/bus"
    readme = "https://code.example/bus/blob/main/plugins/promenade-bus-memory/README.md"
    assert metadata.project_urls["Documentation"] == readme
    assert {"Typing :: Typed", "Framework :: AsyncIO"} <= {*(metadata.classifiers or ())}
    assert "event bus" in (metadata.keywords or ())
    assert "](https://code.example/bus/blob/main/README.md)" in (metadata.description or "")


def test_different_bytes_and_missing_files_are_found(tmp_path: Path) -> None:
    """A file of one build only, and one with other bytes, are named."""
    for name, files in {
        "a": {"same": "1", "other": "1", "gone": "1"},
        "b": {"same": "1", "other": "2"},
    }.items():
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_text(content)
    assert differences(tmp_path / "a", tmp_path / "b") == ["gone", "other"]


def wheel_with(path: Path, *lines: str, text: str = "# Fake") -> Path:
    head = ["Metadata-Version: 2.4", f"Name: {path.name.partition('-')[0].replace('_', '-')}", "Version: 1.0"]
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("fake-1.0.dist-info/METADATA", "\n".join([*head, *lines, "", text]))
    return path


def test_what_an_index_would_refuse_is_found(tmp_path: Path) -> None:
    """Missing fields, an unknown classifier, a broken link and invalid metadata are all reported."""
    wheel = wheel_with(
        tmp_path / "fake-1.0-py3-none-any.whl",
        "Classifier: Topic :: Ice",
        "Description-Content-Type: text/markdown",
        text="See the [guide](../docs/guide.md) and [here](#here).\n```text\n[no](link)\n```\n",
    )
    invalid = wheel_with(tmp_path / "worse-1.0-py3-none-any.whl", "Requires-Dist: not a requirement (")
    found = [*faults([wheel, invalid])]
    assert [line for line in found if line.startswith("fake")] == [
        *(f"fake-1.0-py3-none-any.whl: has no {name}" for name in ("summary", "requires-python", "license")),
        "fake-1.0-py3-none-any.whl: has no keywords",
        "fake-1.0-py3-none-any.whl: 'Topic :: Ice' is no classifier",
        "fake-1.0-py3-none-any.whl: its README has the relative link ../docs/guide.md",
    ]
    assert any(line.startswith("worse") and "requires-dist" in line.lower() for line in found)


def test_what_is_needed_is_uploaded_first(tmp_path: Path) -> None:
    """A distribution comes after those that it needs; extras and foreign ones do not count."""
    wheels = [
        wheel_with(tmp_path / "a-1.0-py3-none-any.whl", "Requires-Dist: b>=1", "Requires-Dist: attrs"),
        wheel_with(tmp_path / "b-1.0-py3-none-any.whl", 'Requires-Dist: a>=1; extra == "all"'),
    ]
    assert upload_order(wheels) == ["b", "a"]


def test_links_of_a_readme_on_an_index() -> None:
    """Relative links become addresses, or plain text without one; others, and code, stay."""
    text = "[core](../../README.md#top) [web](https://example.org) [here](#here)\n```text\n[a](b.md)\n```\n"
    place = "plugins/promenade-bus-x/README.md"
    assert readme_for_index(text, place, "https://code.example/bus") == text.replace(
        "../../README.md", "https://code.example/bus/blob/main/README.md"
    )
    assert readme_for_index(text, place, "") == text.replace("[core](../../README.md#top)", "core")


# --- changelogs -------------------------------------------------------------------------------------------


def test_fragments_are_valid() -> None:
    """Every fragment of this checkout names a distribution and a kind, and has a text."""
    assert fragments_of(ROOT)[1] == []


def test_fragments_move_into_the_changelogs(tmp_path: Path) -> None:
    """Each fragment becomes an item of its kind in the unreleased section, and its file is gone."""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "promenade-bus"\n')
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## [0.2.0] - unreleased\n\n### Added\n\n- Old.\n\n"
        "## [0.1.0] - 2026-01-01\n\n### Fixed\n\n- Past.\n"
    )
    directory = tmp_path / "changelog.d"
    directory.mkdir()
    (directory / "README.md").write_text("# About\n")
    (directory / "promenade-bus.added.a.md").write_text("First,\nin two lines.\n")
    (directory / "promenade-bus.added.b.md").write_text("Second.\n")
    (directory / "promenade-bus.fixed.c.md").write_text("Third.\n")

    assert len(collect(tmp_path)) == 3

    assert [path.name for path in directory.iterdir()] == ["README.md"]
    assert (tmp_path / "CHANGELOG.md").read_text() == (
        "# Changelog\n\n## [0.2.0] - unreleased\n\n"
        "### Added\n\n- First,\n  in two lines.\n- Second.\n- Old.\n\n"
        "### Fixed\n\n- Third.\n\n## [0.1.0] - 2026-01-01\n\n### Fixed\n\n- Past.\n"
    )


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("promenade-bus.added.md", "Text.", "the name must be"),
        ("promenade-buss.added.x.md", "Text.", "there is no distribution promenade-buss"),
        ("promenade-bus.improved.x.md", "Text.", "the kind is improved, and must be one of added, changed"),
        ("promenade-bus.added.x.md", "- Text.", "without a bullet"),
        ("promenade-bus.added.x.md", "", "must be that of one item"),
    ],
)
def test_a_wrong_fragment(tmp_path: Path, name: str, text: str, fault: str) -> None:
    """A fragment with a wrong name or text is refused with the reason, and nothing is moved."""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "promenade-bus"\n')
    (tmp_path / "changelog.d").mkdir()
    (tmp_path / "changelog.d" / name).write_text(text)
    with pytest.raises(ValueError, match=re.escape(fault)):
        collect(tmp_path)
    assert (tmp_path / "changelog.d" / name).exists()


# --- the public API ---------------------------------------------------------------------------------------


def test_no_public_name_is_gone_or_changed() -> None:
    """Every name, signature and attribute of the snapshot is there; `make api` writes it down again."""
    broken = broken_lines(SNAPSHOT.read_text(encoding="utf-8"), snapshot())
    assert broken == [], "these lines break somebody; see docs/reference/compatibility.md, then `make api`"


def test_the_snapshot_has_signatures_attributes_and_values() -> None:
    """A method, a property, a field, a value of an enum and a name of a plugin each have a line."""
    lines = {*snapshot().splitlines()}
    assert {
        "async def bus_core.Bus.drain(self, timeout: Seconds | None = None) -> None",
        "bus_core.Bus.service: str",
        "bus_core.Delivery.attempt: int",
        "bus_core.HealthStatus.DEGRADED = 'degraded'",
        "bus_core.abc.Store",
        "bus_core.plugins.HOOK_VERSION = 1",
    } - lines == set()
    assert any(line.startswith("async def promenade_bus_outbox.Outbox.publish(self, ") for line in lines)


def test_a_removed_name_or_parameter_breaks() -> None:
    """A line that is gone or different is reported; one that is new is not."""
    before = "def a.f(x: int) -> None\nclass a.B()\n"
    assert broken_lines(before, "def a.f(x: int) -> None\nclass a.B()\nclass a.C()\n") == []
    assert broken_lines(before, "def a.f(x: int, y: int) -> None\n") == [
        "def a.f(x: int) -> None",
        "class a.B()",
    ]
