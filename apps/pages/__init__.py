"""One file per page: `PAGE` and `build(frame)`. A page reads the package and submits runs, and imports no other page."""
