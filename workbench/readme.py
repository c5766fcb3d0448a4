"""Write the demo's measured table into README.md.

    workbench demo --json | python -m workbench.readme --take - --picture

The numbers stand in `assets/findings/demo.json`. A test checks that the
README holds exactly what this command writes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from workbench.paths import assets

START, END = "<!-- demo table: written by `python -m workbench.readme` -->", "<!-- end -->"


def table(result: dict[str, Any]) -> str:
    """The Markdown table and the line that says where it was measured."""
    from workbench.figures import formats
    from workbench.progress import span

    lines = ["| | perplexity | accuracy | on disk | writes |", "|---|---|---|---|---|"]
    for row in result["rows"]:
        cells = [
            formats.interval(row["perplexity"], row["perplexity_low"], row["perplexity_high"]),
            formats.interval(row["accuracy"], row["accuracy_low"], row["accuracy_high"]),
            f"{row['disk_bytes'] / 1e6:.0f} MB",
            f"{row['decode_tps']:.0f} tokens/s",
        ]
        tied = ["≈ " if row[f"{key}_tied"] else "" for key in ("perplexity", "accuracy")]
        lines.append(f"| {row['name']} | {tied[0]}{cells[0]} | {tied[1]}{cells[1]} | {cells[2]} | {cells[3]} |")
    here, first = result["machine"], result["rows"][0]
    lines.append(
        f"\n≈ tied with the best by a paired test. {result['tokens']} held-out tokens, {int(first['accuracy_n'])} "
        f"questions, seed {result['config']['seed']}, {span(result['seconds'])} on {here['machine']}; torch {here['torch']}, "
        f"transformers {here['transformers']}, {here['date']}."
    )
    return "\n".join(lines)


def render(text: str) -> str:
    """README text with the table put between its two marks."""
    result = json.loads((assets() / "findings" / "demo.json").read_text(encoding="utf-8"))
    before, rest = text.split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n{table(result)}\n{END}{after}"


def picture(result: dict[str, Any]) -> None:
    """Draw the demo's picture into assets/pictures/demo.png."""
    import pandas as pd

    from workbench.figures import pareto

    draw(pareto(pd.DataFrame(result["rows"]), "disk_bytes", "perplexity"), assets() / "pictures" / "demo.png")


def draw(figure: Any, target: Path) -> None:
    """Draw a figure for the README with a headless Chromium (Debian: apt install chromium).

    Args:
        figure: a plotly figure; its buttons are left out.
        target: the .png.

    Raises:
        UserError: no Chromium.
    """
    import shutil
    import subprocess
    import tempfile

    from workbench.errors import UserError

    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        raise UserError("Drawing the picture needs a Chromium; install one (Debian: apt install chromium).")
    figure.layout.updatemenus = []
    figure.update_layout(width=900, height=430, margin={"t": 48})
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "figure.html"
        figure.write_html(page, include_plotlyjs=True, config={"displayModeBar": False})
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
        subprocess.run(
            [browser, *flags, f"--user-data-dir={folder}/profile", f"--screenshot={target}", "--window-size=916,446",
             "--hide-scrollbars", "--virtual-time-budget=5000", page.as_uri()],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip


def main() -> None:
    """Rewrite README.md of this checkout; `--take FILE` first keeps a new result, `--picture` also draws the picture."""
    parser = argparse.ArgumentParser(prog="python -m workbench.readme", description=main.__doc__)
    parser.add_argument(
        "--take", metavar="FILE", type=argparse.FileType("r"), help="output of workbench demo --json, - for stdin"
    )
    parser.add_argument("--picture", action="store_true", help="draw assets/pictures/demo.png with a headless Chromium")
    options = parser.parse_args()
    kept = assets() / "findings" / "demo.json"
    if options.take:
        result = json.load(options.take)
        result.pop("report")  # a path of the machine that made it
        kept.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    path = assets().parent / "README.md"
    path.write_text(render(path.read_text(encoding="utf-8")), encoding="utf-8")
    if options.picture:
        picture(json.loads(kept.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
