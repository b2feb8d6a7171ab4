"""What the workflow adds to the work: one study run three ways, one job at a time.

work      all its commands in one Python process: imports are paid once
commands  the same commands one after the other, each a process of its own, as a person would type them
workflow  `snakemake --cores 1`, which schedules them, keeps logs and remembers what made each file

The first two are run job by job in turn, so that both see the same machine; read the ratios of the processor's seconds.
Then, how long it takes to see that there is nothing to do.
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
    """Seconds by the clock and by the processor, children among them, (2,)."""

    def now():
        parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return np.array([time.perf_counter(), sum(part.ru_utime + part.ru_stime for part in parts)])

    start = now()
    call(*args, **options)
    return now() - start


def in_order(folder: Path) -> list[tuple[str, str]]:
    """Rule and command of each job that Snakemake ran there, in the order in which they began."""
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
    if call.startswith("offramp ") and ">" not in call:  # two small ones write by redirection, and count as no work
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
        spent = {rule: np.zeros((2, 2)) for rule, _ in jobs}  # command and work, by the clock and by the processor
        os.chdir(folder)
        for rule, command in tqdm(jobs):
            spent[rule] += measured(run, "bash", "-c", command, cwd=folder), measured(in_process, command)
        os.chdir(ROOT)
    print(f"study {args.study}, {len(jobs)} jobs, one at a time: the processor's seconds, and by the clock\n")
    print("| rule | jobs | commands | work | commands, clock | work, clock |")
    print("|---|---|---|---|---|---|")
    for rule, (command, work) in [*spent.items(), ("all", sum(spent.values()))]:
        number = len(jobs) if rule == "all" else sum(name == rule for name, _ in jobs)
        print(f"| {rule} | {number} | {command[1]:.1f} | {work[1]:.1f} | {command[0]:.1f} | {work[0]:.1f} |")
    print(f"| workflow | | {workflow[1]:.1f} | | {workflow[0]:.1f} | |")
    print("\nnothing to do: " + ", ".join(f"`{command}` {seconds:.1f} s" for command, seconds in idle.items()))


if __name__ == "__main__":
    main()
