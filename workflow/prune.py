"""Delete files that a study no longer produces, because a seed, a model or a policy was removed.

    python workflow/prune.py reports/digits/figures reports/digits/tables
    python workflow/prune.py artifacts/digits      # including weights, which no other command deletes

Run it in the root of the repository. The study is the one that params.yaml names.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

# Checkpoints and incomplete files are treated like the file that they belong to
FOR = re.compile(r"^\.?(.+?)((\.backbone|\.exits)?\.checkpoint)?(\.old)?(\.partial)?$")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    args = parser.parse_args()
    asked = subprocess.run(["snakemake", "--summary", "all"], capture_output=True, text=True, check=False)
    if asked.returncode:
        sys.exit(asked.stderr)
    made = {Path(line.split("\t")[0]) for line in asked.stdout.splitlines()[1:]}
    for folder in args.folders:
        if folder.exists() and not any(path.is_relative_to(folder) for path in made):
            sys.exit(f"{folder}: the study makes nothing there, expected a folder of its own")
        for path in sorted(folder.rglob("*"), reverse=True):  # a folder comes after its contents
            if path.is_dir():
                if not any(path.iterdir()):
                    path.rmdir()
            elif path.with_name(FOR.sub(r"\1", path.name)) not in made:
                print(f"removed {path}: the study makes it no more")
                path.unlink()


if __name__ == "__main__":
    main()
