"""Registration with peft from outside."""

import copy
import subprocess
import sys

import pytest
from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

from workbench import adapters
from workbench.adapters._register import add_peft_type, register
from workbench.errors import UserError


def test_importing_the_room_loads_no_torch():
    code = "import sys, workbench.adapters as a; assert a.methods(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_register_all_can_be_called_again():
    assert adapters.register_all() == adapters.register_all() == [m["name"] for m in adapters.methods()]
    for method in adapters.methods():
        assert PEFT_TYPE_TO_TUNER_MAPPING[method["name"].upper()] is getattr(adapters, method["model"])


def test_the_new_member_behaves_like_one_of_peft():
    adapters.register_all()
    member = PeftType("NOLA")
    assert member in list(PeftType) and PeftType["NOLA"] is member and add_peft_type("NOLA") is member
    assert copy.deepcopy(member) is member and member == "NOLA" and PeftType.NOLA is member


def test_a_name_peft_already_has_is_left_to_peft():
    with pytest.raises(UserError, match=r"peft already has a method called 'lora' \(from peft"):
        register("lora", adapters.NolaConfig, adapters.NolaModel, "lora_")


def test_a_class_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="NoSuchConfig"):
        _ = adapters.NoSuchConfig
