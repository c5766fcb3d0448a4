from __future__ import annotations

import json
import shutil

import pytest
import torch

from workbench.errors import UserError
from workbench.models import fingerprint
from workbench.training import FinetuneConfig, finetune, load_tuned


@pytest.fixture(scope="module")
def tuned(llama, texts, tmp_path_factory):
    def train(method):
        config = FinetuneConfig(
            llama, texts, method, steps=3, batch_size=2, window=16, eval_every=3, precision="fp32", learning_rate=1e-2
        )
        return finetune(config, tmp_path_factory.mktemp("tuned") / method).path

    made = {}
    return lambda method: made.setdefault(method, None) or made.update({method: train(method)}) or made[method]


def answers(model):
    with torch.no_grad():
        return model(input_ids=torch.arange(10)[None] + 20).logits


@pytest.mark.parametrize("method", ["lora", "ia3", "oft"])
def test_merged_model_answers_like_the_adapter_and_unlike_the_base(method, tuned, llama):
    apart, _ = load_tuned(tuned(method))
    merged, tokenizer = load_tuned(tuned(method), merged=True)
    assert type(merged).__name__ == "LlamaForCausalLM" and not merged.training
    torch.testing.assert_close(answers(merged), answers(apart), rtol=0, atol=1e-5)
    with apart.disable_adapter():
        base = answers(apart)
    assert (answers(apart) - base).abs().max() > 1e-4
    assert fingerprint(merged) != fingerprint(apart)
    assert tokenizer.pad_token is not None


def test_prompt_refuses_to_merge_with_the_reason(tuned):
    with pytest.raises(UserError, match="prompt cannot be merged: it acts on the input"):
        load_tuned(tuned("prompt"), merged=True)


def test_run_folder_opens_like_the_tuned_folder_in_it(tuned):
    path = tuned("lora")
    assert fingerprint(load_tuned(path.parent)[0]) == fingerprint(load_tuned(path)[0])


def test_whole_model_can_be_cached_and_opened_by_transformers(tuned):
    from transformers import AutoModelForCausalLM

    from workbench.models.quiet import quiet

    with quiet():
        model = AutoModelForCausalLM.from_pretrained(tuned("last-n"))
    assert model.config.use_cache
    torch.testing.assert_close(answers(model.eval()), answers(load_tuned(tuned("last-n"))[0]), rtol=0, atol=0)


def test_adapter_made_by_peft_elsewhere_opens_without_our_record(tuned, tmp_path):
    shutil.copytree(tuned("lora"), tmp_path / "other")
    (tmp_path / "other" / "workbench.json").unlink()
    torch.testing.assert_close(answers(load_tuned(tmp_path / "other")[0]), answers(load_tuned(tuned("lora"))[0]))


def test_folder_with_nothing_tuned_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no tuned model"):
        load_tuned(tmp_path)


def test_adapter_file_with_missing_tensors_is_refused(tuned, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(tuned("lora"), tmp_path / "torn")
    file = tmp_path / "torn" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, file)
    with pytest.raises(UserError, match="lacks 1 tensors of its adapter"):
        load_tuned(tmp_path / "torn")


def test_card_and_record_name_model_method_and_data(tuned, llama):
    record = json.loads((tuned("lora") / "workbench.json").read_text())
    assert record["model"] == llama and record["method"] == "lora" and record["steps"] == 3
    card = (tuned("lora") / "README.md").read_text()
    assert "library_name: peft" in card and "load_tuned" in card
