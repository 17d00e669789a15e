"""How the page looks: gradio's base theme in one accent colour and the system's own fonts."""

from __future__ import annotations

from importlib.resources import files

import gradio

SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
INK = {
    "page": ("#f6f7f8", "#14171a"),
    "card": ("#ffffff", "#1c2024"),
    "line": ("#dfe3e6", "#333a40"),
    "text": ("#1b1f23", "#e8eaec"),
    "quiet": ("#596068", "#a3abb3"),
    "accent": ("#0b6e6e", "#4fc3bd"),
    "accent_press": ("#095a5a", "#74d3ce"),
    "on_accent": ("#ffffff", "#0d1b1b"),
}
"""Name -> (light, dark); texts have a contrast of 4.5:1 or more on page and card."""
ROLES = {
    "body_background_fill": "page",
    "body_text_color": "text",
    "body_text_color_subdued": "quiet",
    "background_fill_primary": "card",
    "background_fill_secondary": "page",
    "block_background_fill": "card",
    "block_border_color": "line",
    "block_label_background_fill": "card",
    "block_label_border_color": "line",
    "block_label_text_color": "quiet",
    "block_title_text_color": "text",
    "block_info_text_color": "quiet",
    "border_color_primary": "line",
    "border_color_accent": "accent",
    "color_accent_soft": "page",
    "input_background_fill": "card",
    "input_border_color": "line",
    "input_border_color_focus": "accent",
    "input_placeholder_color": "quiet",
    "slider_color": "accent",
    "checkbox_background_color_selected": "accent",
    "checkbox_border_color_focus": "accent",
    "checkbox_border_color_hover": "accent",
    "checkbox_border_color_selected": "accent",
    "button_primary_background_fill": "accent",
    "button_primary_background_fill_hover": "accent_press",
    "button_primary_border_color": "accent",
    "button_primary_text_color": "on_accent",
    "button_secondary_background_fill": "card",
    "button_secondary_background_fill_hover": "page",
    "button_secondary_border_color": "line",
    "button_secondary_text_color": "text",
    "link_text_color": "accent",
    "loader_color": "accent",
}
"""gradio's variable -> name of our colour."""


def theme() -> gradio.themes.Base:
    """The theme; no font of it is fetched."""
    base = gradio.themes.Base(
        font=list(SANS),
        font_mono=list(MONO),
        radius_size=gradio.themes.sizes.radius_md,
        spacing_size=gradio.themes.sizes.spacing_md,
    )
    colours = {variable: INK[name][0] for variable, name in ROLES.items()}
    dark = {f"{variable}_dark": INK[name][1] for variable, name in ROLES.items()}
    base.set(block_shadow="none", block_border_width="1px", **colours, **dark)
    return base


def head() -> str:
    """The page's own style and script, as they go into the page's head.

    (gradio's `css` would prefix every rule, and loses some on the way.)
    """
    return f"<style>{_colours()}\n{_read('page.css')}</style><script>{_read('page.js')}</script>"


def _colours() -> str:
    """Our colours as CSS variables, light and dark."""
    names = [(name.replace("_", "-"), light, dark) for name, (light, dark) in INK.items()]
    light = "".join(f"--cd-{name}:{value};" for name, value, _ in names)
    dark = "".join(f"--cd-{name}:{value};" for name, _, value in names)
    return f":root{{{light}}} .dark{{{dark}}}"


def _read(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")
