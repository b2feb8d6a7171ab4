"""How often the promise of `offramp accelerate` is kept, and how fast its models are, over random parts of the data.

The heads are those of a finished run. The samples on which they were not trained are divided at random into structure,
certificate and check, as often as asked for; exits, policy and threshold are chosen anew each time.

For example: python benchmarks/bench_accelerate.py fast/ 100
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from offramp import ExitRecord, certify
from offramp.acceleration.accelerating import fit_families
from offramp.acceleration.splits import certifiable
from offramp.acceleration.subset import choose_exits
from offramp.certification.losses import loss_of
from offramp.policies.base import first_exit


def main(folder: Path, times: int) -> None:
    promise = json.loads((folder / "promise.json").read_text())
    risk, level, confidence = (promise[name] for name in ("risk", "level", "confidence"))
    held, *parts = (
        ExitRecord.load(folder / "records" / f"{name}.safetensors")
        for name in ("held", "structure", "certificate", "check")
    )
    sizes = [len(part) for part in parts]
    together = parts[0].replace(
        **{name: np.concatenate([part.by_sample[name] for part in parts]) for name in parts[0].by_sample},
        confidence={m: np.concatenate([part.measure(m) for part in parts]) for m in parts[0].measures},
        logits=np.concatenate([part.logits for part in parts]),
    )
    aim, rows = certifiable(risk, level, confidence, sizes[1]), []
    for seed in range(times):
        order = np.random.default_rng(seed).permutation(len(together))
        structure, certificate, check = (together[part] for part in np.split(order, np.cumsum(sizes)[:-1]))
        choices = choose_exits(structure, fit_families(held), risk, aim, 3)
        choice = min(choices.best, key=lambda each: each.cost)
        policy = fit_families(held.exits(choice.exits), [choice.policy])[choice.policy]
        own = certificate.exits(choice.exits)
        result = certify(policy, own, risk, level, confidence)
        unseen = check.exits(choice.exits)
        left = first_exit(policy.signal(unseen), result.threshold)
        losses = loss_of(risk, policy, unseen, None, None).values[np.arange(len(left)), left]
        full = unseen.exits([unseen.n_exits - 1]).cost[0]
        rows.append(
            {
                "exits": str(choice.exits),
                "policy": choice.policy,
                "risk": losses.mean(),
                "estimate": result.estimate,
                "speedup": full / unseen.cost_of(left).mean(),
                "bound": full / choices.bound,
            }
        )
    table = pd.DataFrame(rows)
    noise = np.sqrt(level * (1 - level) / sizes[2])
    print(f"{risk} at most {level:g}, confidence {confidence:g}; parts of {sizes} samples, {times} times")
    print(f"risk on the check: mean {table.risk.mean():.4f}, above the level {(table.risk > level).mean():.0%}")
    print(
        f"above the level by more than twice the noise of the check ({2 * noise:.4f}): "
        f"{(table.risk > level + 2 * noise).mean():.0%}"
    )
    print(
        f"speed-up in MACs: {table.speedup.mean():.2f} [{table.speedup.min():.2f}, {table.speedup.max():.2f}]; "
        f"no choice of exits can exceed {table.bound.mean():.2f}"
    )
    print(table.groupby(["exits", "policy"]).size().sort_values(ascending=False).head(5).to_string())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 20)
