"""Pictures: FastEdit on the user's own diffusion checkpoint, and on a miniature that was trained here and fits in 6 MB.

The miniature paints *scenes*: 32 × 32 pictures drawn from known factors (`scenes`). Because the ideal edit of a scene can be
drawn, an edit is judged exactly. Modules: `scenes` draws and names them, `miniclip` puts pictures and words into one space,
`mini_diffusion` paints from a feature, `fastedit` edits, `baselines` holds its rivals, `judge` reads factors back, `real`
loads a local checkpoint, `images` reads picture files, `train` makes the shipped weights. Importing this costs nothing.
"""

from __future__ import annotations

from workbench.errors import UserError

INSTALL = "pip install 'workbench[vision]'"


def need_diffusers() -> None:
    """Raise a plain sentence when diffusers is not installed.

    Raises:
        UserError: with the command that installs it.
    """
    from importlib.util import find_spec

    if find_spec("diffusers") is None:
        raise UserError(f"Editing pictures needs the package diffusers, which is not installed; run: {INSTALL}")
