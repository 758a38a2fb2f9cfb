"""What ``--json`` prints, as a JSON schema (draft 2020-12): one definition a command. No torch here.

    {"$ref": "#/$defs/jacobian"}    a document of depprobe jacobian --json

JSON has no NaN and no infinity: a number that is not known is null, infinite ones are "inf" and "-inf".
"""

from __future__ import annotations

from typing import Any

from depprobe._version import __version__
from depprobe.vocabulary import ABOUT, SCHEMA_VERSION

Schema = dict[str, Any]

_NUMBER, _TEXT, _WHOLE = ({"$ref": "#/$defs/number"}, {"type": "string"}, {"type": "integer"})
_TEXTS: Schema = {"type": "array", "items": _TEXT}
#: a size that a run may not have
_SIZE: Schema = {"type": ["integer", "null"]}


def _object(rest: Schema | bool = False, /, optional: Schema | None = None, **required: Schema) -> Schema:
    """An object with these entries, and further ones of the kind ``rest``."""
    properties = {name: _described(name, about) for name, about in (required | (optional or {})).items()}
    return {
        "type": "object",
        "required": list(required),
        "properties": properties,
        "additionalProperties": rest,
    }


def _described(name: str, about: Schema) -> Schema:
    if name not in ABOUT or "$ref" in about:
        return about
    return about | {"description": f"{ABOUT[name]['long_name']} ({ABOUT[name]['units']})"}


def _map(of: Schema) -> Schema:
    return {"type": "object", "additionalProperties": of}


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of}


def _each(of: Schema, *names: str) -> dict[str, Schema]:
    return dict.fromkeys(names, of)


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


#: form and distances of a curve
_DISTANCES: dict[str, Schema] = {
    **_each(_TEXT, "layer", "best_form"),
    **_each(_WHOLE, "unknown", "underflow", "overflow", "undecided", "not_a_number"),
    **_each(_NUMBER, "decay_rate", "half_life", "mean_distance", "effective_range", "receptive_field"),
    "alike": _TEXTS,
}
#: kind of dataset -> one entry of ``layers`` of its document; all that is not named is a number
_RECORDS: dict[str, Schema] = {
    "jacobian": _object(
        _NUMBER,
        **_DISTANCES,
        method=_TEXT,
        **_each(_WHOLE, "near_lag", "far_lag"),
        **_each(_NUMBER, "log_norm_near", "log_norm_far"),
    ),
    "distances": _object(_NUMBER, **_DISTANCES),
    "spectrum": _object(_NUMBER, matrix=_TEXT, width=_WHOLE, seed=_WHOLE, spectral_radius=_NUMBER),
    "lyapunov": _object(_NUMBER, layer=_TEXT, state=_WHOLE, exponent_1=_NUMBER),
    "gates": _object(_NUMBER, layer=_TEXT, median_gate=_NUMBER, median_time_constant=_NUMBER),
    "cost": _object(
        _NUMBER,
        layer=_TEXT,
        n=_SIZE,
        d=_SIZE,
        phase={"type": ["string", "null"]},
        threads=_SIZE,
        flops=_NUMBER,
        time=_NUMBER,
        peak_bytes=_NUMBER,
    ),
    "efficiency": _object(_NUMBER, layer=_TEXT, time=_NUMBER, peak_bytes=_NUMBER),
}

_FINDING = _object(
    part=_TEXT,
    verdict=_TEXT,
    numbers=_map(_object(value=_NUMBER, stderr=_NUMBER, unit=_TEXT)),
    note=_TEXT,
)
_CLAIM = _object(
    **_each(_TEXT, "id", "statement", "rule", "dataset"),
    findings=_list(_FINDING),
    failed_checks=_TEXTS,
    attributes=_ref("attributes"),
)
_NAMED_LAYER = _object(
    **_each(_TEXT, "summary", "equation", "citation", "operator"),
    options=_map(_object(type=_TEXT, default={})),
    examples=_TEXTS,
)
_TRAINED = _object(
    **_each(_TEXT, "family", "reads", "package", "version", "licence", "source", "fetch", "folder"),
    size=_WHOLE,
    files=_map(_TEXT),
    fetched={"type": "boolean"},
)
_PREDICTED = _object(
    **_each(_TEXT, "layer", "theory", "quantity", "units"), **_each(_NUMBER, "predicted", "measured")
)
_VALUES: Schema = {"type": "array", "items": {"anyOf": [_NUMBER, _list(_NUMBER)]}}


def _measured(kind: str, **optional: Schema) -> Schema:
    """The document of a command that measures."""
    return _object(
        optional=optional,
        attributes=_ref("attributes"),
        layers=_list(_RECORDS[kind]),
        dataset=_TEXT,
        figures=_TEXTS,
    )


def schema() -> Schema:
    """The schema of every document; that of one command is ``$defs/<command>``.

    Examples
    --------
    >>> sorted(name for name in schema()["$defs"] if name not in ("attributes", "number", "provenance"))[:4]
    ['advise', 'claims', 'cost', 'gates']
    """
    shown = [
        _object(attributes=_ref("attributes"), layers=_list(_RECORDS[kind]))
        for kind in ("jacobian", "distances", "spectrum", "lyapunov", "gates", "cost")
    ]
    commands = {
        "jacobian": _measured(
            "jacobian",
            distances=_ref("attributes"),
            curve=_object(lag=_list(_WHOLE), log_median=_VALUES, log_rms=_VALUES),
            theory=_list(_PREDICTED),
        ),
        **{kind: _measured(kind) for kind in ("spectrum", "lyapunov", "gates", "cost")},
        "advise": _object(
            attributes=_ref("attributes"),
            layers=_list(_object(_NUMBER, layer=_TEXT, reason=_TEXT, predicted_time=_NUMBER)),
            map={"type": ["string", "null"]},
        ),
        "claims": _object(mode={"enum": ["quick", "full"]}, verdicts=_map(_WHOLE), claims=_list(_CLAIM)),
        "show": _map({"anyOf": shown}),
        "runs": _map(
            _object(
                optional={"command": _TEXT},
                file=_TEXT,
                question=_TEXT,
                layer=_TEXT,
                input=_TEXT,
                date={"type": "string", "description": "local time, YYYY-MM-DD HH:MM"},
            )
        ),
        "layers": _map(_NAMED_LAYER),
        "models": _map(_TRAINED),
        "sweep-status": _object(
            _WHOLE,
            probe=_TEXT,
            cells=_WHOLE,
            without=_list(_object({}, mark=_TEXT, reason=_TEXT)),
        ),
    }
    number = {
        "description": 'a number; null where it is not known, "inf" and "-inf" where it is infinite',
        "anyOf": [{"type": ["number", "null"]}, {"enum": ["inf", "-inf"]}],
    }
    provenance = {
        "description": "how a dataset came about: command, versions, hash of the input",
        "type": "object",
        "properties": {"command": _TEXT, "versions": _map(_TEXT), "input_sha256": _TEXT},
    }
    simple = {"anyOf": [_NUMBER, _TEXT, {"type": "array"}]}
    about = _object(
        simple, optional={"provenance": _ref("provenance"), "title": _TEXT, "reasons": _map(_TEXT)}
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Documents of depprobe {__version__} --json, dataset schema {SCHEMA_VERSION}",
        "anyOf": [_ref(name) for name in commands],
        "$defs": {**commands, "attributes": about, "provenance": provenance, "number": number},
    }
