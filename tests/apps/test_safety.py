"""What a stock Gradio app lets through and this one does not."""

from __future__ import annotations

import ast
import asyncio
import http.client
import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from workbench.commands.rooms import apps_main
from workbench.errors import UserError

apps_main()
from workbench.apps import choices, fields, submit, web  # noqa: E402


def upload(server, name, content=b"a,b\n1,2\n", field="files"):
    body = (
        b'--x\r\nContent-Disposition: form-data; name="' + field.encode() + b'"; filename="' + name.encode()
        + b'"\r\nContent-Type: text/csv\r\n\r\n' + content + b"\r\n--x--\r\n"
    )  # fmt: skip
    request = urllib.request.Request(
        f"{server.url}/gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=x"}
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.parametrize("name", ["weights.pkl", "model.bin", "page.html", "script.py", "noending", "a.csv.pt"])
def test_uploads_of_other_types_are_refused_at_the_door(server, name):
    status, answer = upload(server, name)
    assert status == 415 and "the app takes text and tables" in answer


def test_tables_are_taken(server):
    status, paths = upload(server, "runs.csv")
    assert status == 200 and paths[0].endswith("runs.csv")


def test_an_upload_over_the_cap_is_refused(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="big.csv"\r\n\r\n'
    connection.putrequest("POST", "/gradio_api/upload")
    connection.putheader("Content-Type", "multipart/form-data; boundary=x")
    connection.putheader("Content-Length", str(201 * 10**6 * 2))
    connection.endheaders()
    try:
        connection.send(head)
        for _ in range(230):
            connection.send(b"x" * 10**6)
        status = connection.getresponse().status
    except (BrokenPipeError, ConnectionResetError):
        status = 413  # it hung up in the middle, as it may
    finally:
        connection.close()
    assert status == 413


def test_another_host_name_is_refused(server):
    request = urllib.request.Request(server.url, headers={"Host": "evil.example:80"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    assert refused.value.code == 403
    refused.value.close()


def test_the_page_may_ask_this_server_only(server):
    with urllib.request.urlopen(server.url, timeout=10) as answer:
        policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy and "connect-src 'self'" in policy and "http" not in policy


@pytest.mark.parametrize("path", ["monitoring", "monitoring/summary"])
def test_monitoring_is_off(server, path):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{server.url}/{path}", timeout=10)
    assert refused.value.code in (403, 404)
    refused.value.close()


@pytest.mark.parametrize("path", ["/etc/hostname", "/etc/passwd", "pyproject.toml"])
def test_files_of_the_disk_are_not_served(server, path):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{server.url}/gradio_api/file={path}", timeout=10)
    assert refused.value.code in (403, 404)
    refused.value.close()


def test_a_file_of_the_temporary_folder_is_not_served(server, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{server.url}/gradio_api/file={tmp_path / 'secret.txt'}", timeout=10)
    assert refused.value.code == 403
    refused.value.close()


def test_the_server_stands_in_an_empty_folder(server):
    place = Path(f"/proc/{server.process.pid}/cwd")
    if not place.exists():
        pytest.skip("this system does not show a process's folder")
    assert list(place.resolve().iterdir()) == []


def test_what_the_launch_is_told():
    told = apps_main().options("127.0.0.1", None)
    assert told["allowed_paths"] == [] and told["max_file_size"] == "200mb" and told["strict_cors"]
    off = ("share", "enable_monitoring", "run_history", "mcp_server", "pwa", "show_error", "ssr_mode")
    assert [told[name] for name in off] == [False] * len(off)
    assert apps_main().options("0.0.0.0", ("ada", "correct horse"))["auth"] == ("ada", "correct horse")


def test_no_line_of_the_app_runs_what_a_user_gives():
    folder = Path(choices.__file__).parent
    banned = {"eval", "exec", "compile", "__import__", "execfile"}
    members = {"query", "load_module", "unsafe_load", "full_load", "read_pickle", "Interface.load"}
    for path in folder.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call):
                name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                owner = getattr(getattr(node.func, "value", None), "id", "")
                assert not (isinstance(node.func, ast.Name) and name in banned), f"{path.name} calls {name}"
                assert name not in members and (owner, name) not in {
                    ("gr", "load"),
                    ("torch", "load"),
                    ("yaml", "load"),
                }, path.name
                told = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
                assert told.get("trust_remote_code") is not True and told.get("allow_pickle") is not True, path.name
        assert "import pickle" not in text and "import joblib" not in text, path.name


def test_handlers_that_touch_models_wait_for_each_other_and_nothing_is_told_to_anybody():
    from workbench.apps import frame

    async def built():
        return apps_main().build()

    with ThreadPoolExecutor(1) as pool:  # Gradio opens a loop per lock where none runs, and leaves it to the collector
        blocks = pool.submit(lambda: asyncio.run(built())).result()
    assert blocks.analytics_enabled is False
    gated = [fn for fn in blocks.fns.values() if fn.concurrency_id == frame.GATE]
    assert len(gated) >= 8 and all(fn.concurrency_limit == 1 for fn in gated)
    assert {"estimate", "histogram", "run", "forget"} <= {fn.name for fn in gated}
    assert blocks.max_threads >= 8 and blocks._queue.max_size == apps_main().WAITING


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", ""])
def test_the_network_needs_a_login(host):
    with pytest.raises(UserError, match="--auth"):
        apps_main().check_address(host, None)
    apps_main().check_address(host, ("user", "password"))


@pytest.mark.parametrize("key", ["/etc/passwd", "..", "../x", "~/models", "assets/models", "a/b.csv", "upload:../../x/y",
                                 "run:../../etc", "folder:../x", "http://x.y/z", "upload:aaaaaaaaaaaa/../../x"])  # fmt: skip
def test_no_typed_path_becomes_a_place(key, monkeypatch):
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    with pytest.raises(UserError):
        choices.data_place(key)
    if key != "a/b.csv":  # a hub id as far as a model is concerned
        with pytest.raises(UserError):
            choices.model_place(key)


def test_settings_of_the_api_take_no_paths(tmp_path, monkeypatch):
    secret = tmp_path / "secret.txt"
    secret.write_text("words " * 500)
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path / "runs"))
    for job, config in (
        ("finetune", {"model": "tiny-lm", "data": str(secret)}),
        ("finetune", {"model": str(tmp_path), "data": "moby-dick"}),
        ("quantize", {"model": str(tmp_path)}),
        ("compare", {"models": ["tiny-lm", str(tmp_path)]}),
        ("demo", {"data": str(secret)}),
        ("selftest", {}),
    ):
        with pytest.raises(UserError):
            submit.submit(job, config)
    assert not list((tmp_path / "runs").glob("2*"))


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", b"a,b\0\1\2"), ("a.parquet", b"not parquet"), ("a.txt", b"\x80\4\0")]
)
def test_content_must_be_what_the_name_says(tmp_path, monkeypatch, name, content):
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path / "runs"))
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError):
        choices.keep_upload(path)


def test_an_upload_is_kept_by_its_content(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path / "runs"))
    path = tmp_path / "my data.csv"
    path.write_text("text,label\na,b\n")
    key = choices.keep_upload(path)
    assert Path(choices.data_place(key)).read_bytes() == path.read_bytes()
    assert choices.keep_upload(path) == key and list(choices.uploads()) == [key]


@pytest.mark.parametrize("text", ["__import__('os').system('x')", "().__class__", "lambda: 1", "open('x')"])
def test_a_typed_value_is_never_run(text):
    assert fields.literal(text) == text or isinstance(fields.literal(text), list)


def test_markup_in_names_is_escaped():
    from workbench.apps import html

    evil = "<img src=x onerror=alert(1)>"
    for made in (html.note(evil), html.table((evil,), [(evil,)], label=evil), html.log(evil), html.facts({evil: evil})):
        assert "<img" not in made


@pytest.mark.parametrize(
    ("host", "name"), [("127.0.0.1:7860", "127.0.0.1"), ("[::1]:80", "::1"), ("LocalHost", "localhost")]
)
def test_host_names_are_read_without_port(host, name):
    assert web.hostname(host) == name
