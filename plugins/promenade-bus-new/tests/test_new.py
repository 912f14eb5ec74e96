from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from ruff.__main__ import find_ruff_bin

from promenade_bus_cli.main import cli
from promenade_bus_new import NewError, create, update
from promenade_bus_new.kinds import KINDS, RESERVED, project_of
from promenade_bus_new.rendering import TEMPLATES

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[3]


def run(*arguments: str) -> tuple[int, str]:
    """The exit status and the output of ``promenade-bus new``."""
    done = CliRunner().invoke(cli, ["new", *arguments])
    return done.exit_code, done.output


# --- names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("My Adapter", "did you mean 'my-adapter'?"),
        ("RateLimit", "did you mean 'rate-limit'?"),
        ("snake_case", "did you mean 'snake-case'?"),
        ("2fa", "must begin with a lower-case letter.*did you mean 'fa'?"),
        ("double--hyphen", "single hyphens.*did you mean 'double-hyphen'?"),
        ("-x", "did you mean 'x'?"),
        ("", "'' cannot be a name"),
        ("../up", "did you mean 'up'?"),
        ("/etc", "cannot be a name"),
        ("grüezi", "cannot be a name"),
        ("日本", r"as in 'rate-limit'$"),
        ("x\n", "cannot be a name"),
        ("a" * 21, "has 21 characters, at most 20 are allowed"),
        ("class", "is a keyword of Python"),
        ("match", "is a keyword of Python"),
        ("redis", "'redis' is a name of Promenade Bus itself"),
        ("promenade-bus-redis", "is a name of Promenade Bus itself"),
        ("tests", "is a name of Promenade Bus itself"),
        ("promenade-bus", "'promenade-bus' is a name of Promenade Bus itself"),
        *((word, f"'{word}' is no text in YAML") for word in ("true", "on", "no", "null", "off", "yes")),
    ],
)
def test_a_name_that_cannot_be_used(name: str, text: str, tmp_path: Path) -> None:
    """The error says what a name must be, and suggests the nearest one; nothing is written."""
    with pytest.raises(NewError, match=text):
        create("adapter", name, directory=tmp_path, author="Ada")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("kind", "name", "distribution"),
    [
        ("serializer", "json", "promenade-bus"),
        ("retry-policy", "exponential", "promenade-bus"),
        ("middleware", "logging", "promenade-bus-middleware"),
        ("health-probe", "dead-letters", "promenade-bus-health"),
        ("command", "dead-letters", "promenade-bus-cli"),
        ("context", "identity", "promenade-context-identity"),
    ],
)
def test_a_name_that_a_plugin_offers(
    kind: str, name: str, distribution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No bus could tell two offers of one kind and name apart; in another kind the name is free."""
    monkeypatch.setattr("promenade_bus_new.kinds.RESERVED", frozenset())
    with pytest.raises(NewError, match=rf"the {kind} '{name}' is offered by {distribution} 0\.\d.* already"):
        project_of(kind, name)
    assert project_of("adapter", name).name == name


@pytest.mark.parametrize("name", ["promenade-bus", "pytest-asyncio", "pyyaml"])
def test_an_application_is_no_installed_distribution(name: str) -> None:
    """An application has the name of its distribution, and would take the place of the installed one."""
    with pytest.raises(NewError, match="choose another name"):
        project_of("app", name)


@pytest.mark.parametrize("name", ["queue", "fastapi"])
def test_an_application_does_not_hide_a_module(name: str) -> None:
    """The name of a module of Python or of another package is refused for an application, and only there."""
    with pytest.raises(NewError, match=f"'{name}' is a module of Python or of an installed package"):
        project_of("app", name)
    assert project_of("middleware", name).package == f"promenade_bus_{name}"


def test_a_context_does_not_hide_a_plugin() -> None:
    """A context has another package than any plugin."""
    with pytest.raises(NewError, match="'bus-redis' would have the package of a plugin, promenade_bus_redis"):
        project_of("context", "bus-redis")


def test_the_names_of_a_project() -> None:
    """Distribution, package and classes follow from kind and name; the prefix may be part of the name."""
    project = project_of("middleware", "promenade-bus-audit-trail")
    assert (project.distribution, project.package, project.title) == (
        "promenade-bus-audit-trail",
        "promenade_bus_audit_trail",
        "AuditTrail",
    )
    context = project_of("context", "billing")
    assert (context.distribution, context.package) == ("promenade-context-billing", "promenade_billing")
    app = project_of("app", "rain-shop")
    assert (app.distribution, app.package) == ("rain-shop", "rain_shop")


def test_every_distribution_of_this_repository_is_reserved() -> None:
    """No plugin or context of others can have the name of one of ours."""
    directories = [*ROOT.glob("plugins/*/pyproject.toml"), *ROOT.glob("contexts/*/pyproject.toml")]
    names = {path.parent.name.removeprefix("promenade-bus-") for path in directories}
    assert names - RESERVED == set()


# --- writing ----------------------------------------------------------------------------------------------


def test_the_command_lists_what_it_wrote(tmp_path: Path) -> None:
    """It prints every file, and what to do next; the project knows its author and its edition."""
    status, output = run("middleware", "tenant", "--directory", str(tmp_path), "--author", 'Ada "L" <a@b.c>')
    path = tmp_path / "promenade-bus-tenant"
    assert status == 0
    files = {each.relative_to(path).as_posix() for each in path.rglob("*") if each.is_file()}
    *listed, _wrote, next_step = output.splitlines()
    assert {line.strip() for line in listed} == files
    assert next_step == f"  cd {path} && python -m pip install -e '.[test]' && python -m pytest"
    project = tomllib.loads((path / "pyproject.toml").read_text())["project"]
    assert project["authors"] == [{"name": 'Ada "L" <a@b.c>'}]
    assert project["entry-points"] == {"promenade_bus": {"tenant": "promenade_bus_tenant"}}
    answers = yaml.safe_load((path / ".copier-answers.yml").read_text())
    assert (answers["kind"], answers["name"], answers["author"]) == (
        "middleware",
        "tenant",
        'Ada "L" <a@b.c>',
    )
    assert str(TEMPLATES) not in str(answers)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "say what to write, as in 'promenade-bus new middleware audit'"),
        (["middleware"], "kinds: adapter, serializer, middleware"),
        (["plugin", "x"], "there is no kind 'plugin'; kinds are: adapter"),
        (["--update", "adapter", "x"], "--update takes no KIND and no NAME"),
        (["context", "billing", "--directory", "missing"], "there is no directory 'missing'"),
    ],
)
def test_a_command_that_cannot_be(
    arguments: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an error with exit status 2."""
    monkeypatch.chdir(tmp_path)
    status, output = run(*arguments)
    assert status == 2
    assert text in output
    assert [*tmp_path.iterdir()] == []


def test_a_directory_that_exists_is_left_alone(tmp_path: Path) -> None:
    """A file, a directory or a broken link of that name is not touched."""
    for make in (Path.mkdir, Path.touch, lambda path: path.symlink_to("nowhere")):
        path = tmp_path / "promenade-bus-tenant"
        make(path)
        status, output = run("middleware", "tenant", "--directory", str(tmp_path))
        assert (status, "exists already; choose another name" in output) == (2, True)
        assert [*tmp_path.iterdir()] == [path]
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.long
def test_the_generated_code_is_formatted_whatever_its_name(tmp_path: Path) -> None:
    """Ruff finds nothing in any kind of project, with a short name and with the longest one."""
    for kind in KINDS:
        for name in (f"x{kind[0]}", f"{kind:x<20}".replace("-", "x")):
            create(kind, name, directory=tmp_path, author="Ada")
    for command in (["check", "--quiet", "--no-cache"], ["format", "--check", "--quiet", "--no-cache"]):
        done = subprocess.run(
            [find_ruff_bin(), *command, "."], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
    left = [
        path for path in tmp_path.rglob("*") if path.is_file() and "{{" in path.read_text().replace("${{", "")
    ]
    assert left == []


def test_the_containers_of_an_application(tmp_path: Path) -> None:
    """Web and worker have the same image, wait for Redis, and get longer to stop than the bus needs."""
    path = create("app", "rain-shop", directory=tmp_path, author="Ada")
    services = yaml.safe_load((path / "compose.yaml").read_text())["services"]
    assert {*services} == {"redis", "web", "worker"}
    bus = yaml.safe_load((path / "config/app.redis.yaml").read_text())["bus"]
    assert bus["shutdown_timeout"] == "20s"
    for name in ("web", "worker"):
        assert services[name]["stop_grace_period"] == "30s"
        assert services[name]["depends_on"] == {"redis": {"condition": "service_healthy"}}
    docker = (path / "Dockerfile").read_text()
    copied = [line.split()[1:-1] for line in docker.splitlines() if line.startswith("COPY")]
    assert all((path / each).exists() for paths in copied for each in paths)


# --- updating ---------------------------------------------------------------------------------------------


def git(directory: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=directory, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that was just written, and committed."""
    path = create("health-probe", "disk", directory=tmp_path, author="Ada")
    git(path, "init", "--quiet")
    commit(path)
    return path


def commit(project: Path) -> None:
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "A state")


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    """The templates with a second edition, which changes, adds, renames and removes files."""
    editions = tmp_path / "templates"
    shutil.copytree(TEMPLATES / "1", editions / "1")
    shutil.copytree(TEMPLATES / "1", editions / "2")
    later = editions / "2"
    replace(later / "distribution" / "pyproject.toml.jinja", "pytest>=8.4", "pytest>=9.0")
    replace(later / "common" / "CHANGELOG.md.jinja", "The first version.", "The very first version.")
    replace(later / "common" / ".gitignore.jinja", "build/\n", "build/\nwheels/\n")
    (later / "common" / "SECURITY.md.jinja").write_text("Tell {{ author }} about {{ distribution }}.\n")
    (later / "health-probe" / "README.md.jinja").unlink()
    return editions


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def test_an_update_merges_both_sides(project: Path, templates: Path) -> None:
    """Lines of the template and of the project change side by side; new files come, old ones go."""
    replace(project / "pyproject.toml", 'version = "0.1.0"', 'version = "0.2.0"')
    (project / "notes.txt").write_text("mine")
    commit(project)
    done = update(project, templates=templates)
    assert (done.before, done.after, done.conflicts) == (1, 2, [])
    assert {change.path: change.what for change in done.changes} == {
        ".copier-answers.yml": "changed",
        ".gitignore": "changed",
        "CHANGELOG.md": "changed",
        "README.md": "removed",
        "SECURITY.md": "added",
        "pyproject.toml": "changed",
    }
    text = (project / "pyproject.toml").read_text()
    assert 'version = "0.2.0"' in text
    assert "pytest>=9.0" in text
    assert (project / "SECURITY.md").read_text() == "Tell Ada about promenade-bus-disk.\n"
    assert not (project / "README.md").exists()
    assert (project / "notes.txt").read_text() == "mine"
    commit(project)
    assert update(project, templates=templates).changes == ()


def test_an_update_with_conflicts(project: Path, templates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both versions of a line stand between marks; files that the project removed or keeps are left."""
    replace(project / "CHANGELOG.md", "The first version.", "My version.")
    replace(project / "README.md", "free space", "free room")
    (project / ".gitignore").unlink()
    (project / "SECURITY.md").write_text("Ask me.\n")
    commit(project)
    monkeypatch.setattr("promenade_bus_new.updating.update.__kwdefaults__", {"templates": templates})
    status, output = run("--update", "--directory", str(project))
    assert status == 1
    assert [line.split() for line in output.splitlines() if line.startswith("  ")] == [
        ["changed", ".copier-answers.yml"],
        ["kept", ".gitignore"],
        ["conflict", "CHANGELOG.md"],
        ["kept", "README.md"],
        ["conflict", "SECURITY.md"],
        ["changed", "pyproject.toml"],
    ]
    assert "updated from edition 1 of the templates to edition 2" in output
    assert "edit these files between the marks" in output
    lines = (project / "CHANGELOG.md").read_text().splitlines()
    begin, end = lines.index("<<<<<<< yours"), lines.index(">>>>>>> the template now")
    assert lines[begin + 1 : end] == ["- My version.", "=======", "- The very first version."]
    assert not (project / ".gitignore").exists()
    assert "free room" in (project / "README.md").read_text()


@pytest.mark.parametrize(("kind", "name", "taken"), [("app", "rain", "click"), ("command", "rain", "redis")])
def test_a_project_whose_name_is_taken_by_now_is_updated(
    kind: str, name: str, taken: str, tmp_path: Path, templates: Path
) -> None:
    """An installed application has a module of its name, and so may a later release of Promenade Bus."""
    path = create(kind, name, directory=tmp_path, author="Ada")
    replace(path / ".copier-answers.yml", f"name: {name}", f"name: {taken}")
    git(path, "init", "--quiet")
    commit(path)
    assert update(path, templates=templates).after == 2


def test_an_update_that_stops_half_way(project: Path, templates: Path) -> None:
    """The answers still name the earlier edition, and the error says how to undo the rest."""
    (project / "SECURITY.md").mkdir()
    (project / "SECURITY.md" / "mine.txt").write_text("mine")
    commit(project)
    with pytest.raises(NewError, match=r"stopped half-way at 'SECURITY.md': .*'git checkout -- \."):
        update(project, templates=templates)
    assert "_commit: 1" in (project / ".copier-answers.yml").read_text()
    assert "very first" in (project / "CHANGELOG.md").read_text()
    git(project, "checkout", "--", ".")
    git(project, "clean", "-d", "--force", ".")
    (project / "SECURITY.md" / "mine.txt").unlink()
    (project / "SECURITY.md").rmdir()
    commit(project)
    assert update(project, templates=templates).conflicts == []


def test_an_update_leaves_symbolic_links_alone(project: Path, templates: Path, tmp_path: Path) -> None:
    """It would change a file elsewhere, which git could not restore."""
    elsewhere = tmp_path / "elsewhere.md"
    shutil.move(project / "CHANGELOG.md", elsewhere)
    before = elsewhere.read_text()
    (project / "CHANGELOG.md").symlink_to(elsewhere)
    commit(project)
    changes = {change.path: change.what for change in update(project, templates=templates).changes}
    assert changes["CHANGELOG.md"] == "kept"
    assert elsewhere.read_text() == before


def test_an_update_does_not_change_what_git_ignores(project: Path, templates: Path) -> None:
    """Nobody could undo that; nothing else is changed either."""
    (project / ".git" / "info").mkdir(exist_ok=True)
    (project / ".git" / "info" / "exclude").write_text("SECURITY.md\n")
    (project / "SECURITY.md").write_text("mine\n")
    with pytest.raises(NewError, match=r"not committed: git does not track 'SECURITY.md'; commit or move"):
        update(project, templates=templates)
    assert (project / "SECURITY.md").read_text() == "mine\n"
    assert "_commit: 1" in (project / ".copier-answers.yml").read_text()


@pytest.mark.parametrize("kind", ["app", "command"])
def test_every_author_is_a_string_of_toml(kind: str, tmp_path: Path) -> None:
    """Also one with quotes, control characters, and characters that JSON escapes as surrogates."""
    author = 'Ada "\U0001d49c" \\ <Grüezi>\x7f\t'
    path = create(kind, "rain-shop", directory=tmp_path, author=author)
    text = (path / "pyproject.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["project"]["authors"] == [{"name": author}]
    assert "Grüezi" in text


@pytest.mark.parametrize(
    ("author", "text"),
    [
        ("Ada\nLovelace", "the author 'Ada\\nLovelace' has more than one line"),
        ("Ada\u2028Lovelace", "has more than one line"),
        ("Ada\0", "has more than one line"),
        ("Ad\udce4", "is not text in UTF-8; name another one with --author"),
    ],
)
def test_an_author_that_cannot_be_used(author: str, text: str, tmp_path: Path) -> None:
    """It is an error with exit status 2, and nothing is written."""
    status, output = run("app", "rain-shop", "--directory", str(tmp_path), "--author", author)
    assert (status, [*tmp_path.iterdir()]) == (2, [])
    assert text in output


@pytest.mark.parametrize(
    ("user", "text"),
    [
        (b'Ada "L" \\\\ #=[x]', None),
        (b"Ren\xe9", "git's user.name is not text in UTF-8: b'Ren\\xe9'; name the author with --author"),
        (b"Ada\\nLovelace", "the author 'Ada\\nLovelace' has more than one line"),
    ],
)
def test_the_author_of_git(
    user: bytes, text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of git's user becomes a string of TOML and of YAML, or is refused."""
    config = tmp_path / "gitconfig"
    config.write_bytes(b'[user]\nname = "' + user.replace(b'"', b'\\"') + b'"\n')
    for name, value in (("GIT_CONFIG_GLOBAL", str(config)), ("GIT_CONFIG_NOSYSTEM", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    status, output = run("command", "stock")
    path = tmp_path / "promenade-bus-stock"
    if text is not None:
        assert (status, path.exists()) == (2, False)
        assert text in output
        return
    name = user.decode().replace("\\\\", "\\")
    project = tomllib.loads((path / "pyproject.toml").read_text())["project"]
    assert (status, project["authors"]) == (0, [{"name": name}])
    assert yaml.safe_load((path / ".copier-answers.yml").read_text())["author"] == name


def test_answers_that_are_a_symbolic_link(project: Path, templates: Path, tmp_path: Path) -> None:
    """An update does not write through the link, and changes nothing."""
    answers, elsewhere = project / ".copier-answers.yml", tmp_path / "elsewhere.yml"
    answers.rename(elsewhere)
    answers.symlink_to(elsewhere)
    commit(project)
    before = elsewhere.read_bytes()
    with pytest.raises(NewError, match=r"'.*copier-answers.yml' is a symbolic link, .* replace it by a file"):
        update(project, templates=templates)
    assert elsewhere.read_bytes() == before
    assert not (project / "SECURITY.md").exists()


def test_nothing_to_update(project: Path) -> None:
    """A project of the latest edition is up to date, even with changes that are not committed."""
    (project / "notes.txt").write_text("mine")
    status, output = run("--update", "--directory", str(project))
    assert (status, output) == (0, "up to date: edition 1 of the templates is the latest one\n")


def test_an_update_must_be_undoable(project: Path, templates: Path, tmp_path: Path) -> None:
    """Without a repository, and with changes that are not committed, an update is refused."""
    (project / "notes.txt").write_text("mine")
    with pytest.raises(NewError, match="has changes that are not committed; commit or stash them"):
        update(project, templates=templates)
    bare = create("command", "stock", directory=tmp_path, author="Ada")
    with pytest.raises(NewError, match=r"is in no git repository.*run 'git init' there and commit first"):
        update(bare, templates=templates)
    assert "very" not in (bare / "CHANGELOG.md").read_text()


def test_an_update_changes_everything_or_nothing(project: Path, templates: Path) -> None:
    """A file that git cannot merge ends the update before any file is changed."""
    (project / "pyproject.toml").write_bytes(b"\0\1\2")
    commit(project)
    with pytest.raises(NewError, match=r"git cannot merge 'pyproject.toml': "):
        update(project, templates=templates)
    done = subprocess.run(["git", "status", "--porcelain"], cwd=project, capture_output=True, check=True)
    assert done.stdout == b""


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        (None, "was not written by 'promenade-bus new': it has no file .copier-answers.yml"),
        ("{", "cannot be read"),
        ("_src_path: gh:someone/else\n", "is of another template, not of promenade-bus-new"),
        ("_src_path: promenade-bus-new\nkind: app\n", "has been changed: 'name' is missing"),
        ("{_src_path: promenade-bus-new, kind: app, name: ../x, author: a, _commit: 1}", "cannot be a name"),
        ("{_src_path: promenade-bus-new, kind: app, name: x, author: a, _commit: one}", "has been changed"),
        ("{_src_path: promenade-bus-new, kind: app, name: x, author: a, _commit: 99}", "by edition 99"),
        (
            "{_src_path: promenade-bus-new, kind: app, name: x, author: a, _commit: 0}",
            "names edition 0, which does not exist",
        ),
    ],
)
def test_a_directory_that_is_no_project(answers: str | None, text: str, tmp_path: Path) -> None:
    """An answers file that is missing, of another template, damaged or newer is an error that says so."""
    if answers is not None:
        (tmp_path / ".copier-answers.yml").write_text(answers)
    with pytest.raises(NewError, match=text):
        update(tmp_path)


def test_without_git(project: Path, templates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says that git is missing."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NewError, match="an update needs git"):
        update(project, templates=templates)


def test_the_help_imports_no_template_engine() -> None:
    """``promenade-bus new --help`` is quick: copier is imported when something is written."""
    code = "import sys\nfrom promenade_bus_new.command import new\nsys.exit('copier' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
