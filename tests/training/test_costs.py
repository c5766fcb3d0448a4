"""The committed table of costs speaks about every method, and LoRA beside its own twin costs what LoRA costs."""

import json

from workbench.paths import assets
from workbench.training import list_methods


def test_every_method_is_measured_or_says_why_not():
    found = json.loads((assets() / "adapter_costs.json").read_text(encoding="utf-8"))
    rows = {row["name"]: row for row in found["rows"]}
    assert set(rows) | set(found["failed"]) == {method["name"] for method in list_methods()}
    assert all(found["failed"].values())
    for row in rows.values():
        assert min(row["trainable"], row["step"], row["saved_bytes"], row["stored_bytes"], row["unmerged"]) > 0
    lora = rows["lora"]
    assert lora["trainable"] == found["reference"]["trainable"]
    assert 0.85 < lora["step"] < 1.15 and 0.85 < lora["unmerged"] < 1.15  # the noise of this measurement
    assert {"machine", "torch", "peft", "date", "command"} <= set(found["made"])
