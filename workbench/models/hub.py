"""Models by hub id (`owner/name`): the local cache first, then the network; never code, never a pickle."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from workbench.errors import UserError
from workbench.models.checks import INDEX, PICKLES, WEIGHTS, pickle_sentence

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}")
WANTED = ["*.json", "*.safetensors", "*.jinja", "*.model", "vocab.txt", "merges.txt"]
TIMEOUT = 10.0  # seconds to wait for the hub's first answer


def cached(name: str) -> Path | None:
    """Folder of a complete copy in the local hub cache; None where there is none."""
    from huggingface_hub import constants, try_to_load_from_cache

    found = [
        try_to_load_from_cache(name, file, cache_dir=constants.HF_HUB_CACHE) for file in ("config.json", WEIGHTS, INDEX)
    ]
    config, *weights = [Path(file) if isinstance(file, str) else None for file in found]
    return config.parent if config and any(weights) else None


def ask(name: str) -> list[str]:
    """File names of a model on the hub; downloads nothing.

    Raises:
        UserError: offline, no such model, no access, or nothing there that loads safely.
    """
    from huggingface_hub import HfApi, constants

    with _sentences(name):
        info = HfApi(endpoint=constants.ENDPOINT).model_info(name, timeout=TIMEOUT)
    files = [sibling.rfilename for sibling in info.siblings or []]
    if "config.json" not in files:
        raise UserError(f"The hub model {name} has no config.json, so transformers cannot build it; choose another.")
    if WEIGHTS not in files and INDEX not in files:
        pickles = [file for file in files if Path(file).suffix.lower() in PICKLES]
        if pickles:
            raise pickle_sentence(f"The hub model {name}", pickles)
        raise UserError(f"The hub model {name} has no {WEIGHTS}; choose a version saved as safetensors.")
    return files


def download(name: str) -> Path:
    """Fetch a model's data files into the hub cache.

    Raises:
        UserError: as `ask`, and when the connection breaks.
    """
    from huggingface_hub import constants, snapshot_download

    ask(name)
    with _sentences(name):
        return Path(
            snapshot_download(
                name,
                allow_patterns=WANTED,
                cache_dir=constants.HF_HUB_CACHE,
                endpoint=constants.ENDPOINT,
                etag_timeout=TIMEOUT,
            )
        )


@contextlib.contextmanager
def _sentences(name: str) -> Iterator[None]:
    """Turn what the hub client raises into one sentence."""
    # HTTPError is that of the hub client's own HTTP library, which changes between its versions
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HTTPError, RepositoryNotFoundError

    try:
        yield
    except GatedRepoError as error:
        raise UserError(
            f"The hub model {name} asks you to accept its terms; do so on its page, then run: hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(f"The hub has no model {name} (or it is private: hf auth login); check the id.") from error
    except HfHubHTTPError as error:
        raise UserError(f"The hub refused {name} ({error}); try again later.") from error
    except (HTTPError, OSError) as error:
        raise UserError(
            f"The model {name} is not on this machine and the hub cannot be reached (offline); connect, or give a local "
            "folder or a bundled name (workbench models)."
        ) from error
