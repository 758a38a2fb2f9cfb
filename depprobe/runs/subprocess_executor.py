"""The costs of one named layer, measured in a process of its own.

Memory of a process tells what one layer took only if nothing else ran in it. The request goes to the child as
JSON on its standard input, the answer comes back as JSON on its standard output; nothing is pickled.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from depprobe.errors import BadInput, DepprobeError

#: how the command line has OpenMP's threads wait; what is timed waits as torch does by default
WAITING = ("OMP_WAIT_POLICY", "PASSIVE")
#: what of a child's last words is quoted
_QUOTED = 300


def measured_alone(request: dict[str, Any]) -> dict[str, Any]:
    """The costs of one point, from a child process.

    Parameters
    ----------
    request : ``layer`` (spec string), ``n``, ``d``, ``seed``, ``dtype``, ``phases``, ``threads``, ``least``.

    Returns
    -------
    What ``depprobe.costs.point.costs`` returns.

    Raises
    ------
    BadInput : the layer refuses the length or the options.
    DepprobeError : the child ended without an answer, for instance killed for the memory it took; the message
        names the point.
    """
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    environment = {name: value for name, value in os.environ.items() if (name, value) != WAITING}
    # -P keeps files of the current folder from being taken for modules
    child = subprocess.run(
        [sys.executable, "-P", "-m", "depprobe.runs.subprocess_executor"],
        input=json.dumps(request),
        env=environment | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    where = f"{request['layer']} at n = {request['n']}, d = {request['d']}"
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        hint = ", as systems do when memory runs out" if name == "SIGKILL" else ""
        raise DepprobeError(f"{where}: the process that measured it was ended by {name}{hint}")
    try:
        answer: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        words = " ".join(child.stderr.split())[-_QUOTED:] or "it said nothing"
        raise DepprobeError(f"{where}: the process that measured it ended with {words}") from None
    if "error" in answer:
        kind = BadInput if answer["exit_code"] == BadInput.exit_code else DepprobeError
        raise kind(f"{where}: {answer['error']}")
    return answer


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    from depprobe.costs.point import costs
    from depprobe.runs.cases import cases_of_specs

    (case,) = cases_of_specs(
        [request["layer"]], None, request["n"], request["d"], 1, [request["seed"]], request["dtype"], "cpu"
    )
    return costs(case.build(), case.x, request["phases"], request["threads"], request["least"], alone=True)


def main() -> None:
    """Read one request, write one answer."""
    try:
        answer = _answer(json.load(sys.stdin))
    except DepprobeError as error:
        answer = {"error": str(error), "exit_code": error.exit_code}
    except (RuntimeError, MemoryError) as error:  # torch raises RuntimeError where memory is refused
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        answer = {"error": first, "exit_code": DepprobeError.exit_code}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
