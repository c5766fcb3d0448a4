import pytest
import torch

from workbench.errors import UserError
from workbench.vision.captions import LENGTH, WORDS, caption, captions, factors_named, random_names, tokens
from workbench.vision.requests import ABILITIES, make_requests
from workbench.vision.scenes import COLOURS, COLUMN, FACTORS, GROUNDS, NAMED, draw, held_out, render, scene, words_of


def test_a_plain_square_is_where_and_what_it_says():
    picture = render(scene(shape="square", colour="blue", size="medium", position="right", background="night"))
    assert picture.shape == (1, 3, 32, 32) and picture.abs().max() <= 1
    inside = (picture[0, :, 16, 22] + 1) * 127.5
    assert inside.tolist() == pytest.approx(COLOURS[4], abs=0.6)  # the square is centred 6 pixels to the right
    rim = (picture[0, :, 16, 15] + 1) * 127.5
    assert rim.min() > 200  # and has a white rim 7.2 · 0.86 pixels from there
    unlit = (picture[0, :, 14, 2] + 1) * 127.5 / (1 + 0.22 * 13.5 / 16)  # light comes from the left
    assert unlit.tolist() == pytest.approx(GROUNDS[1], abs=1)


def test_every_factor_changes_the_picture_and_jitter_a_little():
    plain = render(scene())
    for name, words in FACTORS.items():
        for word in words[1:]:
            assert (render(scene({name: word})) - plain).abs().mean() > 0.004, (name, word)
    moved = render(scene(), torch.ones(1, 3))
    assert 0 < (moved - plain).abs().mean() < 0.03


def test_drawing_in_a_batch_equals_drawing_one_by_one():
    factors, jitter = draw(40, torch.Generator().manual_seed(1), everything=True)
    alone = torch.cat([render(factors[i : i + 1], jitter[i : i + 1]) for i in range(40)])
    assert torch.equal(render(factors, jitter), alone)


def test_held_out_pairs_are_six_and_never_drawn():
    pairs = torch.zeros(48, len(FACTORS), dtype=torch.long)
    pairs[:, COLUMN["shape"]], pairs[:, COLUMN["colour"]] = torch.arange(48) // 8, torch.arange(48) % 8
    assert held_out(pairs).sum() == 6
    factors, _ = draw(4000, torch.Generator().manual_seed(0))
    assert not held_out(factors).any()
    assert held_out(draw(4000, torch.Generator().manual_seed(0), everything=True)[0]).any()
    assert all(set(factors[:, i].tolist()) == set(range(len(words))) for i, words in enumerate(FACTORS.values()))


def test_captions_name_what_they_should_and_read_back():
    row = scene(
        shape="star", colour="red", size="large", position="left", background="grass", texture="striped", extra="sun"
    )[0]
    text = caption(row)
    assert text == "a large striped red star at the left on grass with a sun"
    assert factors_named(text) == {name: word for name, word in words_of(row).items() if name in NAMED}
    assert caption(row, ["background"]) == "a thing on grass"
    assert caption(scene()[0], ["extra", "position"]) == "a thing in the middle alone"
    factors, _ = draw(200, torch.Generator().manual_seed(3))
    full = captions(factors, torch.ones(200, 7, dtype=torch.bool))
    assert max(len(text.split()) for text in full) <= LENGTH
    for row, text in zip(factors, full, strict=True):
        assert scene(factors_named(text))[0, :7].tolist() == row[:7].tolist()
    assert random_names(500, torch.Generator().manual_seed(0)).any(1).all()


def test_tokens_are_padded_and_know_synonyms():
    ids = tokens(["a red star", "a BIG red star, in the centre!"])
    assert ids.shape == (2, LENGTH)
    assert [WORDS[i] for i in ids[1] if i] == ["a", "large", "red", "star", "in", "the", "middle"]
    assert ids[0, 3:].sum() == 0


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("", "The prompt is empty"), (" .,! ", "The prompt is empty"), ("a red dog", "does not know 'dog'"),
        ("<pad>", "does not know"), ("a red star " * 9, "reads 16"), ("звезда", "does not know"),
    ],
)  # fmt: skip
def test_bad_prompts_are_refused(prompt, words):
    with pytest.raises(UserError, match=words):
        tokens([prompt])


def test_an_unknown_word_is_answered_with_the_known_ones():
    with pytest.raises(UserError, match=r"shape: circle, square.*background: sky, night.*--model FOLDER"):
        tokens(["a purple elephant"])


def test_wrong_factors_are_refused():
    with pytest.raises(UserError, match="did you mean star"):
        scene(shape="starr")
    with pytest.raises(UserError, match="no factor"):
        scene(wings="two")
    with pytest.raises(UserError, match=r"\(3, 4\)"):
        render(torch.zeros(3, 4, dtype=torch.long))


def test_requests_change_what_they_say_and_only_that():
    asked = make_requests(60, 0)
    assert [r.ability for r in asked[:6]] == list(ABILITIES)
    assert [r.seen for r in asked if r.ability == "colour"] == [True, False] * 5 and sum(not r.seen for r in asked) == 5
    for request in asked:
        differ = [n for n in FACTORS if request.original[COLUMN[n]] != request.wanted[COLUMN[n]]]
        assert sorted(differ) == sorted(request.changed)
        named = factors_named(request.prompt)
        assert {n: words_of(request.wanted)[n] for n in {"shape", "colour", *request.changed}} == named
        assert request.ability != "addition" or words_of(request.original)["extra"] == "alone"
    again = make_requests(60, 0)
    assert all(torch.equal(a.wanted, b.wanted) for a, b in zip(asked, again, strict=True))
    assert make_requests(6, 1)[0].prompt != asked[0].prompt
