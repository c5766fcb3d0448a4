"""The knob of a lesson: widgets, and below them what a function returns for their values.

`ipywidgets.interactive` captures output by a context that the notebook's front end must take part in. Executed without one
(nbclient), that can lose the reply of a cell and wait for its time limit. Here the result is put into the output area as
data, which needs nobody's answer, and looks the same in JupyterLab.
"""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets
import plotly.io as pio
from IPython.core.interactiveshell import InteractiveShell


class Knob(widgets.interactive):
    """`ipywidgets.interactive` that shows what its function returns; errors are shown and raised, never swallowed."""

    def update(self, *_: Any) -> None:
        """Call the function with the widgets' values and show its result."""
        self.kwargs = {widget._kwarg: widget.get_interact_value() for widget in self.kwargs_widgets}
        if self.manual:
            self.manual_button.disabled = True
        try:
            self.result = self.f(**self.kwargs)
            self.out.outputs = () if self.result is None else (shown(self.result),)
        except Exception as error:
            told = {
                "ename": type(error).__name__,
                "evalue": str(error),
                "traceback": [f"{type(error).__name__}: {error}"],
            }
            self.out.outputs = ({"output_type": "error", **told},)
            raise
        finally:
            if self.manual:
                self.manual_button.disabled = False


def shown(value: Any) -> dict[str, Any]:
    """A value as an output of a notebook: plotly figures as their data, everything else as IPython formats it."""
    if hasattr(
        value, "to_plotly_json"
    ):  # plotly's own bundle follows the default renderer, which may be a browser's: empty
        data, metadata = pio.renderers["plotly_mimetype"].to_mimebundle(value.to_plotly_json()), {}
    elif hasattr(value, "_repr_mimebundle_"):
        bundle = value._repr_mimebundle_()
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
    else:
        data, metadata = InteractiveShell.instance().display_formatter.format(value)
    return {"output_type": "display_data", "data": data, "metadata": metadata}
