"""What each fine-tuning method can do, found out by doing it on tiny models; nothing here is typed in from a paper.

    python -m workbench.training.probe              probes every method and writes assets/methods.json (about two minutes)
    python -m workbench.training.probe lora nola    probes these and prints what was found

Every probe gets fresh models, a fresh seed and a guard of its own: what it raises is its finding, and the next probe does
not notice. An answer is one of

    yes    it ran, and the numbers came out right
    no     it was refused; `reasons` holds the first sentence of the refusal
    wrong  it ran without a word and the numbers are not right (a silently dropped argument counts)
    -      the question makes no sense for this method

`extra` is not timed but counted, so that it is the same on every machine: multiplications of the adapted model beyond the
base model's, as a share of the base model's, while the adapter is not merged (see `multiplications.py`).
"""

from __future__ import annotations

import copy
import json
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from workbench import machine
from workbench.training import attach, probe_models
from workbench.training.abilities import QUESTIONS, file
from workbench.training.methods import Method, find_method, list_methods
from workbench.training.multiplications import count

COMMAND = "python -m workbench.training.probe"
NEEDED = {"trainable-tokens": {"token_indices": list(range(2, 64))}}  # arguments a method has no default for
SOLVER = {"steps": 3, "rate": 0.05, "apart": 1e-4, "same": 1e-3}


class Failed(Exception):
    """A probe ran and found wrong numbers."""


def probe(name: str) -> dict[str, Any]:
    """Every question of `abilities.QUESTIONS` put to one method.

    Args:
        name: as in `workbench methods`.

    Returns:
        The answers, with `reasons` for those that are `no` or `wrong`.

    Raises:
        UserError: no such method.
    """
    method = find_method(name)
    reasons: dict[str, str] = {}

    def ask(question: str, work: Callable[[], None]) -> str:
        with fresh():
            try:
                work()
            except Failed as finding:
                reasons[question] = str(finding)
                return "wrong"
            except Exception as error:  # whatever a method does when it cannot, that is the answer
                reasons[question] = sentence(error)
                return "no"
        return "yes"

    fits = [kind for kind in probe_models.KINDS if ask(f"models {kind}", lambda k=kind: trained(method, k)) == "yes"]
    kind = fits[0] if fits else "llama"
    adapter = method.peft_type is not None
    takes = any(argument["name"] == "target_modules" for argument in method.arguments)
    layers = probe_models.LAYERS if takes else ()
    targets = [layer for layer in layers if ask(f"targets {layer}", lambda t=layer: on_layer(method, t)) == "yes"]
    answers: dict[str, Any] = {"models": fits, "targets": targets}
    for question, work in ADAPTER_QUESTIONS.items():
        answers[question] = ask(question, lambda w=work: w(method, kind)) if adapter else "-"
    answers["quantized"] = ask("quantized", lambda: trained(method, kind, packed=True))
    merges = answers["merge"] == answers["quantized"] == "yes"
    answers["quantized_merge"] = ask("quantized_merge", lambda: merge(method, kind, packed=True)) if merges else "-"
    if answers["merge"] != "yes":
        answers["unmerge"] = "-"
        reasons.pop("unmerge", None)
    answers["extra"] = extra(method, reasons) if adapter else 0.0
    return {**answers, "reasons": reasons}


def sentence(error: Exception) -> str:
    """The first sentence of an error, at most 160 letters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157].rsplit(" ", 1)[0] + " …"


class fresh:
    """A block with its own random state, torch defaults and no warnings; everything is put back afterwards."""

    def __enter__(self) -> None:
        self.random, self.dtype, self.grad = torch.get_rng_state(), torch.get_default_dtype(), torch.is_grad_enabled()
        self.warnings = warnings.catch_warnings()
        self.warnings.__enter__()
        warnings.simplefilter("ignore")
        torch.manual_seed(0)

    def __exit__(self, *error: Any) -> None:
        self.warnings.__exit__(*error)
        torch.set_rng_state(self.random)
        torch.set_default_dtype(self.dtype)
        torch.set_grad_enabled(self.grad)


def trained(method: Method, kind: str, packed: bool = False) -> nn.Module:
    """The method on a fresh model, after a few real optimizer steps that must have changed its answers."""
    base = probe_models.build(kind, packed)
    before = probe_models.answers(base, kind)
    model = attach.apply_method(method, NEEDED.get(method.name, {}), base, 10)
    train(model, kind)
    if different(probe_models.answers(model, kind), before) < SOLVER["apart"]:
        raise Failed("three optimizer steps changed nothing")
    return model


def train(model: nn.Module, kind: str) -> None:
    """A few steps of Adam towards random answers; the model is left in evaluation mode."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=SOLVER["rate"])
    model.train()
    for _ in range(SOLVER["steps"]):
        optimizer.zero_grad()
        out = probe_models.answers(model, kind, grad=True)
        (out.float() - torch.randn(out.shape)).square().mean().backward()
        optimizer.step()
    model.eval()


def different(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference in units of the second one's size; infinite when shapes differ or a number is none."""
    if a.shape != b.shape or not torch.isfinite(a).all():
        return float("inf")
    return float((a.float() - b.float()).abs().max() / b.float().abs().max())


def same(a: torch.Tensor, b: torch.Tensor, what: str) -> None:
    """Fail when two answers differ."""
    apart = different(a, b)
    if apart > SOLVER["same"]:
        raise Failed(f"{what} (apart by {apart:.0%} of the largest number)" if apart < 100 else what)


def on_layer(method: Method, layer: str) -> None:
    """Told to change one kind of layer only, the method does, and training moves the answers."""
    kind, target = probe_models.LAYERS[layer]
    base = probe_models.build(kind)
    before = probe_models.answers(base, kind)
    model = attach.apply_method(method, {**NEEDED.get(method.name, {}), **probe_models.aimed(method, target)}, base, 10)
    aimed_at = [m for name, m in model.named_modules() if name.endswith(target)]
    if not any(p.requires_grad for module in aimed_at for p in module.parameters()):
        raise ValueError("it takes the name and trains something else")
    train(model, kind)
    if different(probe_models.answers(model, kind), before) < SOLVER["apart"]:
        raise Failed("three optimizer steps changed nothing")


def merge(method: Method, kind: str, packed: bool = False) -> None:
    """The merged model answers like the unmerged one."""
    model = trained(method, kind, packed)
    apart = probe_models.answers(model, kind)
    if not hasattr(model, "merge_and_unload"):
        raise ValueError("it acts on the input, not on weights")
    whole = model.merge_and_unload(safe_merge=True)
    same(probe_models.answers(whole, kind), apart, "the merged model answers otherwise than the unmerged one")


def unmerge(method: Method, kind: str) -> None:
    """Merged and unmerged again, the base answers as before."""
    model = trained(method, kind)
    apart = probe_models.answers(model, kind)
    model.merge_adapter()
    model.unmerge_adapter()
    same(probe_models.answers(model, kind), apart, "after merging and unmerging it answers otherwise")


def two(method: Method, kind: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A model with two trained adapters, and the answers of each alone and of the base."""
    base = probe_models.build(kind)
    seen = {"__base__": probe_models.answers(base, kind)}
    config = attach.adapter_config(method, NEEDED.get(method.name, {}), base, 10)
    model = attach.apply_method(method, NEEDED.get(method.name, {}), base, 10)
    train(model, kind)
    seen["default"] = probe_models.answers(model, kind)
    with attach.quiet():
        model.add_adapter("second", copy.deepcopy(config))
    model.set_adapter("second")
    train(model, kind)
    seen["second"] = probe_models.answers(model, kind)
    return model, seen


def several(method: Method, kind: str) -> None:
    """Two adapters differ, and each still answers as it did after the other was trained."""
    model, seen = two(method, kind)
    if different(seen["second"], seen["default"]) < SOLVER["apart"]:
        raise Failed("the second adapter answers like the first")
    model.set_adapter("default")
    model.eval()
    same(probe_models.answers(model, kind), seen["default"], "training the second adapter changed the first")
    model.set_adapter("second")
    model.eval()
    same(probe_models.answers(model, kind), seen["second"], "switching back does not bring the second adapter back")


def mixed(method: Method, kind: str) -> None:
    """One batch whose rows name different adapters: each row as if its adapter were alone."""
    model, seen = two(method, kind)
    names = ["default", "__base__", "second"]
    got = probe_models.answers(model, kind, adapter_names=names)
    if different(got, seen["second"]) < SOLVER["apart"]:
        raise Failed("the names are dropped without a word: every row gets the active adapter")
    wanted = torch.stack([seen[name][row] for row, name in enumerate(names)])
    same(got, wanted, "rows do not answer as with their own adapter alone")


ADAPTER_QUESTIONS = {"merge": merge, "unmerge": unmerge, "several": several, "mixed": mixed}


def extra(method: Method, reasons: dict[str, str]) -> float | None:
    """Multiplications that the unmerged adapter adds to a forward pass, as a share of the base model's."""
    with fresh():
        try:
            base = probe_models.build("tiny-lm")
            model = attach.apply_method(method, NEEDED.get(method.name, {}), base, 10).eval()
            batch = probe_models.inputs("tiny-lm")
            with torch.no_grad(), attach.quiet():
                model(**batch)  # what is made once and kept is not paid on every pass
                with_adapter = count(lambda: model(**batch))
                bare = probe_models.build("tiny-lm")
                alone = count(lambda: bare(**batch))
        except Exception as error:  # as above
            reasons["extra"] = sentence(error)
            return None
    return round(with_adapter / alone - 1, 5) + 0.0  # no minus zero


def probe_all(names: list[str] | None = None, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """The whole file: how it was made, what the questions mean, and every method's answers."""
    answers = {}
    for name in names or [method["name"] for method in list_methods()]:
        begun = time.perf_counter()
        answers[name] = probe(name)
        say(f"{name:18} {time.perf_counter() - begun:5.1f} s  {summary(answers[name])}")
    place = machine.describe()
    return {
        "made": {
            "command": COMMAND,
            **{key: place[key] for key in ("python", "torch", "transformers", "peft", "date")},
        },
        "questions": QUESTIONS,
        "models": probe_models.DESCRIPTION,
        "methods": answers,
    }


def summary(answers: dict[str, Any]) -> str:
    """The answers in one line."""
    shown = [f"{key} {answers[key]}" for key in ("merge", "several", "mixed", "quantized")]
    cost = "?" if answers["extra"] is None else f"{answers['extra']:+.2%}"
    return (
        f"models {','.join(answers['models']) or 'none'} · on {','.join(answers['targets']) or 'its own places'} · "
        + (" · ".join(shown) + f" · {cost} multiplications")
    )


def main(names: list[str]) -> None:
    """Probe and print; with no names, write the shipped file."""
    found = probe_all(names or None, say=lambda text: print(text, flush=True))
    if names:
        print(json.dumps(found["methods"], indent=1, ensure_ascii=False))
        return
    file().write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{file()}: {len(found['methods'])} methods")


if __name__ == "__main__":
    main(sys.argv[1:])
