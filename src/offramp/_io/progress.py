"""Progress bars for terminals and for log files."""

import sys

from tqdm import tqdm


def progress_bar(total: int, label: str, *, done: int = 0, shown: bool, unit: str = "batch") -> tqdm:
    """Progress bar on stderr. If stderr is not a terminal, print one line every 5 s instead."""
    terminal = sys.stderr.isatty()
    every = 0.2 if terminal else 5
    return tqdm(
        total=total,
        desc=label,
        initial=done,
        disable=not shown,
        unit=unit,
        mininterval=every,
        maxinterval=10,
        file=sys.stderr if terminal else _Lines(),
    )


class _Lines:
    """stderr, with each update of the bar on a line of its own."""

    def write(self, text: str) -> None:
        sys.stderr.write(f"{text.strip()}\n" if text.strip() else "")

    def flush(self) -> None:
        sys.stderr.flush()
