"""The commands, and what ends a command: its exit code.

0 done; 1 done, and the finding is bad; 2 wrong usage or settings; 3 what it needs cannot be reached.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import typer

from headwater.cli import ask, importing, manage, metrics, operate, processes
from headwater.cli.client import Failed
from headwater.cli.context import split
from headwater.cli.show import err
from headwater.errors import HeadwaterError, Unreachable, UsageError

COMMON = (
    "Every command takes, before or after its own arguments: --data DIR (HEADWATER_DATA, ./headwater-data), "
    "--url (HEADWATER_URL), --key (HEADWATER_KEY), --project (default), --config FILE, --json."
)

app = typer.Typer(
    name="headwater",
    help=f"Event analytics that is exact, fast and yours.\n\n{COMMON}\n\nStart here: headwater up",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for module in (processes, manage, importing, metrics, ask, operate):
    module.register(app)


@app.command("version")
def show_version() -> None:
    """Print the version.

    Example: headwater version
    """
    try:
        print(version("headwater"))
    except PackageNotFoundError:
        from headwater import __version__

        print(__version__)


def run(arguments: list[str] | None = None) -> int:
    """Runs one command. Never raises for what a user can cause."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        context, rest = split(given)
        code: Any = app(rest, standalone_mode=False, obj=context, prog_name="headwater")
        return code if isinstance(code, int) else 0
    except typer.Exit as error:
        return error.exit_code
    except typer.TyperException as error:
        _show(error)
        return 2
    except typer.Abort:
        return 130
    except UsageError as error:
        return _fail(error, 2)
    except Failed as error:
        return _fail(error, 3 if error.status in (401, 403, 503) else 2)
    except Unreachable as error:
        return _fail(error, 3)
    except HeadwaterError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0


def _show(error: typer.TyperException) -> None:
    """What the parser of the arguments says of them, with the usage line; to stderr."""
    show = getattr(error, "show", None)  # its public root declares only the message
    if show is None:
        err.print(f"Error: {error}", markup=False, highlight=False)
    else:
        show(file=sys.stderr)


def _fail(error: Exception, code: int) -> int:
    err.print(f"headwater: {error}", markup=False, highlight=False, soft_wrap=True)
    return code
