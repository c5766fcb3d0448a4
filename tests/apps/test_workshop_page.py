"""The page Workshop: names with folders and quotas, a board made of runs, and a recorded run played at any speed."""

from __future__ import annotations

import ast
import json
import os
import zipfile

import pytest

from workbench.commands.rooms import apps_main
from workbench.errors import UserError

apps_main()
from workbench.apps import drawing, fields, live, people, recordings  # noqa: E402
from workbench.apps.pages import workshop  # noqa: E402
from workbench.runs import Store  # noqa: E402
from workbench.runs.files import write_json  # noqa: E402

TINY = {"steps": 20, "log_every": 10}  # of the self-test, a real training in well under a second


@pytest.fixture
def room(tmp_path, monkeypatch):
    """An empty folder of runs."""
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "files"))
    for name in ("WORKBENCH_QUOTA_MB", "WORKBENCH_QUOTA_RUNS"):
        monkeypatch.delenv(name, raising=False)
    live.forget()
    yield Store()
    live.forget()


def run_as(store, name, losses=None, status=None):
    """A run of the self-test; with `losses`, as a fine-tuning that logged them."""
    job = "finetune" if losses else "selftest"
    run = store.submit(job, TINY if not losses else {"model": "tiny-lm", "method": "lora"}, name=name, start=False)
    if losses:
        rows = [json.dumps({"step": i, "eval_loss": loss, "time": 1.0, "attempt": 1}) for i, loss in enumerate(losses)]
        (run.directory / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    if status:
        write_json(run.directory / "status.json", {**run.stored(), "status": status, "held": False})
        write_json(run.directory / "result.json", {"metrics": {}})
    live.forget()
    return run


@pytest.mark.parametrize(("name", "key"), [("Ada", "ada"), ("  Ada \n L. ", "ada-l"), ("Zoë", "zoe"), ("../../etc", "etc"),
                                           ("李", "e69d8e")])  # fmt: skip
def test_a_name_becomes_a_folder_beside_the_runs(room, name, key):
    person = people.join(name)
    assert person.key == key and person.folder.parent == people.root() and person.folder.is_dir()
    assert people.join(name.upper() if name.isascii() else name) == person  # the same name, the same folder
    assert people.everybody() == [person] and people.find(key) == person
    assert Store().list() == []  # no person is taken for a run


@pytest.mark.parametrize(
    ("name", "words"), [("", "empty"), (None, "empty"), (" … ", "empty"), ("a" * 41, "41 letters")]
)
def test_a_name_that_cannot_be_is_refused(room, name, words):
    with pytest.raises(UserError, match=words):
        people.join(name)
    assert words in workshop.come_in(name)[1] and people.everybody() == []


def test_runs_belong_to_whose_name_they_begin_with(room):
    ada, bob = people.join("Ada L"), people.join("Bob")
    runs = [run_as(room, "Ada L: first"), run_as(room, "ada l: second"), run_as(room, "Bob: x"), run_as(room, "Ada")]
    assert people.runs_of(ada, runs) == runs[:2] and people.runs_of(bob, runs) == runs[2:3]
    assert people.title(ada, "lora") == "Ada L: lora" and len(people.title(ada, "x" * 200)) == 80


def test_the_board_puts_the_lowest_held_out_loss_first(room):
    for name in ("Ada", "Bob", "Cy"):
        people.join(name)
    run_as(room, "Bob: big steps", [5.0, 4.6], "done")
    run_as(room, "Ada: small steps", [5.0, 4.9, 4.95], "done")
    run_as(room, "Ada: again", [5.0], "failed")
    rows = {row["person"].name: row for row in people.board(workshop.everyone())}
    assert (rows["Ada"]["loss"], rows["Bob"]["loss"], rows["Cy"]["loss"]) == (4.9, 4.6, None)
    assert rows["Ada"]["states"] == {"done": 1, "failed": 1} and rows["Bob"]["bytes"] > 0
    board, best = workshop.draw_board(list(rows.values()))
    assert board.index("Bob") < board.index("Ada") < board.index("Cy") and "big steps" in board
    assert "no interval" in board
    named = {trace.get("name") for trace in json.loads(best)["data"]}
    assert any("Bob: big steps" in str(name) for name in named)


def test_a_quota_stops_the_next_run_and_says_how_much(room, monkeypatch):
    ada = people.join("Ada")
    monkeypatch.setenv("WORKBENCH_QUOTA_RUNS", "1")
    people.check_quota(ada, [])
    runs = [run_as(room, "Ada: waits")]
    with pytest.raises(UserError, match="1 runs that wait or work, and 1 may"):
        people.check_quota(ada, runs)
    said, _ = workshop.begin("ada", "lora", fields.payload(workshop.EXERCISE))
    assert "wb-bad" in said and len(room.list()) == 1
    monkeypatch.setenv("WORKBENCH_QUOTA_RUNS", "5")
    monkeypatch.setenv("WORKBENCH_QUOTA_MB", "1")
    (runs[0].directory / "weights").write_bytes(b"\0" * 1_000_001)
    with pytest.raises(UserError, match="take 1 MB, and 1 are allowed"):
        people.check_quota(ada, runs)
    assert "1.00\u2009MB of 1.00\u2009MB" in workshop.mine_of(ada)
    monkeypatch.setenv("WORKBENCH_QUOTA_MB", "much")
    with pytest.raises(UserError, match="WORKBENCH_QUOTA_MB"):
        people.quota()


def test_an_exercise_needs_a_name_and_counts_as_theirs(room, monkeypatch):
    form = fields.payload(workshop.EXERCISE)
    assert "Enter the room" in workshop.begin("", "lora", form)[0]
    people.join("Ada")
    bad, marked = workshop.begin("ada", "lora", fields.payload(workshop.EXERCISE, {"steps": "many"}))
    assert "whole number" in bad and {f["name"]: f["error"] for f in json.loads(marked)}["steps"]
    asked = {}

    def put(job, config, name):
        asked.update(config, job=job, name=name)
        return run_as(room, name)

    monkeypatch.setattr(workshop.submit, "submit", put)
    said, _ = workshop.begin("ada", "lora", form)
    assert asked["name"] == "Ada: lora, rate 0.003" and asked["model"] == "tiny-lm" and "is queued" in said
    assert people.runs_of(people.find("ada"), workshop.everyone())


def test_a_person_takes_home_what_runs_said_without_weights(room):
    ada = people.join("Ada")
    assert people.take_home(ada, workshop.everyone()) is None
    run = run_as(room, "Ada: mine", [5.0, 4.5], "done")
    (run.directory / "tuned").mkdir()
    (run.directory / "tuned" / "model.safetensors").write_bytes(b"0" * 100)
    run_as(room, "Bob: other", [4.0], "done")
    packed = people.take_home(ada, workshop.everyone())
    assert packed.is_relative_to(os.environ["GRADIO_TEMP_DIR"])
    assert sorted(zipfile.ZipFile(packed).namelist()) == [
        f"{run.id}/{n}" for n in ("config.json", "metrics.jsonl", "result.json")
    ]
    board, _, mine, take = workshop.show_room("ada")
    assert take["visible"] and take["value"] == str(packed) and "Ada" in board and "Waiting or working" in mine
    assert not workshop.show_room("")[3]["visible"]


# ---- the replay


def first() -> str:
    found = recordings.known()
    assert found, "no recording ships"
    return found[0][1]


def test_the_shipped_recording_is_a_real_run_and_small():
    path = recordings.folder() / f"{first()}.json"
    whole = recordings.load(first())
    assert path.stat().st_size < recordings.LARGEST
    assert whole["config"] == recordings.SETTINGS and whole["made"]["machine"] and whole["loading"] > 0
    losses = [row for row in whole["rows"] if "loss" in row]
    held = [row["eval_loss"] for row in whole["rows"] if "eval_loss" in row]
    assert [row["step"] for row in losses] == list(range(1, whole["config"]["steps"] + 1))
    assert held[-1] < held[0] and whole["result"]["eval_loss"] == pytest.approx(held[-1], abs=1e-3)


def test_the_replay_runs_at_any_speed_and_never_ahead():
    whole = recordings.load(first())
    state = {"key": first(), "playing": True, "offset": 0.0, "since": 100.0, "speed": 10.0}
    assert workshop.position(state, 100.0) == 0.0 and workshop.position(state, 102.0) == 20.0
    assert workshop.position({**state, "speed": 0.5}, 102.0) == 1.0
    assert workshop.position(state, 1e6) == whole["seconds"]
    assert workshop.position({**state, "playing": False, "offset": 7.0}, 1e6) == 7.0
    seen = recordings.until(whole, 20.0)
    assert 0 < len(seen) < len(whole["rows"]) and all(row["at"] <= 20.0 for row in seen)
    assert recordings.until(whole, whole["seconds"]) == whole["rows"]


def test_pause_speed_and_restart_keep_the_place(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(workshop.time, "monotonic", lambda: clock[0])
    state = workshop.playing(workshop.stopped(first()), first(), 10)
    clock[0] = 101.0
    state = workshop.faster(state, 2)
    assert workshop.position(state) == 10.0
    clock[0] = 102.0
    state = workshop.paused(state)
    clock[0] = 200.0
    assert workshop.position(state) == 12.0
    state = workshop.playing(state, first(), 1000)
    clock[0] = 300.0
    assert workshop.position(state) == recordings.load(first())["seconds"]
    assert workshop.playing(state, first(), 1)["offset"] == 0.0  # at its end it begins anew
    for speed in (None, 0, 5000):
        with pytest.raises(UserError, match="The speed is"):
            workshop.playing(state, first(), speed)


def test_a_frame_shows_what_had_been_logged_and_its_cell_redraws_it():
    state = {**workshop.stopped(first()), "offset": 20.0}
    drawn, told = workshop.show_film(state)
    figure = json.loads(drawn)
    tree = ast.parse(figure["cell"])
    last, scope = ast.Expression(tree.body.pop().value), {}
    exec(compile(tree, "cell", "exec"), scope)
    again = eval(compile(last, "cell", "eval"), scope)
    assert json.loads(drawing.payload(again, name="x"))["data"] == figure["data"]
    assert figure["csv"].count("\n") == len(recordings.until(recordings.load(first()), 20.0)) + 1
    assert "20 s of" in told and workshop.stamp_film(state) != workshop.stamp_film(workshop.stopped(first()))
    assert json.loads(workshop.show_film(workshop.stopped(first()))[0])["csv"] == ""


def test_a_finished_run_can_be_recorded_and_others_cannot(room, tmp_path, monkeypatch):
    run = run_as(room, "Ada: x", [5.0, 4.5])
    with pytest.raises(UserError, match="only a finished run"):
        recordings.record(run)
    record = {**run.stored(), "status": "done"}
    record["history"].append({"status": "running", "time": 0.5, "process": 1})
    record["history"].append({"status": "done", "time": 2.0, "process": 1})
    write_json(run.directory / "status.json", record)
    found = recordings.record(run)
    assert found["loading"] == 0.5 and [row["at"] for row in found["rows"]] == [0.0, 0.0]
    monkeypatch.setattr(recordings, "LARGEST", 10)
    with pytest.raises(UserError, match="a recording takes 10"):
        recordings.record(run)
    monkeypatch.setattr(recordings, "folder", lambda: tmp_path)
    (tmp_path / "bad.json").write_text('{"rows": [{"at": 2}, {"at": 1}]}')
    with pytest.raises(UserError, match="order of time"):
        recordings.load("bad")
    with pytest.raises(UserError, match="recording"):
        recordings.load("../secret")


def test_the_room_in_a_browser(page, server):
    page.goto(f"{server.url}/workshop")
    page.get_by_label("Name").first.fill("Grace")
    page.get_by_role("button", name="Enter the room").click()
    page.locator("[aria-label='The board']").wait_for()
    assert "Grace" in page.locator("[aria-label='The board']").inner_text()
    page.get_by_label("Speed (times)").fill("1000")
    page.get_by_role("button", name="Play", exact=True).click()
    page.get_by_text("step 240 of 240").wait_for()
    assert "who=grace" in page.url
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.problems == []
