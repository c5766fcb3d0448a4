import subprocess
import sys

import pytest

from workbench.errors import UserError
from workbench.papers import find_pages, load_card, load_page, search
from workbench.papers.catalogue import FIELDS, read_card

GOOD = {
    "slug": "my-paper", "title": "T", "authors": "A", "year": 2020, "arxiv": "1", "family": "layers", "blocks": ["b"],
    "lesson": "01_x", "claim": "c", "metric": "m", "threshold": "t", "published": [], "cpu_minutes": 1,
}  # fmt: skip


def write(folder, name="my_paper.py", card=GOOD, tail=""):
    path = folder / name
    path.write_text(f"CARD = {card!r}\n{tail}")
    return path


def test_listing_the_papers_runs_no_page(tmp_path):
    write(tmp_path, tail="raise SystemExit('a page was run')\n")
    (tmp_path / "helper.py").write_text("DISCARD = 1\n")
    assert [card["slug"] for card in find_pages(tmp_path)] == ["my-paper"]


def test_the_catalogue_needs_neither_torch_nor_pandas():
    code = (
        "import sys; from workbench.papers import search, reproduce; assert search('nola')[0]['slug'] == 'nola'; "
        "assert not {'torch', 'pandas', 'plotly', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_search_finds_by_slug_title_number_technique_and_family():
    for query in ("nola", "NOLA", "random basis", "2310.02556", "workbench.adapters.nola", "adapters koohpayegani"):
        assert "nola" in {page["slug"] for page in search(query)}, query
    assert search("no such words anywhere") == []
    assert {"slug", "title", "family", "status", "claim", "lesson", "blocks"} <= set(search()[0])


def test_one_card_and_one_page_by_slug():
    assert load_card("nola")["arxiv"] == "2310.02556"
    assert load_card("nola") == load_page("nola").CARD
    with pytest.raises(UserError, match="did you mean nola"):
        load_card("nolla")


@pytest.mark.parametrize("field", FIELDS)
def test_a_card_without_a_field_is_refused(tmp_path, field):
    with pytest.raises(UserError, match=f"`{field}` is missing"):
        read_card(write(tmp_path, card={k: v for k, v in GOOD.items() if k != field}))


def test_a_card_that_is_computed_wrongly_typed_or_misnamed_is_refused(tmp_path):
    path = tmp_path / "my_paper.py"
    path.write_text("CARD = {'slug': make()}\n")
    with pytest.raises(UserError, match="must be a literal"):
        read_card(path)
    with pytest.raises(UserError, match="`year` is '2020'"):
        read_card(write(tmp_path, card={**GOOD, "year": "2020"}))
    with pytest.raises(UserError, match=r"name the file my_paper\.py"):
        read_card(write(tmp_path, name="other.py"))
