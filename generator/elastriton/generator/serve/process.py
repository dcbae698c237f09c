"""A child process in its own session: its log, its end, and the end of what it started."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

_KEPT_LINES = 500
_ERROR = re.compile(r'^(?:E\d{4} [\d:.]+ \d+ \S+\]\s*"?|\[libprotobuf ERROR \S+\] |error: )(.*?)"?\s*$')
_HARMLESS = ("CudaDriverHelper", "unable to create stream", "failed to load all models", "Failed to create instance")


class Child:
    """`command`, started; its output goes to the file `log`, or to this process's standard output."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], directory: Path, log: Path | None = None
    ) -> None:
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        sink = sys.stdout.buffer if log is None else log.open("wb")
        self._process = subprocess.Popen(
            command,
            env=dict(environment),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C in the terminal must not reach the server before it was drained
        )
        self.pid = self._process.pid
        self._pump = threading.Thread(target=self._copy, args=(sink, log is not None), name="server-log", daemon=True)
        self._pump.start()

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def tail(self, lines: int = 40) -> str:
        """The last lines that it wrote."""
        return "\n".join(list(self._lines)[-lines:])

    def failures(self) -> str:
        """What it says went wrong; its last lines where no line says so."""
        if self.poll() is not None:
            self._pump.join(timeout=2)  # its last words may still be on their way
        return failures(list(self._lines)) or self.tail(20)

    def kill(self) -> None:
        if self.poll() is None:
            self._process.kill()

    def finish(self, timeout_s: float) -> int:
        """SIGTERM, SIGKILL after `timeout_s`, then the end of all that is left of its session. The exit code."""
        if self.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
        code = self._process.wait()
        _end_session(self.pid)
        self._pump.join(timeout=5)
        return code

    def _copy(self, sink: BinaryIO, close: bool) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                self._lines.append(line.decode(errors="replace").rstrip("\n"))
                try:
                    sink.write(line)
                    sink.flush()
                except (OSError, ValueError):  # nobody reads it any more; the server must not wait for that
                    continue
        finally:
            self._process.stdout.close()
            if close:
                sink.close()


def failures(lines: Sequence[str]) -> str:
    """The errors in a log of Triton's, each once and without its prefix: which model failed, and why.

    >>> failures(["I1121 10:55:34.1 7 a.cc:1] fine", 'E1121 10:55:34.7 7 b.cc:642] "failed to load \\'m\\': why"'])
    "failed to load 'm': why"
    """
    found = [match.group(1).replace("\\n", "\n").rstrip() for line in lines if (match := _ERROR.match(line))]
    wanted = [text for text in found if text and not any(word in text for word in _HARMLESS)]
    return "\n".join(dict.fromkeys(wanted))


def session_members(session: int) -> list[int]:
    """The live processes of `session`, by /proc."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _parent, _group, sid = stat.read_text().rsplit(")", 1)[1].split()[:4]
        except OSError:
            continue
        if int(sid) == session and state not in "ZX":
            members.append(int(stat.parent.name))
    return members


def _end_session(session: int, timeout_s: float = 5.0) -> None:
    """Kill what a server left behind: the stubs of one that was killed wait for it for ever."""
    deadline = time.monotonic() + timeout_s
    while (members := session_members(session)) and time.monotonic() < deadline:
        for pid in members:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)
