"""Progress of an epoch: a bar with the time left on a terminal, nothing in between elsewhere (the trainer prints a line)."""

from __future__ import annotations

import sys


class EpochProgress:
    """A tqdm bar over the whole phase's epoch where standard error is a terminal; silent where it is not, or not ``shown``."""

    def __init__(self, label: str, epoch: int, epochs: int, total: int, start: int, shown: bool = True):
        self.bar = None
        if shown and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(
                total=total, initial=start, desc=f"{label} {epoch + 1}/{epochs}", unit="batch", leave=False
            )

    def update(self, sums: dict[str, float]) -> None:
        """One batch further; ``sums`` are the epoch's running sums."""
        if self.bar is not None:
            if isinstance(sums["loss"], float):  # on a GPU only after a look at the device
                self.bar.set_postfix(loss=f"{sums['loss'] / sums['batches']:.4g}", refresh=False)
            self.bar.update()

    def __enter__(self) -> EpochProgress:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.bar is not None:
            self.bar.close()
