"""Run reproductions, each in a process of its own, forked from a bare interpreter that has imported torch and the peer.

A new interpreter for each would be as good, and import torch sixty times.
"""

import json
import os
import subprocess
import sys
import traceback
from importlib import import_module
from pathlib import Path


def failures(modules: list[str], reproductions: list[str]) -> list[str]:
    """What each reproduction says as it fails; empty where it runs through."""
    command = [sys.executable, "-W", "ignore", str(Path(__file__)), *modules]
    done = subprocess.run(command, input=json.dumps(reproductions), stdout=subprocess.PIPE, text=True, check=True)
    said: list[str] = json.loads(done.stdout)
    return said


def failure(reproduction: str) -> str:
    """The first line of the error that ends a reproduction in a fork of this process, empty if it runs through."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(2, 1)  # what it prints is not ours
        said = ""
        try:
            exec(reproduction, {"__name__": "__main__"})
        except BaseException as error:
            said = traceback.format_exception_only(error)[-1].splitlines()[0]
        os.write(writing, said[:300].encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    return said if status == 0 else f"the process ended with status {status}"


if __name__ == "__main__":
    for module in sys.argv[1:]:
        import_module(module)
    json.dump([failure(each) for each in json.load(sys.stdin)], sys.stdout)
