"""Write the measured parts of README.md from the records in `assets/findings/`.

    python -m workbench.readme                                               write all parts from the records as they are
    workbench demo --json | python -m workbench.readme --take - --picture    keep a new demo first, and draw the pictures

A part stands between `<!-- NAME: written by … -->` and `<!-- end -->`. A test checks that the README holds exactly what this
command writes.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from workbench.paths import assets

GRID = "grid-smollm2"
START, END = "<!-- {}: written by `python -m workbench.readme` -->", "<!-- end -->"
COMPRESSED = [
    "base",
    "rtn-8",
    "nf4",
    "rtn-4",
    "awq-4",
    "gptq-4",
    "efficientqat-4",
    "rtn-3",
    "gptq-3",
    "efficientqat-3",
    "gptq-2",
    "efficientqat-2",
]


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


def compressed() -> str:
    """The Markdown table of the standing frontier: the best known ways to compress SmolLM2, and what they cost."""
    from workbench.figures import formats
    from workbench.progress import span

    result = _record("compression")
    rows = {row["name"]: row for row in result["rows"]}
    lines = ["| | perplexity | on disk | closes of rounding's loss | made in |", "|---|---|---|---|---|"]
    base = math.log(rows["base"]["perplexity"])
    for name in COMPRESSED:
        row = rows[name]
        plain = (
            math.log(rows[f"rtn-{row['bits']}"]["perplexity"]) - base
            if row["method"] in ("gptq", "awq", "efficientqat")
            else 0
        )
        closes = f"{100 * (1 - (math.log(row['perplexity']) - base) / plain):.0f} %" if plain else ""
        value = formats.interval(row["perplexity"], row["perplexity_low"], row["perplexity_high"])
        tied = "≈ " if row["perplexity_tied"] else ""
        took = "" if name == "base" else span(row["seconds"])
        lines.append(f"| {name} | {tied}{value} | {row['disk_bytes'] / 1e6:.0f} MB | {closes} | {took} |")
    here, budget = result["machine"], result["budget"]
    lines.append(
        f"\n≈ tied with the best. {budget['predicted_tokens']} held-out tokens of {budget['data']}, groups of "
        f"{budget['group_size']}, {budget['samples']} windows of {budget['window']} tokens of {budget['calibration']} as "
        f"calibration, mean of {budget['seeds']} such samples; {here['machine']}, torch {here['torch']}, {here['date']}."
    )
    return "\n".join(lines)


def _record(name: str) -> dict[str, Any]:
    return json.loads((assets() / "findings" / f"{name}.json").read_text(encoding="utf-8"))


def render(text: str) -> str:
    """README text with every measured part put between its two marks."""
    for name, written in {"demo": lambda: table(_record("demo")), "frontier": compressed}.items():
        before, rest = text.split(START.format(name))
        _, after = rest.split(END, 1)
        text = f"{before}{START.format(name)}\n{written()}\n{END}{after}"
    return text


def pictures() -> None:
    """Draw the demo's and the standing grid's pictures into assets/pictures/."""
    import pandas as pd

    from workbench.figures import pareto
    from workbench.grid import report

    folder = assets() / "pictures"
    draw(pareto(pd.DataFrame(_record("demo")["rows"]), "disk_bytes", "perplexity"), folder / "demo.png")
    record = _record(GRID)
    draw(report.scores(pd.DataFrame(record["rows"]), record["settings"]["budget"]), folder / "grid.png")


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
    top = 48  # what is left above the plot without the buttons; its height stays, for labels were placed in it
    height = (figure.layout.height or 430) - max(0, (figure.layout.margin.t or top) - top)
    figure.update_layout(width=900, height=height, margin={"t": top})
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "figure.html"
        figure.write_html(page, include_plotlyjs=True, config={"displayModeBar": False})
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
        subprocess.run(
            [browser, *flags, f"--user-data-dir={folder}/profile", f"--screenshot={target}", f"--window-size=916,{height + 16}",
             "--hide-scrollbars", "--virtual-time-budget=5000", page.as_uri()],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip


def main() -> None:
    """Rewrite README.md of this checkout; `--take FILE` first keeps a new result, `--picture` also draws the picture."""
    parser = argparse.ArgumentParser(prog="python -m workbench.readme", description=main.__doc__)
    parser.add_argument(
        "--take", metavar="FILE", type=argparse.FileType("r"), help="output of workbench demo --json, - for stdin"
    )
    parser.add_argument(
        "--picture", action="store_true", help="draw the pictures of demo and grid with a headless Chromium"
    )
    options = parser.parse_args()
    kept = assets() / "findings" / "demo.json"
    if options.take:
        result = json.load(options.take)
        result.pop("report")  # a path of the machine that made it
        kept.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    path = assets().parent / "README.md"
    path.write_text(render(path.read_text(encoding="utf-8")), encoding="utf-8")
    if options.picture:
        pictures()


if __name__ == "__main__":
    main()
