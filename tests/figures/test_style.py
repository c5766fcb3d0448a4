from __future__ import annotations

import re

import plotly.graph_objects as go
import plotly.io as pio
import pytest

from workbench.figures import style
from workbench.figures.palette import DARK, LIGHT, METHODS, contrast, look, luminance, readable

# The methods of peft 0.21, as it spells them, and the names the house uses.
PEFT = [
    "ADALORA",
    "ADAMSS",
    "ADAPTION_PROMPT",
    "BEFT",
    "BOFT",
    "C3A",
    "CARTRIDGE",
    "CPT",
    "DEFT",
    "DELORA",
    "FOURIERFT",
    "FROD",
    "GLORA",
    "GRALORA",
    "HIRA",
    "HRA",
    "IA3",
    "LILY",
    "LN_TUNING",
    "LOHA",
    "LOKR",
    "LORA",
    "MISS",
    "MULTITASK_PROMPT_TUNING",
    "OFT",
    "OSF",
    "PEANUT",
    "POLY",
    "PREFIX_TUNING",
    "PROMPT_TUNING",
    "PSOFT",
    "PVERA",
    "P_TUNING",
    "RANDLORA",
    "ROAD",
    "SHADOW",
    "SHIRA",
    "SUPERTUNING",
    "TINYLORA",
    "TRAINABLE_TOKENS",
    "UNILORA",
    "VBLORA",
    "VERA",
    "WAVEFT",
    "XLORA",
]
HOUSE = [
    "base",
    "full",
    "lora",
    "dora",
    "vera",
    "nola",
    "randlora",
    "ia3",
    "prompt",
    "prefix",
    "p-tuning",
    "bottleneck",
    "compacter",
    "sparse",
    "bitfit",
]


def _figure(**layout):
    fig = go.Figure()
    fig.add_scatter(x=[1, 2], y=[1, 2], line={"color": LIGHT["accent"]})
    fig.update_xaxes(type="linear", title_text="A (b)")
    fig.update_yaxes(type="linear", title_text="C (d)")
    style.finish(fig, title="A title", alt="One sentence with a finding.", caption="n = 3.")
    fig.update_layout(layout)
    return fig


def test_every_method_has_a_family_of_its_own_colour():
    assert all(look(name).family in METHODS for name in [*PEFT, *HOUSE])
    assert look("PREFIX_TUNING") == look("prefix")
    assert look("lora").fill == "#0072B2" and look("ia3").fill == look("bitfit").fill == "#CC79A7"


def test_methods_of_one_family_differ_by_marker():
    for family, names in METHODS.items():
        marks = [(look(n).marker, look(n).dash) for n in names.split()]
        assert len(set(marks)) == len(marks), family


def test_bits_are_one_ordered_ramp_and_quantizers_differ_by_marker():
    ramp = [luminance(look(f"gptq-{b}").fill) for b in (16, 8, 4, 3, 2)]
    assert ramp == sorted(ramp)
    assert look("rtn-4").fill == look("gptq_4").fill == look("nf4").fill == look("lora+nf4").fill
    assert len({look(n).marker for n in ("rtn-4", "gptq-4", "nf4")}) == 3


def test_an_unknown_name_is_grey_and_stays_the_same():
    assert look("my own run") == look("My_own run")
    assert look("my own run").fill == LIGHT["muted"]


def test_contrast_of_black_and_white_is_twenty_one():
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21.0)
    assert contrast("#777777", "#FFFFFF") == pytest.approx(4.48, abs=0.01)  # WCAG's own example of a near miss


def test_readable_moves_only_as_far_as_needed():
    assert readable("#0072B2", LIGHT["ground"]) == "#0072B2"
    moved = readable("#F0E442", LIGHT["ground"])
    assert 3.0 <= contrast(moved, LIGHT["ground"]) < 3.3
    with pytest.raises(ValueError, match="a contrast of 30"):
        readable("#F0E442", LIGHT["ground"], 30)


def test_tokens_are_legible():
    for tokens in (LIGHT, DARK):
        for name in ("text", "muted", "accent", "good", "caution", "bad"):
            assert contrast(tokens[name], tokens["ground"]) >= 4.5, name


def test_caption_replaces_the_old_one_and_makes_room():
    fig = _figure()
    height, bottom = fig.layout.height, fig.layout.margin.b
    style.caption(fig, "word " * 60)
    assert [a.name for a in fig.layout.annotations] == ["caption"]
    assert fig.layout.margin.b > bottom
    assert fig.layout.height - fig.layout.margin.b == height - bottom  # the plot itself keeps its height


def test_bare_takes_title_and_caption_out_and_keeps_the_plot():
    fig = _figure()
    plain, title, caption = style.bare(fig)
    assert (title, caption) == ("A title", "n = 3.")
    assert not plain.layout.annotations and not plain.layout.title.text

    def inside(f):
        return f.layout.height - f.layout.margin.t - f.layout.margin.b

    assert inside(plain) == inside(fig) == style.PLOT
    assert fig.layout.annotations  # the original is untouched


def test_theme_is_a_new_figure_and_refuses_the_way_back():
    fig = _figure()
    dark = style.theme(fig, dark=True)
    assert fig.data[0].line.color == LIGHT["accent"] and dark.data[0].line.color == DARK["accent"]
    assert style.theme(dark, dark=True).to_json() == dark.to_json()
    with pytest.raises(ValueError, match="dark already"):
        style.theme(dark)


def test_present_makes_every_letter_large():
    fig = _figure()
    big = style.theme(fig, present=True)
    assert big.layout.margin.b == pytest.approx(1.5 * fig.layout.margin.b, abs=1)
    assert big.layout.height - big.layout.margin.t - big.layout.margin.b == pytest.approx(style.PLOT, abs=2)
    assert big.layout.template.layout.font.size >= 18
    assert big.layout.template.layout.xaxis.tickfont.size >= 18
    assert big.layout.annotations[0].font.size >= 18


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: f.add_scattergeo(lon=[1], lat=[2]), "scattergeo"),
        (lambda f: f.update_layout(hoveranywhere=True), "hoveranywhere"),
        (lambda f: f.update_traces(marker={"line": {"dash": "dot"}}), "marker.line.dash"),
        (lambda f: f.update_xaxes(tickmode="sync"), "sync"),
        (lambda f: f.update_xaxes(type=None), "type is not set"),
        (lambda f: f.update_layout(yaxis2={"overlaying": "y", "type": "linear"}), "tickmode"),
        (lambda f: f.update_traces(line={"color": "rebeccapurple"}), "rebeccapurple"),
        (lambda f: f.update_layout(uirevision=None), "uirevision"),
        (lambda f: f.update_layout(meta=None), "alt"),
        (lambda f: f.update_layout(template="plotly"), "template"),
        (lambda f: f.update_layout(images=[{"source": "https://example.org/a.png"}]), "outside"),
    ],
)
def test_check_refuses(spoil, words):
    fig = _figure()
    style.check(fig)
    spoil(fig)
    with pytest.raises(ValueError, match=re.escape(words)):
        style.check(fig)


def test_sharing_to_the_cloud_is_off_in_notebooks():
    kept = {name: pio.renderers[name].config for name in ("plotly_mimetype", "notebook")}
    try:
        style.use_in_notebook()
        bundle = pio.renderers["plotly_mimetype"].to_mimebundle(_figure().to_plotly_json())
        config = bundle["application/vnd.plotly.v1+json"]["config"]
        assert config["showSendToCloud"] is False and not config.get("plotlyServerURL")
    finally:
        for name, config in kept.items():
            pio.renderers[name].config = config
