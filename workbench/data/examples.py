"""What every part of the data room hands on: `Examples`, with a `Report` of what was kept, dropped and why.

Rows by kind:

    text                {"text", "group"}
    prompt-completion   {"prompt", "completion", "group"}
    chat                {"messages": [{"role", "content"}, …], "group"}
    classification      {"text", "label", "group"}

`group` names the document a row came from; splits and bootstraps resample groups, never rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("text", "prompt-completion", "chat", "classification")


@dataclass(frozen=True)
class Problem:
    """One row that cannot be used: where it is, which column, why, and what would repair it."""

    place: str
    column: str
    reason: str
    fix: str


@dataclass(frozen=True)
class Report:
    """What a source gave: rows read, rows kept, one `Problem` per dropped row, notes, and the columns used."""

    source: str
    total: int
    kept: int
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    columns: dict[str, str] = field(default_factory=dict)

    def table(self) -> pd.DataFrame:
        """The dropped rows as a DataFrame with the columns place, column, reason, fix (empty when none was dropped)."""
        import pandas as pd

        rows = [(p.place, p.column, p.reason, p.fix) for p in self.problems]
        return pd.DataFrame(rows, columns=["place", "column", "reason", "fix"])

    def sentence(self) -> str:
        """One line: how many rows survive, what was dropped where, how to repair it, and the notes."""
        used = ", ".join(f"{role} = {column!r}" for role, column in self.columns.items())
        head = f"{self.kept:,} of {self.total:,} rows of {self.source} can be used"
        parts = [head + (f" ({used})" if used else "") + "."]
        if self.problems:
            parts.append(f"Dropped {self.total - self.kept:,}: {summary(self.problems)}.")
        return " ".join([*parts, *self.notes])


def summary(problems: tuple[Problem, ...] | list[Problem], most: int = 4) -> str:
    """Problems grouped by reason and fix, the most frequent first, each with its first places."""
    alike: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        alike.setdefault((problem.reason, problem.fix), []).append(problem)
    parts = []
    for (reason, fix), members in sorted(alike.items(), key=lambda item: -len(item[1]))[:most]:
        places = ", ".join(member.place for member in members[:5]) + (" …" if len(members) > 5 else "")
        parts.append(f"{reason} ({len(members):,}: {places}; {fix})")
    if len(alike) > most:
        parts.append(f"and {len(alike) - most} more reasons")
    return "; ".join(parts)


@dataclass(frozen=True)
class Examples:
    """Checked rows of one kind; `labels` holds every class name (its index is the class id), also after a split."""

    kind: str
    rows: list[dict]
    source: str
    report: Report
    labels: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def with_rows(self, rows: list[dict]) -> Examples:
        """The same set (kind, labels, report) holding other rows."""
        return replace(self, rows=rows)

    def groups(self) -> list[str]:
        """Document ids, each once, in order of first appearance."""
        return list(dict.fromkeys(row["group"] for row in self.rows))
