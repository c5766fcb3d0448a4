"""Write the shipped shapes: `python -m workbench.geometry.bundle FOLDER` (needs npm and node; 5 seconds).

Two packages of npm, each a mesh in one JavaScript file: `bunny` 1.0.1 and `teapot` 1.0.0. Axes are turned (y up to z up), and
vertices at the same place, where the teapot's patches meet, become one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from workbench.errors import JobError
from workbench.geometry.files import write_mesh
from workbench.geometry.mesh import Mesh

PACKAGES = {"bunny": "1.0.1", "teapot": "1.0.0"}


def bundle(folder: Path) -> None:
    """Fetch both packages with npm and write `bunny.ply` and `teapot.ply` into `folder`.

    Raises:
        JobError: npm or node is missing or failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        for name, version in PACKAGES.items():
            script = f"const m = require('{name}'); process.stdout.write(JSON.stringify([m.positions, m.cells]))"
            try:
                subprocess.run(
                    ["npm", "install", "--silent", "--ignore-scripts", f"{name}@{version}"], cwd=place, check=True
                )
                told = subprocess.run(["node", "-e", script], cwd=place, check=True, capture_output=True).stdout
            except (OSError, subprocess.CalledProcessError) as error:
                raise JobError(f"Fetching {name} with npm failed ({error}); install npm and node.") from error
            positions, cells = json.loads(told)
            (x, y, z), cells = np.array(positions).T, np.array(cells)
            vertices, merged = np.unique(np.stack([x, -z, y], 1), axis=0, return_inverse=True)
            write_mesh(Mesh(vertices, merged.ravel()[cells]), folder / f"{name}.ply")


if __name__ == "__main__":
    bundle(Path(sys.argv[1]))
