from __future__ import annotations

import json

import pytest
import torch
from peft import get_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from workbench.errors import UserError
from workbench.models.quiet import quiet
from workbench.training import list_methods
from workbench.training.attach import apply_method, counts, skeleton
from workbench.training.load import _with_adapter
from workbench.training.methods import LEFT_OUT, find_method
from workbench.training.save import save_weights

METHODS = {method["name"]: method for method in list_methods()}
NEEDED = {"trainable-tokens": {"token_indices": [30, 31]}}
ADAPTERS = [name for name in METHODS if find_method(name).peft_type is not None]


def causal(folder):
    with quiet():
        return AutoModelForCausalLM.from_pretrained(folder)


def test_every_method_of_peft_is_offered_or_left_out_with_a_reason():
    offered = {find_method(name).peft_type for name in METHODS}
    known = {str(getattr(key, "value", key)) for key in PEFT_TYPE_TO_CONFIG_MAPPING}
    assert known == (offered - {None}) | set(LEFT_OUT)
    assert {
        "lora",
        "dora",
        "rslora",
        "adalora",
        "ia3",
        "vera",
        "prompt",
        "prefix",
        "p-tuning",
        "bitfit",
        "loha",
        "lokr",
    } <= set(METHODS)
    assert {"oft", "boft", "randlora", "vblora", "full", "last-n", "nola"} <= set(METHODS)


def test_records_are_plain_data_with_help_for_method_and_arguments():
    assert json.loads(json.dumps(list_methods())) == list_methods()
    for method in METHODS.values():
        assert method["help"][0].isupper() or method["help"].startswith("p"), method
        assert ":" in method["class"] and method["learning_rate"] > 0
        assert all(argument["help"] for argument in method["arguments"]), method["name"]
    lora = {argument["name"]: argument for argument in METHODS["lora"]["arguments"]}
    assert lora["r"]["default"] == 8
    assert "task_type" not in lora and "peft_type" not in lora


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("LoRA", "lora"), ("prompt_tuning", "prompt"), ("PREFIX_TUNING", "prefix"), ("p_tuning", "p-tuning")],
)
def test_names_forgive_capitals_and_underscores(typed, meant):
    assert find_method(typed).name == meant


def test_unknown_method_gets_the_nearest_names():
    with pytest.raises(UserError, match=r"no method called 'laro'; did you mean .*lora"):
        find_method("laro")


def test_method_that_needs_more_than_text_says_so():
    with pytest.raises(UserError, match="task number for every row"):
        find_method("poly")


def test_unknown_argument_gets_the_nearest_name():
    with pytest.raises(UserError, match="no argument of lora called 'lora_alfa'; did you mean lora_alpha"):
        find_method("lora").check({"lora_alfa": 2})
    with pytest.raises(UserError, match="full takes no arguments, so leave out 'r'"):
        find_method("full").check({"r": 2})


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_adapter_fits_a_tiny_model_learns_and_comes_back_from_disk(name, llama, tmp_path):
    method, args = find_method(name), NEEDED.get(name, {})
    torch.manual_seed(0)
    model = apply_method(method, args, causal(llama), steps=10)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert 0 < sum(p.numel() for p in trained) < 2 * counts(causal(llama))[0]
    ids = torch.arange(24).view(2, 12) + 5
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    from workbench.training.attach import quiet as known_noise

    model.train()
    before = [p.detach().clone() for p in trained]
    with known_noise():
        for _ in range(2):
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    moved = [not torch.equal(a, b) for a, b in zip(before, trained, strict=True)]
    assert any(moved)

    model.eval()
    save_weights(model, tmp_path)
    again = _with_adapter(causal(llama), tmp_path).eval()
    with torch.no_grad(), known_noise():
        torch.testing.assert_close(again(input_ids=ids).logits, model(input_ids=ids).logits, rtol=0, atol=1e-5)
    assert set(get_peft_model_state_dict(again)) == set(get_peft_model_state_dict(model, save_embedding_layers=False))


@pytest.mark.parametrize("name", ["lora", "ia3", "prompt", "prefix", "vera", "bitfit", "full"])
def test_skeleton_counts_what_the_real_model_trains(name, llama, bert):
    for folder, auto, task, labels in (
        (llama, AutoModelForCausalLM, "causal-lm", None),
        (bert, AutoModelForSequenceClassification, "sequence-classification", 3),
    ):
        if name == "bitfit" and folder == llama:
            continue
        with quiet():
            real = auto.from_pretrained(folder, **({} if labels is None else {"num_labels": labels}))
        shapes = skeleton(real.config, task, labels)
        assert all(p.device.type == "meta" for p in shapes.parameters())
        assert counts(apply_method(find_method(name), {}, shapes, 10)) == counts(
            apply_method(find_method(name), {}, real, 10)
        )


def test_lora_count_is_rank_times_the_sides_of_every_target(llama):
    model = apply_method(find_method("lora"), {"r": 4, "target_modules": ["q_proj", "down_proj"]}, causal(llama), 10)
    assert counts(model)[0] == 2 * (4 * (32 + 32) + 4 * (64 + 32))


def test_last_n_trains_those_layers_and_the_final_norm(llama, bert):
    model = apply_method(find_method("last-n"), {"layers": 1}, causal(llama), 10)
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert names and all(name.startswith(("model.layers.1.", "model.norm.")) for name in names)
    assert "model.norm.weight" in names


def test_bitfit_trains_biases_and_the_new_head(bert, llama):
    with quiet():
        model = AutoModelForSequenceClassification.from_pretrained(bert, num_labels=2)
    apply_method(find_method("bitfit"), {}, model, 10)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (name.endswith("bias") or name.startswith("classifier")), name
    with pytest.raises(UserError, match="this model has none; use beft"):
        apply_method(find_method("bitfit"), {}, causal(llama), 10)


@pytest.mark.parametrize(
    ("name", "args", "sentence"),
    [
        ("lora", {"r": 0}, "r is 0; a rank is a whole number from 1 up"),
        ("lora", {"r": 2.0}, "r is 2.0"),
        ("lora", {"r": 17}, "r is 17, above the smaller side of a targeted 32 × 16 matrix; use 16 or less"),
        ("adalora", {"init_r": 40}, "init_r is 40"),
        (
            "lora",
            {"target_modules": ["q_porj"]},
            "target_modules 'q_porj' matches no layer of the model; did you mean q_proj",
        ),
        (
            "lora",
            {"target_modules": ["q_proj", "zzz"]},
            "target_modules 'zzz' matches no layer of the model; this model has q_proj",
        ),
        ("lora", {"target_modules": "*_proj"}, "is no pattern"),
        ("lora", {"target_modules": r".*layers\.9\..*"}, "matches no layer"),
        ("road", {"group_size": 7}, "road cannot be used like this"),
        ("last-n", {"layers": 3}, "layers is 3; this model has 2"),
        ("trainable-tokens", {}, "needs token_indices"),
        ("lora", {"init_lora_weights": "pizza"}, "lora cannot be used like this"),
    ],
)
def test_impossible_arguments_are_refused_on_the_skeleton(name, args, sentence, llama):
    shapes = skeleton(causal(llama).config, "causal-lm")
    with pytest.raises(UserError) as caught:
        apply_method(find_method(name), args, shapes, 10)
    assert sentence in str(caught.value)


def test_encoder_cannot_be_trained_to_continue_text():
    from transformers import AutoConfig

    with pytest.raises(UserError, match="type segformer cannot be trained for causal lm"):
        skeleton(AutoConfig.for_model("segformer"), "causal-lm")
