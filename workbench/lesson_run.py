"""Run lessons from top to bottom, time them, and write pages that open without a server.

    python -m workbench.lesson_run                         every lesson and workshop plan at default scale → lessons/index.html
    python -m workbench.lesson_run 01 14 --scale smoke     two of them, in seconds, to see that they run
    python -m workbench.lesson_run --times                 and keep the measured seconds in assets/lessons.json
    python -m workbench.lesson_run --missing               those only that have no time there yet; goes on where it was stopped

A time is kept twice: on the clock, and in processor seconds, which do not grow when other programs are busy.

A page is the executed notebook with its figures; plotly.js lies beside it once. A knob needs a kernel, so its page shows the
figure of its first setting. Formulas are set by MathJax where there is a network, and stay readable as text where not.
"""

from __future__ import annotations

import argparse
import copy
import html
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench import machine
from workbench.errors import JobError, UserError
from workbench.paths import assets
from workbench.training.abilities import markdown

LIMIT = 900  # seconds one cell may take
KNOB = re.compile(r"^def |lessons\.knob\(", re.MULTILINE)  # other cells have drawn their figure already
LOOKS = """<style>
.highlight pre { font-family: var(--jp-code-font-family); font-size: var(--jp-code-font-size); white-space: pre; }
.highlight pre { overflow-x: auto; }
figure.picture { margin: 8px 0 16px; padding: 12px; background: #FBFAF7; border: 1px solid #E4E1D8; border-radius: 6px; }
figure.picture h5 { margin: 0 0 4px; font-size: 16px; font-weight: 600; color: #1D2126; }
figure.picture figcaption { max-width: 75ch; margin: 4px 0 0; font-size: 13px; color: #5D6570; }
</style>"""
METHODS = "What each fine-tuning method can do"
PLOTLY = "application/vnd.plotly.v1+json"


@dataclass(frozen=True)
class Taken:
    """What a lesson took: `seconds` on the clock, and `processor` seconds of its kernel."""

    seconds: float
    processor: float


def folder() -> Path:
    """Where the lessons lie: `notebooks/` of a checkout, or the copy inside an installed wheel."""
    package = Path(__file__).resolve().parent
    inside = package / "notebooks"
    return inside if inside.is_dir() else package.parent / "notebooks"


def find(name: str) -> Path:
    """A lesson by its number or name.

    Args:
        name: `01`, `1` or `01_what_fine_tuning_changes`.

    Raises:
        UserError: no such lesson, with those that exist.
    """
    paths = sorted(folder().glob("[0-9]*.ipynb"))
    for path in paths:
        if name in (path.stem, path.name) or (name.isdigit() and path.stem.split("_")[0] == f"{int(name):02}"):
            return path
    raise UserError(f"There is no lesson {name!r}; there are {', '.join(path.stem for path in paths)}.")


def execute(path: Path, scale: str, directory: Path, *, drawn: bool = False) -> tuple[Any, Taken]:
    """Run one lesson.

    Args:
        path: the notebook; it stays as it is.
        scale: `smoke` or `small`, put in after the cell of parameters where that says another.
        directory: where it runs and writes.
        drawn: draw each knob's first setting, for a page without a kernel.

    Returns:
        The executed notebook, and what it took with starting the kernel.

    Raises:
        JobError: a cell failed; the sentence names it.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    notebook, cells = nbformat.read(path, as_version=4), []
    for cell in notebook.cells:
        cells.append(cell)
        if "parameters" in cell.metadata.get("tags", []) and f'SCALE = "{scale}"' not in cell.source:
            cells.append(nbformat.v4.new_code_cell(f"SCALE = {scale!r}", id="scale-of-this-run"))
        if drawn and cell.metadata.get("redraw") and KNOB.search(cell.source):
            cells.append(nbformat.v4.new_code_cell(cell.metadata["redraw"][0], id=f"drawn-{cell['id']}"))
    notebook.cells = cells
    begun, spent, before = time.monotonic(), _processor(), os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        NotebookClient(
            notebook, timeout=LIMIT, kernel_name="python3", resources={"metadata": {"path": str(directory)}}
        ).execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError, AssertionError) as error:
        # nbclient, clearing up after a kernel that died, may stumble over its own assertions
        error = error.__context__ if isinstance(error, AssertionError) else error
        if not isinstance(error, CellExecutionError | CellTimeoutError | DeadKernelError):
            raise
        last = [line for line in str(error).splitlines() if line.strip()][-1]
        raise JobError(f"Lesson {path.stem} stopped: {last}. Look at it with: workbench lab") from error
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before
    seconds = time.monotonic() - begun
    return notebook, Taken(seconds, _processor() - spent or seconds)


def _processor() -> float:
    """Processor seconds of the child processes that have ended; 0 where the system does not count them."""
    return os.times().children_user + os.times().children_system


def page(notebook: Any, title: str) -> str:
    """One executed notebook as HTML that asks no server for anything but MathJax.

    Args:
        notebook: from `execute`.
        title: of the page.
    """
    import plotly.io as pio

    shown = copy.deepcopy(notebook)
    for cell in shown.cells:
        for output in cell.get("outputs", []):
            bundle = output.get("data", {})
            if PLOTLY in bundle:
                figure = pio.from_json(
                    json.dumps({k: bundle[PLOTLY][k] for k in ("data", "layout")}), skip_invalid=True
                )
                output["data"] = {"text/html": picture(figure, title)}
    return _export(shown, title).replace("</head>", '<script src="plotly.min.js"></script></head>', 1)


def picture(figure: Any, name: str) -> str:
    """A figure as HTML: title and caption are text that wraps to the width of a phone, the drawing has its alt text.

    Args:
        figure: a plotly figure, of the house style or not.
        name: its alt text when it has none.
    """
    import plotly.io as pio

    from workbench.figures import style

    label, heading, caption = style.alt(figure) or name, "", ""
    if "caption" in (figure.layout.meta or {}):
        figure, heading, caption = style.bare(figure)
    drawing = pio.to_html(figure, include_plotlyjs=False, full_html=False, config=dict(style.CONFIG))
    parts = [
        f"<h5>{html.escape(heading)}</h5>" if heading else "",
        f'<div role="img" aria-label="{html.escape(label, quote=True)}">{drawing}</div>',
        f"<figcaption>{html.escape(caption)}</figcaption>" if caption else "",
    ]
    return f'<figure class="picture">{"".join(parts)}</figure>'


def _export(notebook: Any, title: str) -> str:
    """nbconvert's page without what it would fetch for widgets and diagrams, which these pages do not have."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        require_js_url="", jquery_url="", widget_renderer_url="", mermaid_js_url="",
        exclude_input_prompt=True, exclude_output_prompt=True,
    )  # fmt: skip
    text, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": title}})
    text = re.sub(r'<script (?:src=""|type="module")>.*?</script>', "", text, flags=re.DOTALL)
    return text.replace("</head>", f"{LOOKS}</head>", 1)


def text_page(text: str, title: str) -> str:
    """Markdown (a workshop plan, the table of methods) as HTML.

    Args:
        text: markdown.
        title: of the page.
    """
    import nbformat

    return _export(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text, id="page")]), title)


def render(names: list[str], scale: str, out: Path, say: Callable[[str], None], keep: bool = False) -> list[str]:
    """Run lessons, write their pages and an index; returns those that ran. A lesson that stops is said and left out.

    Args:
        names: lessons.
        scale: `smoke` or `small`.
        out: folder of the pages.
        say: told after each lesson.
        keep: write each lesson's time into assets/lessons.json and the workshop plans as soon as it is done.
    """
    import tempfile

    from plotly.offline import get_plotlyjs

    from workbench.workshop import write_times  # that module reads the times from this one

    out.mkdir(parents=True, exist_ok=True)
    (out / "plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")
    done = []
    for name in names:
        path = find(name)
        with tempfile.TemporaryDirectory() as scratch:
            try:
                notebook, taken = execute(path, scale, Path(scratch), drawn=True)
            except JobError as error:
                say(str(error))
                continue
        done.append(path.stem)
        (out / f"{path.stem}.html").write_text(page(notebook, path.stem), encoding="utf-8")
        if keep:
            keep_time(path.stem, taken, scale)
            write_times()
        say(f"{path.stem}: {taken.seconds:.0f} s on the clock, {taken.processor:.0f} s of processor")
    for path in sorted((folder() / "workshops").glob("*.md")):
        (out / f"workshop_{path.stem}.html").write_text(text_page(path.read_text("utf-8"), path.stem), encoding="utf-8")
    (out / "methods.html").write_text(text_page(f"# {METHODS}\n\n{markdown()}", METHODS), encoding="utf-8")
    pages = sorted(path for path in out.glob("*.html") if path.name != "index.html")
    items = "".join(f'<li><a href="{path.name}">{html.escape(_title(path.stem))}</a></li>' for path in pages)
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Lessons</title>'
    head = f'<!doctype html><html lang="en">{meta}'
    (out / "index.html").write_text(f"{head}<h1>Lessons</h1><ul>{items}</ul></html>\n", encoding="utf-8")
    return done


def _title(stem: str) -> str:
    """The first line of a lesson or plan."""
    if stem == "methods":
        return METHODS
    if stem.startswith("workshop_"):
        path = folder() / "workshops" / f"{stem.removeprefix('workshop_')}.md"
        return path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
    cells = json.loads(find(stem).read_text(encoding="utf-8"))["cells"]
    return "".join(cells[0]["source"]).splitlines()[0].lstrip("# ")


def times() -> dict[str, dict[str, Any]]:
    """What was measured: lesson → {seconds, processor, scale, threads, machine, versions, date}; empty when nothing was."""
    path = assets() / "lessons.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def keep_time(name: str, taken: Taken, scale: str) -> None:
    """Write one lesson's time with machine and versions into assets/lessons.json, beside those of other lessons."""
    place = machine.describe()
    facts = {key: place[key] for key in ("machine", "python", "torch", "transformers", "peft", "date")}
    threads = int(os.environ.get("OMP_NUM_THREADS") or machine.cores())
    row = {
        "seconds": round(taken.seconds, 1),
        "processor": round(taken.processor, 1),
        "scale": scale,
        "threads": threads,
    }
    rows = dict(sorted({**times(), name: {**row, **facts}}.items()))
    (assets() / "lessons.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """The command line; exit code 1 when a lesson stopped."""
    parser = argparse.ArgumentParser(prog="python -m workbench.lesson_run", description=__doc__.split("\n\n")[0])
    parser.add_argument("lessons", nargs="*", help="numbers or names; all when left out")
    parser.add_argument("--scale", choices=("smoke", "small"), default="small", help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("lessons"), help="folder of the pages (default: %(default)s)")
    parser.add_argument("--times", action="store_true", help="keep the seconds in assets/lessons.json")
    parser.add_argument("--missing", action="store_true", help="like --times, for lessons that have none there")
    options = parser.parse_args(arguments)
    names = options.lessons or [path.stem for path in sorted(folder().glob("[0-9]*.ipynb"))]
    wanted = [find(name).stem for name in names]
    if options.missing:
        wanted = [name for name in wanted if name not in times()]
    keep = (options.times or options.missing) and options.scale == "small"
    done = render(wanted, options.scale, options.out, lambda text: print(text, flush=True), keep)
    print(f"{options.out / 'index.html'}: {len(done)} of {len(wanted)} lessons")
    return 0 if len(done) == len(wanted) else 1


if __name__ == "__main__":
    raise SystemExit(main())
