"""Real detached workers: kill, stop, resume, races, full disks."""

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from workbench.errors import UserError
from workbench.runs import Store
from workbench.runs.files import read_json
from workbench.runs.processes import OWNER

LONG = 1_000_000


def process_of(run):
    return read_json(run.directory / OWNER)["pid"]


def weights(run):
    return (run.directory / "checkpoints" / "last.safetensors").read_bytes()


def python(code, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def test_killed_then_resumed_ends_with_the_same_weights_to_the_last_bit(store, until, steps_done):
    config = {"steps": 6000, "log_every": 7, "save_every": 40, "seed": 5}  # not done before it is killed
    run = store.submit("selftest", config)
    worker = process_of(run)
    assert os.getsid(worker) == worker != os.getsid(0)
    steps_done(run, 150)
    os.kill(worker, signal.SIGKILL)
    until(lambda: run.status == "interrupted")
    seen = run.metrics()
    assert "killed" in run.error and run.result() is None and len(seen) > 10
    assert store.resume(run.id) == run and store.wait(run.id, 60).status == "done"

    store.run_here("selftest", config)
    whole = store.list()[0]
    assert weights(run) == weights(whole) and run.result()["accuracy"] == whole.result()["accuracy"]
    rows = run.metrics()
    assert [(row["step"], row["loss"]) for row in rows] == [(row["step"], row["loss"]) for row in whole.metrics()]
    assert {row["attempt"] for row in rows} == {1, 2} and run.attempt == 2
    history = [event["status"] for event in run.record()["history"]]
    assert history == ["queued", "running", "interrupted", "queued", "running", "done"]
    assert not (run.directory / ".reserve").exists()


@pytest.mark.parametrize("how", ["request", "SIGTERM", "SIGINT"])
def test_stop_keeps_the_last_step_and_resume_goes_on(store, steps_done, how):
    run = store.submit("selftest", {"steps": LONG, "save_every": LONG})
    steps_done(run, 20)
    if how == "request":
        assert store.stop(run.id).status in ("stopping", "stopped")
    else:
        os.kill(process_of(run), getattr(signal, how))
    assert store.wait(run.id, 20).status == "stopped"
    from safetensors.numpy import load_file

    result = run.result()
    assert 20 <= result["step"] < LONG and load_file(result["path"])["step"][0] == result["step"]
    assert ("stopped by a stop request" if how == "request" else f"stopped by {how}") in run.log_tail()
    if how == "request":
        store.resume(run.id)
        steps_done(run, result["step"] + 20)
        assert run.status == "running"
        store.stop(run.id)
        assert store.wait(run.id, 20).result()["step"] > result["step"]


def test_two_processes_submit_six_runs_and_each_runs_once_and_alone(tmp_path, until):
    code = """
        import sys, time
        from workbench.runs import Store
        store = Store(sys.argv[1])
        mine = [store.submit("selftest", {"steps": 20, "seed": n}) for n in range(3)]
        for run in mine:
            assert store.wait(run.id, 60).status == "done", run.log_tail()
    """
    racers = [python(code, tmp_path / "runs") for _ in range(2)]
    for racer in racers:
        said, _ = racer.communicate(timeout=90)
        assert racer.returncode == 0, said
    runs = Store(tmp_path / "runs").list()
    spans = []
    for run in runs:
        history = run.record()["history"]
        assert [event["status"] for event in history] == ["queued", "running", "done"]
        assert run.log_tail(1000).count("begins") == 1 and run.attempt == 1 and len(run.metrics()) == 2
        spans.append((history[1]["time"], history[2]["time"], history[0]["time"]))
    spans.sort()
    assert len(spans) == 6 and len({run.record()["history"][2]["process"] for run in runs}) == 6
    assert all(left[1] <= right[0] for left, right in itertools.pairwise(spans)), spans


def test_the_queue_runs_in_the_order_given_and_past_a_killed_worker(store, steps_done, until):
    first = store.submit("selftest", {"steps": LONG})
    a, b = (store.submit("selftest", {"steps": 10, "seed": n}) for n in range(2))
    store.reorder(b.id, 0)
    steps_done(first, 1)
    with pytest.raises(UserError, match="is running; stop it first"):
        store.delete(first.id)
    refused = subprocess.run(
        [sys.executable, "-m", "workbench.runs.worker", first.directory], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2 and f"already has a worker (process {process_of(first)}); a second" in refused.stderr
    assert first.status == "running" and first.attempt == 1
    os.kill(process_of(first), signal.SIGKILL)
    assert store.wait(a.id, 30).status == "done" and first.status == "interrupted"
    started = {run: run.record()["history"][1]["time"] for run in (a, b)}
    assert started[b] < started[a] and b.status == "done"
    store.delete(first.id)
    assert not first.directory.exists() and store.list() == [b, a]


def test_a_worker_started_by_hand_needs_a_run_that_waits(store, tmp_path):
    run = store.submit("selftest", {"steps": 5}, start=False)
    store.stop(run.id)
    for arguments, words in [
        ([run.directory], "is stopped; put it in the queue with: workbench runs resume"),
        ([tmp_path], "is not a run id"),
        ([], "takes one run folder"),
    ]:
        answer = subprocess.run(
            [sys.executable, "-m", "workbench.runs.worker", *arguments], capture_output=True, text=True, check=False
        )
        assert answer.returncode == 2 and words in answer.stderr and "Traceback" not in answer.stderr


def test_a_failed_job_is_one_sentence_and_the_next_run_starts(store):
    bad, good = (store.submit("selftest", {"steps": n}) for n in (-1, 5))
    assert store.wait(good.id, 30).status == "done"
    assert bad.status == "failed" and bad.error == "steps is -1; it takes a whole number from 1 up."
    assert "Traceback" not in bad.log_tail()


def test_a_frozen_worker_is_killed_after_twice_the_grace(store, steps_done, until):
    run = store.submit("selftest", {"steps": LONG})
    steps_done(run, 1)
    os.kill(process_of(run), signal.SIGSTOP)
    store.stop(run.id, grace=0.3)
    until(lambda: store.get(run.id).status == "interrupted", 10)


# A worker whose job does not poll: the closed list of jobs is changed inside this test process only.
DEAF = """
    import sys, time, workbench.runs.execute as execute
    from workbench.runs import jobs, worker
    execute.SIGN_EVERY = 0.05
    def deaf(context):
        context.progress(1, 2, "deaf")
        while True:
            try:
                time.sleep(0.02)
            except KeyboardInterrupt:
                if sys.argv[2] == "polite":
                    raise
    jobs.load = lambda job: deaf
    sys.exit(worker.main(sys.argv[1:2]))
"""


@pytest.mark.parametrize(("manners", "code"), [("polite", 130), ("stubborn", -signal.SIGKILL)])
def test_a_job_that_never_asks_is_pressed_by_its_own_worker(store, steps_done, manners, code):
    run = store.submit("selftest", {}, start=False)
    with store._queue.writing():
        store._queue.set(run, "queued", held=False)
    worker = python(DEAF, run.directory, manners, start_new_session=True)
    steps_done(run, 1)
    store.stop(run.id, grace=0.3)  # nobody looks from here on
    assert worker.wait(10) == code
    worker.stdout.close()
    assert run.status == "interrupted"


# A job in the foreground whose step takes long.
SLOW = """
    import sys, time
    from workbench.runs import Store, jobs
    def slow(context):
        context.progress(1, 2, "slow")
        while not context.should_stop():
            time.sleep(float(sys.argv[2]))
        return {"kept": True}
    jobs.load = lambda job: slow
    print(Store(sys.argv[1]).run_here("selftest", {}))
"""


def foreground(store, until, seconds):
    process = python(SLOW, store.root, seconds)
    until(lambda: store.list() and (store.list()[0].progress or {}).get("done") == 1)
    return process, store.list()[0]


def test_ctrl_c_once_in_the_foreground_keeps_the_step(store, until):
    process, run = foreground(store, until, 0.05)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=10)
    assert "Ctrl-C again leaves at once" in said and f"Continue with: workbench runs resume {run.id}" in said
    assert run.status == "stopped" and run.result() == {"kept": True}


def test_ctrl_c_twice_in_the_foreground_leaves_at_once(store, until):
    process, run = foreground(store, until, 60)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    until(lambda: run.status == "stopping")
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=10)
    assert time.monotonic() - begun < 5 and "KeyboardInterrupt" in said
    assert run.stored()["status"] == "interrupted"


def test_a_foreground_process_that_is_killed_leaves_an_interrupted_run(store, until):
    process, run = foreground(store, until, 60)
    process.kill()
    process.communicate()
    assert run.status == "interrupted" and store.resume(run.id)
    store.stop(run.id)


def test_a_size_limit_in_the_middle_of_a_job_is_one_sentence(store):
    code = """
        import resource, sys
        from workbench.errors import JobError
        from workbench.runs import Store
        resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, 70_000))
        try:
            Store(sys.argv[1]).run_here("selftest", {"steps": 1500, "log_every": 1})
        except JobError as error:
            print(error)
    """
    said, _ = python(code, store.root).communicate(timeout=60)
    run = store.list()[0]
    assert said.startswith(f"The disk that holds {store.root} is full (or a size limit is reached); free some space")
    assert said.count("\n") == 1 and run.status == "failed" and run.error == said.strip()
    assert store.resume_here(run.id)["step"] == 1500 and [row["step"] for row in run.metrics()] == list(range(1, 1501))


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs more rights than this user has")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_the_last_status_fits_on_a_disk_without_a_byte_left(small_disk):
    store = Store(small_disk / "runs")
    run = store.submit("selftest", {}, start=False)
    store._queue.begin(run)
    with open(small_disk / "filler", "wb", buffering=0) as filler, pytest.raises(OSError, match="No space left"):
        filler.writelines(b"x" * 4096 for _ in range(100))
    store._queue.finish(run, "failed", error="full")
    assert run.stored()["status"] == "failed" and run.error == "full"
    with pytest.raises(UserError, match=r"The disk that holds .* is full; free some space"):
        store.submit("selftest", {})
    assert store.list() == [run]


def test_a_full_disk_is_recorded_in_the_space_kept_for_it(small_disk):
    store = Store(small_disk / "runs")
    run = store.submit("selftest", {"steps": 2500, "log_every": 1})
    assert store.wait(run.id, 30).status == "failed"
    assert f"The disk that holds {store.root} is full" in run.error
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    store.resume(run.id)
    assert store.wait(run.id, 60).status == "done"
    assert [row["step"] for row in run.metrics()] == list(range(1, 2501))
