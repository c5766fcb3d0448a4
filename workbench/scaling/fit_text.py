"""What `workbench fit` prints: the law, its constants, how it predicts, the plan, what was done to the table, the cautions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

KIND = {
    "percentile": "95 % interval over resampled {many}",
    "bca": "95 % BCa interval over resampled {many}",
    "leave-one-out": "range over refits without one {one} each",
}


def kind(result: dict[str, Any]) -> str:
    """What the numbers beside a constant are."""
    own = result["units"] == "run"
    one, many = ("run", "runs") if own else (f"group of {result['units']}", f"groups of {result['units']}")
    return KIND[result["interval"]].format(one=one, many=many)


def lines(result: dict[str, Any]) -> Iterator[str]:
    """The study as lines of text (`workbench.scaling.study.study`)."""
    read = ", ".join(f"{role} = {name}" for role, name in result["columns"].items())
    yield f"{result['law']}: {result['formula']}"
    yield (
        f"{result['n_runs']} runs ({read}), fitted in {result['fit_seconds'] * 1e3:.0f} ms, objective {result['objective']:.6g}"
    )
    yield f"\nConstants, with the {kind(result)}:"
    for name, entry in result["parameters"].items():
        yield f"  {name:8} {entry['value']:>12.5g}   {entry['low']:.4g} to {entry['high']:.4g}"
    yield from _holdout(result["holdout"])
    yield from _laws(result["laws"], result["law"])
    if result["prediction"]:
        p = result["prediction"]
        at = ", ".join(f"{column} = {value:.4g}" for column, value in p["at"].items())
        yield f"\nPredicted loss at {at}: {p['loss']:.4f} (95 % of the fit: {p['low']:.4f} to {p['high']:.4f})"
    if result["planned"] is not None:
        yield "\nPlan, with 95 % intervals under the fit:"
        for name, value, band in plan_rows(result["planned"]):
            yield f"  {name:22} {value:14} {band}".rstrip()
        yield from (f"  {words}" for words in plan_words(result["planned"]))
    if result["notes"] or result["warnings"]:
        yield ""
    yield from (f"note: {note}" for note in result["notes"])
    yield from (f"caution: {warning}" for warning in result["warnings"])


def _holdout(rows: list[dict[str, Any]]) -> Iterator[str]:
    for axis in dict.fromkeys(row["axis"] for row in rows):
        part = [row for row in rows if row["axis"] == axis]
        yield (
            f"\nHeld out: the {part[0]['n']} runs with the largest {axis}, {part[0]['decades']:.1f} decades beyond the rest. "
            "Error of their loss:"
        )
        for row in part:
            yield f"  {row['method']:16} median {row['median']:.2%}, worst {row['worst']:.2%}"


def _laws(rows: list[dict[str, Any]] | None, chosen: str) -> Iterator[str]:
    if not rows:
        return
    yield f"\nLaw against law on the {rows[0]['n']} held-out runs:"
    for row in rows:
        mark = "  ← fitted here" if row["method"] == chosen else ""
        yield f"  {row['method']:16} {row['parameters']} parameters, median {row['median']:.2%}, worst {row['worst']:.2%}{mark}"


def plan_rows(planned: Any) -> list[tuple[str, str, str]]:
    """(what, value, interval) of every number of a plan, ready to print."""
    rows = [
        ("Training compute", f"{flop(planned.flops)} FLOP", ""),
        ("Parameters N", _big(planned.params[0]), _to(planned.params, _big)),
        ("Tokens D", _big(planned.tokens[0]), _to(planned.tokens, _big)),
        ("Tokens per parameter", f"{planned.ratio[0]:.3g}", _to(planned.ratio, "{:.3g}".format)),
        ("Peak learning rate", f"{planned.lr[0]:.3g}", _to(planned.lr, "{:.3g}".format)),
        ("Tokens per step", _big(planned.batch_tokens[0]), _to(planned.batch_tokens, _big)),
        ("Steps", f"{planned.steps:,.0f}".replace(",", "\u2009"), ""),
        ("Expected loss", f"{planned.loss[0]:.4f}", _to(planned.loss, "{:.4f}".format)),
    ]
    if planned.error is not None:
        rows.append(("Expected error", f"{planned.error[0]:.1%}", _to(planned.error, "{:.1%}".format)))
    if planned.total_flops > planned.flops:
        rows.append(("Training and serving", f"{flop(planned.total_flops)} FLOP", ""))
    return rows


def plan_words(planned: Any) -> list[str]:
    """What a plan says in sentences: where rate and batch come from, how other rules differ, the schedule."""
    words = ["Rate and batch follow the published step law; their intervals carry the doubt about N and D only."]
    if planned.rules:
        words.append(
            f"Peak rate by other published rules: {', '.join(f'{k} {v:.2g}' for k, v in planned.rules.items())}."
        )
    return [*words, planned.schedule]


def flop(value: float) -> str:
    """`1.38e22`."""
    return f"{value:.3g}".replace("e+", "e")


def _to(band: tuple[float, float, float], write: Any) -> str:
    return f"{write(band[1])} to {write(band[2])}"


def _big(value: float) -> str:
    for unit, scale in ((" T", 1e12), (" B", 1e9), (" M", 1e6), (" k", 1e3)):
        if abs(value) >= 0.9995 * scale:
            return f"{value / scale:.3g}{unit}"
    return f"{value:.3g}"
