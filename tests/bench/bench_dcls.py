"""DCLS layers, forward + backward: ours against PyPI `DCLS` 0.1.1 and torch's depthwise convolutions, as ratios.

All cases run in turn (interleaved), medians of wall time are compared. The shape is that of ConvNeXt-T's first stage:
96 channels, 56 × 56, batch 8, s = 17, m = 34, the gradient of the input wanted. "7 × 7" is torch's own layer on contiguous
pictures, "7 × 7 channels last" the same layer on the memory order that suits it best on this processor.

    python tests/bench/bench_dcls.py                      # layers, ConvNeXt blocks, kernels alone, memory
    python tests/bench/bench_dcls.py --threads 1
    python tests/bench/bench_dcls.py --cutover            # from which kernel size on transforms win
    python tests/bench/bench_dcls.py --blocks             # how many bytes of pictures to transform at once
    python tests/bench/bench_dcls.py --device cuda
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch import nn

from workbench.layers import dcls_fft
from workbench.layers.dcls import VERSIONS, Dcls2d, convolve, from_dcls
from workbench.machine import describe
from workbench.papers._memory import peak_bytes

C, SIDE, BATCH, S, M = 96, 56, 8, 17, 34


class Block(nn.Module):
    """A ConvNeXt block around a depthwise layer."""

    def __init__(self, depthwise: nn.Module, d: int) -> None:
        super().__init__()
        self.depthwise, self.norm = depthwise, nn.LayerNorm(d, eps=1e-6)
        self.up, self.act, self.down = nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d)
        self.scale = nn.Parameter(torch.full((d,), 1e-6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.depthwise(x).permute(0, 2, 3, 1)
        return x + (self.scale * self.down(self.act(self.up(self.norm(y))))).permute(0, 3, 1, 2)


def packages(device: str) -> dict[str, nn.Module]:
    """A layer of the released package per version; nothing where it is not installed."""
    try:
        from DCLS.construct.modules import Dcls2d as Released
    except ImportError:
        print("The package DCLS is not installed: its rows are missing (pip install DCLS==0.1.1).")
        return {}
    logging.disable(logging.WARNING)  # it says at length that CUDA is absent
    given = {"kernel_count": M, "dilated_kernel_size": S, "padding": S // 2, "groups": C}
    return {version: Released(C, C, version=version, **given).to(device) for version in VERSIONS}


def interleaved(cases: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    """Median milliseconds per case, taken in turn; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for run in range(repeats + 1):
        for name, case in cases.items():
            begin = time.perf_counter()
            case()
            if device != "cpu":
                torch.cuda.synchronize()
            if run:
                times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: statistics.median(taken) for name, taken in times.items()}


def step(module: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    """One forward and backward pass; `random` is fixed so that no gradient is special."""
    pull = torch.randn(module(x).shape, generator=torch.Generator().manual_seed(1)).to(x.device)

    def run() -> None:
        module.zero_grad(set_to_none=True)
        x.grad = None
        module(x).backward(pull)

    return run


def table(title: str, times: dict[str, float], peers: dict[str, str], plain: str) -> None:
    """Print a line per case with its ratios; `peers` names what each case is to be faster than."""
    print(f"\n{title}\n{'':30} {'ms':>8} {'÷ ' + plain:>12} {'peer ÷ it':>10}")
    for name, ms in times.items():
        peer = times.get(peers.get(name, ""))
        print(f"{name:30} {ms:8.1f} {ms / times[plain]:12.2f} {f'{peer / ms:9.1f}x' if peer else '':>10}")


def layers(repeats: int, device: str, block: bool) -> None:
    """Whole layers, or whole ConvNeXt blocks around them."""
    torch.manual_seed(0)
    x = torch.randn(BATCH, C, SIDE, SIDE, device=device, requires_grad=True)
    last = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    wrap = (lambda layer: Block(layer, C).to(device)) if block else (lambda layer: layer.to(device))
    plain = {side: nn.Conv2d(C, C, side, padding=side // 2, groups=C) for side in (7, S)}
    cases = {"7 × 7": step(wrap(plain[7]), x), "7 × 7 channels last": step(wrap(plain[7]), last)}
    cases["17 × 17"] = step(wrap(plain[S]), x)
    peers, memory = {}, {}
    released = packages(device)
    for version in VERSIONS:
        torch.manual_seed(1)
        ours = wrap(Dcls2d(C, C, M, S, padding=S // 2, groups=C, version=version))
        cases[f"ours {version}"], cases[f"ours {version} channels last"] = step(ours, x), step(ours, last)
        peers[f"ours {version}"] = peers[f"ours {version} channels last"] = f"package {version}"
        if version in released:
            cases[f"package {version}"] = step(wrap(released[version]), x)
    times = interleaved(cases, repeats, device)
    table(f"{'ConvNeXt block' if block else 'Layer'}, forward + backward", times, peers, "7 × 7")
    print("\npeak of the tensors of one step (MB, scratch inside operators not counted)")
    for name, case in cases.items():
        memory[name] = peak_bytes(case) / 1e6
    print("  ".join(f"{name}: {size:.0f}" for name, size in memory.items() if "last" not in name))


def kernels(repeats: int, device: str) -> None:
    """Building the dense kernel alone."""
    cases, peers = {}, {}
    for version, layer in packages(device).items():
        mine = from_dcls(layer)

        def run(build: Callable[[], torch.Tensor]) -> None:
            build().sum().backward()

        cases[f"package {version}"] = lambda layer=layer: run(lambda: layer.DCK(layer.weight, layer.P, layer.SIG))
        cases[f"ours {version}"] = lambda mine=mine: run(mine.dense_kernel)
        peers[f"ours {version}"] = f"package {version}"
        with torch.no_grad():
            theirs, ours = layer.DCK(layer.weight, layer.P, layer.SIG), mine.dense_kernel()
            tiny = torch.finfo(torch.float32).tiny
            before, after = (((k != 0) & (k.abs() < tiny)).float().mean().item() for k in (theirs, ours))
            largest = (theirs - ours).abs().max()
            print(f"{version}: largest difference {largest:.1e}, subnormal {before:.1%} → {after:.1%}")
    if cases:
        table("Dense kernel alone, forward + backward", interleaved(cases, repeats, device), peers, "package v0")


def cutover(repeats: int) -> None:
    """Forward + backward of both ways over kernel sizes and pictures; ratios above 1 mean that transforms win."""
    shapes = {2: ((BATCH, C, 56, 56), (BATCH, 192, 28, 28), (BATCH, 384, 14, 14), (BATCH, 768, 7, 7), (64, 32, 32, 32))}
    shapes[1] = ((BATCH, C, 4096), (64, 64, 256))
    shapes[3] = ((2, 32, 16, 32, 32),)
    for n, pictures in shapes.items():
        sides = {1: (9, 17, 33, 65, 129), 2: (3, 5, 7, 9, 11, 13, 17), 3: (3, 5, 7)}[n]
        print(f"\n{n}-d: direct ÷ transforms" + (", contiguous | channels last" if n == 2 else ""))
        for shape in pictures:
            line = []
            for side in sides:
                x = torch.randn(shape, requires_grad=True)
                kernel = (0.02 * torch.randn(shape[1], 1, *(side,) * n)).requires_grad_()
                inputs = [x]
                if n == 2:
                    inputs.append(x.detach().contiguous(memory_format=torch.channels_last).requires_grad_())
                cases = {}
                for i, given in enumerate(inputs):
                    for way in ("direct", "fft"):

                        def run(given=given, way=way, kernel=kernel, n=n, side=side, groups=shape[1]) -> None:
                            convolve(given, kernel, None, (1,) * n, (side // 2,) * n, groups, way).sum().backward()

                        cases[way, i] = run
                times = interleaved(cases, repeats, "cpu")
                ratios = [times["direct", i] / times["fft", i] for i in range(len(inputs))]
                line.append(f"{side}: " + " | ".join(f"{ratio:.2f}" for ratio in ratios))
            print(f"{' × '.join(map(str, shape)):20} " + "   ".join(line), flush=True)


def blocks(repeats: int) -> None:
    """Which size of block suits the cache, on the layer of the main table."""
    x = torch.randn(BATCH, C, SIDE, SIDE, requires_grad=True)
    layer = Dcls2d(C, C, M, S, padding=S // 2, groups=C, version="v1", method="fft")
    run, kept, cases = step(layer, x), dcls_fft.BLOCK, {}
    for power in range(16, 25):

        def case(size: int = 1 << power) -> None:
            dcls_fft.BLOCK = size
            run()

        cases[f"{(1 << power) / 1e6:.2f} MB"] = case
    for name, ms in interleaved(cases, repeats, "cpu").items():
        print(f"{name:>10} {ms:8.1f} ms")
    dcls_fft.BLOCK = kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cutover", action="store_true")
    parser.add_argument("--blocks", action="store_true")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    torch.set_num_threads(arguments.threads)
    told = describe()["machine"], f"torch {torch.__version__}", f"threads {arguments.threads}", arguments.device
    print(*told, torch.backends.cpu.get_cpu_capability(), sep=" · ")
    if arguments.cutover:
        cutover(arguments.repeats)
    elif arguments.blocks:
        blocks(arguments.repeats)
    else:
        print(f"{BATCH} × {C} × {SIDE} × {SIDE}, s = {S}, m = {M}; medians of {arguments.repeats}, interleaved")
        layers(arguments.repeats, arguments.device, block=False)
        layers(arguments.repeats, arguments.device, block=True)
        kernels(arguments.repeats, arguments.device)


if __name__ == "__main__":
    main()
