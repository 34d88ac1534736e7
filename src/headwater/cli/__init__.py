"""The command line: `headwater COMMAND`. Verbs only; what they do lies below."""

from __future__ import annotations


def main() -> int:
    """Entry of the `headwater` command; the exit code of the contract."""
    from headwater.cli.app import run

    return run()
