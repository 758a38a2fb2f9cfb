"""The ``depprobe`` command: parse, call the API, print. Each command's module loads when it is called.

Exit codes: 0 done, 1 the run failed, 2 the call was wrong, 3 a check did not hold, 130 interrupted,
143 terminated.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import click

from depprobe._version import __version__
from depprobe.cli.completing import ASKED
from depprobe.cli.named_models import WORDS
from depprobe.errors import BadInput, DepprobeError, harmless, unknown
from depprobe.registry import offered, package_of, taken
from depprobe.runs.subprocess_executor import WAITING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

#: command -> what it does; the module depprobe.cli.commands.<command> holds a click command of that name
COMMANDS = {
    "jacobian": "How far information travels: norms of dh_t/dx_k, a curve, distances, a figure.",
    "spectrum": "Eigenvalues, singular values and non-normality of recurrent weights or steps.",
    "gates": "Forget gates: their product beside the true dc_t/dc_k, and how long units hold.",
    "lyapunov": "How fast nearby trajectories diverge: Lyapunov exponents of a recurrence, a figure.",
    "claims": "The ledger of statements: measured numbers, and confirmed, qualified or refuted.",
    "cost": "What layers cost: FLOPs, memory, time, sequential steps, per-token latency; a figure.",
    "advise": "Which layer to take for a length, a width and a dependency, measured here.",
    "sweep": "A probe over a grid of layers, sizes and seeds, resumable, on one machine or a cluster.",
    "show": "Summarise stored datasets.",
    "plot": "Draw stored datasets, overlaid.",
    "report": "One HTML page on the datasets of a folder or sweep: tables, figures, curves to explore.",
    "runs": "List stored datasets: what was asked, of what input, when.",
    "layers": "List the named layers, their options, equations and operators.",
    "models": "List trained models with their licences, and fetch their weights.",
}
#: command -> what of it is kept as soon as it is measured
_KEPT = {"jacobian": "case", "cost": "point", "sweep": "cell", "claims": "statement", "advise": "measurement"}
_KEPT |= {"gates": "case", "lyapunov": "case", "spectrum": "matrix"}
#: --quiet, also where another short option follows in the same word
_QUIET = re.compile(r"--quiet|-q.*")


def _others() -> dict[str, EntryPoint]:
    """Commands of other packages by name; the commands here come first."""
    return {entry.name: entry for entry in offered("commands") if entry.name not in COMMANDS}


def _command_of(entry: EntryPoint) -> click.Command:
    """The command that another package offers; raises ``DepprobeError``, naming the package."""
    found = taken(entry)
    if not isinstance(found, click.Command):
        kind = type(found).__name__
        raise DepprobeError(
            f"{entry.name!r} of the package {package_of(entry)} is no click.Command but {kind}"
        )
    return found


class _Lazy(click.Group):
    """Lists commands without importing them, so that --help answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *_others()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            others = _others()
            if cmd_name in others:
                return _command_of(others[cmd_name])
            _suggest_layer(cmd_name)
            raise unknown("command", cmd_name, [*COMMANDS, *others])
        return getattr(importlib.import_module(f"depprobe.cli.commands.{cmd_name}"), cmd_name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        # kept as they stand: --weights belongs to the --model before it
        ctx.meta[WORDS] = args[1:]
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        # click would answer the first two with a blank line, and take the second for an interrupt; where
        # nobody reads stdout it would end the program
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise click.Abort from None
        except EOFError as error:
            raise DepprobeError(f"data ended too early: {error}") from error
        except BrokenPipeError as error:
            raise DepprobeError("the reader of the output went away") from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
        others = [(name, f"From the package {package_of(entry)}.") for name, entry in _others().items()]
        if others:
            with formatter.section("Commands of other packages"):
                formatter.write_dl(others)


def _suggest_layer(word: str) -> None:
    """Refuse the name of a layer with the command that measures it."""
    from depprobe.registry import layers

    if word.partition(":")[0] in layers:
        raise BadInput(f"{word} is a layer: depprobe jacobian --layer {word}, or depprobe layers {word}")


def _print_schema(ctx: click.Context) -> NoReturn:
    from depprobe.cli.json_schema import schema
    from depprobe.cli.output import as_json

    click.echo(as_json(schema()))
    ctx.exit()


@click.command(
    cls=_Lazy,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True},
)
@click.version_option(__version__, prog_name="depprobe")
@click.option(
    "--schema",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, option, asked: _print_schema(ctx) if asked else None,
    help="Print the JSON schema of what --json prints.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Measure how far information and gradients travel in sequence models.

    Start with: depprobe jacobian --layer lstm --n 1000
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and leave with its exit code; errors are one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    if sys.stdout is None:
        # closed by the caller; no file that is opened from here on may take its place
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    # asleep, not spinning: two programs whose threads spin on the same processors slow each other ten times
    os.environ.setdefault(*WAITING)
    try:
        with _ended_by_sigterm(), _warnings_on_one_line(any(map(_QUIET.fullmatch, arguments))):
            left = cli.main(
                [a for a in arguments if a != "--debug"], prog_name="depprobe", standalone_mode=False
            )
        # what click returns for ctx.exit(code); the commands themselves return nothing
        code = left if isinstance(left, int) else 0
    except _Terminated:
        _say(f"terminated; {_left(arguments)}")
        code = 143
    except (click.Abort, KeyboardInterrupt):
        _say(f"interrupted; {_left(arguments)}")
        code = 130
    except SystemExit as error:
        if ASKED in os.environ:
            raise  # completions are all there is
        # the code of a model may end its own program, not this one
        _say(f"the code of a model ended the program (SystemExit: {error.code})")
        code = 1
    except Exception as error:
        if debug:
            raise
        code, message = _reading(error)
        # a shell that asks for completions shows whatever is said amid the words
        if ASKED not in os.environ:
            _say(message)
    sys.exit(code)


class _Terminated(BaseException):
    """The system asks the process to end."""


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """While a command runs in the main thread, SIGTERM ends it as an interrupt does."""

    def terminate(number: int, frame: Any) -> NoReturn:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _warnings_on_one_line(quiet: bool) -> Iterator[None]:
    """What libraries warn of, or log as a warning, is one line on stderr, said once; nothing when quiet."""
    said: set[str] = set()

    def show(message: Warning | str, *where: Any, **more: Any) -> None:
        line = " ".join(str(message).split())
        if line not in said and not quiet:
            said.add(line)
            _say(line)

    class Logged(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            show(record.getMessage())

    before, logging.lastResort = logging.lastResort, Logged(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    finally:
        logging.lastResort = before


def _left(arguments: list[str]) -> str:
    """What an interrupted command leaves."""
    kept = _KEPT.get(next((word for word in arguments if not word.startswith("-")), ""))
    if kept is None:
        return "nothing is half-written, and the same command starts again"
    taken = f"takes up every finished {kept} and goes on with the others"
    return f"nothing is half-written; the same command {taken}"


def _reading(error: Exception) -> tuple[int, str]:
    """Exit code and one line for an error."""
    if isinstance(error, click.ClickException):
        return error.exit_code, " ".join(error.format_message().split())
    if isinstance(error, DepprobeError):
        return error.exit_code, " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return 1, f"no space left on the device that {error.filename or 'the output'} is on"
    first = (str(error).strip().splitlines() or [""])[0]
    return 1, f"{type(error).__name__}: {first} (--debug shows where)"


def _say(message: str) -> Any:
    click.echo(harmless(f"depprobe: {message}"), err=True)
