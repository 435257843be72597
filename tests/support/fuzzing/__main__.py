"""The command line of scripts/fuzz.py."""

import argparse
import os
import sys
from pathlib import Path

from .registry import TARGETS
from .run import Report, cases, missing, run_all, show


def main() -> int:
    """Returns the exit code: 0, 1 with findings, or 2 for a usage error."""
    names = [target.name for target in TARGETS]
    parser = argparse.ArgumentParser(
        prog="fuzz.py", description="Fuzz the readers, the server and the kernels. Each seed repeats the same cases."
    )
    add = parser.add_argument
    add(
        "--target",
        action="append",
        choices=names,
        metavar="NAME",
        help=f"repeatable; default: all of {', '.join(names)}",
    )
    add("--skip", action="append", default=[], choices=names, metavar="NAME", help="leave out a target; repeatable")
    add("--seed", type=int, default=0, metavar="N", help="first seed (default: %(default)s, the gate's)")
    add("--case", type=int, metavar="N", help="only this case of each target")
    add("--minutes", type=float, default=0, metavar="N", help="go on with the next seeds until N minutes are over")
    add("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="targets at a time (default: %(default)s)")
    add("--save", type=Path, metavar="FOLDER", help="write the first input of each finding to this folder")
    arguments = parser.parse_args()
    wanted = set(arguments.target or names) - set(arguments.skip)
    chosen = [target for target in TARGETS if target.name in wanted]
    targets = [target for target in chosen if not missing(target)]
    for target in chosen:
        if target not in targets:
            print(f"{target.name}: skipped, because it needs {', '.join(missing(target))}")
    if arguments.case is None:
        reports = run_all(targets, arguments.seed, arguments.jobs, arguments.minutes)
    else:
        reports = {target.name: Report(target) for target in targets}
        for report in reports.values():
            cases(report, arguments.seed, range(arguments.case, arguments.case + 1))
    return 1 if show(list(reports.values()), arguments.save) else 0


if __name__ == "__main__":
    sys.exit(main())
