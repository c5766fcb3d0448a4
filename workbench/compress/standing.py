"""The standing result on SmolLM2-135M: `assets/findings/compression.json` and the README's picture of it.

workbench frontier smollm2-135m --seeds 3 --tokens 2560 --items 32 --json > new.json
python -m workbench.compress.standing new.json --picture
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

from workbench.paths import assets

PLACE = "findings/compression.json"


def shorten(result: dict[str, Any]) -> dict[str, Any]:
    """A result without paths, and with layer errors by kind of layer: the median over blocks, and the worst layer.

    Args:
        result: of `workbench.compress.frontier.run`.
    """
    kept = {key: value for key, value in result.items() if key not in ("report", "csv", "stopped", "layers")}
    kept["layer_errors"] = {}
    for name, layers in result["layers"].items():
        kinds: dict[str, list[float]] = {}
        for layer, error, _ in layers:
            kinds.setdefault(layer.rpartition(".")[2], []).append(error)
        worst = max(layers, key=lambda layer: layer[1])
        kept["layer_errors"][name] = {
            "of": worst[2],
            "median": {kind: round(statistics.median(errors), 5) for kind, errors in kinds.items()},
            "worst": worst[:2],
        }
    return kept


def main() -> None:
    """Keep a new result; `--picture` also draws assets/pictures/frontier.png with a headless Chromium."""
    parser = argparse.ArgumentParser(prog="python -m workbench.compress.standing", description=main.__doc__)
    parser.add_argument("result", type=argparse.FileType("r"), help="output of workbench frontier --json, - for stdin")
    parser.add_argument("--picture", action="store_true", help="draw the picture too")
    options = parser.parse_args()
    kept = shorten(json.load(options.result))
    (assets() / PLACE).write_text(json.dumps(kept, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if options.picture:
        from workbench.compress.frontier_report import figure
        from workbench.readme import draw

        draw(figure(kept), assets() / "pictures" / "frontier.png")


if __name__ == "__main__":
    main()
