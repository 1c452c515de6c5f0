"""The supervisor: what dies is restarted, what hangs is killed, nothing is left over."""

import asyncio
import os
import signal

import pytest

from shared.conformance.processes import is_alive, started, until
from tests.stack.processes import Notes
from workers.stack.spawn import ChildFailed
from workers.stack.supervisor import Supervisor

#: A supervisor of its own process: a gateway, two workers, a server.
SUPERVISED = """
import asyncio, sys
from pathlib import Path
from tests.stack.processes import Notes
from workers.stack.supervisor import Supervisor

mode = sys.argv[2]
notes = Notes(Path(sys.argv[1]))
supervisor = Supervisor(hang_after_s=1.0)

async def start():
    for name, stage in (("server", 0), ("worker-1", 2), ("worker-2", 2), ("gateway", 3)):
        await supervisor.start(notes.child(name, mode, stage=stage, stop_timeout_s=60))

asyncio.run(supervisor.supervise(start()))
"""
CHILDREN = 4


async def test_restarts_what_dies(notes: Notes) -> None:
    """A child that was killed is there again, as another process."""
    supervisor = Supervisor()
    await supervisor.start(notes.child("worker"))
    try:
        await until(lambda: notes.read("start"))
        first = supervisor.pid("worker")
        os.kill(first, signal.SIGKILL)
        await until(lambda: len(notes.read("start")) == 2)
        assert supervisor.pid("worker") != first
        assert supervisor.deaths == {"worker": 1}
    finally:
        await supervisor.stop()
    assert not any(is_alive(pid) for _, pid in notes.read("start"))


async def test_restarts_ever_more_slowly(notes: Notes) -> None:
    """A child that dies at once is not started in a tight loop."""
    supervisor = Supervisor()
    await supervisor.start(notes.child("worker", "die"))
    await asyncio.sleep(1.5)
    await supervisor.stop()
    assert 2 <= len(notes.read("start")) <= 5


async def test_kills_what_hangs(notes: Notes) -> None:
    """A loop that falls silent is killed, even one that ignores SIGTERM, and replaced."""
    supervisor = Supervisor(hang_after_s=0.6)
    await supervisor.start(notes.child("worker", "hang,stubborn"))
    try:
        await until(lambda: len(notes.read("start")) == 2)
        assert not is_alive(notes.read("start")[0][1])
    finally:
        supervisor.kill()
        await supervisor.stop()


async def test_kills_what_never_beats(notes: Notes) -> None:
    """A child that never gives a sign of life is not waited for for ever."""
    supervisor = Supervisor(hang_after_s=0.2, first_beat_s=1.0)
    await supervisor.start(notes.child("worker", "mute"))
    try:
        await until(lambda: len(notes.read("start")) == 2)
    finally:
        await supervisor.stop()


async def test_says_that_a_child_does_not_become_ready(notes: Notes) -> None:
    """A child that ends before it is ready is an error of `start`, and is not restarted."""

    async def never(_pid: int) -> None:
        await asyncio.sleep(600)

    supervisor = Supervisor()
    with pytest.raises(ChildFailed, match="server ended with status 3"):
        await supervisor.start(notes.child("server", "die", ready=never))
    with pytest.raises(ChildFailed, match=r"not ready after 0\.2 s"):
        await supervisor.start(notes.child("server", ready=never), timeout_s=0.2)
    await supervisor.stop()
    assert not any(is_alive(pid) for _, pid in notes.read("start"))


async def test_sigterm_stops_everything_in_order(notes: Notes) -> None:
    """Who receives goes first, the servers last."""
    with started("-c", SUPERVISED, str(notes.path), "stay") as process:
        await until(lambda: len(notes.read("start")) == CHILDREN)
        await asyncio.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    stopped = [name for name, _ in notes.read("stop")]
    assert stopped[0] == "gateway"
    assert stopped[-1] == "server"
    assert len(stopped) == CHILDREN
    assert not any(is_alive(pid) for _, pid in notes.read("start"))


async def test_a_second_signal_kills(notes: Notes) -> None:
    """Ctrl-C twice ends what does not want to end."""
    with started("-c", SUPERVISED, str(notes.path), "stubborn") as process:
        await until(lambda: len(notes.read("start")) == CHILDREN)
        await asyncio.sleep(0.5)
        process.send_signal(signal.SIGINT)
        await asyncio.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.wait(10)
    assert not any(is_alive(pid) for _, pid in notes.read("start"))


async def test_leaves_no_orphan_when_it_is_killed(notes: Notes) -> None:
    """SIGKILL of the supervisor reaches every child."""
    with started("-c", SUPERVISED, str(notes.path), "stay") as process:
        await until(lambda: len(notes.read("start")) == CHILDREN)
        await asyncio.sleep(0.5)
        process.kill()
        await until(lambda: not any(is_alive(pid) for _, pid in notes.read("start")))


async def test_a_terminals_ctrl_c_reaches_the_supervisor_alone(notes: Notes) -> None:
    """Children live in sessions of their own, so that they can be stopped in order."""
    with started("-c", SUPERVISED, str(notes.path), "stay"):
        await until(lambda: len(notes.read("start")) == CHILDREN)
        for _, pid in notes.read("start"):
            assert os.getsid(pid) == pid


async def test_its_own_pause_is_nobodys_hang(notes: Notes) -> None:
    """A supervisor that was stopped for longer than `hang_after_s` kills nobody for it."""
    with started("-c", SUPERVISED, str(notes.path), "stay") as process:
        await until(lambda: len(notes.read("start")) == CHILDREN)
        await asyncio.sleep(0.7)
        everybody = [process.pid, *(pid for _, pid in notes.read("start"))]
        for pid in everybody:
            os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(1.5)
        for pid in everybody:
            os.kill(pid, signal.SIGCONT)
        await asyncio.sleep(1.0)
        assert len(notes.read("start")) == CHILDREN


async def test_a_child_ends_when_nobody_listens(notes: Notes) -> None:
    """Without the kernel's help the broken heartbeat pipe ends our processes."""
    reading, writing = os.pipe()
    child = notes.child("worker", heartbeat=False, keep_fds=(writing,))
    argv = [*child.argv, "--heartbeat-fd", str(writing)]
    process = await asyncio.create_subprocess_exec(*argv, env=dict(child.env), pass_fds=(writing,))
    os.close(writing)
    await until(lambda: notes.read("start"))
    os.close(reading)
    assert await asyncio.wait_for(process.wait(), 10) == 0
    assert notes.read("alone")
