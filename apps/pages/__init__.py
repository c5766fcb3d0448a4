"""One file per page; a page reads the package and submits runs, and imports no other page."""
