"""``python -m promenade_release [TARGET]``: builds, checks and orders a release, by default in dist/."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from promenade_site.snapshot import snapshot

from promenade_release.changelog import fragments_of
from promenade_release.checking import differences, faults, upload_order
from promenade_release.sources import complete, copy_sources, repository_of

__all__ = ["main", "release"]

ROOT = Path(__file__).resolve().parents[2]


def build(copy: Path, target: Path, epoch: str, seed: str) -> None:
    """Builds a copy of the sources in a process of its own."""
    environment = {
        **os.environ,
        "SOURCE_DATE_EPOCH": epoch,
        "PYTHONHASHSEED": seed,
        "PYTHONPATH": str(ROOT / "tools"),
    }
    command = [sys.executable, "-m", "promenade_release.building", str(copy), str(target)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the build failed:\n{done.stdout}{done.stderr}")


def release(root: Path, target: Path, repository: str) -> list[str]:
    """Builds everything twice and keeps one build; returns what is wrong with it.

    The second build runs in another directory, with another order of sets, and on files with other times.
    """
    stamp = ["git", "log", "-1", "--format=%ct"]
    epoch = subprocess.run(stamp, cwd=root, capture_output=True, text=True, check=True).stdout.strip()
    with TemporaryDirectory() as place:
        builds = []
        for number in ("1", "2"):
            copy = Path(place) / f"copy-{number}" / ("deep" if number == "2" else "")
            copy.mkdir(parents=True)
            copy_sources(root, copy)
            complete(copy, repository)
            if number == "2":
                for path in copy.rglob("*"):
                    os.utime(path, (1, 1))
            builds.append(Path(place) / f"built-{number}")
            build(copy, builds[-1], epoch, number)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(builds[0], target)
        wrong = [f"{name}: two builds differ" for name in differences(*builds)]
    wrong += faults(path for path in target.iterdir())
    order = upload_order(target.glob("*.whl"))
    (target / "UPLOAD-ORDER.txt").write_text("".join(f"{name}\n" for name in order), "utf-8")
    return wrong


def unprepared(root: Path) -> list[str]:
    """The steps that a checkout needs before a release."""
    fragments, wrong = fragments_of(root)
    if fragments:
        wrong.append(f"{len(fragments)} fragments are not in their changelogs: run `make changelog`")
    if (root / "tests" / "project" / "public_api.txt").read_text("utf-8") != snapshot():
        wrong.append("tests/project/public_api.txt is not what the code offers: run `make api`")
    status = ["git", "status", "--porcelain"]
    if subprocess.run(status, cwd=root, capture_output=True, text=True, check=True).stdout:
        wrong.append("there are changes that are not committed, and would not be in the release")
    return wrong


def main(arguments: Sequence[str]) -> int:
    """Makes the release, and says what is in it."""
    target = Path(arguments[0]) if arguments else ROOT / "dist"
    repository = os.environ.get("REPOSITORY", "").rstrip("/") or repository_of(ROOT)
    wrong = unprepared(ROOT) or release(ROOT, target, repository)
    for line in wrong:
        print(f"release: {line}", file=sys.stderr)
    if wrong:
        return 1
    if not repository:
        print(
            "release: the address of the repository is not known, so that the packages link nowhere. Before"
            " you publish, set 'repository' under [tool.promenade] of pyproject.toml.",
            file=sys.stderr,
        )
    count = len([*target.glob("*.whl")])
    print(f"==> {count} wheels and {count} sdists in {target}, the order of upload in UPLOAD-ORDER.txt")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
