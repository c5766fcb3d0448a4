"""The report of a frontier: size against perplexity with intervals, speed against its bound, layer errors, cost."""

from __future__ import annotations

from typing import Any

import pandas as pd

from workbench.figures import intervals, layers, pareto
from workbench.figures.formats import number, seconds, size
from workbench.progress import span
from workbench.report import Section, build_report

SHOWN = (
    "name", "bits_per_weight", "disk_bytes", "perplexity", "perplexity_low", "perplexity_high", "perplexity_tied",
    "accuracy", "accuracy_low", "accuracy_high", "accuracy_tied", "prefill_tps", "decode_tps", "seconds", "peak_bytes",
)  # fmt: skip


def figure(result: dict[str, Any]) -> Any:
    """Size on disk against perplexity with its intervals; what is tied with the best carries the sign ≈.

    Args:
        result: of the job, or of `assets/findings/compression.json`.
    """
    rows = pd.DataFrame(result["rows"])
    worst = 20 * rows["perplexity"].min()  # a collapsed model would flatten all others; the table keeps it
    shown = rows[rows["perplexity"] <= worst]
    names = [f"{row.name_} ≈" if row.tied else row.name_ for row in shown.rename(
        columns={"name": "name_", "perplexity_tied": "tied"}).itertuples()]  # fmt: skip
    return pareto(shown.assign(method=shown["name"], name=names), "disk_bytes", "perplexity", log_y=True)


def build(result: dict[str, Any]) -> str:
    """The whole page.

    Args:
        result: of `workbench.compress.frontier.run`.
    """
    rows, budget = pd.DataFrame(result["rows"]), result["budget"]
    base = rows.set_index("name").loc["base"]
    packed = rows[rows["name"] != "base"]
    kept = packed[packed["perplexity"] <= 1.1 * base.perplexity].sort_values("disk_bytes")
    lead = (
        f"The smallest file within 10 % of the uncompressed perplexity is {kept.iloc[0]['name']}: "
        f"{number(kept.iloc[0].perplexity)} against {number(base.perplexity)}, at "
        f"{kept.iloc[0].disk_bytes / base.disk_bytes:.0%} of the size."
        if len(kept)
        else f"No variant stays within 10 % of the uncompressed perplexity of {number(base.perplexity)}."
    )
    collapsed = packed[packed["perplexity"] > 20 * rows["perplexity"].min()]
    gone = "".join(
        f" {r['name']} is not drawn: its perplexity is {number(r.perplexity)}." for _, r in collapsed.iterrows()
    )
    cost = rows[["name", "calibration_tokens"]] if "calibration_tokens" in rows else rows[["name"]]
    cost = cost.assign(
        seconds=rows["seconds"], predicted=[seconds(v) for v in rows["predicted_seconds"]],
        peak_bytes=rows["peak_bytes"], peak_predicted=[size(v) for v in rows["predicted_peak_bytes"]],
        disk_bytes=rows["disk_bytes"], disk_predicted=[size(v) for v in rows["predicted_disk_bytes"]],
    )  # fmt: skip
    speed = rows[["name", "prefill_tps", "decode_tps"]].assign(
        bound=[number(v) for v in rows["bound_tps"]],
        share_of_bound=[f"{a / b:.0%}" for a, b in zip(rows["decode_tps"], rows["bound_tps"], strict=True)],
    )
    error = pd.DataFrame(
        [{"method": name, "layer": layer, "error": value}
         for name, own in result["layers"].items() for layer, value, of in own if of == "output"],
        columns=["method", "layer", "error"],
    )  # fmt: skip
    spread = rows[rows["seeds"] > 1]
    sections = [
        Section(
            "Size, quality, speed, cost",
            f"{budget['predicted_tokens']} held-out tokens of {budget['data']} in windows of {budget['eval_window']}, interval "
            f"over {budget['documents']} documents; {int(base.accuracy_n)} questions (which of four passages goes on), chance "
            f"{budget['chance']:.2f}. Size is the whole model: embeddings, head and norms in 16 bits, packed layers in groups "
            f"of {budget['group_size']}.",
            table=rows[[c for c in SHOWN if c in rows]], data=rows, note=result["origin"],
        ),
        Section("Quality against size", "≈ marks the best and what a paired test over documents cannot tell from it."
                + gone, figure=figure(result), data=rows),
        Section("How sure that is", figure=[intervals(rows, "perplexity", items="documents"),
                                            intervals(rows, "accuracy", items="questions")], data=rows),
        Section("Speed and its bound", f"{budget['speed']} Writing one token reads every weight once: at the memory bandwidth "
                "measured here it cannot be faster than the bound. Methods with one format share its timing.",
                table=speed),
        Section("What it cost, and what was predicted", f"{budget['samples']} calibration windows of {budget['window']} tokens "
                f"of {budget['calibration']}. Predicted before the start from the shapes alone; peak memory is that of the "
                "whole process, whose libraries take about 0.6 GB more than predicted.", table=cost),
    ]  # fmt: skip
    if len(spread):
        sections.append(
            Section(
                "Calibration seeds", "The same method on other calibration windows.",
                table=spread[["name"]].assign(
                    perplexities=[", ".join(map(number, values)) for values in spread["perplexity_seeds"]]
                ),
            )
        )  # fmt: skip
    if len(error):
        sections.append(
            Section("Where it hurts", "Output error of each layer on the calibration text; methods that solve against it.",
                    figure=layers(error, log=True), data=error)
        )  # fmt: skip
    depth = pd.DataFrame(
        [{"name": name, **{f"block {at + 1}": value for at, value in enumerate(own) if at % max(1, len(own) // 5) == 0
                           or at == len(own) - 1}} for name, own in result["blocks"].items() if name != "base"]
    )  # fmt: skip
    if len(depth):
        sections.append(
            Section("How errors grow with depth", "Relative error of the hidden states after a block, mean over tokens of one "
                    "held-out window: the same measure for every method.", table=depth)
        )  # fmt: skip
    here = result["machine"]
    return build_report(
        f"{budget['model']}: size, quality and speed of {len(packed)} compressed variants",
        sections,
        lead=lead,
        facts={
            "Variants": len(packed),
            "Uncompressed": size(base.disk_bytes),
            "Making them": span(float((rows["seconds"] * rows["seeds"]).sum())),
        },
        footer={
            "Machine": here["machine"],
            "Versions": ", ".join(f"{key} {here[key]}" for key in ("python", "torch", "transformers", "peft")),
            "Seeds of calibration": budget["seeds"],
            "Date": here["date"],
            "command": f"workbench frontier {budget['model']} --variants {','.join(budget['variants'])} --seeds "
            f"{budget['seeds']} --tokens {budget['tokens']}",
        },
    )  # fmt: skip
