"""The command `workbench`: a lazy group, so that `workbench papers` never pays for torch.

Every failure ends in one plain sentence on stderr. Exit codes: 0 fine, 1 the job failed or the claim does not hold,
2 bad input, 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys

import click

from workbench import __version__
from workbench.errors import JobError, UserError, choose

# command → (section, module:attribute, one line for the overview)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "demo": (
        "Start",
        "workbench.commands.jobs:demo",
        "Fine-tune, compress and compare a real model; write report.html.",
    ),
    "doctor": (
        "Start",
        "workbench.commands.info:doctor",
        "Check this machine and name the command that fixes each gap.",
    ),
    "finetune": ("Work", "workbench.commands.jobs:finetune", "Fine-tune a model on your data."),
    "quantize": ("Work", "workbench.commands.jobs:quantize", "Compress a model to 8, 4, 3 or 2 bits a weight."),
    "prune": ("Work", "workbench.commands.prune:prune", "Remove weights, and repair what that broke."),
    "frontier": (
        "Work",
        "workbench.commands.frontier:frontier",
        "Size, quality, speed and cost of every way to compress a model.",
    ),
    "compare": (
        "Work",
        "workbench.commands.grid:compare",
        "Compare models on held-out text, or ways of training at one budget, with intervals.",
    ),
    "export": (
        "Work",
        "workbench.commands.export:export",
        "Write a model for vLLM, llama.cpp and others, and check the file.",
    ),
    "chat": ("Work", "workbench.commands.jobs:chat", "Talk to a model, a tuned run or a compressed folder."),
    "fit": ("Explore", "workbench.commands.fit:fit", "Fit a scaling law to a CSV of training runs, with intervals."),
    "sweep": ("Explore", "workbench.commands.fit:sweep", "Train many tiny models to fit laws on; resumable."),
    "reconstruct": (
        "Explore",
        "workbench.commands.reconstruct:reconstruct",
        "A mesh from a point cloud, open where the surface is open.",
    ),
    "grow": ("Explore", "workbench.commands.grow:grow", "Make a deeper or wider model from a trained one."),
    "edit": ("Explore", "workbench.commands.edit:edit", "Edit a picture by fine-tuning on it for fifty steps."),
    "papers": ("Papers", "workbench.commands.papers:papers", "The catalogue of papers with their badges."),
    "reproduce": ("Papers", "workbench.commands.papers:reproduce", "Re-run a paper's claim; exit 0 when it holds."),
    "runs": ("Runs", "workbench.commands.runs:runs", "List, show, stop, resume and delete runs."),
    "models": ("At hand", "workbench.commands.info:models", "Models at hand, with licence and size; get more."),
    "data": ("At hand", "workbench.commands.info:data", "Data sets at hand; preview your own."),
    "methods": ("At hand", "workbench.commands.info:methods", "Everything that can be named, with its arguments."),
    "app": ("Rooms", "workbench.commands.rooms:app", "Open the app in the browser."),
    "lab": ("Rooms", "workbench.commands.rooms:lab", "Open the lessons in JupyterLab."),
}


def _load(target: str) -> click.Command:
    module, attribute = target.split(":")
    return getattr(importlib.import_module(module), attribute)


class Workbench(click.Group):
    """A group whose commands are imported when called and listed without import."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        return _load(COMMANDS[choose("command", name, COMMANDS)][1])

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        for section in dict.fromkeys(section for section, _, _ in COMMANDS.values()):
            with formatter.section(section):
                formatter.write_dl([(name, text) for name, (part, _, text) in COMMANDS.items() if part == section])


@click.group(cls=Workbench, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="workbench")
def workbench() -> None:
    """Fine-tune, compress and compare models on one GPU or a CPU; re-run the claims of papers.

    First result: workbench demo. Help on one command: workbench COMMAND --help.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        code = workbench.main(args=arguments, standalone_mode=False)
    except UserError as error:
        code = _say(str(error), 2)
    except JobError as error:
        code = _say(str(error), 1)
    except click.UsageError as error:
        hint = f" Help: {error.ctx.command_path} --help" if error.ctx else ""
        code = _say(error.format_message() + hint, 2)
    except click.ClickException as error:
        code = _say(error.format_message(), 2)
    except (KeyboardInterrupt, click.Abort):
        code = _say("Interrupted.", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


def _say(sentence: str, code: int) -> int:
    click.echo(sentence, err=True)
    return code


if __name__ == "__main__":
    main()
