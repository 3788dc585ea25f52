"""What a case of the benchmark is: the sides that are run, and the rows of the table that compare them.

A case is a file in `cases/` with `CASE = Case(...)`. At module level it imports nothing heavy: the process that prints
the table reads it as well. Its name is that of the file.

A side is a function of a `Run` that does the work and returns its figures, `{"seconds": 2.7, …}`: seconds, tokens a
second, bytes, whatever a row names. Each side runs in a fresh process on cores of its own, in turns (A B C, C B A, …);
the process adds `peak_gb`, the most memory it held (VmHWM). A ratio is taken within a round, and the row shows the
median of the rounds.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CASES = Path(__file__).parent / "cases"
LIBRARIES = (
    "torch", "pytorch_lightning", "datasets", "hydra", "sacrebleu", "rouge_score.rouge_scorer", "transformers:Trainer",
    "transformers:Seq2SeqTrainer", "transformers:XLMRobertaForMaskedLM", "transformers:MBartForConditionalGeneration",
    "transformers:AutoTokenizer",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What a side is given. `folder` is the case's own, filled by its `prepare`, the same for all its sides."""

    folder: Path
    quick: bool = False


Side = Callable[[Run], dict[str, float]]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        measure: what is measured, in words, with its shape.
        figure: its name among those that the sides return.
        peer: the side to compare with; None shows ours alone, against the goal.
        ratio: `speedup` is how many times better ours is: peer / ours, with `more` ours / peer; `share` is ours / peer.
        more: whether more of the figure is better (tokens a second), not less (seconds).
        goal: at least this for a speedup, at most this for a share, and for ours alone where less is better.
        memory_goal: the most that ours may hold, as a share of the peer's peak.
        unit: of the figure.
        scale: the figure is shown times this.
    """

    measure: str
    figure: str = "seconds"
    peer: str | None = "peer"
    ours: str = "ours"
    ratio: Literal["speedup", "share"] = "speedup"
    more: bool = False
    goal: float | None = None
    memory_goal: float | None = None
    unit: str = "s"
    scale: float = 1.0

    @property
    def at_least(self) -> bool:
        """Whether the goal is a lower bound."""
        return self.more if self.peer is None else self.ratio == "speedup"


@dataclass(frozen=True)
class Case:
    """Sides by name, the rows that compare them, and what they need.

    Attributes:
        prepare: makes what the sides share, in its folder; once, in a process of its own, not measured.
        rounds, quick_rounds: how often each side runs.
        cores: that each side may use.
        memory_gb: that must be free to begin a round (`quick_memory_gb` with `--quick`).
        seconds: after which a process is taken to hang.
        libraries: of others, loaded before the processes of the sides begin (`module`, or `module:what it gives`).
        preload: what all sides would load before their clocks start; it is done once, before the processes begin.
    """

    sides: dict[str, Side]
    rows: Sequence[Row]
    prepare: Side | None = None
    rounds: int = 5
    quick_rounds: int = 1
    cores: int = 1
    memory_gb: float = 2.0
    quick_memory_gb: float = 2.0
    seconds: float = 600.0
    libraries: Sequence[str] = LIBRARIES
    preload: Callable[[], object] | None = None

    def __post_init__(self) -> None:
        for row in self.rows:
            for side in {row.ours, row.peer} - {None}:
                if side not in self.sides:
                    raise ValueError(f"{row.measure}: there is no side {side!r}")


def names() -> list[str]:
    """All cases, in the order in which they run."""
    return sorted(path.stem for path in CASES.glob("*.py") if path.stem != "__init__" and path.stem[0] != "_")


def load(name: str) -> Case:
    """A case by its name or by the path of its file.

    Raises:
        KeyError: there is none.
    """
    path = Path(name) if name.endswith(".py") else CASES / f"{name}.py"
    if not path.is_file():
        raise KeyError(name)
    spec = importlib.util.spec_from_file_location(f"benchmarks.speed.cases.{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    case: Case = module.CASE
    return case
