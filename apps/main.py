"""Build and launch the app. Everything that keeps it safe is decided here.

Loopback unless there is a login; uploads capped; nothing of the disk is served but what Gradio's own cache holds; monitoring,
analytics, run history and sharing off; the server starts in an empty folder, so that no path relative to it leads anywhere.
`web.Guard` adds the content policy, the type check of uploads, and the check of the Host header.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from workbench.errors import UserError
from workbench.paths import home, runs_root

if TYPE_CHECKING:
    import gradio as gr

MAX_UPLOAD = "200mb"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
KEEP = (3600, 24 * 3600)  # seconds: how often temporary files are looked through, and how old they get
WAITING = 64  # requests that wait for a handler at most


def build() -> gr.Blocks:
    """The app without a server: every page that `pages/` holds, and the named endpoints."""
    settle_environment()
    import gradio as gr

    from . import api, frame

    modules = frame.discover()
    pages = [module.PAGE for module in modules]
    home_page, rest = modules[0], modules[1:]
    with gr.Blocks(title="Workbench", analytics_enabled=False, delete_cache=KEEP, fill_width=True) as blocks:
        home_page.build(frame.Frame(blocks, home_page.PAGE, pages))
        api.register()
    for module in rest:
        with blocks.route(module.PAGE.title, f"/{module.PAGE.path}", show_in_navbar=False):
            module.build(frame.Frame(blocks, module.PAGE, pages))
    blocks.queue(max_size=WAITING, default_concurrency_limit=8)
    return blocks


def settle_environment() -> None:
    """What must stand before Gradio is imported: its files in our cache, no telemetry, the runs' folder as a full path."""
    os.environ["WORKBENCH_RUNS"] = str(runs_root().absolute())
    if "gradio" not in sys.modules:
        os.environ["GRADIO_TEMP_DIR"] = str(home() / "app-files")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"


def check_address(host: str, auth: tuple[str, str] | None) -> None:
    """Refuse to listen on the network without a login.

    Raises:
        UserError: any address but loopback without `auth`.
    """
    if host not in LOOPBACK and auth is None:
        raise UserError(f"Listening on {host} opens the app to the network; add --auth USER:PASSWORD.")


def options(host: str, auth: tuple[str, str] | None) -> dict[str, Any]:
    """The arguments of Gradio's launch that decide about safety and look."""
    from starlette.middleware import Middleware

    from . import theme, web

    return {
        "server_name": host,
        "auth": auth,
        "share": False,
        "max_file_size": MAX_UPLOAD,
        "enable_monitoring": False,
        "run_history": False,
        "allowed_paths": [],
        "footer_links": [],
        "ssr_mode": False,
        "mcp_server": False,
        "pwa": False,
        "strict_cors": True,
        "show_error": False,
        "theme": theme.gradio_theme(),
        "app_kwargs": {
            "routes": web.routes(),
            "middleware": [Middleware(web.Guard, loopback=host in LOOPBACK)],
        },
    }


def launch(host: str, port: int, auth: tuple[str, str] | None, browser: bool) -> None:
    """Serve until interrupted.

    Args:
        host: address to listen on; anything but loopback needs `auth`.
        port: TCP port.
        auth: user and password, or None.
        browser: open a browser window.

    Raises:
        UserError: an address on the network without a login.
    """
    from . import catalogue

    check_address(host, auth)
    blocks = build()
    empty = home() / "app"
    empty.mkdir(parents=True, exist_ok=True)
    os.chdir(empty)
    blocks.launch(server_port=port, inbrowser=browser, prevent_thread_lock=True, **options(host, auth))
    catalogue.warm()
    blocks.block_thread()
