"""What the measuring commands share: file names, the run itself, and how its result is said.

A command calls ``Run.of`` first (bad paths are told before anything is measured), measures with
``run.options`` within ``run.measuring()``, then calls ``run.keep(ds)`` and ``run.say(ds, paths)``. The table
comes from ``depprobe.cli.summaries.<command>``, the figures from ``depprobe.cli.plotting``.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from depprobe.cli import output, tables
from depprobe.cli.named_models import WORDS, Named, named, targets_of
from depprobe.cli.options import OF_MODELS, SAYING, TABLE, check_forms
from depprobe.cli.options import given as given_of
from depprobe.cli.progress import progress

if TYPE_CHECKING:
    import xarray as xr

    from depprobe.cli.output import Summary
    from depprobe.runs.inputs import Source
    from depprobe.store.finished import Finished


#: entry of the provenance: a hash of the file that was read, so that another one gives another result
_CONTENT = "input_file_sha256"


@dataclass
class Run:
    """One run of a measuring command: where its result goes, and how it is said.

    Attributes
    ----------
    command : the command line, without what does not bear on the result.
    targets : what is measured: spec strings, or a mapping of labels.
    source : the input.
    data, figure : paths of the dataset and the figure.
    options : what bears on the result, by parameter name.
    """

    command: str
    targets: Any
    source: Source
    data: Path
    figure: Path
    options: dict[str, Any]
    _saying: dict[str, Any]
    _content: str = ""
    _lasting: bool = True
    _is_there: bool = False
    _seconds: float = 0.0
    _threads: int = 0

    @classmethod
    def of(
        cls, name: str, input_: str, options: Mapping[str, Any], layers: Sequence[str] | None = None
    ) -> Run:
        """Paths, input and command line of a run, all checked before anything is measured.

        Parameters
        ----------
        name : of the command, which is also that of its click function in ``depprobe.cli.commands.<name>``.
        input_ : what ``--input`` gave.
        options : all the other options.
        layers : spec strings, where they are not read off the command line.

        Raises
        ------
        BadInput : a path that cannot be written, two alike, an unknown figure format, a dataset that is not
            .nc, an unreadable input.
        """
        from depprobe.cli.plotting import Look
        from depprobe.errors import BadInput
        from depprobe.figures.drawing.saving import format_of
        from depprobe.runs.inputs import read
        from depprobe.store.marks import content_of

        said = {key: options[key] for key in SAYING if key in options}
        rest = {key: value for key, value in options.items() if key not in said}
        if said["quiet"] and said["verbose"]:
            raise BadInput("give --quiet or --verbose, not both")
        check_forms(said["as_json"], said["table"], said.get("rows"))
        context = click.get_current_context()
        if layers is None:
            given = named(context.meta[WORDS])
        else:
            given = [Named(text, is_model=False) for text in layers]
        # of spectra a label is that of a matrix, along depth that of a submodule
        along_depth = any("*" in str(rest.get(key) or "") for key in ("of", "wrt"))
        Look.of(said).check(None if along_depth or name == "spectrum" else len(given))
        if any(one.is_model for one in given):
            # a model has sizes and a dtype of its own unless the words say otherwise
            rest |= {key: None for key in OF_MODELS if key in rest and _is_default(context, key)}
        command = _command(name, given, input_, rest)
        table = {key: rest.pop(key) for key in TABLE if key in rest}
        source, files = read(input_, **table), [] if input_ == "noise" else [Path(input_)]
        content = "".join(map(content_of, files))
        named_after = [*(one.name for one in given), *(file.stem for file in files)]
        stem = Path("runs") / _run_name(name, f"{command}{content}", named_after, rest)
        data = said["output_"] or stem.with_name(stem.name + ".nc")
        figure = said["figure"] or stem.with_name(stem.name + ".png")
        format_of(figure)
        for path in (data, figure):
            output.check_writable(path)
        output.check_distinct(data, figure, *files)
        if data.suffix.lower() != ".nc":
            where = "end in .nc" if data.name != ".nc" else "have a name before .nc"
            raise BadInput(f"a dataset is netCDF: --output must {where}, not {str(data)!r}")
        # whoever refuses the length says whether it was given
        rest |= {key: None for key in ("n",) if key in rest and _is_default(context, key)}
        # what a model's code reads is not known
        lasting = not any(one.is_model for one in given)
        for note in () if said["quiet"] else source.notes:
            click.echo(f"depprobe: {source.name}: {note}", err=True)
        return cls(command, targets_of(given), source, data, figure, rest, said, content, lasting)

    def there(self) -> xr.Dataset | None:
        """The result of this very command, where it is there and was made from the same input."""
        from depprobe import _version, store
        from depprobe.errors import DepprobeError

        if self._saying["again"] or not self._lasting or not self.data.is_file():
            return None
        try:
            ds = store.load(self.data)
        except DepprobeError:
            return None
        record = output.attributes_of(ds).get("provenance")
        made = (record.get("command"), record.get(_CONTENT, "")) if isinstance(record, dict) else None
        version = ds.attrs.get("depprobe_version")
        self._is_there = made == (self.command, self._content) and version == _version.__version__
        return ds if self._is_there else None

    @property
    def weighing(self) -> dict[str, Any]:
        """Options of ``depprobe.distances`` that were given."""
        return given_of(self._saying)

    @property
    def as_json(self) -> bool:
        """Whether the result is printed as JSON."""
        return bool(self._saying["as_json"])

    @contextmanager
    def measuring(self) -> Iterator[Callable[[float, int, str], None] | None]:
        """Set the threads, show progress and take the time; gives the function to report progress to."""
        import torch

        before = torch.get_num_threads()
        self._threads = self._saying["threads"] or before
        start = time.perf_counter()
        try:
            torch.set_num_threads(self._threads)
            # stdout is for results, whatever a model prints
            with progress(self._saying["quiet"]) as report, redirect_stdout(sys.stderr):
                yield report
        finally:
            torch.set_num_threads(before)
        self._seconds = time.perf_counter() - start

    @property
    def finished(self) -> Finished:
        """Where finished cases are kept until the result is there."""
        from depprobe.store.finished import Finished

        return Finished(self.data.with_name(self.data.name + ".partial"))

    def keep(self, ds: xr.Dataset, theory: xr.Dataset | None = None, kind: str = "auto") -> list[Path]:
        """Save the dataset and draw its figures, with theory over them; returns the paths of the figures."""
        from depprobe import store
        from depprobe.cli.plotting import Look, draw
        from depprobe.errors import NothingToDraw

        if not self._is_there:
            if self._content:
                record = json.loads(ds.attrs["provenance"]) | {_CONTENT: self._content}
                ds.attrs["provenance"] = json.dumps(record, sort_keys=True)
            store.save(ds, self.data)
        try:
            drawn = draw([ds], self.figure, kind, theory, Look.of(self._saying))
        except NothingToDraw as error:  # zeros are a result
            drawn = []
            if not self._saying["quiet"]:
                click.echo(f"depprobe: {error}", err=True)
        self.finished.clear()
        return [written.path for written in drawn]

    def note(self, lines: Sequence[str]) -> None:
        """Print further lines, where the result is printed as text."""
        if lines and not self._saying["as_json"] and self._saying["table"] in (None, "text"):
            output.echo("\n".join(lines))

    def say(
        self,
        ds: xr.Dataset,
        figures: Sequence[Path],
        extra: Mapping[str, Any] | None = None,
        summary: Summary | None = None,
    ) -> None:
        """Print the result in the form asked for.

        Parameters
        ----------
        ds : the dataset, as kept.
        figures : what ``keep`` returned.
        extra : further entries of the JSON document.
        summary : what is said of it; by default what ``depprobe show`` says.
        """
        from depprobe.cli.summaries import summary_of
        from depprobe.errors import BadInput

        try:
            summary = summary or summary_of(ds, **self.weighing)
            summary = tables.chosen(summary, self._saying.get("rows"), self._saying.get("labels"))
        except BadInput as error:
            raise BadInput(f"{error}; the result is there: depprobe show {self.data}") from None
        if self._saying["as_json"]:
            document = {"attributes": output.attributes_of(ds), "layers": summary.records, **(extra or {})}
            document |= {"dataset": str(self.data), "figures": [str(path) for path in figures]}
            output.echo(output.as_json(document))
        elif self._saying["table"] not in (None, "text"):
            output.echo(tables.TABLES[self._saying["table"]](summary))
        else:
            output.echo(tables.as_text(summary))
            output.echo("\n".join(["", *summary.notes]))
            before = " (measured before; --again measures anew)" if self._is_there else ""
            drawn = [f"figure   {output.shown(path)}" for path in figures]
            output.echo("\n".join([f"dataset  {output.shown(self.data)}{before}", *drawn]))
        if self._saying["verbose"] and not self._saying["quiet"] and not self._is_there:
            threads = f"{self._threads} thread{'s' * (self._threads != 1)}"
            click.echo(f"depprobe: measured in {self._seconds:.2f} s with {threads}", err=True)


def _is_default(context: click.Context, key: str) -> bool:
    return context.get_parameter_source(key) is click.core.ParameterSource.DEFAULT


def _command(name: str, given: Sequence[Named], input_: str, options: Mapping[str, Any]) -> str:
    """The command that gives this dataset, without options that do not bear on it."""
    context = click.get_current_context()
    words = ["depprobe", name, *(word for one in given for word in one.words)]
    parameters = {p.name: p for p in context.command.params}
    if input_ != "noise":
        words += ["--input", Path(input_).name]
    for key, value in options.items():
        parameter = parameters[key]
        if value is None or (key not in ("n", "d", "seed") and value == parameter.get_default(context)):
            continue
        flag = parameter.opts[-1]
        if getattr(parameter, "is_flag", False):
            words.append(flag if value else parameter.secondary_opts[-1])
        else:
            for one in value if parameter.multiple else [value]:
                words += [flag, str(one)]
    return shlex.join(words)


def _run_name(name: str, facts: str, of: Sequence[str], options: Mapping[str, Any]) -> str:
    """A file name that says what was run, and differs wherever an option or the input differs."""
    said = "-".join(re.sub(r"[^\w.]+", "-", one).strip("-._") for one in of)
    # file systems count bytes
    short = unicodedata.normalize("NFC", said).encode()[:90].decode(errors="ignore")
    sizes = "".join(f"_{size}{options[size]}" for size in ("n", "d") if isinstance(options.get(size), int))
    mark = hashlib.sha256(facts.encode()).hexdigest()[:8]
    return f"{name}_{short}{sizes}_{mark}"
