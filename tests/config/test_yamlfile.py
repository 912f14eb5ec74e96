"""YAML that is wrong, large or hostile: each is refused with a line, and before anything of it is built."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from bus_core import load_config
from bus_core.config import yaml_file as yamlfile
from bus_core.config.yaml_file import MAX_BYTES, MAX_NODES, load_yaml_file, parse_yaml
from bus_core.errors import ConfigError


@pytest.fixture(params=["libyaml", "python"], autouse=True)
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both parsers of PyYAML; the faster one is missing on some platforms."""
    chosen = getattr(yaml, "CSafeLoader", yaml.SafeLoader) if request.param == "libyaml" else yaml.SafeLoader
    monkeypatch.setattr(yamlfile, "_Loader", yamlfile._for_sections_of_others(chosen))


def parse(text: str) -> Any:
    return parse_yaml(text, "app.yaml", plain_section="bus")


def faults(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert str(caught.value).startswith("app.yaml: ")
    return caught.value.faults


def test_plain_yaml_is_read() -> None:
    """A document of safe YAML becomes plain data, with the scalars of YAML 1.1."""
    text = "bus: {adapter: memory, big: 1_000, off: no}\nother: [1, 2.5, null, 2024-01-02]\n"
    assert parse(text)["bus"] == {"adapter": "memory", "big": 1000, False: False}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("bus: {a: 1\n", "not valid YAML"),
        ("bus:\n\ta: 1\n", "not valid YAML: found character"),
        ("a: b: c\n", "not valid YAML: mapping values are not allowed"),
        ("a: \0\n", "not valid YAML: "),
        (
            "bus: {a: !!python/object/apply:os.system [ls]}\n",
            "not valid YAML: could not determine a constructor",
        ),
        ("bus: {a: !mine 5}\n", "not valid YAML: could not determine a constructor"),
        ("a: *nope\n", "not valid YAML: found undefined alias"),
        ("? [a]\n: 1\n", "not valid YAML: found unhashable key"),
    ],
)
def test_a_syntax_error_names_its_line(text: str, fault: str) -> None:
    """Unacceptable YAML is refused with the fault and its place."""
    (found,) = faults(text)
    assert found.startswith(fault)
    assert " @ line " in found


@pytest.mark.parametrize("text", ["a: 2024-13-45\n", "a: !!int x\n", "a: !!bool x\n", f"a: {'9' * 5000}\n"])
def test_a_value_that_is_not_what_it_looks_like_is_refused(text: str) -> None:
    """An impossible date, number or tagged value is an error of the configuration, and says to quote it."""
    assert "put it in quotes" in faults(text)[0]


SIGNS = [
    "'",
    "!",
    "*",
    "&",
    "&x &",
    "!!",
    "!!python/",
    "!a!",
    "%",
    "@",
    "`",
    "{",
    "[",
    "a: ",
    '"\\x',
    "|",
    ">-",
]


@pytest.mark.parametrize("section", ["bus", "database"])
@pytest.mark.parametrize("sign", SIGNS)
def test_a_syntax_error_does_not_quote_the_file(sign: str, section: str) -> None:
    """A password that lacks its quotes is not repeated in the error."""
    message = ""
    try:
        parse(f"{section}:\n  password: {sign}hunter2\n")
    except ConfigError as error:
        message = str(error)
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("password: *hunter2\n", "alias"),
        ("bus:\n  pass: !hunter2\n", "tag"),
        ("bus: !hunter2 {a: 1}\n", "tag"),
    ],
)
def test_a_text_that_lacks_its_quotes_is_told_so(text: str, name: str) -> None:
    """A value that begins with a sign of YAML is refused with the hint to quote it, without its text."""
    (fault,) = faults(text)
    sign = "*" if name == "alias" else "!"
    assert f" {name} (a text that begins with {sign} needs quotes) @ line " in fault
    assert "hunter2" not in fault


@pytest.mark.parametrize("value", ["!ENV SITE_URL", "!secret {a: 1}", "[1, !x 2]", "!!python/name:os.system"])
def test_tags_of_other_sections_are_left_alone(value: str) -> None:
    """The bus does not touch tags in a section of the application."""
    assert parse(f"site: {{ url: {value} }}\nbus: {{ adapter: memory }}\n")["bus"] == {"adapter": "memory"}


def test_a_tag_in_a_section_that_the_adapter_reads_is_a_fault(tmp_path: Path) -> None:
    """A value that the bus would need, and cannot read, is told with its path."""
    path = tmp_path / "app.yaml"
    path.write_text("app: { name: !ENV NAME }\nbus: { adapter: memory }\n")
    with pytest.raises(ConfigError, match=r"a tag that only the application knows .* @ \$\.app\.name"):
        load_config(path)


def test_duplicate_keys_are_reported_together() -> None:
    """Each key that is there twice in a mapping is a fault with both lines."""
    text = "a: {x: 1, y: {z: 1, z: 2}}\nbus:\n  adapter: memory\n  'adapter': redis\na: 2\n"
    assert faults(text) == (
        "the key 'a' is there twice, first in line 1 @ line 5, column 1",
        "the key 'z' is there twice, first in line 1 @ line 1, column 21",
        "the key 'adapter' is there twice, first in line 3 @ line 4, column 3",
    )


def test_overriding_a_merged_key_is_no_duplicate() -> None:
    """A section of the application may merge a mapping and override keys of it."""
    text = "base: {dev: &d {<<: &b {x: 1, y: 1}, x: 2}}\nprod: {<<: *d, x: 3}\nagain: {<<: [*b, *d], y: 5}\n"
    document = parse(text)
    assert document["prod"] == {"x": 3, "y": 1}
    assert document["base"]["dev"] == {"x": 2, "y": 1}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "a: &x 1\nbus: {n: *x}\n",
            "an alias in 'bus'; write it out (a text that begins with * needs quotes) @ line 2, column 10",
        ),
        (
            "bus: &b {n: 1}\n",
            "an anchor in 'bus'; write it out (a text that begins with & needs quotes) @ line 1, column 6",
        ),
        (
            "bus: {n: &b 1}\n",
            "an anchor in 'bus'; write it out (a text that begins with & needs quotes) @ line 1, column 10",
        ),
        (
            "a: &x {n: 1}\nbus: *x\n",
            "an alias in 'bus'; write it out (a text that begins with * needs quotes) @ line 2, column 6",
        ),
        ("bus: {r: {<<: {n: 1}}}\n", "a merge key (<<) in 'bus'; write the values out @ line 1, column 11"),
        ("<<: {bus: {}}\n", "a merge key (<<) at the top level; write the sections out @ line 1, column 1"),
        ("a: &x [*x]\n", "an alias inside of its own anchor; write it out @ line 1, column 8"),
        ("a: 1\n---\nb: 2\n", "the file holds more than one document; remove the '---' @ line 2, column 1"),
    ],
)
def test_sharing_that_hides_what_one_reads_is_refused(text: str, fault: str) -> None:
    """Anchors, aliases and merge keys in the section of the bus, cycles, and more documents are refused."""
    assert faults(text) == (fault,)


def test_anchors_elsewhere_are_fine() -> None:
    """The application may use anchors in its own sections."""
    assert parse("a: &x [1, 2]\nb: {bus: *x}\nbus: {}\n")["b"] == {"bus": [1, 2]}


def count_events(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the events that the parser is asked for."""
    counter, original = [0], yaml.parse

    def counting(*args: Any, **kwargs: Any) -> Any:
        for event in original(*args, **kwargs):
            counter[0] += 1
            yield event

    monkeypatch.setattr(yaml, "parse", counting)
    return counter


@pytest.mark.parametrize("form", ["[{}]", "{{<<: [{}]}}"])
def test_an_alias_bomb_is_refused_before_it_is_built(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A document that grows nine-fold a line is refused after some lines of it, and nothing is built."""
    lines = ["l0: &l0 {x: 1}"]
    for level in range(1, 40):
        lines.append(f"l{level}: &l{level} " + form.format(", ".join([f"*l{level - 1}"] * 9)))
    counter = count_events(monkeypatch)
    monkeypatch.setattr(yaml.SafeLoader, "construct_document", None)
    (fault,) = faults("\n".join(lines))
    assert fault.startswith(f"more than {MAX_NODES:,} values, aliases expanded @ line ")
    assert counter[0] < 200


def test_a_large_document_is_refused() -> None:
    """More values than any configuration has are refused."""
    assert faults("a: [" + "1," * MAX_NODES + "]\n")[0].startswith(f"more than {MAX_NODES:,} values")


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 10_000, "- " * 10_000])
def test_a_deep_document_is_refused_at_once(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nesting is refused at a bounded depth, without reading the rest."""
    counter = count_events(monkeypatch)
    assert faults(text)[0].startswith("nested deeper than 64 levels @ line 1")
    assert counter[0] < 200


# --- the file ---------------------------------------------------------------------------------------------


def file_fault(path: Path | str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_yaml_file(path, plain_section="bus")
    assert caught.value.source == os.fspath(path)
    (fault,) = caught.value.faults
    return fault


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path that leads nowhere is shown in full."""
    monkeypatch.chdir(tmp_path)
    expected = f"there is no such file (looked for {tmp_path / 'nope.yaml'}); pass the path of a YAML file"
    assert file_fault("nope.yaml") == expected
    assert file_fault(tmp_path / "nope.yaml") == "there is no such file; pass the path of a YAML file"


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    """A directory is refused as one."""
    assert file_fault(tmp_path) == "this is a directory; pass the path of a YAML file in it"


def test_a_file_below_a_file_cannot_be_read(tmp_path: Path) -> None:
    """Any other reason of the system is passed on with what to check."""
    (tmp_path / "a").write_text("bus:")
    assert file_fault(tmp_path / "a" / "b").startswith("the file cannot be read: Not a directory; check")


def test_a_path_with_a_null_byte_cannot_be_read() -> None:
    """A path that no system takes is an error of the configuration as well."""
    assert file_fault("a\0b").startswith("the file cannot be read: ")


def test_an_unreadable_file_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without permission to read is refused with the reason."""

    def refuse(*_args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    expected = "the file cannot be read: Permission denied; check its path and permissions"
    assert file_fault(tmp_path / "app.yaml") == expected


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"bus: \xff\n", "the file is not UTF-8 (byte 5); save it with that encoding"),
        ("bus:\n".encode("utf-16"), "the file is not UTF-8 (byte 0); save it with that encoding"),
        (b"", "the file is empty; it needs at least 'bus: {adapter: memory}'"),
        (b" \n\n", "the file is empty; it needs at least 'bus: {adapter: memory}'"),
        (b"#" * (MAX_BYTES + 1), f"the file has more than {MAX_BYTES:,} bytes; is it a configuration?"),
    ],
)
def test_unusable_content(content: bytes, fault: str, tmp_path: Path) -> None:
    """A file that is empty, too large, or in another encoding is refused as such."""
    path = tmp_path / "app.yaml"
    path.write_bytes(content)
    assert file_fault(path) == fault


def test_a_byte_order_mark_is_harmless(tmp_path: Path) -> None:
    """A file saved by an editor that marks UTF-8 is read."""
    path = tmp_path / "app.yaml"
    path.write_bytes(b"\xef\xbb\xbfbus: {adapter: memory}\n")
    assert load_yaml_file(path, plain_section="bus") == {"bus": {"adapter": "memory"}}
