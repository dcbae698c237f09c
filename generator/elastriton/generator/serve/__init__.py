"""Serve a repository with the tritonserver that is here: find it, assemble its backends, run, drain and stop it.

embedded    which tritonserver, which libpython
backends    Triton's backends beside ours
server      the command line, readiness, the end          process    the child process and its log
foreground  `elastriton serve`                            drain      answer what is in flight before the end
health      one real inference per task                   rest       Triton's HTTP API, by the standard library
"""

from elastriton.generator.serve.drain import drain
from elastriton.generator.serve.foreground import run
from elastriton.generator.serve.server import Server, ServerError

__all__ = ["Server", "ServerError", "drain", "run"]
