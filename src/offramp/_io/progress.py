"""Progress bars that read well in a terminal and in a log."""

import sys

from tqdm import tqdm


def progress_bar(total: int, label: str, *, done: int = 0, shown: bool) -> tqdm:
    """A bar of batches on stderr; where that is no terminal (a log, several jobs at once), a line of it every 5 s."""
    terminal = sys.stderr.isatty()
    every = 0.2 if terminal else 5
    return tqdm(
        total=total,
        desc=label,
        initial=done,
        disable=not shown,
        unit="batch",
        mininterval=every,
        maxinterval=10,
        file=sys.stderr if terminal else _Lines(),
    )


class _Lines:
    """stderr, with a new line where a bar would draw over itself."""

    def write(self, text: str) -> None:
        sys.stderr.write(f"{text.strip()}\n" if text.strip() else "")

    def flush(self) -> None:
        sys.stderr.flush()
