"""Text in, checked examples out: sources, validation, splits, chat templates and loss masks."""

from workbench.data.bundled import DataInfo, documents, list_data
from workbench.data.calibrate import calibration
from workbench.data.encode import Encoded, encode
from workbench.data.examples import KINDS, Examples, Problem, Report
from workbench.data.format import Span, prompt_text, spans
from workbench.data.load import load, take
from workbench.data.preview import preview
from workbench.data.split import split

__all__ = [
    "KINDS",
    "DataInfo",
    "Encoded",
    "Examples",
    "Problem",
    "Report",
    "Span",
    "calibration",
    "documents",
    "encode",
    "list_data",
    "load",
    "preview",
    "prompt_text",
    "spans",
    "split",
    "take",
]
