"""The detached process of one run: `python -m workbench.runs.worker RUN_DIR`.

It claims the run (a second worker on the same run is refused), does the job, stores the outcome, and starts the next
run that waits. Exit codes: 0 done or stopped, 1 failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path

from workbench.errors import JobError, UserError
from workbench.runs.execute import RunStopped, execute
from workbench.runs.queue import Queue


def main(arguments: list[str]) -> int:
    """Work on the run folder named by the one argument."""
    try:
        if len(arguments) != 1:
            raise UserError("The worker takes one run folder: python -m workbench.runs.worker RUN_DIR")
        directory = Path(arguments[0]).absolute()
        queue = Queue(directory.parent)
        run = queue.claim(directory.name)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        execute(queue, run)
    except RunStopped:
        return 0
    except UserError:
        return 2  # the sentence is in the status and in the log
    except KeyboardInterrupt:
        return 130
    except JobError:
        return 1
    except Exception:
        return 1  # the trace is in the log
    finally:
        queue.settle()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
