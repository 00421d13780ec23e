"""Columns whose first value comes so late that LLaMA-Factory has already settled on "nothing" for their type."""

BLOCK = 1000
"""Rows that datasets' writer takes the types from at most (`writer_batch_size` of Dataset.map)."""


class LateColumns:
    """Watches rows in order; afterwards says where a column has its first value after a block of rows without."""

    def __init__(self, names: tuple[str, ...], batch_rows: int = BLOCK) -> None:
        self._names, self._block = names, min(BLOCK, batch_rows)
        self._empty = dict.fromkeys(names, 0)
        self._late: dict[str, list[tuple[int, int]]] = {name: [] for name in names}
        self.rows = 0

    def see(self, present: tuple[bool, ...]) -> None:
        """Note for one row, name by name, whether it has a value."""
        for name, has_value in zip(self._names, present, strict=True):
            if not has_value:
                self._empty[name] += 1
                continue
            if self._empty[name] >= self._block:
                self._late[name].append((self.rows - self._empty[name], self.rows))
            self._empty[name] = 0
        self.rows += 1

    def first(self, name: str, workers: int) -> int | None:
        """The first row whose value comes too late when `workers` processes take equal parts of the rows; else None."""
        share, more = divmod(self.rows, workers)
        starts = [share * worker + min(worker, more) for worker in range(workers)] + [self.rows]
        for empty_from, value_at in self._late[name]:
            for start, end in zip(starts, starts[1:], strict=False):
                if empty_from <= start and value_at - start >= self._block and value_at < end:
                    return value_at
        return None

    def any(self) -> bool:
        """Whether any column's value would come too late for some number of workers."""
        return any(self._late.values())
