"""104 published runs of Gadre et al. 2024 as one tidy table: three training corpora, five sizes, 5 to 640 tokens per parameter.

`load_gadre()` reads the shipped `assets/scaling/gadre.csv`; the table is made from the authors' JSON files by

    python -m workbench.scaling.gadre EXP_DATA_FOLDER [OUT.csv]

where EXP_DATA_FOLDER is `exp_data/` of github.com/mlfoundations/scaling at commit a003c49. Columns of the file:
run, dataset (c4, redpajama, refinedweb), N (parameters with embeddings), N_no_embed, D (training tokens), multiplier
(M = 20 · multiplier tokens per parameter), lr, weight_decay, warmup (steps), batch (sequences of 2048 tokens), and for each of
eight validation sets loss_SET, loss_SET_low, loss_SET_high (nats per token; bounds: 95 % bootstrap over sequences, theirs),
error_17 and error_46 (mean of 1 − accuracy over tasks).

Source: Gadre et al. 2024, arXiv 2403.08540, code and data github.com/mlfoundations/scaling (MIT, `gadre.LICENSE`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

from workbench.errors import UserError, choose
from workbench.paths import assets

CORPORA = {"c4_original": "c4", "rpj": "redpajama", "rw_original": "refinedweb"}
LOSSES = {
    "openlm": "openlm", "c4_val": "c4", "paloma_c4_en": "paloma_c4",
    "paloma_dolma_100_programing_languages": "paloma_code", "paloma_falcon-refinedweb": "paloma_refinedweb",
    "paloma_ptb": "paloma_ptb", "paloma_redpajama": "paloma_redpajama", "de-en": "de_en",
}  # fmt: skip
TASKS_17 = (
    "bigbench_operators", "pubmed_qa_labeled", "hellaswag_zeroshot", "boolq", "arc_easy", "coqa",
    "bigbench_dyck_languages", "lambada_openai", "bigbench_novel_concepts", "winograd", "bigbench_cs_algorithms",
    "commonsense_qa", "bigbench_qa_wikidata", "hellaswag", "copa", "squad", "piqa",
)  # fmt: skip


def load_gadre(corpus: str | None = None, loss: str = "c4", tasks: int = 17) -> pd.DataFrame:
    """The published runs, ready to fit.

    Args:
        corpus: `c4`, `redpajama` or `refinedweb`; None keeps all three.
        loss: validation set whose loss becomes the column `loss`: c4, openlm, de_en, paloma_c4, paloma_code, paloma_ptb,
            paloma_redpajama or paloma_refinedweb.
        tasks: 17 (those a small model can do) or 46 (all): whose mean error becomes the column `error`.

    Returns:
        run, dataset, N, D (floats), M = D/N, C = 6ND in FLOP, loss in nats per token, low, high, error as a share.

    Raises:
        UserError: an unknown corpus, validation set or task list.
    """
    choose("validation set", loss, LOSSES.values())
    suite = choose("task list", str(tasks), ("17", "46"))
    raw = pd.read_csv(assets() / "scaling" / "gadre.csv")
    if corpus is not None:
        raw = raw[raw["dataset"] == choose("corpus", corpus, CORPORA.values())]
    n, d = raw["N"].astype(float), raw["D"].astype(float)  # 6·N·D overflows 64-bit integers
    table = pd.DataFrame({"run": raw["run"], "dataset": raw["dataset"], "N": n, "D": d, "M": d / n, "C": 6.0 * n * d})
    table["loss"], table["low"], table["high"] = (raw[f"loss_{loss}{end}"] for end in ("", "_low", "_high"))
    return table.assign(error=raw[f"error_{suite}"]).reset_index(drop=True)


def five_runs(table: pd.DataFrame) -> pd.DataFrame:
    """The runs the authors fit for one corpus: 11M, 79M, 154M, 411M at M = 20 and 11M at M = 320."""
    small = table["N"] < 5e8
    at = table["M"].round()
    return table[small & ((at == 20) | ((at == 320) & (table["N"] < 2e7)))]


def convert(folder: Path) -> pd.DataFrame:
    """One row per run from the authors' `exp_data/`.

    Args:
        folder: holds `models/*.json` and `evals/*.json`.

    Raises:
        UserError: no run files, or a run without its evaluation.
    """
    paths = sorted((folder / "models").glob("*.json"))
    if not paths:
        raise UserError(f"{str(folder)!r} holds no models/*.json; give the folder exp_data of mlfoundations/scaling.")
    return pd.DataFrame([_row(path, folder / "evals") for path in paths])


def _row(path: Path, evals: Path) -> dict[str, object]:
    run = json.loads(path.read_text(encoding="utf-8"))
    hyper = run["hyperparameters"]
    row = {
        "run": run["name"], "dataset": CORPORA[run["dataset_name"]], "N": hyper["params"],
        "N_no_embed": hyper["params_no_embed"], "D": hyper["tokens"], "multiplier": float(hyper["chinchilla_multiplier"]),
        "lr": hyper["lr"], "weight_decay": hyper["wd"], "warmup": hyper["warmup"], "batch": hyper["global_bs"],
    }  # fmt: skip
    found = {LOSSES[Path(result["val_data"][0]).parent.name]: result for result in run["results"]}
    for name in LOSSES.values():
        row[f"loss_{name}"] = found[name]["loss"]
        row[f"loss_{name}_low"] = found[name]["loss_sequences_lower_95"]
        row[f"loss_{name}_high"] = found[name]["loss_sequences_upper_95"]
    path = evals / f"evaluation_{run['name']}_heavy.json"
    if not path.is_file():
        raise UserError(f"The run {run['name']} has no evaluation {path.name}; copy the whole folder exp_data.")
    accuracy = json.loads(path.read_text(encoding="utf-8"))["eval_metrics"]["icl"]
    row["error_17"] = 1 - float(np.mean([accuracy[task] for task in TASKS_17]))
    row["error_46"] = 1 - float(np.mean(list(accuracy.values())))
    return row


def main(arguments: list[str] | None = None) -> None:
    """Write the CSV."""
    parser = argparse.ArgumentParser(prog="python -m workbench.scaling.gadre", description=convert.__doc__)
    parser.add_argument("folder", type=Path, help="exp_data/ of mlfoundations/scaling")
    parser.add_argument("out", type=Path, nargs="?", default=assets() / "scaling" / "gadre.csv")
    given = parser.parse_args(arguments)
    table = convert(given.folder)
    table.to_csv(given.out, index=False, float_format="%.10g", lineterminator="\n")
    print(f"{len(table)} runs written to {given.out.name}")


if __name__ == "__main__":
    main()
