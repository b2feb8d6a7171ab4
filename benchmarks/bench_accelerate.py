"""How often the promise of `offramp accelerate` is kept, and how fast its models are, over random parts of the data.

The heads are those of a finished run. The samples on which they were not trained are divided at random into structure,
certificate and check, as often as asked for; structure, policy and threshold are chosen anew each time.

For example: python benchmarks/bench_accelerate.py fast/ 100 [LEVEL …]
"""

import json
import sys
from pathlib import Path

import pandas as pd

from offramp import ExitRecord
from offramp.acceleration.evaluating import evaluate_splits
from offramp.records.joining import concatenated


def main(folder: Path, times: int, levels: list[float]) -> None:
    promise = json.loads((folder / "promise.json").read_text())
    folders = [*sorted((folder / "records").glob("candidate-*")), folder / "records"]
    held = [ExitRecord.load(each / "held.safetensors") for each in folders]
    parts = [name for name in ("structure", "certificate", "check") if (folders[-1] / f"{name}.safetensors").exists()]
    rest = [concatenated([ExitRecord.load(each / f"{name}.safetensors") for name in parts]) for each in folders]
    for level in levels or [promise["level"]]:
        table = evaluate_splits(
            held, rest, risk=promise["risk"], level=level, confidence=promise["confidence"], splits=times, progress=True
        )
        sizes = table[["n_structure", "n_certificate", "n_check"]].iloc[0].tolist()
        print(
            f"{promise['risk']} at most {level:g}, confidence {promise['confidence']:g}; {sizes} samples, {times} times"
        )
        of_kind = table.assign(above=table["risk"] > level).groupby("kind", sort=False)
        print(
            pd.DataFrame(
                {
                    "certified": of_kind["certified"].mean(),
                    "risk": of_kind["risk"].mean(),
                    "above the level": of_kind["above"].mean(),
                    "refuted": of_kind["refuted"].mean(),
                    "speedup": of_kind["speedup"].mean(),
                    "lowest": of_kind["speedup"].min(),
                    "highest": of_kind["speedup"].max(),
                    "bound": of_kind["bound"].mean(),
                }
            )
            .round(4)
            .to_string()
        )
        best = table[table["kind"] == "best"]
        print(best.groupby(["models", "exits", "policy"]).size().sort_values(ascending=False).head(5).to_string())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 20, [float(each) for each in sys.argv[3:]])
