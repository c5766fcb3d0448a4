"""The folder of a fine-tuning: one worker at a time, checkpoints that are whole or ignored, settings that cannot mix.

finetune.json     settings, forecast, seconds so far, result once there is one
training.lock     held by the process that trains (freed by the system when it dies)
checkpoints/      checkpoint-N: weights, optimizer, schedule, random state; the last one and the best one
tuned/            what to load: the best weights, tokenizer, workbench.json
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workbench.errors import JobError, UserError
from workbench.training.config import FinetuneConfig

STATE = "finetune.json"
NEEDED = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth")


class Folder:
    """Access to the folder of one fine-tuning."""

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)
        self.checkpoints = self.directory / "checkpoints"
        self.tuned = self.directory / "tuned"

    def state(self) -> dict[str, Any]:
        """What finetune.json holds; empty when there is none."""
        try:
            return json.loads((self.directory / STATE).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError) as error:
            raise UserError(f"{self.directory / STATE} cannot be read ({error}); choose another folder.") from error

    def write(self, **values: Any) -> None:
        """Change entries of finetune.json; the file is whole at any moment."""
        write_json(self.directory / STATE, {**self.state(), **values})

    def check(self, config: FinetuneConfig) -> dict[str, Any]:
        """The state, after making sure that it belongs to these settings.

        Raises:
            UserError: when the folder holds a fine-tuning with other settings.
        """
        state = self.state()
        before, now = state.get("config"), json.loads(json.dumps(dataclasses.asdict(config)))
        if before is not None and before != now:
            names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
            shown = ", ".join(f"{name} {before.get(name)!r} → {now.get(name)!r}" for name in names[:4])
            raise UserError(
                f"{self.directory} holds a fine-tuning with other settings ({shown}); choose another folder, or the same "
                "settings to continue it."
            )
        return state

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder and keep every other worker out while the block runs.

        Raises:
            UserError: when it cannot be written, or another process trains in it.
        """
        from filelock import FileLock, Timeout

        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.directory) as file:
                file.write(b"x")
                file.flush()
        except OSError as error:
            raise UserError(
                f"The folder {self.directory} cannot be written ({error.strerror}); choose another one, or change its owner."
            ) from error
        lock = FileLock(self.directory / "training.lock", blocking=False)
        try:
            lock.acquire()
        except Timeout:
            raise UserError(
                f"Another process is training in {self.directory}; wait for it, stop it, or choose another folder."
            ) from None
        try:
            yield
        finally:
            lock.release()

    def last_checkpoint(self, extra: tuple[str, ...] = ()) -> Path | None:
        """The newest checkpoint that was written to its end; remains of a killed write are removed.

        Args:
            extra: files that the method needs besides the usual ones.
        """
        found = []
        for path in self.checkpoints.glob("checkpoint-*"):
            number = path.name.rpartition("-")[2]
            if not number.isdigit():
                continue
            if _whole(path, (*NEEDED, *extra)):
                found.append((int(number), path))
            else:
                shutil.rmtree(path)
        return max(found)[1] if found else None


def _whole(path: Path, needed: tuple[str, ...]) -> bool:
    """Whether a checkpoint is complete: trainer_state.json is written last, so one that parses vouches for the rest."""
    if not all((path / name).is_file() for name in needed):
        return False
    try:
        json.loads((path / NEEDED[0]).read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


def require_space(directory: Path, needed: int) -> None:
    """Compare the files of a run with the free disk.

    Args:
        directory: where they will be written.
        needed: their bytes.

    Raises:
        UserError: when there is less.
    """
    at = next(folder for folder in (directory.absolute(), *directory.absolute().parents) if folder.exists())
    free = shutil.disk_usage(at).free
    if needed > free:
        raise UserError(
            f"The checkpoints need about {needed / 1e6:,.0f} MB and the disk of {directory} has {free / 1e6:,.0f} MB free; "
            "free some space, choose a folder on another disk, or train an adapter instead of the whole model."
        )


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write beside and rename over, so that no reader ever sees half a file."""
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(values, indent=1, ensure_ascii=False), encoding="utf-8")
    os.replace(beside, path)


@contextmanager
def disk_errors(directory: Path) -> Iterator[None]:
    """Turn a disk that fills up in the middle of a run into one sentence.

    Raises:
        JobError: what to do; checkpoints that were whole before still are.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        # Each writer has its own way of saying it: Python, torch.save, safetensors.
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if full or any(text in str(error) for text in ("PytorchStreamWriter", "No space left", "File too large")):
            raise JobError(
                f"The disk of {directory} is full (or a size limit is reached), so the checkpoint could not be written; "
                "free some space and start the same command again: it continues from the last whole checkpoint."
            ) from error
        raise
