"""`workbench export`: a model as files that other engines run, checked before it says "done"."""

from __future__ import annotations

import json
from pathlib import Path

import click

from workbench.commands.jobs import output, start
from workbench.progress import span


@click.command()
@click.argument("model")
@click.option("--to", default="gguf-q8_0", show_default=True, metavar="FORMAT", help="One of the formats above.")
@click.option(
    "-o",
    "--output",
    "destination",
    default=None,
    metavar="DIR",
    help="Folder to make; it must not exist yet. Default: exported/ in the run's folder.",
)
@click.option(
    "--dtype",
    default=None,
    metavar="TYPE",
    help="float32, bfloat16 or float16 for what is not a code. Default: float32 for safetensors, float16 beside codes.",
)
@click.option(
    "--embeddings",
    default=None,
    metavar="KIND",
    help="gguf: f32, f16 or q8_0 for embedding and head. Default: f16 in gguf-f16, else q8_0.",
)
@click.option(
    "--requantize",
    is_flag=True,
    help="For an adapter trained on quantized weights: merge it into the float base, quantize again as before, and report "
    "the loss before and after.",
)
@click.option(
    "--base", default=None, metavar="MODEL", help="The float model for --requantize, where the run does not name it."
)
@click.option(
    "--data", default=None, help="Text to compare logits on. Default: held-out text of the tuned run, else sotu."
)
@click.option("--samples", default=4, show_default=True, type=click.IntRange(1), help="Windows of that text.")
@click.option("--window", default=128, show_default=True, type=click.IntRange(2), help="Tokens in each.")
@click.option(
    "--max-loss-change",
    default=0.5,
    show_default=True,
    type=float,
    help="Keep no file whose loss is higher than the model's by so many nats a token.",
)
@click.option("--seed", default=0, show_default=True, help="Which windows.")
@click.option("--dry-run", is_flag=True, help="Forecast bytes and memory, name the formats that fit, then stop.")
@output
def export(model, destination, dry_run, name, detach, as_json, **values) -> None:
    """Write MODEL for other engines: a bundled name, a folder, a packed folder, a tuned run, a hub id.

    The file is read back by a second reader and must give the model's logits on real text; only then does it get its name.

    \b
    safetensors          plain weights, adapters merged, codes unpacked     transformers, vLLM, trainers
    gptq, gptq-v2        integer codes of `workbench quantize`              transformers + gptqmodel, vLLM
    compressed-tensors   the same codes, pack-quantized                     vLLM, SGLang, transformers
    gguf-f16, gguf-q8_0  16 and 8.5 bits a weight, with the tokenizer       llama.cpp, Ollama, LM Studio
    gguf-q4_1, gguf-q4_0 5 and 4.5 bits; codes are kept where they fit      llama.cpp, Ollama, LM Studio

    \b
    workbench export smollm2-135m --to gguf-q8_0 -o smollm2-gguf
    workbench export runs/ID/packed --to compressed-tensors -o smollm2-w4
    workbench export runs/ID/tuned --to safetensors -o merged
    workbench export runs/ID/tuned --to gptq --requantize -o tuned-w4
    """
    config = {"model": model, **values}
    if destination is not None:
        config["destination"] = str(Path(destination).expanduser().absolute())
    if dry_run:
        from workbench.export.job import forecast

        click.echo(json.dumps(forecast(config), indent=1))
        return
    result = start("export", config, detach=detach, as_json=as_json, name=name)
    if result is None:
        return
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False, indent=1, default=str))
        return
    if result.get("stopped"):
        click.echo("Stopped; nothing was written.")
        return
    for line in summary(result):
        click.echo(line)


def summary(result: dict) -> list[str]:
    """What the command prints about an export."""
    check = result["check"]
    lines = [
        f"{result['to']}: {result['bytes'] / 1e6:.3g} MB, {span(result['seconds'])}",
        f"read back by {check['reader']}: logits differ by {check['layout']:.1g} of their size from what was meant",
        f"rounding moves logits by {check['rounding']:.2g}; loss {check['loss_before']:.4f} → {check['loss_after']:.4f} nats a "
        f"token, same first token in {check['agreement']:.1%} of {check['tokens']}",
    ]
    if "requantized" in result:
        found = result["requantized"]
        kept = "" if found["kept"] is None else f", {found['kept']:.0%} of what tuning gained is kept"
        lines.append(
            f"quantized again ({found['method']}, {found['bits']} bits) from {found['base']}: loss untuned "
            f"{found['loss_base']:.4f}, tuned {found['loss_tuned']:.4f}, merged {found['loss_merged']:.4f}, "
            f"in codes {found['loss_requantized']:.4f}{kept}"
        )
    lines += [*result["notes"], f"saved to {result['file']}"]
    if result["to"].startswith("gguf"):
        lines.append(f"Run it: llama-cli -m {result['file']}")
    elif result["to"] == "compressed-tensors":
        lines.append(f"Run it: vllm serve {result['path']}")
    elif result["to"] == "safetensors":
        lines.append(f"Try it: workbench chat {result['path']}")
    return lines
