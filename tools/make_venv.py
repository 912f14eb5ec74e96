"""Make or bring up to date a virtual environment of this checkout: make_venv.py DIRECTORY REQUIREMENTS.

The interpreter that runs this file is the one the environment is made for. The environment gets the
hash-pinned REQUIREMENTS, and every distribution of the workspace in editable form. When nothing changed since
the last time, nothing is done.

pip fetches a pinned uv into `.venv-tools` first, because uv is several times faster. Where uv is not
available or fails (no wheel for the platform, an unusual proxy), pip does the same work.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".venv-tools"
BOOTSTRAP = ROOT / "requirements" / "bootstrap.txt"
BIN = "Scripts" if os.name == "nt" else "bin"


class StepFailed(Exception):
    """A command did not succeed; its output is the message."""


def say(message: str) -> None:
    """Print one line of progress."""
    print(f"==> {message}", flush=True)


def run(command: Sequence[str | Path], environment: dict[str, str] | None = None) -> str:
    """Run a command and return its standard output; raise StepFailed with all its output when it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        env=environment,
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    if done.returncode:
        line = " ".join(str(part) for part in command)
        raise StepFailed(f"{line}\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout


def digest(*parts: str | Path) -> str:
    """Return one hash over strings and the contents of files."""
    total = hashlib.sha256()
    for part in parts:
        content = part.read_bytes() if isinstance(part, Path) else part.encode()
        total.update(len(content).to_bytes(8, "big") + content)
    return total.hexdigest()


def members() -> list[Path]:
    """Return the directory of every distribution of the workspace, the root first."""
    found = [
        path.parent
        for pattern in ("plugins/*", "contexts/*", "examples")
        for path in ROOT.glob(f"{pattern}/pyproject.toml")
    ]
    return [ROOT, *sorted(found)]


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Let only one process at a time change the environments of this checkout."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with (ROOT / ".venv-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Stamp:
    """The source of an environment, kept inside it as a small JSON file."""

    def __init__(self, environment: Path) -> None:
        self.path = environment / "promenade-stamp.json"
        try:
            self.facts: dict[str, str] = json.loads(self.path.read_text())
        except (OSError, ValueError):
            self.facts = {}

    def matches(self, **facts: str) -> bool:
        """Tell whether every fact is as it was."""
        return all(self.facts.get(name) == value for name, value in facts.items())

    def record(self, **facts: str) -> None:
        """Keep facts, once the step they stand for is complete."""
        self.facts.update(facts)
        self.path.write_text(json.dumps(self.facts, indent=1) + "\n")

    def forget(self, *names: str) -> None:
        """Drop facts before the step they stand for begins, so that an interrupted step is repeated."""
        for name in names:
            self.facts.pop(name, None)
        if self.path.exists():
            self.record()


class Installer:
    """Installs into environments, with uv where it works and with pip where it does not."""

    def __init__(self) -> None:
        self.python = TOOLS / BIN / "python"
        self.uv: Path | None = TOOLS / BIN / "uv"
        self.environment = {
            **os.environ,
            "UV_PYTHON_DOWNLOADS": "never",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        self.environment.pop("VIRTUAL_ENV", None)
        stamp = Stamp(TOOLS)
        wanted = digest(BOOTSTRAP, str(ROOT))
        if not stamp.matches(bootstrap=wanted) or not self._works():
            say(f".venv-tools: fetching uv with pip (CPython {platform.python_version()})")
            shutil.rmtree(TOOLS, ignore_errors=True)
            run([sys.executable, "-m", "venv", TOOLS])
            pip = [self.python, "-m", "pip", "install", "-q", "--require-hashes", "--only-binary", ":all:"]
            try:
                run([*pip, "-r", BOOTSTRAP], self.environment)
            except StepFailed as failure:
                say("uv cannot be had; going on with pip, which is slower")
                print(failure, file=sys.stderr)
            Stamp(TOOLS).record(bootstrap=wanted)
        if not self.uv.exists():
            self.uv = None
        elif not {"UV_DEFAULT_INDEX", "UV_INDEX_URL"} & self.environment.keys():
            # A machine that is set up for a mirror tells pip about it, seldom uv.
            with contextlib.suppress(StepFailed):
                mirror = run(
                    [self.python, "-m", "pip", "config", "get", "global.index-url"], self.environment
                )
                self.environment["UV_DEFAULT_INDEX"] = mirror.strip()
            if mirror := os.environ.get("PIP_INDEX_URL"):
                self.environment["UV_DEFAULT_INDEX"] = mirror

    def _works(self) -> bool:
        try:
            run([self.python, "-c", ""])
        except (StepFailed, OSError):
            return False
        return True

    def create(self, target: Path) -> None:
        """Make an empty environment for the running interpreter."""
        if self.uv:
            try:
                run([self.uv, "venv", "-q", "--clear", "--python", sys.executable, target], self.environment)
            except StepFailed as failure:
                self._give_up_on_uv(failure)
            else:
                return
        run([sys.executable, "-m", "venv", "--clear", "--without-pip", target])

    def requirements(self, target: Path, file: Path) -> None:
        """Install exactly what a hash-pinned file names."""
        python = target / BIN / "python"
        if self.uv:
            try:
                run(
                    [self.uv, "pip", "sync", "-q", "--require-hashes", "--python", python, file],
                    self.environment,
                )
            except StepFailed as failure:
                self._give_up_on_uv(failure)
            else:
                return
        pip = [self.python, "-m", "pip", "--python", python, "install", "-q", "--require-hashes"]
        run([*pip, "-r", file], self.environment)

    def editable(self, target: Path, directories: Sequence[Path]) -> None:
        """Install distributions of this checkout so that their sources are used in place."""
        python = target / BIN / "python"
        what = ["--no-deps", "--no-build-isolation", *(part for path in directories for part in ("-e", path))]
        if self.uv:
            try:
                run([self.uv, "pip", "install", "-q", "--python", python, *what], self.environment)
            except StepFailed as failure:
                self._give_up_on_uv(failure)
            else:
                return
        run([self.python, "-m", "pip", "--python", python, "install", "-q", *what], self.environment)

    def _give_up_on_uv(self, failure: StepFailed) -> None:
        say("uv did not succeed; trying again with pip")
        print(failure, file=sys.stderr)
        self.uv = None


def bring_up_to_date(target: Path, requirements: Path) -> None:
    """Do what is needed, and no more, so that the environment is as REQUIREMENTS and the workspace say."""
    directories = members()
    home = digest(str(ROOT), sys.version, os.path.realpath(sys.executable))
    pinned = digest(requirements)
    workspace = digest(*(part for path in directories for part in (str(path), path / "pyproject.toml")))
    if Stamp(target).matches(home=home, pinned=pinned, workspace=workspace):
        return

    installer = Installer()
    name = target.name
    if not Stamp(target).matches(home=home):
        say(f"{name}: creating for CPython {platform.python_version()}")
        installer.create(target)
        Stamp(target).record(home=home)
    if not Stamp(target).matches(pinned=pinned):
        say(f"{name}: installing {requirements.relative_to(ROOT)}")
        Stamp(target).forget("pinned", "workspace")
        installer.requirements(target, requirements)
        Stamp(target).record(pinned=pinned)
    say(f"{name}: installing the {len(directories)} distributions of this checkout")
    Stamp(target).forget("workspace")
    installer.editable(target, directories)
    Stamp(target).record(workspace=workspace)


def main() -> int:
    """Run the command line."""
    if len(sys.argv) != 3:
        print("usage: make_venv.py DIRECTORY REQUIREMENTS", file=sys.stderr)
        return 2
    try:
        with one_at_a_time():
            bring_up_to_date(ROOT / sys.argv[1], ROOT / sys.argv[2])
    except StepFailed as failure:
        print(
            f"{failure}\n\nThe environment {sys.argv[1]} is not complete: the command above failed.",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
