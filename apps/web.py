"""The HTTP half: our files, what the page's head gains, and refusals that Gradio does not make.

- `Guard` puts style and script into the page before anything draws, with a content policy under which a browser asks nobody
  but this server.
- An upload whose name is not that of text or a table is refused at the door (415), whatever page it came from.
- On loopback, a request that names another host is refused: a foreign web page cannot reach the app through DNS.
"""

from __future__ import annotations

import json
import re
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.figures import style
from workbench.figures.palette import DARK_OF, LIGHT

from . import choices, theme
from .frame import MARK

STATIC = Path(__file__).parent / "static"
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PART = re.compile(rb'content-disposition:[^\r\n]*?filename\*?=("(?P<quoted>[^"\r\n]*)"|(?P<bare>[^;\r\n]+))', re.I)
_OVERLAP = 1024  # bytes kept of the chunk before, so that a header cut in two is still seen


def plotly_path() -> Path:
    """plotly.js as plotly.py ships it: the one that notebooks and reports draw with."""
    import plotly

    return Path(plotly.__file__).parent / "package_data" / "plotly.min.js"


def stamp() -> str:
    """Changes whenever one of our files does: browsers may keep them for a year."""
    times = [int((STATIC / name).stat().st_mtime) for name in ("app.js", "app.css")]
    return f"{version('plotly')}-{max(times)}"


def head() -> str:
    """What the page's head gains."""
    mark = stamp()
    shared = {
        "pairs": DARK_OF, "ground": LIGHT["ground"], "config": style.CONFIG, "plotly": f"workbench/plotly.js?{mark}",
    }  # fmt: skip
    icon = MARK.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ').replace("currentColor", "%230B6E6E")
    return (
        f'<link rel="icon" href="data:image/svg+xml,{escape(icon)}"><style>{theme.tokens()}</style>'
        f'<link rel="stylesheet" href="workbench/app.css?{mark}">'
        f'<script type="application/json" id="workbench-style">{json.dumps(shared).replace("<", chr(92) + "u003c")}</script>'
        f'<script src="workbench/app.js?{mark}"></script>'
    )


def routes() -> list[Any]:
    """Our own addresses: two files of ours and plotly.js. Nothing else is served from them."""
    from starlette.responses import FileResponse
    from starlette.routing import Route

    places = {
        "app.js": (STATIC / "app.js", "text/javascript"),
        "app.css": (STATIC / "app.css", "text/css"),
        "plotly.js": (plotly_path(), "text/javascript"),
    }

    def serve(path: Path, kind: str) -> Any:
        async def endpoint(request: Any) -> Any:
            return FileResponse(path, media_type=kind, headers={"Cache-Control": "public, max-age=31536000, immutable"})

        return endpoint

    return [Route(f"/workbench/{name}", serve(*place)) for name, place in places.items()]


class Refused(Exception):
    """An upload that is turned away while it arrives."""


class Guard:
    """ASGI middleware: see the module's text.

    Args:
        app: the application inside.
        loopback: the server listens on this machine only.
    """

    def __init__(self, app: Any, loopback: bool = True) -> None:
        self.app, self.loopback = app, loopback
        self.head = head().encode()

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if self.loopback and hostname(headers.get(b"host", b"").decode("latin-1")) not in LOOPBACK:
            await answer(send, 403, "This app answers to its own address only.")
            return
        if scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/upload"):
            await self.upload(scope, receive, send)
            return
        await self.app(scope, receive, self.writer(scope, send))

    async def upload(self, scope: dict, receive: Any, send: Any) -> None:
        """Pass an upload on while every file name in it is one we take."""
        begun, tail = False, b""

        async def checked() -> dict:
            nonlocal tail
            message = await receive()
            if message["type"] == "http.request":
                tail = tail[-_OVERLAP:] + message.get("body", b"")
                for part in _PART.finditer(tail):
                    try:
                        name = (part["quoted"] or part["bare"] or b"").decode("utf-8", "replace")
                        choices.check_type(name, choices.DOOR)
                    except UserError as error:
                        raise Refused(str(error)) from error
            return message

        async def started(message: dict) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, checked, started)
        except Refused as refused:
            if not begun:
                await answer(send, 415, str(refused))

    def writer(self, scope: dict, send: Any) -> Any:
        """Add head and policy to pages; everything else passes untouched, streams included."""
        start: dict | None = None
        body = b""

        async def write(message: dict) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                kinds = [value for name, value in message["headers"] if name.lower() == b"content-type"]
                if kinds and kinds[0].startswith(b"text/html"):
                    start = message
                    return
            elif start is not None and message["type"] == "http.response.body":
                body += message.get("body", b"")
                if message.get("more_body"):
                    return
                body = body.replace(b"</head>", self.head + b"</head>", 1)
                kept = [(k, v) for k, v in start["headers"] if k.lower() != b"content-length"]
                added = [
                    (b"content-length", str(len(body)).encode()),
                    (b"content-security-policy", POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                    (b"x-content-type-options", b"nosniff"),
                ]
                await send({**start, "headers": kept + added})
                message, start = {**message, "body": b"" if scope["method"] == "HEAD" else body}, None
            await send(message)

        return write


def hostname(host: str) -> str:
    """The name in a Host header, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


async def answer(send: Any, status: int, text: str) -> None:
    """A short refusal."""
    body = json.dumps({"detail": text}, ensure_ascii=False).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
