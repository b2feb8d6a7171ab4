"""Overhead of the workflow: one study is run in three ways, one job at a time.

    work      all commands in one Python process, in which modules are imported only once
    commands  the same commands one after the other, each in its own process, as a user would type them
    workflow  `snakemake --cores 1`, which schedules the commands, keeps logs and records how each file was made

The first two alternate job by job, so that both run under the same load. Only the ratios of CPU seconds are meaningful.
Finally, the time to find out that there is nothing to do is measured.
"""

import argparse
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

ROOT = Path(__file__).parents[1]


def measured(call, *args, **options) -> np.ndarray:
    """Return elapsed seconds and CPU seconds of a call, including child processes, (2,)."""

    def now():
        parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return np.array([time.perf_counter(), sum(part.ru_utime + part.ru_stime for part in parts)])

    start = now()
    call(*args, **options)
    return now() - start


def in_order(folder: Path) -> list[tuple[str, str]]:
    """Return rule and command of each job that Snakemake ran in the folder, in order of their start."""
    jobs = {}
    for path in (folder / ".snakemake/metadata").rglob("*"):
        job = json.loads(path.read_text()) if path.is_file() else {}
        if job.get("shellcmd"):
            jobs[job["shellcmd"]] = (job["starttime"], job["rule"])
    return [(rule, command) for command, (_, rule) in sorted(jobs.items(), key=lambda item: item[1])]


def in_process(command: str) -> None:
    """Run a command of `offramp` in this process."""
    from offramp.cli import cli

    call = re.sub(r" 2>&1 \| tee \S+$", "", command.strip())
    if call.startswith("offramp ") and ">" not in call:  # two small commands use redirection, and are left out
        cli.main(shlex.split(call)[1:], standalone_mode=False)


def run(*command: str, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{shlex.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="digits")
    args = parser.parse_args()
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ["OFFRAMP_DATA"] = str(Path(os.environ.get("OFFRAMP_DATA", ROOT / "data/downloads")).resolve())
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in ("dvc.yaml", ".dvcignore"):
            shutil.copy(ROOT / name, folder)
        params = re.sub("^study: .*", f"study: {args.study}", (ROOT / "params.yaml").read_text(), flags=re.MULTILINE)
        (folder / "params.yaml").write_text(params)
        for name in ("workflow", "src"):
            shutil.copytree(ROOT / name, folder / name)
        workflow = measured(run, "snakemake", "--cores", "1", cwd=folder)
        run("dvc", "init", "--no-scm", "--quiet", cwd=folder)
        run("dvc", "repro", cwd=folder)
        idle = {
            command: measured(run, *command.split(), cwd=folder)[0]
            for command in ("snakemake -n", "snakemake", "dvc status", "dvc repro")
        }
        jobs = in_order(folder)
        spent = {rule: np.zeros((2, 2)) for rule, _ in jobs}  # (command, work) × (elapsed, CPU)
        os.chdir(folder)
        for rule, command in tqdm(jobs):
            spent[rule] += measured(run, "bash", "-c", command, cwd=folder), measured(in_process, command)
        os.chdir(ROOT)
    print(f"study {args.study}, {len(jobs)} jobs, one at a time: CPU seconds, and elapsed seconds (clock)\n")
    print("| rule | jobs | commands | work | commands, clock | work, clock |")
    print("|---|---|---|---|---|---|")
    for rule, (command, work) in [*spent.items(), ("all", sum(spent.values()))]:
        number = len(jobs) if rule == "all" else sum(name == rule for name, _ in jobs)
        print(f"| {rule} | {number} | {command[1]:.1f} | {work[1]:.1f} | {command[0]:.1f} | {work[0]:.1f} |")
    print(f"| workflow | | {workflow[1]:.1f} | | {workflow[0]:.1f} | |")
    print("\nnothing to do: " + ", ".join(f"`{command}` {seconds:.1f} s" for command, seconds in idle.items()))


if __name__ == "__main__":
    main()
