"""The page Papers: found by title, arXiv id, technique and family; the filter stays when a paper is opened."""

from __future__ import annotations

import pytest

from workbench.commands.rooms import apps_main

apps_main()
from workbench.apps import html  # noqa: E402
from workbench.apps.pages import papers  # noqa: E402
from workbench.papers import search  # noqa: E402


@pytest.mark.parametrize(
    "words", ["infinite-width", "2011.14522", "mup_infinite", "Yang", "14_mup", "mup", "training width"]
)
def test_a_paper_is_found_by_what_one_remembers(words):
    shown = papers.show_list(words, "", "", "")
    assert "Feature Learning in Infinite-Width" in shown


def test_the_list_is_grouped_counted_and_filtered():
    every, own = search(""), [page for page in search("") if page["family"] == "training"]
    shown = papers.show_list("", "", "", "mup")
    assert f"{len(every)} papers:" in shown and f"training ({len(own)})" in shown
    assert shown.count("wb-group") == len({page["family"] for page in every})
    assert shown.count("aria-selected=true") == 1
    chosen = shown.split("aria-selected=true")[1]
    assert "paper=mup" in chosen.split("</tr>")[0]
    only = papers.show_list("", "training", "", "")
    assert only.count('href="papers?') == len(own)
    assert "No paper fits" in papers.show_list("zzzz", "", "", "")


def test_an_address_keeps_the_filter_and_escapes_it():
    shown = papers.show_list("width", "training", "", "")
    assert 'href="papers?paper=mup&amp;find=width&amp;family=training"' in shown
    assert "<img" not in papers.show_list("<img src=x>", "", "", "")


def test_headings_stand_between_rows():
    made = html.table(("A", "B"), [("a", 1), ("b", 2)], label="t", groups={1: "<second>"})
    assert made.index(">a<") < made.index("&lt;second&gt;") < made.index(">b<") and 'colspan="2"' in made


def test_seventy_three_papers_stay_one_list(monkeypatch):
    many = [
        {"slug": f"p{i}", "title": f"Paper {i}", "family": f"family {i % 6}", "arxiv": f"2401.{i:05d}", "year": 2024,
         "status": papers.BADGES[i % 4]}
        for i in range(73)
    ]  # fmt: skip
    monkeypatch.setattr(papers, "search", lambda words: [page for page in many if words in page["title"]])
    shown = papers.show_list("", "", "", "p40")
    assert shown.count("<small>") == 73 and shown.count("wb-group") == 6 and "73 papers: 19 holds, 18 partly" in shown
    assert papers.show_list("Paper 7", "family 4", "", "").count("<small>") == 1  # 70 alone
    assert papers.show_list("Paper 7", "", "", "").count("<small>") == 4  # 7, 70, 71, 72


def test_names_in_prose_are_code():
    from workbench.papers import load_card

    assert "<code>check_figure</code>" in papers.idea(load_card("mup"))


def test_the_filter_survives_opening_a_paper(page, server):
    page.goto(f"{server.url}/papers")
    page.locator("[aria-label=Papers] tbody a").first.wait_for()
    every = page.locator("[aria-label=Papers] tbody a").count()
    page.get_by_label("Find").fill("learning rate")
    page.wait_for_function(f"document.querySelectorAll('[aria-label=Papers] tbody a').length < {every}")
    found = page.locator("[aria-label=Papers] tbody a").count()
    page.locator("[aria-label=Papers] tbody a", has_text="Infinite-Width").click()
    page.wait_for_selector(".wb-see .wb-card")
    page.wait_for_selector("[aria-label=Papers] [aria-selected=true]")
    assert page.locator("[aria-label=Papers] tbody a").count() == found and "find=learning" in page.url
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(300)
    top = "document.querySelector('{}').getBoundingClientRect().top"
    assert page.evaluate(top.format(".wb-see")) < page.evaluate(top.format(".wb-list"))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.problems == []
