"""Remove from the study's folders what the workflow no longer makes: files of seeds, models or figures that are gone.

Run in the repository's root, for the study that params.yaml names. DVC takes whole folders; so does whoever looks.
"""

import re
import subprocess
import sys
from pathlib import Path

# A checkpoint and a file half written belong to the file that they are for
FOR = re.compile(r"^\.?(.+?)(\.checkpoint)?(\.partial)?$")


def main() -> None:
    asked = subprocess.run(["snakemake", "--summary", "all"], capture_output=True, text=True, check=False)
    if asked.returncode:
        sys.exit(asked.stderr)
    made = {Path(line.split("\t")[0]) for line in asked.stdout.splitlines()[1:]}
    for folder in {Path(*path.parts[:2]) for path in made}:  # artifacts/STUDY, reports/STUDY
        for path in sorted(folder.rglob("*"), reverse=True):  # a folder after what is in it
            if path.is_dir():
                if not any(path.iterdir()):
                    path.rmdir()
            elif path.with_name(FOR.sub(r"\1", path.name)) not in made:
                print(f"removed {path}: the study makes it no more")
                path.unlink()


if __name__ == "__main__":
    main()
