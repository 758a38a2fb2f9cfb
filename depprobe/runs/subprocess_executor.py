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
    """What ``costs.point.costs`` gives for one point, from a child process.

    The request holds ``layer`` (spec string), ``n``, ``d``, ``seed``, ``dtype``, ``phases``, ``threads``,
    ``least``. Raises ``BadInput`` where the layer refuses the length or the options, and ``DepprobeError``,
    which names the point, where the child ended without an answer, for instance killed for its memory.
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


def main() -> None:
    """Read one request, write one answer."""
    from depprobe.costs.point import costs
    from depprobe.runs.cases import cases_of_specs

    asked = json.load(sys.stdin)
    try:
        layer, n, d, seed, dtype = (asked[name] for name in ("layer", "n", "d", "seed", "dtype"))
        (case,) = cases_of_specs([layer], None, n, d, 1, [seed], dtype, "cpu")
        answer = costs(case.build(), case.x, asked["phases"], asked["threads"], asked["least"], alone=True)
    except DepprobeError as error:
        answer = {"error": str(error), "exit_code": error.exit_code}
    except (RuntimeError, MemoryError) as error:  # torch raises RuntimeError where memory is refused
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        answer = {"error": first, "exit_code": DepprobeError.exit_code}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
