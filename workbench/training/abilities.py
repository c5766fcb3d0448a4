"""The shipped answers of the capability probe (`probe.py` makes them): what each method can do, read without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.paths import assets

QUESTIONS = {  # name of the answer → what it means, in the order in which they are shown
    "models": "kinds of model it fits without being told where to go",
    "targets": "kinds of layer it can be told to change",
    "merge": "its change can be put into the weights, with the same answers",
    "unmerge": "and be taken out again",
    "several": "two adapters on one model, switched between",
    "mixed": "rows of one batch use different adapters",
    "quantized": "the base may be compressed to 4 bits",
    "quantized_merge": "and take the change into its 4-bit weights",
    "extra": "multiplications added to inference while it is not merged, as a share of the model's own",
}
SIGNS = {"yes": "✓", "no": "–", "wrong": "✗", "-": ""}
ANSWERS = {
    "yes": "it works, with the right numbers",
    "no": "it is refused",
    "wrong": "it runs without a word and the numbers are not right",
    "-": "the question makes no sense here",
}


def file() -> Path:
    """Where the answers are shipped."""
    return assets() / "methods.json"


def stored() -> dict[str, Any]:
    """The whole file (made, questions, models, methods); empty parts when it is absent."""
    path = file()
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"made": {}, "methods": {}}


def known() -> dict[str, dict[str, Any]]:
    """The answers by method name."""
    return stored()["methods"]


def cost(answers: Mapping[str, Any]) -> str:
    """The extra multiplications as text."""
    return "?" if answers.get("extra") is None else "0" if answers["extra"] == 0 else f"{answers['extra']:+.2%}"


def table(methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of a table: one method each, with a legend.

    Args:
        methods: name → answers.
    """
    words = ("merge", "unmerge", "several", "mixed", "quantized", "quantized_merge")
    heads = ("merge", "unmerge", "several", "mixed", "4-bit base", "merge in 4 bits")
    lines = [
        f"{'method':18}{'models':18}{'layers':36}"
        + "".join(f"{head:>{len(head) + 2}}" for head in heads)
        + "  extra work"
    ]
    for name, answers in methods.items():
        cells = "".join(f"{SIGNS[answers[word]]:>{len(head) + 2}}" for word, head in zip(words, heads, strict=True))
        where = ", ".join(answers["targets"]) or "its own places"
        lines.append(f"{name:18}{', '.join(answers['models']) or 'none':18}{where:36}{cells}  {cost(answers)}")
    lines += ["", *(f"{SIGNS[key] or ' '} {text}" for key, text in ANSWERS.items())]
    return lines


def sentences(answers: Mapping[str, Any]) -> list[str]:
    """The answers of one method, a line each, with the reason of every refusal."""
    lines = []
    for question, words in QUESTIONS.items():
        value = answers[question]
        shown = (
            cost(answers) if question == "extra" else ", ".join(value) or "none" if isinstance(value, list) else value
        )
        reason = answers["reasons"].get(question)
        lines.append(f"{question:16} {shown:8} {words}" + (f" ({reason})" if reason else ""))
    return lines


def markdown() -> str:
    """The table as markdown, for the documentation."""
    found = stored()
    heads = ("method", "models", "layers", "merge", "several", "mixed batch", "4-bit base", "extra work")
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for name, answers in found["methods"].items():
        cells = [SIGNS[answers[word]] for word in ("merge", "several", "mixed", "quantized")]
        where = ", ".join(answers["targets"]) or "its own places"
        lines.append(
            f"| {' | '.join([f'`{name}`', ', '.join(answers['models']) or 'none', where, *cells, cost(answers)])} |"
        )
    made = found["made"]
    return (
        "\n".join(lines) + f"\n\nProbed on {made.get('date')} with peft {made.get('peft')}: `{made.get('command')}`.\n"
    )
