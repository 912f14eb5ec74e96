"""Builds the wheel and the sdist of each distribution: ``python -m promenade_release.building ROOT TARGET``.

It is a program of its own, so that a release can run it twice, in two directories and two processes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hatchling.build import build_sdist, build_wheel

from promenade_release.sources import members_of

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Builds everything below ROOT into TARGET."""
    root, target = (Path(argument).resolve() for argument in arguments)
    target.mkdir(parents=True, exist_ok=True)
    for directory in members_of(root):
        os.chdir(directory)
        build_sdist(str(target))
        build_wheel(str(target))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
