"""DCLS, dilated convolution with learnable spacings: few weights over a wide field, each at a position that is learned.

A dense 17 × 17 kernel has 289 weights per channel, a dilated one puts few weights on a fixed grid. DCLS keeps m weights (34)
and learns where each of them stands: a position is a real number, made differentiable by spreading the weight over
the neighbouring pixels. The dense kernel is built anew in every forward pass and applied as an ordinary convolution:

    K = Σ_k w_k φ(· − p_k)          y = K ⋆ x + b

    from workbench.layers.dcls import Dcls2d, clamp_after_steps, position_groups
    layer = Dcls2d(96, 96, kernel_count=34, dilated_kernel_size=17, padding=8, groups=96, version="v1")
    optimizer = torch.optim.AdamW(position_groups(model, lr=4e-3, weight_decay=0.05))
    clamp_after_steps(optimizer, model)

Where things are: `dcls_kernel` builds K (formula, shapes, what differs from the released code), `dcls_layer` holds the six
layers, `dcls_convolve` and `dcls_fft` apply K, `dcls_train` holds what an optimizer needs, `dcls_swap` puts DCLS into a model
and takes it out again, `dcls_released` reads checkpoints of PyPI `DCLS`.

Source: Khalfaoui-Hassani, Pellegrini, Masquelier, ICLR 2023, arXiv 2112.03740; triangle and Gaussian: arXiv 2306.00817.
Departures: the default corrects what the released code gets wrong (`dcls_kernel` lists it); `variant="reference"` brings
it back.
"""

from __future__ import annotations

from workbench.layers.dcls_convolve import convolve
from workbench.layers.dcls_kernel import VARIANTS, VERSIONS, construct_kernel, limits
from workbench.layers.dcls_layer import (
    Dcls,
    Dcls1d,
    Dcls2d,
    Dcls3d,
    DclsTranspose1d,
    DclsTranspose2d,
    DclsTranspose3d,
)
from workbench.layers.dcls_released import convert_positions, from_dcls, load_released
from workbench.layers.dcls_swap import export_convs, from_conv, replace_depthwise
from workbench.layers.dcls_train import (
    clamp_after_steps,
    clamp_positions,
    layers_of,
    position_groups,
    repulsion,
    share_positions,
)

__all__ = [
    "VARIANTS",
    "VERSIONS",
    "Dcls",
    "Dcls1d",
    "Dcls2d",
    "Dcls3d",
    "DclsTranspose1d",
    "DclsTranspose2d",
    "DclsTranspose3d",
    "clamp_after_steps",
    "clamp_positions",
    "construct_kernel",
    "convert_positions",
    "convolve",
    "export_convs",
    "from_conv",
    "from_dcls",
    "layers_of",
    "limits",
    "load_released",
    "position_groups",
    "replace_depthwise",
    "repulsion",
    "share_positions",
]
