"""Build and launch the app. Everything that keeps it safe is decided here."""

from __future__ import annotations

import gradio as gr

from .pages import home

MAX_UPLOAD = "200mb"


def build() -> gr.Blocks:
    """The app without a server."""
    with gr.Blocks(title="Workbench", analytics_enabled=False) as blocks:
        home.build()
    return blocks


def launch(host: str, port: int, auth: tuple[str, str] | None, browser: bool) -> None:
    """Serve until interrupted.

    Args:
        host: address to listen on; anything but loopback needs `auth`.
        port: TCP port.
        auth: user and password, or None.
        browser: open a browser window.
    """
    build().launch(
        server_name=host,
        server_port=port,
        auth=auth,
        inbrowser=browser,
        share=False,
        max_file_size=MAX_UPLOAD,
        enable_monitoring=False,
        run_history=False,
        allowed_paths=[],
        footer_links=[],
    )
