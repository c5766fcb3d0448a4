"""Methods with their arguments, kept on disk: listing them imports torch and peft, which a page must not wait for.

The list is computed once per installation (versions of peft, transformers and of our own sources are its key) and read as
JSON from then on. `warm` computes it, and imports what the first click needs, in the background after the start.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from workbench import __version__, machine
from workbench.paths import home


def _key() -> str:
    """Changes with the packages and the sources that decide the list."""
    import workbench

    package = Path(workbench.__file__).parent
    sources = [*package.glob("adapters/*.py"), *package.glob("training/methods.py"), *package.glob("compress/*.py")]
    sources += [package / "methods.py", Path(__file__)]
    stamps = sorted((p.name, p.stat().st_mtime_ns) for p in sources)
    versions = machine.versions("peft", "transformers", "torch")
    return hashlib.sha256(repr((__version__, versions, stamps)).encode()).hexdigest()[:16]


@functools.cache
def methods(kind: str = "adapter") -> dict[str, dict[str, Any]]:
    """Name → record of everything of one kind: adapter, quantizer, pruner, law or schedule."""
    return {record["name"]: record for record in everything() if record["kind"] == kind}


@functools.cache
def everything() -> list[dict[str, Any]]:
    """What `workbench methods --json` prints, and the pruners."""
    path = home() / "app-methods" / f"{_key()}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    ready()
    from workbench.compress.prune import PRUNERS
    from workbench.methods import list_all

    pruners = [{"kind": "pruner", "name": name, "help": words} for name, (_, words) in PRUNERS.items()]
    found = json.loads(json.dumps([*list_all(), *pruners], default=str))
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(f".{os.getpid()}")
    half.write_text(json.dumps(found), encoding="utf-8")
    os.replace(half, path)
    for old in path.parent.glob("*.json"):
        if old != path:
            old.unlink(missing_ok=True)
    return found


_importing = threading.Lock()


def ready() -> None:
    """Import what loads models, once and by one thread: transformers' lazy modules break when two threads import them."""
    with _importing:
        import peft
        import transformers

        for name in ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer", "Trainer"):
            getattr(transformers, name)
        peft.PeftModel  # noqa: B018 - the import is what is wanted


def warm(wait: float = 1.5) -> threading.Thread:
    """Import what the first click needs, after the first page has been served.

    Args:
        wait: seconds before it begins, so that it takes no time from that page.
    """

    def work() -> None:
        time.sleep(wait)
        ready()
        everything()

    thread = threading.Thread(target=work, name="warm-up", daemon=True)
    thread.start()
    return thread
