"""The hub path against a hub of our own on this machine: real requests, no network."""

from __future__ import annotations

import hashlib
import http.server
import json
import pickle
import threading

import pytest
import torch
from huggingface_hub import constants

from workbench.errors import UserError
from workbench.models import load_model, load_tokenizer, resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    repos: dict = {}
    asked: list = []

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        path = self.path.split("?")[0]
        type(self).asked.append((self.command, path))
        name = "/".join(path.removeprefix("/api/models").strip("/").split("/")[:2])
        folder = self.repos.get(name)
        if folder == "gated":
            return self.reply(403, b"{}", {"X-Error-Code": "GatedRepo"}, body)
        if folder is None:
            return self.reply(401, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
        files = sorted(file for file in folder.iterdir() if file.is_file())
        if path.startswith("/api/models") and "/tree/" in path:
            rows = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": digest(f)[:40]} for f in files]
            return self.reply(200, json.dumps(rows).encode(), {}, body)
        if path.startswith("/api/models"):
            info = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file.name} for file in files]}
            return self.reply(200, json.dumps(info).encode(), {}, body)
        file = folder / path.rsplit("/", 1)[1]
        return self.reply(200, file.read_bytes(), {"ETag": f'"{digest(file)}"', "X-Repo-Commit": COMMIT}, body)

    def reply(self, status, content, headers, body):
        self.send_response(status)
        for key, value in {**headers, "Content-Length": len(content), "Content-Type": "application/json"}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *args):
        pass


def digest(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def online(tmp_path, monkeypatch):
    """A hub on this machine and an empty cache; online.repos maps an id to a folder."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setattr(Hub, "repos", {})
    monkeypatch.setattr(Hub, "asked", [])
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    here = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", here)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", here + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield Hub
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_hub_model_is_checked_downloaded_once_and_then_read_from_the_cache(online, originals, copy, tmp_path):
    folder = copy()
    (folder / "modeling_evil.py").write_text("raise SystemExit('ran')")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps("never fetched"))
    online.repos["ada/small"] = folder
    ref = resolve("ada/small")
    assert (ref.kind, ref.path) == ("hub", None)
    assert not (tmp_path / "cache").exists()  # resolve downloads nothing
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(load_model("ada/small")(input_ids=ids).logits, originals["llama"][0](input_ids=ids).logits)
    assert not any(path.endswith((".py", ".bin")) for method, path in online.asked if method == "GET")
    online.asked.clear()
    online.repos.clear()  # gone from the hub: the cache answers, without a request
    ref = resolve("ada/small")
    assert ref.path.name == COMMIT
    assert ref.architecture == "LlamaForCausalLM"
    assert load_model("ada/small").num_parameters() > 0
    assert load_tokenizer("ada/small").pad_token == "<|pad|>"
    assert online.asked == []


def test_a_hub_model_with_pickles_only_is_refused_before_any_download(online, copy):
    folder = copy()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    online.repos["ada/old"] = folder
    with pytest.raises(
        UserError, match=r"hub model ada/old has its weights only as pickle files \(pytorch_model\.bin\)"
    ):
        load_model("ada/old")
    assert all(path.startswith("/api/") for _, path in online.asked)


@pytest.mark.parametrize(
    ("removed", "sentence"), [("config.json", r"no config\.json"), ("model.safetensors", r"no model\.safetensors")]
)
def test_a_hub_model_that_is_not_whole(online, copy, removed, sentence):
    folder = copy()
    (folder / removed).unlink()
    online.repos["ada/half"] = folder
    with pytest.raises(UserError, match=sentence):
        resolve("ada/half")


def test_an_unknown_and_a_gated_hub_model(online):
    online.repos["ada/terms"] = "gated"
    with pytest.raises(UserError, match=r"ada/terms asks you to accept its terms.*hf auth login"):
        resolve("ada/terms")
    with pytest.raises(UserError, match=r"no model ada/missing .*check the id"):
        resolve("ada/missing")


@pytest.mark.parametrize("way", ["switched off", "no route"])
def test_a_hub_id_while_offline(way, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", way == "switched off")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    for call in (resolve, load_model, load_tokenizer):
        with pytest.raises(UserError, match=r"owner/name-of-model is not on this machine .*\(offline\)"):
            call("owner/name-of-model")
    assert not (tmp_path / "cache").exists()
