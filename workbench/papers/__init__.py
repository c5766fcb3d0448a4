"""One page per paper: `<slug>.py` holds a literal CARD and `experiment()`; the catalogue reads cards, imports no page.

`find_pages()` and `search()` cost milliseconds (no torch). `load_page()` imports one page and the blocks it shows.
"""

from __future__ import annotations

from workbench.papers.catalogue import find_pages, load_card, load_page, search
from workbench.papers.finding import Finding
from workbench.papers.reproduction import reproduce

__all__ = ["Finding", "find_pages", "load_card", "load_page", "reproduce", "search"]
