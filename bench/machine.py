"""Processes, and what they and the machine cost."""

import contextlib
import dataclasses
import http.client
import os
import platform
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
CORES = os.cpu_count() or 1

# Shares of the machine's processor time in one cell.
DISTURBED_BY_OTHERS = 0.05
DISTURBED_BY_STEAL = 0.02


class Missing(Exception):
    """A program or a build that the run needs, or a target that did not start."""


class WrongAnswer(Exception):
    """A target answers wrongly before anything was measured."""


class Children:
    """Every process that we start, each the leader of its own session, so that its tree can be
    accounted and ended as one."""

    def __init__(self, scratch: Path):
        self.scratch = scratch
        self.running: list[subprocess.Popen] = []

    def start(self, name: str, command: list, env: dict | None = None) -> subprocess.Popen:
        log = self.scratch / f"{name}.log"
        with open(log, "ab") as output:
            child = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.scratch,
                env=env,
                start_new_session=True,
            )
        self.running.append(child)
        return child

    def serve(self, name: str, command: list, port: int, env: dict | None = None) -> int:
        """Starts a server and waits until it listens."""
        child = self.start(name, command, env)
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            if child.poll() is not None:
                raise Missing(f"{name} ended with status {child.returncode}:\n{self.tail(name)}")
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return child.pid
            time.sleep(0.05)
        raise Missing(f"{name} does not listen on port {port} after 15 s:\n{self.tail(name)}")

    def tail(self, name: str) -> str:
        lines = (self.scratch / f"{name}.log").read_text(errors="replace").splitlines()
        return "\n".join("    " + line for line in lines[-15:])

    def stop(self) -> None:
        for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(ending, signal.SIG_IGN)  # not a second time, half way
        for sig, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
            for child in self.running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, sig)
            deadline = time.monotonic() + patience
            for child in self.running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(max(0.01, deadline - time.monotonic()))
        self.running.clear()


@dataclasses.dataclass
class Snapshot:
    busy: float  # seconds, all cores
    steal: float
    processes: dict  # pid -> (name, session, cpu seconds, rss bytes)

    def session(self, leader: int) -> list:
        return [p for p in self.processes.values() if p[1] == leader]


def irq_time_apart() -> bool:
    """Whether this kernel keeps interrupt time out of the processes' own."""
    with contextlib.suppress(OSError):
        import gzip

        config = Path("/proc/config.gz")
        boot = Path(f"/boot/config-{platform.release()}")
        text = gzip.decompress(config.read_bytes()).decode() if config.exists() else boot.read_text()
        return "CONFIG_IRQ_TIME_ACCOUNTING=y" in text
    return False


IRQ_TIME_APART = irq_time_apart()


def snapshot() -> Snapshot:
    with open("/proc/stat") as stat:
        user, nice, system, _, _, irq, softirq, steal = map(int, stat.readline().split()[1:9])
    busy = user + nice + system + (0 if IRQ_TIME_APART else irq + softirq)
    processes = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            text = Path(f"/proc/{entry}/stat").read_text()
        except OSError:
            continue  # it has just ended
        name, rest = text[text.index("(") + 1 :].rsplit(")", 1)
        field = rest.split()  # field[0] is the state, the third of proc(5)
        session = 0 if int(field[6]) & 0x00200000 else int(field[3])  # kernel threads: 0
        cpu = (int(field[11]) + int(field[12])) / TICK
        processes[int(entry)] = (name, session, cpu, int(field[21]) * PAGE)
    return Snapshot(busy / TICK, steal / TICK, processes)


def cpu_between(before: Snapshot, after: Snapshot, leader: int) -> float:
    return sum(p[2] for p in after.session(leader)) - sum(p[2] for p in before.session(leader))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def get(port: int, path: str, headers: dict, tls: bool = False, method: str = "GET", body: bytes | None = None):
    """One request of its own: status and body."""
    if tls:
        # The certificate is of this run's own making.
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
