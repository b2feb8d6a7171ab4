"""What the workflow adds to the work: one study run three ways, one job at a time.

work      all its commands in one Python process: imports are paid once
commands  the same commands one after the other, each a process of its own, as a person would type them
workflow  `snakemake --cores 1`, which schedules them, keeps logs and remembers what made each file

The share is what of the workflow's time each of them takes. Then, how long it takes to see that there is nothing to do.
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

ROOT = Path(__file__).parents[1]


def measured(call):
    """Seconds by the clock and by the processor, children among them."""

    def now():
        parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return time.perf_counter(), sum(part.ru_utime + part.ru_stime for part in parts)

    start = now()
    call()
    return tuple(after - before for before, after in zip(start, now()))


def in_order(folder: Path) -> list[tuple[str, str]]:
    """Rule and command of each job that Snakemake ran there, in the order in which they began."""
    jobs = {}
    for path in (folder / ".snakemake/metadata").rglob("*"):
        job = json.loads(path.read_text()) if path.is_file() else {}
        if job.get("shellcmd"):
            jobs[job["shellcmd"]] = (job["starttime"], job["rule"])
    return [(rule, command) for command, (_, rule) in sorted(jobs.items(), key=lambda item: item[1])]


def one_process(jobs: list[tuple[str, str]]) -> dict[str, float]:
    """Run the commands of `offramp` in this process; give the processor's seconds of each rule."""
    from offramp.cli import cli

    seconds: dict[str, float] = {}
    for rule, command in jobs:
        call = re.sub(r" 2>&1 \| tee \S+$", "", command.strip())
        if not call.startswith("offramp ") or ">" in call:  # two small ones write by redirection
            continue
        words = shlex.split(call)[1:]
        spent = measured(lambda words=words: cli.main(words, standalone_mode=False))[1]
        seconds[rule] = seconds.get(rule, 0) + spent
    return seconds


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
        workflow = measured(lambda: run("snakemake", "--cores", "1", cwd=folder))
        run("dvc", "init", "--no-scm", "--quiet", cwd=folder)
        run("dvc", "repro", cwd=folder)
        idle = {
            command: measured(lambda command=command: run(*command.split(), cwd=folder))[0]
            for command in ("snakemake -n", "snakemake", "dvc status", "dvc repro")
        }
        jobs = in_order(folder)
        spent = {}
        commands = measured(lambda: [run("bash", "-c", command, cwd=folder) for _, command in jobs])
        os.chdir(folder)
        work = measured(lambda: spent.update(one_process(jobs)))
        os.chdir(ROOT)
    print(f"study {args.study}, {len(jobs)} jobs, one at a time\n")
    print("| way | seconds | share | processor's seconds | share |")
    print("|---|---|---|---|---|")
    for name, (clock, processor) in (("work", work), ("commands", commands), ("workflow", workflow)):
        shares = clock / workflow[0], processor / workflow[1]
        print(f"| {name} | {clock:.1f} | {shares[0]:.0%} | {processor:.1f} | {shares[1]:.0%} |")
    print("\n| rule | jobs | processor's seconds of work |")
    print("|---|---|---|")
    for rule, seconds in spent.items():
        print(f"| {rule} | {sum(name == rule for name, _ in jobs)} | {seconds:.1f} |")
    print("\nnothing to do: " + ", ".join(f"`{command}` {seconds:.1f} s" for command, seconds in idle.items()))


if __name__ == "__main__":
    main()
