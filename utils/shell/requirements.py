"""Check whether this Python satisfies requirements.txt: exit code 0, or 1 with one line on stderr that lists what is missing.

Only the standard library: it runs before anything is installed.
"""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

OLDEST_PYTHON = (3, 11)


def unsatisfied(requirements):
    """Packages in a file of ``name==version`` lines that are not installed in that version, as a list of texts."""
    lacking = []
    for line in Path(requirements).read_text(encoding="utf-8").splitlines():
        name, _, pinned = line.split("#")[0].strip().partition("==")
        if not name:
            continue
        try:
            installed = version(name).split("+")[0]  # builds for one platform, such as 2.11.0+cpu, are that version
        except PackageNotFoundError:
            installed = "nothing"
        if installed != pinned:
            lacking.append(f"{name} {pinned} ({installed} installed)")
    return lacking


if __name__ == "__main__":
    lacking = unsatisfied(Path(__file__).resolve().parents[2] / "requirements.txt")
    if sys.version_info < OLDEST_PYTHON:
        lacking.insert(0, f"Python {OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]} or later ({sys.version.split()[0]} here)")
    sys.exit(", ".join(lacking) or 0)
