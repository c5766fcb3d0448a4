"""Training memory is counted: by hand for a dense layer and for a sparse one."""

import weakref
from types import SimpleNamespace

import torch
from torch import nn

from workbench.grid.memory import counted, parts, saved_bytes


class Dense(nn.Module):
    """y = exp(x W), whose backward pass needs x, W, and y."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 5))

    def forward(self, x):
        hidden = (x @ self.weight).exp()
        return SimpleNamespace(loss=hidden.sum(), hidden=hidden)


class Sparse(nn.Module):
    """y = x S with few numbers at fixed places of S."""

    def __init__(self):
        super().__init__()
        self.values = nn.Parameter(torch.ones(4))

    def forward(self, x):
        places = torch.tensor([[0, 0, 1, 2], [0, 2, 1, 4]])
        matrix = torch.sparse_coo_tensor(places, self.values, (3, 5), check_invariants=True)
        return SimpleNamespace(loss=torch.sparse.mm(matrix.t(), x.t()).sum())


def test_a_dense_layer_keeps_its_input_and_its_output_but_not_its_weight_again():
    batch = {"x": torch.ones(7, 3)}
    assert saved_bytes(Dense(), batch) == 4 * (7 * 3 + 7 * 5)
    found = counted(Dense(), batch)
    assert found["training_bytes"] == found["weight_bytes"] + found["saved_bytes"] + 4 * 3 * 15  # gradient and AdamW


def test_a_sparse_layer_is_counted_by_its_places_and_values():
    assert saved_bytes(Sparse(), {"x": torch.ones(7, 3)}) >= 8 * 2 * 4  # places are int64


def test_nothing_of_the_graph_stays_in_memory():
    model, alive = Dense(), []
    model.register_forward_hook(lambda module, inputs, output: alive.append(weakref.ref(output.hidden)))
    saved_bytes(model, {"x": torch.ones(7, 3)})
    assert len(alive) == 1 and alive[0]() is None


def test_parts_of_a_sparse_tensor_hold_all_its_numbers_and_a_dense_one_is_its_own_part():
    full = torch.tensor([[1.0, 0.0], [2.0, 3.0]])
    places, values = parts(full.to_sparse())
    assert places.tolist() == [[0, 1, 1], [0, 0, 1]] and values.tolist() == [1, 2, 3]
    assert parts(full)[0] is full
