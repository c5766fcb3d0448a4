"""The job as the store runs it: saved folders in, judged rows out."""

import pytest

from workbench.errors import UserError
from workbench.evaluation import job
from workbench.runs import Store

CONFIG = {"window": 32, "tokens": 400, "items": 4, "seed": 0}


@pytest.fixture(scope="module")
def folders(build, tokenizer, tmp_path_factory):
    """Two saved models, and an adapter on the first."""
    import peft

    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("one", "two")):
        build(seed, initializer_range=0.1).float().save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    model = build(0, initializer_range=0.1).float()
    model.name_or_path = str(root / "one")
    config = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    peft.get_peft_model(model, config).save_pretrained(root / "adapter")
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    from workbench.data import documents

    folder = tmp_path_factory.mktemp("text")
    for i, row in enumerate(documents("moby-dick")[20:40]):
        (folder / f"{i}.txt").write_text(row["text"][:1500], encoding="utf-8")
    return str(folder)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_folders_and_adapters_are_compared_in_the_run_store(folders, data, tmp_path):
    config = {"models": [str(folders / name) for name in ("one", "two", "adapter")], "data": data, **CONFIG}
    result = Store(tmp_path).run_here("compare", config)
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == ["one", "two", "adapter"] and not result["stopped"]
    assert rows["adapter"]["disk_bytes"] > rows["one"]["disk_bytes"] == rows["two"]["disk_bytes"] > 0
    assert rows["adapter"]["perplexity"] != rows["one"]["perplexity"]
    assert set(result["tied_best"]) <= set(rows) and result["tied_best"]
    assert result["budget"]["window"] == 32 and result["budget"]["documents"] == 2
    assert {test["reference"] for test in result["tests"]} == {"one"}
    assert len(list(Store(tmp_path).list()[0].directory.glob("cells/*.json"))) == 4  # three cells and the questions


def test_new_weights_in_a_folder_are_another_cell(folders):
    import os

    first = job.variant(str(folders / "two"))
    os.utime(folders / "two" / "model.safetensors", ns=(1, 1))
    assert job.variant(str(folders / "two")).description != first.description


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"models": ["no-such-model"]}, "no-such-model"),
        ({"data": "sotu-century"}, "classification rows"),
        ({"data": "no-such-data"}, "no-such-data"),
    ],
)
def test_bad_input_is_refused_before_a_model_loads(folders, data, tmp_path, monkeypatch, change, words):
    import workbench.chat

    monkeypatch.setattr(workbench.chat, "open_model", lambda name: pytest.fail("a model was loaded"))
    with pytest.raises(UserError, match=words):
        Store(tmp_path).run_here("compare", {"models": [str(folders / "one")], "data": data, **CONFIG} | change)
