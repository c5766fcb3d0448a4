"""Forms made from signatures: a settings dataclass or a method's argument list becomes labelled controls with help.

A form is one `gr.HTML` whose value is the JSON list of its fields; the browser half is `workbench.form` in
static/app.js. What a user typed is read back by `read`, which names every field that cannot be used. Nothing is
evaluated: a value is a number, a word, a switch, or a literal of Python's own safe reader.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import gradio as gr

from workbench.errors import UserError

TEMPLATE = '<div class="wb-form"></div>'


@dataclasses.dataclass(frozen=True)
class Field:
    """One control.

    Attributes:
        name: the argument's name.
        kind: int, float, bool, choice, text, or literal (a list, a dict, or whatever the default is).
        default: value when left alone; None shows as an empty field.
        help: what it does, what it costs, usual value.
        choices: (label, value) of a choice.
        more: folded away under "More".
        label: words before the control; the name where empty.
        optional: an empty field is allowed and means None.
    """

    name: str
    kind: str
    default: Any = None
    help: str = ""
    choices: tuple[tuple[str, Any], ...] = ()
    more: bool = False
    label: str = ""
    optional: bool = False


class FieldErrors(UserError):
    """Values that cannot be used: `errors` maps a field's name to one sentence."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__(" ".join(errors.values()))
        self.errors = dict(errors)


def from_dataclass(cls: type, *, skip: Iterable[str] = (), first: Sequence[str] = ()) -> list[Field]:
    """Fields of a settings dataclass, with the help of each field's metadata.

    Args:
        cls: the dataclass.
        skip: fields that have their own control.
        first: fields in view, in this order; all others are folded under "More".
    """
    hints, skip = typing.get_type_hints(cls), set(skip)
    found = {}
    for field in dataclasses.fields(cls):
        if field.name in skip:
            continue
        default = field.default if field.default is not dataclasses.MISSING else None
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        kind, options, optional = _kind(hints[field.name])
        choices = tuple((str(option), option) for option in options)
        if optional and choices:
            choices = (("guess", ""), *choices)
        text = field.metadata.get("help", "")
        found[field.name] = Field(
            field.name, kind, default, text, choices, field.name not in first, _words(field.name), optional
        )
    return [*(found[name] for name in first if name in found), *(f for f in found.values() if f.more)]


def from_arguments(arguments: Sequence[Mapping[str, Any]], shown: int = 4) -> list[Field]:
    """Fields of a method's arguments as `workbench methods` lists them.

    Args:
        arguments: {name, default, help} in the order of the signature.
        shown: so many stay in view, the rest is folded.
    """
    kinds = ((bool, "bool"), (int, "int"), (float, "float"), (str, "text"))
    found = []
    for i, argument in enumerate(arguments):
        default = argument["default"]
        kind = next((word for cls, word in kinds if isinstance(default, cls)), "literal")
        found.append(
            Field(
                argument["name"],
                kind,
                default,
                first_sentence(argument.get("help") or ""),
                more=i >= shown,
                label=_words(argument["name"]),
                optional=kind == "literal",
            )
        )
    return found


def from_command(command: Any, names: Sequence[str], more: Iterable[str] = ()) -> list[Field]:
    """Fields of a command's options: the app asks what `workbench COMMAND --help` explains, with the same defaults.

    Args:
        command: a click command.
        names: its options' names, in the order of the form.
        more: those that are folded away.
    """
    options, more = {option.name: option for option in command.params}, set(more)
    found = []
    for name in names:
        option = options[name]
        default = option.default if isinstance(option.default, (bool, int, float, str)) else None
        kinds = ((bool, "bool"), (int, "int"), (float, "float"))
        kind = next((word for cls, word in kinds if isinstance(default, cls)), "text")
        if default is None and option.type.name.startswith("integer"):
            kind = "int"
        choices = tuple((str(one), one) for one in getattr(option.type, "choices", ()))
        found.append(
            Field(
                name,
                "choice" if choices else kind,
                default,
                option.help or "",
                choices,
                name in more,
                _words(name),
                optional=default is None and kind == "int",
            )
        )
    return found


def first_sentence(text: str, most: int = 170) -> str:
    """The first sentence of a help text, cut at a word where it is long."""
    sentence = text.split(". ")[0].strip()
    if len(sentence) > most:
        sentence = sentence[:most].rsplit(" ", 1)[0] + " …"
    return sentence + ("." if sentence and sentence[-1] not in ".…?" else "")


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize() if len(name) > 1 else name


def _kind(hint: Any) -> tuple[str, tuple, bool]:
    """(kind, options, may be empty) of an annotation such as `int | None`."""
    optional = False
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        parts = [part for part in typing.get_args(hint) if part is not type(None)]
        optional, hint = len(parts) < len(typing.get_args(hint)), parts[0]
    if typing.get_origin(hint) is typing.Literal:
        return "choice", typing.get_args(hint), optional
    return {int: "int", float: "float", bool: "bool", str: "text"}.get(hint, "literal"), (), optional


def payload(
    fields: Sequence[Field], values: Mapping[str, Any] | None = None, errors: Mapping[str, str] | None = None
) -> str:
    """The form's value: its fields with what stands in them and what is wrong with it."""
    values, errors = values or {}, errors or {}
    return json.dumps(
        [
            {
                "name": f.name, "label": f.label or f.name, "kind": f.kind, "help": f.help, "more": f.more,
                "choices": [[label, _show(value)] for label, value in f.choices], "error": errors.get(f.name, ""),
                "value": _show(values.get(f.name, f.default)), "placeholder": "empty" if f.optional else "",
            }
            for f in fields
        ]
    )  # fmt: skip


def _show(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, (bool, str)):
        return value
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def component(fields: Sequence[Field] = (), **options: Any) -> gr.HTML:
    """The form itself; give it to an event as input, and `payload(…)` as its output."""
    return gr.HTML(
        payload(fields), html_template=TEMPLATE, apply_default_css=False,
        js_on_load="workbench.form(element, props, trigger, watch)", **options,
    )  # fmt: skip


def typed(text: str | None) -> dict[str, Any]:
    """Name → what stands in the field, as typed. Anything that is not a form's value is refused."""
    try:
        found = json.loads(text or "[]")
        return {str(field["name"]): field.get("value") for field in found}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError("The form's values cannot be read; load the page again.") from error


def read(fields: Sequence[Field], text: str | None) -> dict[str, Any]:
    """The form's values with their types.

    Raises:
        FieldErrors: one sentence for every value that is not of its field's kind.
    """
    given = typed(text)
    values: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for field in fields:
        try:
            values[field.name] = _parse(field, given.get(field.name, field.default))
        except (ValueError, SyntaxError) as error:
            errors[field.name] = str(error) if isinstance(error, UserError) else f"{field.name} cannot be read."
    if errors:
        raise FieldErrors(errors)
    return values


def _parse(field: Field, value: Any) -> Any:
    if field.kind == "bool":
        return bool(value)
    text = "" if value is None else str(value).strip()
    if not text:
        if field.optional or field.kind == "text":
            return None if field.optional else ""
        raise UserError(f"{field.label or field.name} is empty; the usual value is {_show(field.default)}.")
    if field.kind == "choice":
        known = {str(_show(option)): option for _, option in field.choices}
        if text not in known:
            raise UserError(f"{field.name} is {text!r}; it takes one of {', '.join(filter(None, known))}.")
        return known[text]
    if field.kind in ("int", "float"):
        return _number(field, text)
    return text if field.kind == "text" else literal(text)


def _number(field: Field, text: str) -> int | float:
    plain = text.replace("\u2009", "").replace(",", ".") if field.kind == "float" else text.replace("\u2009", "")
    make: Callable[[str], int | float] = float if field.kind == "float" else int
    try:
        return make(plain)
    except ValueError:
        what = "a number, such as 0.001 or 1e-3" if field.kind == "float" else "a whole number"
        raise UserError(f"{field.label or field.name} is {text!r}; it takes {what}.") from None


def literal(text: str) -> Any:
    """A number, True, None, list or dict where the text reads as one; a list of words where it holds commas; else text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return [part.strip() for part in text.split(",") if part.strip()] if "," in text else text


def by_name(problems: Iterable[str], fields: Sequence[Field]) -> tuple[dict[str, str], list[str]]:
    """Sort sentences that begin with a field's name to that field; returns (errors by field, the other sentences)."""
    names, errors, rest = {field.name for field in fields}, {}, []
    for problem in problems:
        word = problem.split(maxsplit=1)[0]
        if word in names and word not in errors:
            errors[word] = problem
        else:
            rest.append(problem)
    return errors, rest
