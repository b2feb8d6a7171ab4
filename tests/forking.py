"""A stand-in for the command `offramp` that does not import torch again for every job.

A server imports what the jobs need. For each call of the command, it forks a process, which runs the command with the
arguments, the folder, the environment and the output of the caller. `python forking.py SOCKET` runs the server.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLIENT = f"""#!{sys.executable} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({{address!r}})
    request = json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [request], [1, 2])
    server.shutdown(socket.SHUT_WR)
    code = server.recv(1)
sys.exit(code[0] if code else 1)
"""


@contextmanager
def forked_offramp(folder: Path, environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """Serve the command `offramp` from a folder, and return the environment in which it is found there first."""
    address = str(folder / "socket")
    client = folder / "offramp"
    client.write_text(CLIENT.format(address=address))
    client.chmod(0o755)
    process = subprocess.Popen([sys.executable, __file__, address], env=environment)
    try:
        while not Path(address).exists():
            assert process.poll() is None, "the server of the command has ended"
            time.sleep(0.02)
        yield {**environment, "PATH": f"{folder}{os.pathsep}{environment['PATH']}"}
    finally:
        process.terminate()
        process.wait()


def serve(address: str) -> None:
    import pandas  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import scipy.special  # noqa: F401
    import seaborn  # noqa: F401
    import timm  # noqa: F401
    import torch._dynamo  # noqa: F401  imported by every optimizer

    import offramp.recording
    import offramp.training  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{address}.new")
        server.listen()
        os.rename(f"{address}.new", address)  # it listens from here on
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                connection.send(bytes([answer(connection)]))
                os._exit(0)
            connection.close()


def answer(connection: socket.socket) -> int:
    """Run the command of a caller, and return its exit code."""
    from offramp.cli import main

    request, outputs, *_ = socket.recv_fds(connection, 1 << 20, 2)
    while more := connection.recv(1 << 20):
        request += more
    sys.argv, folder, environment = json.loads(request)
    for output, number in zip(outputs, (1, 2)):
        os.dup2(output, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    code = 0
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    serve(sys.argv[1])
