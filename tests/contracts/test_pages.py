"""What every paper page must do; pages are discovered from their CARD literals."""

import importlib
import inspect
import json
import math

import pandas as pd
import pytest

from workbench.figures import style
from workbench.papers import Finding, badge, find_pages, load_page
from workbench.paths import assets

CARDS = {card["slug"]: card for card in find_pages()}
every = pytest.mark.parametrize("slug", CARDS)


def test_there_are_pages():
    assert CARDS


@every
def test_the_card_says_everything(slug):
    card = CARDS[slug]
    empty = [name for name, value in card.items() if value in ("", 0, []) and name != "published"]
    assert not empty, f"{slug}: nothing in {', '.join(empty)}"
    assert 1990 <= card["year"] <= 2030
    assert card["claim"].endswith(".")


@every
def test_the_blocks_import_and_say_where_they_come_from(slug):
    for name in CARDS[slug]["blocks"]:
        text = inspect.getdoc(importlib.import_module(name)) or ""
        assert "Source:" in text, f"{name} does not name its source"


@every
def test_smoke_finds_rows_a_margin_and_a_figure_in_the_house_style(slug):
    page, told = load_page(slug), []
    found = page.experiment(scale="smoke", seed=0, progress=lambda done, total, text: told.append(done / total))
    assert isinstance(found, Finding)
    assert len(found.rows) and (found.rows["seed"] == 0).all()
    assert math.isfinite(found.margin) and found.holds == (found.margin > 0)
    assert page.margin(found.rows) == pytest.approx(found.margin)
    style.check(found.figure)
    style.check(style.theme(found.figure, dark=True))
    assert style.alt(found.figure)
    json.dumps(found.ran)
    assert told and told == sorted(told) and told[-1] == 1


@every
def test_the_same_seed_finds_the_same_and_another_seed_another(slug):
    page = load_page(slug)
    one, again, other = (page.experiment(scale="smoke", seed=seed, device="cpu").rows for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(one, again)
    assert not one.drop(columns="seed").equals(other.drop(columns="seed"))


@every
def test_an_unknown_scale_is_refused(slug):
    with pytest.raises(ValueError, match="small"):
        load_page(slug).experiment(scale="smal")


@every
def test_the_badge_follows_from_its_rows(slug):
    record = badge.read(slug, assets() / "findings")
    assert record is not None, f"{slug} has no badge: workbench reproduce {slug}"
    page = load_page(slug)
    assert badge.is_current(record, CARDS[slug]), f"{slug}: claim or threshold changed since the badge was computed"
    assert record["scale"] == "small"
    rows = pd.DataFrame(record["rows"])
    for seed in record["seeds"]:
        margin = page.margin(rows[rows["seed"] == seed["seed"]])
        assert margin == pytest.approx(seed["margin"], abs=1e-6)
        assert seed["holds"] == (seed["margin"] > 0)
    assert badge.status([seed["margin"] for seed in record["seeds"]]) == record["badge"]
    assert record["command"].startswith(f"workbench reproduce {slug}")
    style.check(page.figure(rows))


def test_every_badge_belongs_to_a_page():
    stored = {path.stem for path in (assets() / "findings").glob("*.json") if "slug" in json.loads(path.read_text())}
    assert stored <= set(CARDS)
