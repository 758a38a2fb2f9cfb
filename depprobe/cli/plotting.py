"""Which figures a dataset gets.

A Jacobian gets its decay curves, and from 8 targets on the (t, k) heat map beside them; costs their growth,
and the speed-up beside it where they were timed with several numbers of threads; every other kind of dataset
the figure of its name. Datasets of several kinds get figures of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import xarray as xr

from depprobe.cli.output import labels_in, names_in
from depprobe.errors import BadInput, wrong_number

#: fewest targets for which rows make a picture
HEATMAP_FROM = 8
#: most layers of a figure
MOST = 24
#: kind of dataset -> figures it can be drawn as, where there are several
FIGURES = {"jacobian": ("decay", "heatmap"), "cost": ("cost", "speedup", "efficiency")}
#: why a kind has no figure
NO_FIGURE = {
    "distances": "distances have no figure: draw the norms that they were taken of, or their decay curve "
    "(depprobe.decay_curve); depprobe show prints them"
}
KINDS = ("auto", *dict.fromkeys(name for names in FIGURES.values() for name in names))


def titles_in(panels: str) -> list[str]:
    """Titles of panels, which raise ``BadInput`` where one is empty or two are alike."""
    titles = names_in(panels)
    wrong = next((title for title in titles if not title or titles.count(title) > 1), None)
    if wrong:
        raise BadInput(f"two panels are called {wrong!r}; give each a title of its own")
    if wrong is not None or not titles:
        raise BadInput(f"a panel has no title in --panels {panels!r}; give each dataset one")
    return titles


def path_of(path: Path, kind: str) -> Path:
    """Where one kind of figure goes whose dataset's first figure is at ``path``: there, or beside it."""
    first = kind == "auto" or any(names[0] == kind for names in FIGURES.values())
    return path if first else path.with_name(f"{path.stem}_{kind}{path.suffix}")


@dataclass(frozen=True)
class Look:
    """How figures are to look, as the options of that name say; None where not given."""

    venue: str | None = None
    width: float | None = None
    title: str | None = None
    labels: Sequence[str] | None = None
    legend: bool = True
    panels: Sequence[str] | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Look:
        """From the options of a command; those a command does not have keep their defaults."""
        given = {field.name: options[field.name] for field in fields(cls) if field.name in options}
        labels, panels = given.get("labels"), given.get("panels")
        given["panels"] = None if panels is None else titles_in(panels)
        given["labels"] = None if labels is None else labels_in(labels, apart=panels is None)
        return cls(**given)

    def check(self, layers: int | None) -> None:
        """Refuse what no figure takes, before anything is measured; ``layers`` None: not known how many.

        Raises ``BadInput``: an unknown venue, a width that no figure fits, a wrong number of labels.
        """
        if self.labels is not None and layers not in (None, len(self.labels)):
            raise wrong_number(len(self.labels), "label", layers, "layer")
        if self.venue is not None or self.width is not None:
            from depprobe.figures import venue

            with venue(self.venue, self.width):
                pass

    def words(self) -> dict[str, Any]:
        """What every figure function takes of it."""
        return {"title": self.title, "legend": self.legend, "labels": self.labels}


@dataclass(frozen=True)
class Written:
    """A figure on disk, and its caption."""

    path: Path
    caption: str


def draw(
    datasets: Sequence[xr.Dataset],
    path: Path,
    kind: str = "auto",
    theory: xr.Dataset | None = None,
    look: Look | None = None,
) -> list[Written]:
    """Draw datasets, one figure of each kind, and say what was written; theory over decay curves.

    The first figure goes to ``path``, others beside it under names that end in what they show.
    """
    from depprobe.cli.summaries import kind_of
    from depprobe.figures import venue

    look = look or Look()
    if look.panels is not None:
        with venue(look.venue, look.width):
            return [_in_panels(datasets, path, kind, look, look.panels)]
    by_kind: dict[str, list[xr.Dataset]] = {}
    for ds in datasets:
        by_kind.setdefault(kind_of(ds), []).append(ds)
    if kind != "auto":
        able = {found: FIGURES.get(found, (found,)) for found in by_kind}
        wrong = [found for found, known in able.items() if kind not in known]
        if len(wrong) == len(able):
            known = ", ".join(name for names in able.values() for name in names)
            raise BadInput(f"a dataset of {' or '.join(wrong)} can be drawn as {known}, not as {kind}")
        by_kind = {found: given for found, given in by_kind.items() if found not in wrong}
    written: list[Written] = []
    with venue(look.venue, look.width):
        for found, given in by_kind.items():
            for one, where in _paths(found, given, path, kind, beside=bool(written)).items():
                written.append(_drawn(one, given, where, theory if one == "decay" else None, look))
    return written


def _paths(found: str, given: Sequence[xr.Dataset], path: Path, kind: str, beside: bool) -> dict[str, Path]:
    """The figures of datasets of one kind, and where each goes."""
    if kind != "auto":
        return {kind: path}
    names = [FIGURES.get(found, (found,))[0]]
    if found == "jacobian" and any(ds.sizes.get("target", 1) >= HEATMAP_FROM for ds in given):
        names.append("heatmap")
    if found == "cost" and all(ds.sizes.get("threads", 1) > 1 for ds in given):
        names.append("speedup")
    apart = {name: path.with_name(f"{path.stem}_{name}{path.suffix}") for name in names}
    return apart if beside else apart | {names[0]: path}


def _in_panels(
    datasets: Sequence[xr.Dataset], path: Path, kind: str, look: Look, titles: Sequence[str]
) -> Written:
    """All datasets in one figure, each in a panel under its title, which show the same range of norms."""
    from depprobe import figures

    if len(titles) != len(datasets):
        raise wrong_number(len(titles), "panel", len(datasets), "dataset")
    if kind == "efficiency":
        raise BadInput("the efficiency table is a figure by itself; leave out --panels")
    given = dict(zip(titles, datasets, strict=True))
    held = {title: ds.sizes.get("layer", 1) * ds.sizes.get("depth", 1) for title, ds in given.items()}
    many = next((title for title, count in held.items() if count > 1), None)
    if kind == "heatmap" and many is not None:
        raise BadInput(
            f"a panel is one heat map, and {many!r} would hold {held[many]}: leave out --panels, which gives "
            "each layer its own, or choose one with --only"
        )
    draw = None if kind == "auto" else getattr(figures, kind)
    norms = all("log_norm" in ds for ds in datasets)
    drawn = figures.panels(given, draw=draw, share_floor=norms, **look.words())
    return Written(figures.save(drawn, path), drawn.caption)


def _drawn(name: str, given: Sequence[xr.Dataset], where: Path, theory: Any, look: Look) -> Written:
    from depprobe import figures
    from depprobe.figures.drawing.saving import save

    if name == "efficiency":
        from depprobe.ledger.costs.efficiency_figure import efficiency

        if look.title or look.labels or not look.legend:
            raise BadInput("the efficiency table has no --title, --labels or --no-legend; leave them out")
        drawn: Any = efficiency(list(given))
        return Written(save(drawn, where), "")
    if name == "heatmap" and len(given) > 1:
        # a row is no picture, unless it is asked for
        given = [ds for ds in given if ds.sizes.get("target", 1) > 1] or given
    words = look.words()
    curves = sum(ds.sizes.get("layer", 1) * ds.sizes.get("depth", 1) for ds in given)
    if name in ("decay", "heatmap", "cost", "speedup") and curves > MOST:
        raise BadInput(
            f"{curves} layers are more than one figure can tell apart ({MOST}); choose some with --only, "
            "as in --only 'lstm*'"
        )
    extra = {"theory": theory} if theory is not None else {}
    drawn = getattr(figures, name)(list(given), **words, **extra)
    return Written(save(drawn, where), drawn.caption)
