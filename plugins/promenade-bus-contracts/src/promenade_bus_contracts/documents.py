"""``promenade-bus contracts asyncapi`` and ``docs``: documents about the contracts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from promenade_bus_cli.failures import CommandFailed
from promenade_bus_cli.options import debug_option, json_option
from promenade_bus_cli.output import counted, print_json
from promenade_bus_contracts.asyncapi import document_of
from promenade_bus_contracts.boundary_settings import read_boundaries
from promenade_bus_contracts.examples import Examples
from promenade_bus_contracts.pages import pages_of
from promenade_bus_contracts.published import Contract
from promenade_bus_contracts.sources import Source, read_source, source_options

__all__ = ["asyncapi", "docs"]

F = TypeVar("F", bound=Callable[..., Any])


def _examples_option(command: F) -> F:
    return click.option(
        "--examples", multiple=True, metavar="MODULE", help="A module with EXAMPLES, a sequence of events."
    )(command)


def _output_option(default: str) -> Callable[[F], F]:
    return click.option(
        "--output",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path(default),
        show_default=True,
        help="The directory to write to.",
    )


@click.command()
@source_options
@_output_option("asyncapi")
@click.option("--whole", is_flag=True, help="Write one document of the whole application.")
@click.option("--title", default="Events", show_default=True, help="The title of the whole document.")
@click.option("--format", "form", type=click.Choice(["json", "yaml"]), default="json", show_default=True)
@_examples_option
@json_option
@debug_option
def asyncapi(
    apps: tuple[str, ...],
    config: str | None,
    contexts: tuple[str, ...],
    output: Path,
    whole: bool,
    title: str,
    form: str,
    examples: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write AsyncAPI 3.0 documents: one for each context, or one for the whole application.

    With --app, they have the subscriptions of the applications, and topics that no catalogue owns.
    """
    source = read_source(apps, config, contexts)
    contracts, known = _contracts(source), Examples(examples)
    documents: dict[str, dict[str, Any]] = {}
    if whole:
        release = next((each.release for each in contracts.values() if each.release), "1.0.0")
        documents["application"] = document_of(title, release, contracts.values(), source.subscribers, known)
    else:
        for name, contract in contracts.items():
            documents[name] = document_of(
                f"Events of {name}", contract.release or "1.0.0", [contract], source.subscribers, known
            )
    files = {f"{name}.asyncapi.{form}": _text(document, form) for name, document in documents.items()}
    _write(output, files, as_json)


def _text(document: Mapping[str, Any], form: str) -> str:
    if form == "json":
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    import yaml

    class Plain(yaml.SafeDumper):
        """Writes no anchors: some tools do not read them."""

        def ignore_aliases(self, data: object) -> bool:
            return True

    return yaml.dump(document, Dumper=Plain, sort_keys=False, allow_unicode=True)


@click.command()
@source_options
@_output_option("contract-docs")
@click.option("--title", default="Events", show_default=True, help="The title of the pages.")
@click.option(
    "--boundaries",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="A file as for 'contracts verify': subscriptions are then shown by context instead of by service.",
)
@_examples_option
@json_option
@debug_option
def docs(
    apps: tuple[str, ...],
    config: str | None,
    contexts: tuple[str, ...],
    output: Path,
    title: str,
    boundaries: Path | None,
    examples: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write a catalogue of the contracts as HTML pages, with a map of contexts and events.

    The pages need no server and no script. With --app, they show who receives each topic.
    """
    source = read_source(apps, config, contexts)
    pages = pages_of(
        title,
        _contracts(source),
        source.subscribers,
        Examples(examples),
        None if boundaries is None else read_boundaries(boundaries),
        knows_subscribers=source.knows_subscribers,
    )
    _write(output, pages, as_json)


def _contracts(source: Source) -> dict[str, Contract]:
    """Returns all contracts; topics without a catalogue count as those of their first word."""
    found = dict(source.contracts)
    for name, contract in source.undeclared.items():
        found[name if name not in found else f"{name} (no catalogue)"] = contract
    if not found:
        raise CommandFailed("no catalogue is installed, so that there is nothing to write; pass --app")
    return dict(sorted(found.items()))


def _write(output: Path, files: Mapping[str, str], as_json: bool) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (output / name).write_text(text, encoding="utf-8")
    if as_json:
        print_json({"written": [str(output / name) for name in files]})
    else:
        click.echo(f"wrote {counted(len(files), 'file')} to {output}")
