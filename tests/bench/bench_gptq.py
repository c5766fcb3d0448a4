"""GPTQ on single layers: ours against the PyPI package `gptqmodel` where it installs, and always against the algorithm as
the paper's released code writes it, on the same weights and the same Hessian. Printed as ratios of time and of error.

    python tests/bench/bench_gptq.py                     # SmolLM2's shapes and 2048 × 2048
    python tests/bench/bench_gptq.py --width 4096        # one 4096 × 4096 layer too (minutes)
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import statistics
import time

import torch

from workbench.compress.gptq import Hessian, quantize_gptq
from workbench.compress.rtn import grid, quantize_rtn
from workbench.machine import describe


def released(weight, hessian, bits: int, group: int, damping: float = 0.01, block: int = 128):
    """The released algorithm: Cholesky, inverse, Cholesky of the inverse; columns push their errors to the right in
    blocks of 128. Written down from the paper (Algorithm 1), asymmetric grid as ours."""
    work, out = weight.clone(), weight.shape[0]
    diagonal = torch.arange(len(hessian))
    damped = hessian.clone()
    damped[diagonal, diagonal] += damping * hessian.diagonal().mean()
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    quantized = torch.zeros_like(work)
    for start in range(0, work.shape[1], block):
        stop = min(start + block, work.shape[1])
        part = work[:, start:stop].clone()
        errors = torch.zeros_like(part)
        inner = upper[start:stop, start:stop]
        for i in range(stop - start):
            if (start + i) % group == 0:
                current = part[:, i : i + group]
                if start + i + group > stop:
                    current = torch.cat([current, work[:, stop : start + i + group]], 1)
                scale, zero = (side.to(weight.dtype) for side in grid(current, bits, False))
            column = part[:, i]
            code = (torch.round(column / scale) + zero).clamp(0, 2**bits - 1)
            value = (code - zero) * scale
            quantized[:, start + i] = value
            error = (column - value) / inner[i, i]
            part[:, i:] -= error.unsqueeze(1) @ inner[i, i:].unsqueeze(0)
            errors[:, i] = error
        work[:, stop:] -= errors @ upper[start:stop, stop:]
    return quantized.view(out, -1)


def peer():
    """`gptqmodel`'s quantizer as a function, or the reason why it is not here."""
    if importlib.util.find_spec("gptqmodel") is None:
        return None, (
            "gptqmodel is not installed (its 7.x releases are source only and ask for torch ≥ 2.14.1; this project pins "
            "2.13): compared with the released algorithm instead"
        )
    from gptqmodel.quantization import QuantizeConfig
    from gptqmodel.quantization.gptq import GPTQ

    version = importlib.metadata.version("gptqmodel")

    def run(weight, inputs, bits, group):
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        layer.weight.data = weight.clone()
        settings = {"bits": bits, "group_size": group, "sym": False, "desc_act": False, "act_group_aware": False}
        task = GPTQ(layer, QuantizeConfig(**settings, damp_percent=0.01))
        task.quantizer.configure(perchannel=True)
        task.add_batch(inputs.unsqueeze(0), None)
        return task.quantize(blocksize=128)[0]

    return run, f"gptqmodel {version}"


def loss(weight, value, hessian) -> float:
    """Relative output error."""
    change = weight - value
    return float(((change @ hessian) * change).sum() / ((weight @ hessian) * weight).sum()) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bits", type=int, default=3)
    parser.add_argument("--width", type=int, default=0, help="also one square layer of this width")
    arguments = parser.parse_args()
    run_peer, why = peer()
    print(describe()["machine"], f"torch {torch.__version__}", why, sep=" · ")
    shapes = [(960, 576), (576, 1536), (2048, 2048)] + ([(arguments.width,) * 2] if arguments.width else [])
    print(
        f"{'shape':>13}  {'road':23} {'seconds':>8} {'ours/it':>8}  output error (RTN)   bits {arguments.bits}, group 64"
    )
    for out, width in shapes:
        compare(out, width, run_peer, arguments.bits, arguments.repeats)


def compare(out: int, width: int, run_peer, bits: int, repeats: int) -> None:
    """Quantize one layer by every road, in turn, and print a line for each."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(out, width, generator=generator) / width**0.5
    mix = torch.randn(width, width, generator=generator) / width**0.5 + torch.eye(width)
    inputs = torch.randn(2 * width, width, generator=generator) @ mix
    hessian = inputs.t() @ inputs / len(inputs)
    roads = {
        "ours": lambda: quantize_gptq(weight, hessian, bits=bits, group_size=64)[0].dequantize(),
        "released algorithm": lambda: released(weight, hessian, bits, 64),
    }
    if run_peer is not None:  # its Hessian belongs to the call, so ours is timed that way too

        def whole():
            from_inputs = Hessian(width)
            from_inputs.add(inputs)
            return quantize_gptq(weight, from_inputs.matrix(), bits=bits, group_size=64)[0].dequantize()

        roads["ours, with Hessian"] = whole
        roads["gptqmodel, with Hessian"] = lambda: run_peer(weight, inputs, bits, 64)
    times: dict[str, list[float]] = {name: [] for name in roads}
    errors = {}
    for _ in range(repeats):
        for name, road in roads.items():
            begin = time.perf_counter()
            value = road()
            times[name].append(time.perf_counter() - begin)
            errors[name] = loss(weight, value, hessian)
    plain = loss(weight, quantize_rtn(weight, bits=bits, group_size=64).dequantize(), hessian)
    for name, taken in times.items():
        seconds = statistics.median(taken)
        ours = statistics.median(times["ours, with Hessian" if "Hessian" in name else "ours"])
        print(
            f"{out:>5} × {width:<5}  {name:23} {seconds:8.3f} {ours / seconds:8.2f}  {errors[name]:.5f} ({plain:.5f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
