"""Models: one loader for bundled names, local folders and hub ids; what is at hand; which weights answered."""

from workbench.models.catalogue import ModelInfo, get, list_models
from workbench.models.find import ModelRef, resolve
from workbench.models.fingerprint import fingerprint
from workbench.models.loading import load_config, load_model, load_tokenizer

__all__ = [
    "ModelInfo",
    "ModelRef",
    "fingerprint",
    "get",
    "list_models",
    "load_config",
    "load_model",
    "load_tokenizer",
    "resolve",
]
