"""Chat: one question to up to four models, same seed, with speed and the fingerprint of the weights on every answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr

from workbench.commands.jobs import chat
from workbench.errors import UserError
from workbench.figures import formats

from .. import cache, choices, fields, html, live
from ..frame import Frame, Page, box, step

PAGE = Page("Chat", "chat", "Ask up to four models the same thing and see which weights answered.", "Work", 3)
COLUMNS = 4
FORM = fields.from_command(chat, ("new_tokens", "temperature", "seed"))
LIMITS = {"new_tokens": (1, 1024), "temperature": (0.0, 5.0), "seed": (0, 2**31)}
PROMPT = 4000  # characters of a question at most


def build(frame: Frame) -> None:
    """Lay the page out inside the current `gr.Blocks`."""
    with gr.Row(elem_classes="wb-work"):
        with gr.Column(elem_classes="wb-set"):
            step(1, "Models")
            picks = [
                gr.Dropdown(
                    [], value=None, allow_custom_value=True, label=f"Model {i}",
                    info="Loaded when it first answers; stays until Unload." if i == 1 else "May stay empty.",
                )
                for i in range(1, COLUMNS + 1)
            ]  # fmt: skip
            step(2, "Sampling")
            form = fields.component(FORM)
            step(3, "In memory")
            loaded = box()
            unload = gr.Button("Unload all models")
        with gr.Column(elem_classes="wb-see"):
            talk = box(html.empty("The answers appear here side by side. Choose a model and ask."))
    with gr.Row(elem_classes="wb-do wb-ask"):
        prompt = gr.Textbox(
            show_label=False,
            label="Question",
            placeholder="Ask all of them …",
            lines=1,
            max_lines=5,
            scale=5,
            container=False,
        )
        ask = gr.Button("Ask", variant="primary")
        clear = gr.Button("Start over")
        said = box()
    turns = gr.State([])
    first = frame.on(frame.blocks.load, lists, [picks[0]], picks, queue=True, js="() => [workbench.parameter('model')]")
    frame.on(first.then, in_memory, None, loaded)
    inputs = [prompt, form, turns, *picks]
    outputs = [talk, turns, prompt, said, form, loaded]
    for event in (ask.click, prompt.submit):
        frame.on(event, answer, inputs, outputs, gate=True)
    frame.on(clear.click, lambda: ([], html.empty("Ask again."), ""), None, [turns, talk, said])
    frame.on(unload.click, forget, None, loaded, gate=True)


def lists(asked: str) -> list[Any]:
    """What can answer; a run named by the address comes beside the model it was made from."""
    every = [run for run, _ in live.snapshot().runs]
    made = choices.run_models(every, live.title)
    known = choices.base_models() + made
    merged = [
        (f"{words} · merged", f"{key}#merged")
        for words, key in made
        if (run := live.find(key[4:])) and run.job == "finetune"
    ]
    keys = {key for _, key in known}
    values: list[str | None] = ["tiny-lm"]
    if asked in keys:
        run = live.find(asked[4:].partition("/")[0]) if asked.startswith("run:") else None
        base = str(choices.shown(live.config(run).get("model", ""))) if run else ""
        values = [base, asked] if base in keys else [asked]
    values += [None] * (COLUMNS - len(values))
    return [gr.update(choices=[*known, *merged], value=value) for value in values]


def settings(form: str) -> dict[str, Any]:
    """The sampling form, inside its limits.

    Raises:
        fields.FieldErrors: values that cannot be used.
    """
    values = fields.read(FORM, form)
    wrong = {
        name: f"{name.replace('_', ' ')} is {values[name]}; it takes {low:g} to {high:g}."
        for name, (low, high) in LIMITS.items()
        if not low <= values[name] <= high
    }
    if wrong:
        raise fields.FieldErrors(wrong)
    return values


def answer(prompt: str, form: str, turns: list[dict[str, Any]], *picks: str | None) -> Iterator[tuple]:
    """Ask every model in turn; the page shows each answer as soon as it is there.

    A turn is {"question", "answers": {key: {"text", "note", "print"}}}.
    """
    keys = list(dict.fromkeys(key for key in picks if key))
    clean = fields.payload(FORM, fields.typed(form))
    try:
        values = settings(form)
        if not keys:
            raise UserError("No model is chosen; choose at least one on the left.")
        if not (prompt or "").strip():
            raise UserError("The question is empty; type one first.")
        if len(prompt) > PROMPT:
            raise UserError(f"The question has {len(prompt)} characters; {PROMPT} is the limit.")
        for key in keys:
            choices.model_place(key.removesuffix("#merged"))
    except UserError as error:
        marked = fields.payload(FORM, fields.typed(form), getattr(error, "errors", None))
        yield gr.skip(), turns, gr.skip(), html.note(str(error), "bad"), marked, gr.skip()
        return
    turns = [*turns, {"question": prompt.strip(), "answers": {}}]
    for key in keys:
        yield conversation(keys, turns, key), turns, "", "", clean, gr.skip()
        try:
            turns[-1]["answers"][key] = one(key, turns, **values)
        except UserError as error:
            turns[-1]["answers"][key] = {"text": "", "note": str(error), "print": ""}
    yield conversation(keys, turns), turns, "", "", clean, in_memory()


def one(key: str, turns: list[dict[str, Any]], new_tokens: int, temperature: float, seed: int) -> dict[str, str]:
    """One model's answer with its speed and fingerprint."""
    from workbench.chat import answer as reply

    opened = cache.MODELS.open(key, title(key))
    messages = []
    for turn in turns:
        messages.append({"role": "user", "content": turn["question"]})
        if key in turn["answers"]:
            messages.append({"role": "assistant", "content": turn["answers"][key]["text"]})
    begun = time.perf_counter()
    text = reply(opened, messages, new_tokens, temperature, seed)
    seconds = time.perf_counter() - begun
    tokens = len(opened.tokenizer(text, add_special_tokens=False)["input_ids"])
    note = f"{tokens} tokens, {formats.number(tokens / seconds)} tokens/s · seed {seed}"
    return {"text": text, "note": note, "print": opened.fingerprint}


def title(key: str) -> str:
    """What people call the model behind a key."""
    run = live.find(key[4:].removesuffix("#merged").partition("/")[0]) if key.startswith("run:") else None
    if run is None:
        return key
    extra = key.removesuffix("#merged").partition("/")[2] + (" · merged" if key.endswith("#merged") else "")
    return live.title(run) + (f" · {extra.strip(' ·')}" if extra else "")


def conversation(keys: list[str], turns: list[dict[str, Any]], busy: str = "") -> str:
    """One column for each model."""
    columns = []
    for key in keys:
        says = []
        for turn in turns:
            says.append(f'<div class="wb-say wb-you">{escape(turn["question"])}</div>')
            got = turn["answers"].get(key)
            if got is not None:
                mark = f" · weights <code>{got['print']}</code>" if got["print"] else ""
                says.append(
                    f'<div class="wb-say wb-it">{escape(got["text"]) or "<i>(ended at once)</i>"}'
                    f"<small>{escape(got['note'])}{mark}</small></div>"
                )
            elif turn is turns[-1]:
                says.append(f'<div class="wb-say wb-it wb-muted">{"answers …" if key == busy else "waits …"}</div>')
        columns.append(f'<section class="wb-talk"><h3>{escape(title(key))}</h3>{"".join(says)}</section>')
    return f'<div class="wb-chat" aria-live="polite">{"".join(columns)}</div>'


def in_memory() -> str:
    """The models that are loaded, with their fingerprints and bytes."""
    rows = [
        (e.label, html.Raw(f"<code>{name}</code>"), formats.size(e.bytes)) for name, e in cache.MODELS.entries.items()
    ]
    if not rows:
        return html.empty("No model is loaded.")
    return html.table(("Model", "Weights", "Memory"), rows, label="Loaded models")


def forget() -> str:
    """Free the memory of all models."""
    cache.MODELS.unload()
    return in_memory()
