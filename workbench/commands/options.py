"""Options made from a settings dataclass: one flag per field, its help from the field's metadata."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import sys
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any

import click

from workbench.errors import UserError


def pairs(texts: Iterable[str], flag: str) -> dict[str, Any]:
    """`("r=8", "target_modules=q_proj,v_proj")` → `{"r": 8, "target_modules": ["q_proj", "v_proj"]}`.

    Values are Python literals where they read as one, lists where they hold a comma, text otherwise.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UserError(f"{flag} takes NAME=VALUE, not {text!r}.")
        if name in found:
            raise UserError(f"{flag} names {name!r} twice.")
        found[name] = _literal(value)
    return found


def _literal(value: str) -> Any:
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return [part.strip() for part in value.split(",")] if "," in value else value


def settings(target: str, skip: tuple[str, ...] = ()) -> Callable:
    """Decorate a command with one option per field of the dataclass `module:Class`."""
    module, name = target.split(":")
    cls = getattr(importlib.import_module(module), name)
    hints = typing.get_type_hints(cls)

    def decorate(command: Callable) -> Callable:
        for field in reversed(dataclasses.fields(cls)):
            if field.name in skip:
                continue
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            kind = _plain(hints[field.name])
            flag = f"--{field.name.replace('_', '-')}"
            command = click.option(
                f"{flag}/--no-{flag[2:]}" if kind is bool else flag,
                field.name,
                type=kind,
                required=required,
                default=None if required else field.default,
                show_default=not required and field.default is not None,
                help=field.metadata.get("help", ""),
            )(command)
        return command

    return decorate


def _plain(hint: Any) -> type:
    """The one non-None type of an annotation such as `int | None`."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is typing.Literal:
        return click.Choice(typing.get_args(hint))
    return hint if hint in (int, float, bool, str) else str


class HelpByMethod(click.Command):
    """`--help` adds the methods by family, or with `--method NAME` that method's own arguments."""

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        from workbench.training import list_methods

        methods = {method["name"]: method for method in list_methods()}
        words = sys.argv
        chosen = next((words[i + 1] for i, word in enumerate(words[:-1]) if word == "--method"), None)
        if chosen in methods:
            with formatter.section(f"Arguments of {chosen} (--set NAME=VALUE)"):
                formatter.write_dl(
                    [(f"{a['name']}={a['default']}", a["help"] or "") for a in methods[chosen]["arguments"]]
                )
            return
        with formatter.section("Methods (add --method NAME before --help for its arguments)"):
            formatter.write_dl([(name, method["help"]) for name, method in methods.items()])
