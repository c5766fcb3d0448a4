"""Cut one long text into sections that can be held out: about 4,000 characters each, ending at an empty line.

A single file is one document, and one document cannot be split into train and test. Sections are the next best unit.
Neighbours may fall on both sides of the split, so a held-out score on them is a little kinder than one on other books.
"""

from __future__ import annotations

import re

SECTION = 4000  # characters


def sections(text: str, size: int = SECTION) -> list[tuple[str, int]]:
    """Consecutive sections of at least `size` characters, or the whole text when it is shorter than two sections.

    Args:
        text: the whole file.
        size: characters that a section reaches before it may end.

    Returns:
        Pairs of section text, stripped at both ends, and the number of its first line.
    """
    cuts = [0]
    if len(text) >= 2 * size:
        for stop in _stops(text):
            if stop - cuts[-1] >= size and len(text) - stop >= size:
                cuts.append(stop)
    bounds = zip(cuts, [*cuts[1:], len(text)], strict=True)
    found = [(text[start:end], start) for start, end in bounds]
    return [
        (part.strip(), text.count("\n", 0, start + len(part) - len(part.lstrip())) + 1)
        for part, start in found
        if part.strip()
    ]


def _stops(text: str) -> list[int]:
    """Where a section may end: after an empty line, else after a line, else after a sentence."""
    for pattern in (r"\n\s*\n", r"\n", r"[.!?]\s"):
        found = [match.end() for match in re.finditer(pattern, text)]
        if len(found) >= len(text) // (2 * SECTION):
            return found
    return found
