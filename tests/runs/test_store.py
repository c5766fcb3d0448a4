"""The store without workers: ids, settings, queue order, damaged folders, folders that cannot be written to."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from workbench.errors import UserError
from workbench.runs import RunStopped, Store
from workbench.runs.files import write_json
from workbench.runs.processes import OWNER, identity
from workbench.runs.run import KILLED


def test_a_run_is_a_folder_that_any_store_reads(store):
    run = store.submit("selftest", {"steps": 3, "nested": {"a": [1, None]}}, name="  my\n\x1b[31m run ", start=False)
    again = Store(store.root).get(run.id)
    assert again == run and again.job == "selftest" and again.status == "queued" and again.attempt == 0
    assert again.config == {"steps": 3, "nested": {"a": [1, None]}} and again.name == "my [31m run"
    assert again.metrics() == [] and again.progress is None and again.result() is None and again.log_tail() == ""
    assert json.loads((run.directory / "config.json").read_text()) == again.config
    assert abs(again.created - time.time()) < 30


def test_find_gives_the_newest_run_with_the_same_settings(store):
    runs = [store.submit("selftest", {"seed": n % 2}, start=False) for n in range(4)]
    assert store.find("selftest", {"seed": 0}) == runs[2]
    assert store.find("selftest", {"seed": 9}) is None and store.find("demo", {"seed": 0}) is None


def test_newest_first(store):
    ids = [store.submit("selftest", {}, start=False).id for _ in range(4)]
    assert [run.id for run in store.list()] == ids[::-1]


@pytest.mark.parametrize(
    "id", ["..", "../x", "/etc", "", "a/b", "20250611-143055-demo-a1b2/../..", "20250611-143055-demo-a1b2\n", None, "\0"]
)  # fmt: skip
def test_what_a_user_types_never_becomes_a_path(store, id, monkeypatch):
    store.submit("selftest", {}, start=False)
    for act in (store.get, store.stop, store.resume, store.delete, store.rerun, store.resume_here):
        with pytest.raises(UserError, match="is not a run id"):
            act(id)
    with pytest.raises(UserError, match="is not a run id"):
        store.reorder(id, 0)


def test_an_unknown_id_names_the_nearest(store):
    run = store.submit("selftest", {}, start=False)
    typo = run.id[:-1] + ("0" if run.id[-1] != "0" else "1")
    with pytest.raises(UserError, match=f"There is no run {typo} in .*; did you mean {run.id}"):
        store.get(typo)
    with pytest.raises(UserError, match="see: workbench runs"):
        store.get("19990101-000000-demo-ffff")


def test_links_and_foreign_folders_are_not_runs(store, tmp_path):
    run = store.submit("selftest", {}, start=False)
    outside = tmp_path / "outside"
    os.rename(run.directory, outside)
    os.symlink(outside, run.directory)
    (store.root / "my-model").mkdir()
    (store.root / "my-model" / "config.json").write_text("{}")
    assert store.list() == []
    with pytest.raises(UserError, match="There is no run"):
        store.delete(run.id)
    assert (outside / "config.json").exists()


def test_bad_submissions_are_refused_and_leave_nothing(store):
    for job, config, name, words in [
        ("selftst", {}, None, "no job called 'selftst'; did you mean selftest"),
        ("os:system", {}, None, "no job called"),
        ("selftest", {"f": print}, None, "setting 'f' cannot be stored"),
        ("selftest", {"x": float("nan")}, None, "setting 'x' cannot be stored"),
        ("selftest", [1], None, "not list"),
        ("selftest", {}, "n" * 81, "81 letters"),
    ]:
        for act in (store.submit, lambda *a, name: store.run_here(*a, name=name)):
            with pytest.raises(UserError, match=words):
                act(job, config, name=name)
    assert not store.root.exists() or os.listdir(store.root) == []


def test_paths_in_settings_are_stored_as_text(store, tmp_path):
    assert store.submit("selftest", {"data": tmp_path}, start=False).config == {"data": str(tmp_path)}


@pytest.fixture
def waiting(store):
    """Four runs that wait behind one that pretends to work in this process."""
    first = store.submit("selftest", {}, start=False)
    store._queue.begin(first)
    return first, [store.submit("selftest", {"seed": n}) for n in range(4)]


def test_first_come_first_served_until_reordered(store, waiting):
    first, (a, b, c, d) = waiting
    assert first.status == "running" and store.queue() == [a, b, c, d]
    store.reorder(d.id, 0)
    assert store.queue() == [d, a, b, c]
    store.reorder(a.id, 2)
    assert store.queue() == [d, b, a, c]
    store.reorder(d.id, 99)
    assert store.queue() == [b, a, c, d]
    late = store.submit("selftest", {})
    assert store.queue()[-1] == late and Store(store.root).queue() == store.queue()
    with pytest.raises(UserError, match="is running; only runs that wait"):
        store.reorder(first.id, 0)


def test_stopping_or_deleting_what_waits_takes_it_out_of_the_queue(store, waiting):
    _, (a, b, c, d) = waiting
    assert store.stop(b.id).status == "stopped"
    store.delete(c.id)
    assert store.queue() == [a, d] and not c.directory.exists() and not list(store.root.glob(".trash*"))
    store.resume(b.id)
    assert store.queue() == [a, d, b]
    with pytest.raises(UserError, match="has been deleted"):
        _ = c.status


def test_what_may_not_be_done_is_said(store, waiting):
    first, (a, *_) = waiting
    for act, words in [
        (lambda: store.delete(first.id), "is running; stop it first: workbench runs stop"),
        (lambda: store.resume(first.id), "is running; there is nothing to resume"),
        (lambda: store.resume(a.id), "is queued; there is nothing to resume"),
        (lambda: store.wait(a.id, timeout=0.1), "is still queued after 0 s"),
    ]:
        with pytest.raises(UserError, match=words):
            act()
    store._queue.finish(first, "done")
    with pytest.raises(UserError, match="is done already; there is nothing to stop"):
        store.stop(first.id)
    with pytest.raises(UserError, match="is done; submit its settings again"):
        store.resume(first.id)


def test_a_run_held_back_waits_for_resume(store):
    run = store.submit("selftest", {}, start=False)
    assert store.queue() == [] and store.list() == [run] and run.status == "queued"
    blocker = store.submit("selftest", {}, start=False)
    store._queue.begin(blocker)
    store.resume(run.id)
    assert store.queue() == [run]


def test_a_run_in_the_foreground_waits_its_turn_and_says_for_whom(store, waiting, until):
    first, others = waiting
    for run in others[1:]:
        store.delete(run.id)
    store.stop(others[0].id)
    said, results = [], []

    def work():
        results.append(store.run_here("selftest", {"steps": 5}, progress=lambda *report: said.append(report)))

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: said)
    assert said[0] == (0, 1, f"waits for {first.id}") and [run.status for run in store.queue()] == ["queued"]
    store._queue.finish(first, "done")
    thread.join(20)
    assert results[0]["step"] == 5 and said[-1][:2] == (5, 5)
    assert not hasattr(store.list()[0], "__dict__") and store.list()[0].status == "done"


def test_the_foreground_starts_the_worker_ahead_of_it_and_lets_it_finish(store, waiting, until):
    first, others = waiting
    for run in others[1:]:
        store.delete(run.id)
    ahead, said = others[0], []
    thread = threading.Thread(
        target=lambda: store.run_here("selftest", {"steps": 2}, progress=lambda *report: said.append(report[2]))
    )
    thread.start()
    until(lambda: said)
    assert said[0] == f"waits for {first.id} and 1 more"
    store._queue.finish(first, "done")  # only the waiting thread looks from here on
    thread.join(30)
    mine = next(run for run in store.list() if run not in (first, ahead))
    ended, begun = ahead.record()["history"][-1], mine.record()["history"][1]
    assert ended["status"] == "done" and begun["status"] == "running" and ended["time"] <= begun["time"]


def test_a_run_in_the_foreground_can_be_stopped_or_deleted_while_it_waits(store, waiting):
    for act, error, words in [(store.stop, RunStopped, "Stopped; "), (store.delete, UserError, "has been deleted")]:

        def meddle(done, total, text, act=act):
            act(store.list()[0].id)

        with pytest.raises(error, match=words):
            store.run_here("selftest", {"steps": 5}, progress=meddle)


def test_a_job_that_runs_another_inside_itself_does_not_wait_for_itself(store, monkeypatch):
    from workbench.runs import jobs

    def outer(context):
        return {"inner": Store(context.directory.parent).run_here("selftest", {"steps": 2})["step"]}

    real = jobs.load
    monkeypatch.setattr(jobs, "load", lambda job: outer if job == "reproduce" else real(job))
    assert store.run_here("reproduce", {}) == {"inner": 2}
    assert [run.status for run in store.list()] == ["done", "done"]


def test_a_job_that_raises_is_failed_with_its_sentence_and_trace(store, monkeypatch):
    from workbench.runs import jobs

    def broken(context):
        context.log_metrics(step=1)
        raise ZeroDivisionError("no data\nmore")

    monkeypatch.setattr(jobs, "load", lambda job: broken)
    with pytest.raises(ZeroDivisionError):
        store.run_here("selftest", {})
    run = store.list()[0]
    assert run.status == "failed" and run.error == "ZeroDivisionError: no data (the whole trace is in log.txt)."
    assert "raise ZeroDivisionError" in run.log_tail() and run.result() is None
    monkeypatch.undo()
    assert store.resume_here(run.id)["step"] == 300
    assert run.status == "done" and run.attempt == 2 and run.error is None and run.environment()["attempt"] == 2


def test_a_signal_stops_a_job_even_when_the_request_cannot_be_written(store, monkeypatch):
    from workbench.runs import execute, jobs

    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    def job(context):
        os.kill(os.getpid(), signal.SIGTERM)
        return {"told": context.should_stop()}

    monkeypatch.setattr(execute, "request_stop", full)
    monkeypatch.setattr(jobs, "load", lambda name: job)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RunStopped) as caught:
        store.run_here("selftest", {})
    assert caught.value.result == {"told": True} and caught.value.run.status == "stopped"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_worker_started_by_hand_does_not_jump_the_queue(store, waiting):
    first, (a, *_) = waiting
    with pytest.raises(UserError, match=f"{first.id} works; {a.id} waits and starts by itself"):
        store._queue.claim(a.id)
    assert a.status == "queued" and a.attempt == 0


def test_a_dead_owner_reads_as_interrupted_and_is_written_down_at_the_next_look(store):
    run = store.submit("selftest", {}, start=False)
    store._queue.begin(run)
    write_json(run.directory / OWNER, {**identity(), "started": 1.0})
    assert run.status == "interrupted" and run.stored()["status"] == "running" and run.error == KILLED
    store.settle()
    assert run.stored()["status"] == "interrupted" and run.stored()["history"][-1]["status"] == "interrupted"


def test_a_run_that_ends_between_two_looks_is_not_called_interrupted(store, monkeypatch):
    run = store.submit("selftest", {}, start=False)
    store._queue.begin(run)

    def ends_just_now(directory):
        monkeypatch.undo()
        store._queue.finish(run, "done")
        return False

    monkeypatch.setattr("workbench.runs.run.alive", ends_just_now)
    assert run.status == "done"


@pytest.mark.parametrize("content", ["", '{"status": "runn', '{"status": "odd"}', "[]"])
def test_a_damaged_status_file_loses_nothing(store, content):
    store.run_here("selftest", {"steps": 30})
    run = store.list()[0]
    weights = (run.directory / "checkpoints" / "last.safetensors").read_bytes()
    (run.directory / "status.json").write_text(content)
    assert run.status == "interrupted" and "cannot be read" in run.error and run.job == "selftest"
    assert abs(run.created - time.time()) < 60
    assert store.list() == [run] and run.stored()["status"] == "interrupted"
    assert store.resume_here(run.id)["step"] == 30
    assert (run.directory / "checkpoints" / "last.safetensors").read_bytes() == weights and run.attempt == 2


def test_damaged_settings_are_refused_on_resume(store):
    run = store.submit("selftest", {}, start=False)
    store.stop(run.id)
    (run.directory / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot be read, so .* cannot go on"):
        store.resume(run.id)
    assert run.config == {} and store.list() == [run]


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_file_where_the_folder_should_be(tmp_path, below):
    (tmp_path / "runs").write_text("in the way")
    store = Store(tmp_path / "runs" / below)
    for act in (store.submit, store.run_here):
        with pytest.raises(UserError, match=r"Cannot write to the run folder .*; set WORKBENCH_RUNS to a folder"):
            act("selftest", {})
    assert os.listdir(tmp_path) == ["runs"]


def test_a_folder_that_cannot_be_written_to_can_still_be_looked_at(store):
    run = store.submit("selftest", {}, start=False)
    store._queue.begin(run)
    write_json(run.directory / OWNER, {**identity(), "started": 1.0})
    (store.root / ".lock").unlink()
    (store.root / ".lock").mkdir()  # as good as read-only, also for root
    assert [found.status for found in store.list()] == ["interrupted"]
    assert store.trouble.startswith("Cannot write to the run folder")
    with pytest.raises(UserError, match="Cannot write to the run folder"):
        store.submit("selftest", {})
    assert store.list() == [run] and not list(store.root.glob(".new*"))
    (store.root / ".lock").rmdir()
    store.settle()
    assert store.trouble is None


def test_a_file_size_limit_is_one_sentence_and_leaves_nothing(tmp_path):
    code = (
        "import resource, sys; from workbench.runs import Store; from workbench.errors import UserError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))\n"
        "try: Store(sys.argv[1]).submit('selftest', {'note': 'x' * 100})\n"
        "except UserError as error: print(error)"
    )
    answer = subprocess.run([sys.executable, "-c", code, tmp_path / "runs"], capture_output=True, text=True, check=True)
    assert answer.stdout.startswith(f"The disk that holds {tmp_path / 'runs'} is full; free some space")
    assert (
        answer.stderr == ""
        and not list((tmp_path / "runs").glob("[!.]*"))
        and not list((tmp_path / "runs").glob(".new*"))
    )


def test_the_stamp_changes_with_anything_a_reader_shows(store):
    run = store.submit("selftest", {}, start=False)
    seen = [run.stamp()]
    assert run.stamp() == seen[0]
    for name, text in (("metrics.jsonl", "{}\n"), ("log.txt", "a\n"), ("progress.json", "{}")):
        (run.directory / name).write_text(text)
        seen.append(run.stamp())
    store.stop(run.id)
    seen.append(run.stamp())
    assert len(set(seen)) == 5


def test_leftovers_of_a_crash_are_swept_and_fresh_ones_left(store):
    run = store.submit("selftest", {}, start=False)
    for name, age in ((".trash-old", 7200), (".new-old", 7200), (".new-fresh", 0)):
        (store.root / name).mkdir()
        os.utime(store.root / name, (time.time() - age,) * 2)
    store.delete(run.id)
    assert sorted(os.listdir(store.root)) == [".lock", ".new-fresh"]
