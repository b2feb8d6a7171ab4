"""What Snakemake would run, asked in forks of this process: most of the time of a dry run goes into imports."""

import os
import re
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """A job of a dry run."""

    rule: str
    system: str  # "" if it is for all
    input: tuple[str, ...]
    output: tuple[str, ...]
    log: tuple[str, ...]
    shell: str


@cache
def _main():
    """Snakemake's command line, with all that it imports later."""
    import smart_open  # noqa: F401
    from snakemake.cli import get_argument_parser, main

    get_argument_parser()  # imports the plugins
    return main


def snakemake(folder: Path, *arguments: str) -> tuple[int, str]:
    """`snakemake` with these arguments, in a fork: its exit status, and what it says."""
    main = _main()
    with tempfile.TemporaryFile("w+") as told:
        child = os.fork()
        if not child:
            code = 1
            try:
                os.chdir(folder)
                sys.stdout = sys.stderr = told
                main(["--nocolor", *arguments])
            except SystemExit as stop:
                code = stop.code or 0
            finally:
                told.flush()
                os._exit(code if isinstance(code, int) else 1)
        _, status = os.waitpid(child, 0)
        told.seek(0)
        return os.waitstatus_to_exitcode(status), told.read()


def jobs_of(text: str) -> list[Job]:
    """The jobs that a dry run listed, each after those that it needs; targets that only name files are left out."""
    found = []
    for block in re.split(r"^(?=(?:local)?rule \w+:$)", text, flags=re.MULTILINE)[1:]:
        about = dict(re.findall(r"^    (\w+): (.+)$", block, re.MULTILINE))
        if "output" in about:
            system = re.search(r"\bsystem=([\w-]+)", about.get("wildcards", ""))
            files = [tuple(sorted(filter(None, about.get(key, "").split(", ")))) for key in ("input", "output", "log")]
            shell = re.search(r"^Shell command: (.*?)(?=\n\n\[\w{3} |\Z)", block, re.MULTILINE | re.DOTALL)[1]
            found.append(Job(re.search(r"rule (\w+):", block)[1], system[1] if system else "", *files, shell))
    return found


def jobs(folder: Path, *arguments: str) -> list[Job]:
    """The jobs that Snakemake would run there."""
    code, text = snakemake(folder, "-n", "-p", *arguments)
    assert code == 0, text
    assert "Nothing to be done" in text or "This was a dry-run" in text, text
    return jobs_of(text)
