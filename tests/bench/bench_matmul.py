"""Batch-1 products on Llama-3-8B layer shapes: packed weights against bfloat16 and float32, as ratios.

The roads are timed in turn (interleaved) and medians are compared. Each road walks over several copies of its weight,
together at least 256 MB, so that no weight is served from cache: a real model reads all its layers for every token.
The limit is weight bytes over memory bandwidth, measured in the same run by summing a large tensor.

    python tests/bench/bench_matmul.py             # three shapes and the cut-over of SmolLM2's shapes
    python tests/bench/bench_matmul.py --repeats 5
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from workbench.compress import kernels
from workbench.compress.linear import IntLinear
from workbench.compress.rtn import quantize_rtn
from workbench.machine import describe

SHAPES = [(4096, 4096), (14336, 4096), (4096, 14336)]
COLD = 256e6  # bytes walked over per road


def bandwidth(repeats: int) -> float:
    """Bytes per second that all threads together read."""
    block = torch.ones(64 * 1024 * 1024)
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        block.sum()
        times.append(time.perf_counter() - begin)
    return block.numel() * 4 / statistics.median(times)


def roads(out: int, width: int, group: int) -> dict[str, tuple[float, list]]:
    """Name → (bytes read per product, list of products on different copies)."""
    dense = torch.randn(out, width)
    x = torch.randn(1, width)
    x16 = x.bfloat16()
    made: dict[str, tuple[float, list]] = {}

    def add(name: str, size: float, copy) -> None:
        made[name] = (size, [copy() for _ in range(max(1, round(COLD / size)))])

    def full(dtype, rows):
        weight = dense.to(dtype, copy=True)
        return lambda: torch.nn.functional.linear(rows, weight)

    def packed(bits):
        layer = IntLinear.from_record(quantize_rtn(dense, bits=bits, group_size=group), None)
        layer.prepare()
        return lambda: layer.product(x16)

    def torch_int4():
        layer = IntLinear.from_record(quantize_rtn(dense, bits=4, group_size=group), None)
        layer.prepare()
        codes, scales, size = layer.fast_codes[0], layer.fast_scales[0], kernels.kernel_group(group)
        return lambda: torch.ops.aten._weight_int4pack_mm_for_cpu(x16, codes, size, scales)

    def int8pack():
        record = quantize_rtn(dense, bits=8, group_size=None, symmetric=True)
        codes, scale = (record.codes.int() - 128).to(torch.int8), record.scales.bfloat16().flatten()
        return lambda: torch.ops.aten._weight_int8pack_mm(x16, codes, scale)

    weights = out * width
    add("fp32", 4 * weights, lambda: full(torch.float32, x))
    add("bf16", 2 * weights, lambda: full(torch.bfloat16, x16))
    add("int8 (torch, per channel)", weights, int8pack)
    add("8 bits", weights * (8 + 64 / group) / 8, lambda: packed(8))
    add("int4 (torch's kernel alone)", weights * (4 + 32 / group) / 8, torch_int4)
    add("4 bits", weights * (4 + 32 / group) / 8, lambda: packed(4))
    return made


def time_roads(made: dict[str, tuple[float, list]], repeats: int) -> dict[str, float]:
    """Median seconds per road, taken in turn."""
    times: dict[str, list[float]] = {name: [] for name in made}
    for run in range(repeats + 1):
        for name, (_, copies) in made.items():
            for product in copies:
                begin = time.perf_counter()
                product()
                if run:  # the first round warms up
                    times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(taken) for name, taken in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--group", type=int, default=128)
    arguments = parser.parse_args()
    print(describe()["machine"], f"torch {torch.__version__}", torch.backends.cpu.get_cpu_capability(), sep=" · ")
    print(f"threads {torch.get_num_threads()} · group {arguments.group} · batch 1 · medians, interleaved\n")
    print(f"{'shape':>14}  {'road':26} {'ms':>8} {'× bf16':>7} {'× fp32':>7}  share of bytes/bandwidth limit")
    for out, width in SHAPES:
        speed = bandwidth(arguments.repeats)
        made = roads(out, width, arguments.group)
        times = time_roads(made, arguments.repeats)
        for name, seconds in times.items():
            share = made[name][0] / speed / seconds
            print(
                f"{out:>6} × {width:<5}  {name:26} {1e3 * seconds:8.2f} {times['bf16'] / seconds:7.2f} "
                f"{times['fp32'] / seconds:7.2f}  {share:6.0%} of {speed / 1e9:.1f} GB/s"
            )
        del made
    print("\ncut-over of kernel and dequantize → GEMM, 4 bits (ms)")
    for out, width in [(576, 576), (1536, 576), (576, 1536)]:
        rows = kernels.measure_cutover(out, width, 4, 64, arguments.repeats)
        best = max([row["rows"] for row in rows if row["kernel_ms"] < row["gemm_ms"]], default=0)
        line = " ".join(f"{row['rows']:.0f}:{row['kernel_ms']:.2f}/{row['gemm_ms']:.2f}" for row in rows)
        print(f"{out:>6} × {width:<5} kernel wins up to batch {best:.0f} (used: {kernels.CUTOVER})  {line}")


if __name__ == "__main__":
    main()
