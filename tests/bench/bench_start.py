"""Start-up times: `import workbench`, `workbench papers`, against a bare Python start.

python tests/bench/bench_start.py [REPEATS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time


def seconds(*command: str) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def main(repeats: int = 7) -> None:
    python = sys.executable
    commands = {
        "python -c pass": (python, "-c", "pass"),
        "import workbench": (python, "-c", "import workbench"),
        "workbench papers": (python, "-m", "workbench", "papers"),
        "workbench --help": (python, "-m", "workbench", "--help"),
    }
    times = {name: [] for name in commands}
    for _ in range(repeats):  # interleaved
        for name, command in commands.items():
            times[name].append(seconds(*command))
    bare = statistics.median(times["python -c pass"])
    for name, values in times.items():
        print(
            f"{name:18} {statistics.median(values) * 1e3:6.0f} ms   {statistics.median(values) / bare:5.1f} x a bare start"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
