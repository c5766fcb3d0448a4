"""The app's look: LOOK's tokens as CSS variables, and a Gradio theme whose every colour is one of them.

Light and dark are one attribute, `data-theme` on the page's root. Gradio's theme variables point at our tokens, so the two
never disagree. No font is fetched: the system's own are named.
"""

from __future__ import annotations

import gradio as gr

from workbench.figures._template import FONT
from workbench.figures.palette import DARK, LIGHT

MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'Liberation Mono', monospace"


def tokens() -> str:
    """CSS that defines `--wb-ground`, `--wb-accent` … for light and dark."""

    def block(colors: dict[str, str]) -> str:
        return " ".join(f"--wb-{name}: {value};" for name, value in colors.items())

    return (
        f":root {{ color-scheme: light; {block(LIGHT)} --wb-font: {FONT}; --wb-mono: {MONO}; }}\n"
        f':root[data-theme="dark"] {{ color-scheme: dark; {block(DARK)} }}'
    )


def gradio_theme() -> gr.themes.Base:
    """Gradio's own components in our colours; the same values for its light and its dark variant."""
    v = {name: f"var(--wb-{name})" for name in LIGHT}
    colors = {
        "body_background_fill": v["ground"], "body_text_color": v["text"], "body_text_color_subdued": v["muted"],
        "background_fill_primary": v["raised"], "background_fill_secondary": v["ground"],
        "border_color_primary": v["line"], "border_color_accent": v["accent"], "border_color_accent_subdued": v["line"],
        "color_accent_soft": "color-mix(in srgb, var(--wb-accent) 12%, var(--wb-raised))",
        "link_text_color": v["accent"], "link_text_color_hover": v["accent"], "link_text_color_active": v["accent"],
        "link_text_color_visited": v["accent"], "code_background_fill": v["ground"],
        "block_background_fill": v["raised"], "block_border_color": v["line"], "block_info_text_color": v["muted"],
        "block_label_background_fill": v["raised"], "block_label_border_color": v["line"],
        "block_label_text_color": v["muted"], "block_title_text_color": v["text"],
        "block_title_background_fill": "transparent", "panel_background_fill": v["raised"],
        "panel_border_color": v["line"], "accordion_text_color": v["text"], "table_text_color": v["text"],
        "checkbox_background_color": v["raised"], "checkbox_background_color_focus": v["raised"],
        "checkbox_background_color_hover": v["raised"], "checkbox_background_color_selected": v["accent"],
        "checkbox_border_color": v["muted"], "checkbox_border_color_focus": v["accent"],
        "checkbox_border_color_hover": v["accent"], "checkbox_border_color_selected": v["accent"],
        "checkbox_label_background_fill": v["raised"], "checkbox_label_background_fill_hover": v["ground"],
        "checkbox_label_background_fill_selected": "color-mix(in srgb, var(--wb-accent) 12%, var(--wb-raised))",
        "checkbox_label_border_color": v["line"], "checkbox_label_border_color_hover": v["muted"],
        "checkbox_label_text_color": v["text"], "checkbox_label_text_color_selected": v["text"],
        "error_background_fill": v["raised"], "error_border_color": v["bad"], "error_text_color": v["bad"],
        "error_icon_color": v["bad"], "input_background_fill": v["raised"], "input_background_fill_focus": v["raised"],
        "input_background_fill_hover": v["raised"], "input_border_color": v["line"],
        "input_border_color_focus": v["accent"], "input_border_color_hover": v["muted"],
        "input_placeholder_color": v["muted"], "loader_color": v["accent"], "slider_color": v["accent"],
        "stat_background_fill": v["accent"], "table_border_color": v["line"], "table_even_background_fill": v["raised"],
        "table_odd_background_fill": v["raised"], "table_row_focus": v["ground"],
        "button_primary_background_fill": v["accent"],
        "button_primary_background_fill_hover": "color-mix(in srgb, var(--wb-accent) 88%, var(--wb-text))",
        "button_primary_border_color": v["accent"], "button_primary_border_color_hover": v["accent"],
        "button_primary_text_color": v["raised"], "button_primary_text_color_hover": v["raised"],
        "button_secondary_background_fill": v["raised"], "button_secondary_background_fill_hover": v["ground"],
        "button_secondary_border_color": v["muted"], "button_secondary_border_color_hover": v["text"],
        "button_secondary_text_color": v["text"], "button_secondary_text_color_hover": v["text"],
        "button_cancel_background_fill": v["raised"], "button_cancel_background_fill_hover": v["ground"],
        "button_cancel_border_color": v["bad"], "button_cancel_border_color_hover": v["bad"],
        "button_cancel_text_color": v["bad"], "button_cancel_text_color_hover": v["bad"],
        "shadow_spread": "0px", "block_shadow": "none", "input_shadow": "none", "input_shadow_focus": "none",
        "checkbox_shadow": "none", "checkbox_label_shadow": "none", "checkbox_label_shadow_hover": "none",
        "checkbox_label_shadow_active": "none", "button_primary_shadow": "none", "button_primary_shadow_hover": "none",
        "button_primary_shadow_active": "none", "button_secondary_shadow": "none",
        "button_secondary_shadow_hover": "none", "button_secondary_shadow_active": "none",
        "button_cancel_shadow": "none", "button_cancel_shadow_hover": "none", "button_cancel_shadow_active": "none",
        "block_border_width": "1px", "input_border_width": "1px", "button_border_width": "1px",
    }  # fmt: skip
    plain = {
        "block_radius": "6px", "container_radius": "6px", "input_radius": "6px", "button_large_radius": "6px",
        "button_medium_radius": "6px", "button_small_radius": "6px", "table_radius": "6px", "layout_gap": "16px",
        "block_padding": "12px", "button_large_text_weight": "600", "button_medium_text_weight": "600",
        "block_title_text_weight": "600", "block_title_text_size": "14px", "block_info_text_size": "13px",
        "input_text_size": "15px", "button_large_text_size": "15px", "button_large_padding": "8px 16px",
        "shadow_drop": "none", "shadow_drop_lg": "none", "color_accent": v["accent"],
    }  # fmt: skip
    theme = gr.themes.Base(font=[FONT], font_mono=[MONO])
    both = {**colors, **{f"{name}_dark": value for name, value in colors.items()}}
    known = {name: value for name, value in {**both, **plain}.items() if hasattr(theme, name)}
    return theme.set(**known)
