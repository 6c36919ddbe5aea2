"""What an executor is: every executor passes these tests against the real thing.

A test module subclasses ExecutorContract and gives the fixtures `executor` and `make_job`.
`make_job(source, **changes)` returns a Job whose snapshot holds `script.py` with that source.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable

from aml_jupyter.job import Alive, Exit, Gone, Job

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aml_jupyter.executors import Executor
    from aml_jupyter.job import Handle

MakeJob = Callable[..., Job]


def wait_for_end(executor: Executor, handle: Handle, seconds: float = 60.0) -> None:
    """Poll until the job is gone.  Raises TimeoutError."""
    due = time.monotonic() + seconds
    while not isinstance(executor.poll(handle, 0.5), Gone):
        if time.monotonic() > due:
            raise TimeoutError(f"{handle} is still there after {seconds} s")


def read_all(executor: Executor, handle: Handle, name: str) -> bytes:
    """A whole file of `job/`, a block at a time."""
    whole = b""
    while part := executor.read(handle, name, len(whole)):
        whole += part
    return whole


def read_exit(executor: Executor, handle: Handle) -> Exit:
    """The ending that the runtime wrote."""
    return Exit.from_json(json.loads(read_all(executor, handle, "exit.json")))


class ExecutorContract:
    """Tests every executor passes."""

    def run(self, executor: Executor, job: Job) -> tuple[Handle, Exit]:
        """Prepare, start and wait for a job."""
        executor.prepare(job, print)
        handle = executor.start(job, {})
        wait_for_end(executor, handle)
        return handle, read_exit(executor, handle)

    def test_the_exit_code_of_the_script_is_reported(self, executor: Executor, make_job: MakeJob) -> None:
        _, ending = self.run(executor, make_job("import sys; sys.exit(7)"))
        assert (ending.exit_code, ending.signal) == (7, None)

    def test_the_script_starts_in_the_copy_with_its_variables(
        self, executor: Executor, make_job: MakeJob
    ) -> None:
        source = (
            "import os; e = os.environ;"
            " print(os.path.exists('script.py'), e['GREETING'], e['AZUREML_RUN_ID'])"
        )
        job = make_job(source, environment={"GREETING": "hello"})
        handle, _ = self.run(executor, job)
        assert read_all(executor, handle, "log").split() == [b"True", b"hello", job.run_id.encode()]

    def test_outputs_are_collected_with_odd_names(self, executor: Executor, make_job: MakeJob) -> None:
        job = make_job("open('outputs/ä b.txt', 'w').write('kept')")
        handle, _ = self.run(executor, job)
        executor.collect(handle, job.work)
        with open(job.work + "/outputs/ä b.txt", encoding="ascii") as file:
            assert file.read() == "kept"

    def test_a_run_without_outputs_has_an_empty_folder(self, executor: Executor, make_job: MakeJob) -> None:
        job = make_job("")
        handle, _ = self.run(executor, job)
        executor.collect(handle, job.work)
        assert os.listdir(job.work + "/outputs") == []

    def test_another_process_can_take_over_from_json(self, executor: Executor, make_job: MakeJob) -> None:
        job = make_job("import time; time.sleep(0.5)")
        executor.prepare(job, print)
        handle = json.loads(json.dumps(executor.start(job, {})))
        assert isinstance(executor.poll(handle), Alive)
        wait_for_end(executor, handle)
        assert read_exit(executor, handle).exit_code == 0

    def test_a_second_start_changes_nothing(self, executor: Executor, make_job: MakeJob) -> None:
        job = make_job("import time; print('started', flush=True); time.sleep(0.5)")
        executor.prepare(job, print)
        executor.start(job, {})
        handle = executor.start(job, {})
        wait_for_end(executor, handle)
        assert read_all(executor, handle, "log") == b"started\n"

    def test_a_started_job_is_found_again(self, executor: Executor, make_job: MakeJob) -> None:
        job = make_job("import time; time.sleep(0.5)")
        executor.prepare(job, print)
        assert executor.find(job) is None
        wait_for_end(executor, executor.start(job, {}))
        found = executor.find(job)
        assert found is not None
        assert read_exit(executor, found).exit_code == 0

    def test_cancel_ends_it_and_may_be_repeated(self, executor: Executor, make_job: MakeJob) -> None:
        job = make_job("import time; print('up', flush=True); time.sleep(60)")
        executor.prepare(job, print)
        handle = executor.start(job, {})
        _wait_for_log(executor, handle, b"up")
        executor.cancel(handle)
        wait_for_end(executor, handle, 15)
        executor.cancel(handle)
        assert read_exit(executor, handle).cancel == "terminate"

    def test_kill_ends_a_script_that_does_not_listen(self, executor: Executor, make_job: MakeJob) -> None:
        source = (
            "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
        )
        job = make_job(source)
        executor.prepare(job, print)
        handle = executor.start(job, {})
        _wait_for_log(executor, handle, b"up")
        executor.cancel(handle)
        executor.cancel(handle, kill=True)
        wait_for_end(executor, handle, 5)
        assert read_exit(executor, handle).signal == 9

    def test_the_log_is_readable_from_any_position(self, executor: Executor, make_job: MakeJob) -> None:
        handle, _ = self.run(executor, make_job("print('aé' * 1000)"))
        whole = read_all(executor, handle, "log")
        assert executor.read(handle, "log", 2) == whole[2:]
        assert executor.read(handle, "log", len(whole)) == b""

    def test_secrets_reach_the_script_and_no_file(self, executor: Executor, make_job: MakeJob) -> None:
        job = make_job("import os; print(len(os.environ['TOKEN']))")
        executor.prepare(job, print)
        handle = executor.start(job, {"TOKEN": "correct horse"})
        wait_for_end(executor, handle)
        assert read_all(executor, handle, "log") == b"13\n"
        for folder, _, names in os.walk(job.job):
            for name in names:
                path = os.path.join(folder, name)
                if os.path.isfile(path):
                    with open(path, "rb") as file:
                        assert b"correct horse" not in file.read()

    def test_what_the_job_writes_is_brought_here(self, executor: Executor, make_job: MakeJob) -> None:
        job = make_job("print('brought')")
        handle, _ = self.run(executor, job)
        executor.mirror(handle, job.job)
        executor.mirror(handle, job.job)
        with open(job.job + "/log", encoding="ascii") as file:
            assert file.read() == "brought\n"
        assert sorted(os.listdir(job.job)).count("exit.json") == 1

    def test_what_was_discarded_may_be_discarded_again(self, executor: Executor, make_job: MakeJob) -> None:
        job = make_job("open('outputs/a', 'w').close()")
        handle, _ = self.run(executor, job)
        executor.collect(handle, job.work)
        executor.discard(handle)
        executor.discard(handle)
        assert os.listdir(job.work + "/outputs") == ["a"]

    def test_a_start_that_fails_leaves_nothing_behind(self, executor: Executor, make_job: MakeJob) -> None:
        job = make_job("", command=("/no/such/interpreter", "script.py"))
        executor.prepare(job, print)
        handle = executor.start(job, {})
        wait_for_end(executor, handle, 10)
        assert read_exit(executor, handle).exit_code == 127


def _wait_for_log(executor: Executor, handle: Handle, text: bytes) -> None:
    due = time.monotonic() + 20
    while text not in executor.read(handle, "log", 0):
        if time.monotonic() > due:
            raise TimeoutError(f"{text!r} did not appear in the log")
        time.sleep(0.01)
