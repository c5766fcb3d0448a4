"""Write the demo's measured table into README.md: `python -m workbench.readme`.

The numbers come from `assets/findings/demo.json`, which is the output of `workbench demo --json`. A test checks that the
README holds exactly what this command writes.
"""

from __future__ import annotations

import json
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


def main() -> None:
    """Rewrite README.md of this checkout."""
    path = assets().parent / "README.md"
    path.write_text(render(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
