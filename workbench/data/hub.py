"""Rows of a Hugging Face data set: by hub id, or from a folder that `datasets` wrote with `save_to_disk`.

`owner/name`, `owner/name:config` and `owner/name#split` are understood (split `train` when none is named). `datasets`
runs no code of the repository. Numbered classes become their names.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.data.readers import Raw
from workbench.errors import UserError

if TYPE_CHECKING:
    import datasets

HUB_ID = re.compile(
    r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::(?P<config>[\w.-]+))?(?:#(?P<split>[\w.\[\]:%-]+))?"
)


def read_hub(name: str) -> Raw:
    """Download (or take from the cache) one split of a hub data set.

    Args:
        name: `owner/name[:config][#split]`.

    Raises:
        UserError: offline and not in the cache, no such data set, config or split, no access, or it needs its own code.
    """
    import datasets

    match = HUB_ID.fullmatch(name)
    identifier, config, split = match["id"], match["config"], match["split"] or "train"
    cached = Path(datasets.config.HF_DATASETS_CACHE) / identifier.replace("/", "___")
    if not cached.exists():
        _reachable(identifier)
    try:
        table = datasets.load_dataset(identifier, config, split=split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        first = str(error).strip().split("\n")[0]
        raise UserError(
            f"The data set {name!r} could not be loaded from the hub ({first}); check its name, config and split "
            "(owner/name:config#split), or give a local .jsonl, .csv or .parquet file."
        ) from error
    return _rows(table, name)


def _reachable(identifier: str) -> None:
    """Ask the hub once: without a network `datasets` would retry for 25 seconds before saying so."""
    from huggingface_hub import HfApi

    # HTTPError is that of the hub client's own HTTP library, which changes between its versions
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    try:
        HfApi().dataset_info(identifier, timeout=10)
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status not in (401, 403, 404):
            raise UserError(f"The hub answers {status} for {identifier!r}; try again later.") from error
        raise UserError(
            f"The hub has no data set {identifier!r} that you may read ({status}); check the name, "
            "and log in with `hf auth login` when it is private or gated."
        ) from error
    except (OfflineModeIsEnabled, HTTPError, OSError) as error:
        raise UserError(
            f"{identifier!r} is neither a file or folder here nor a bundled name, and the hub cannot be asked because "
            "this machine is offline; connect, or give a local file (.txt, .csv, .jsonl, .parquet)."
        ) from error


def read_saved(path: Path) -> Raw:
    """A folder written by `save_to_disk`; of several splits, `train` is taken.

    Raises:
        UserError: damaged, or several splits and none called `train`.
    """
    import datasets

    try:
        table = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is not a complete `datasets` folder ({error}); save it again.") from error
    if isinstance(table, datasets.DatasetDict):
        if "train" not in table:
            raise UserError(f"{path} has the splits {', '.join(table)}; give the folder of one of them.")
        table = table["train"]
    return _rows(table, path.name)


def _rows(table: datasets.Dataset, name: str) -> Raw:
    from datasets import ClassLabel

    if not len(table):
        raise UserError(f"The data set {name!r} has no rows; choose another split.")
    rows = table.to_list()
    for column, feature in table.features.items():
        if isinstance(feature, ClassLabel):
            for row in rows:
                number = row[column]
                row[column] = feature.int2str(number) if number is not None and number >= 0 else None
    return Raw(name, table.column_names, rows, [f"row {number}" for number in range(1, len(rows) + 1)])
