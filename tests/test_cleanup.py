"""What may be deleted from a store, and that nothing else is."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from graftlm.claims import Observer, held, reserved
from graftlm.cleanup import Rules, choose, delete, parse_age, parse_size
from graftlm.compose import compose_jobs
from graftlm.console import Advance, Silent
from graftlm.errors import SettingsError, StoreError
from graftlm.inventory import TRASH, Artifact, Newer, Use, find_uses, take
from graftlm.job import Words
from graftlm.plan import Fingerprints, stage_keys
from graftlm.store import StageKey, Store, write_json
from test_inventory import CHAIN, CORPUS, EVALUATE, FINETUNE, PRETRAIN, make, record

OTHER = StageKey("finetune", 1, {"transfer": {"name": "none"}}, {"corpus": CORPUS.key})
RUNS = "runs"
DAY = 86400.0


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / RUNS).mkdir()
    make(tmp_path / "store", *CHAIN, OTHER)
    return tmp_path / "store"


def look(store: Path) -> tuple[list[Artifact], list[Use]]:
    runs = [store.parent / RUNS]
    return take(store, runs), find_uses(runs, store)


def going(store: Path, rules: Rules, now: float | None = None, ages: dict[str, float] | None = None) -> list[str]:
    """Keys that go, in their order; `ages` are days since an artifact was made."""
    artifacts, uses = look(store)
    made = {key: time.time() - days * DAY for key, days in (ages or {}).items()}
    artifacts = [dataclasses.replace(item, made=made.get(item.key, item.made)) for item in artifacts]
    return [item.key for item in choose(artifacts, uses, rules, now).goes]


def keys(some: Sequence[StageKey]) -> list[str]:
    return [key.key for key in some]


def test_unreachable_is_what_no_job_kept_needs(store: Path) -> None:
    record(store.parent / RUNS / "a", OTHER)  # its corpus is reached through it
    assert sorted(going(store, Rules(unreachable=True))) == sorted(keys([PRETRAIN, FINETUNE, EVALUATE]))
    record(store.parent / RUNS / "b", EVALUATE)
    assert going(store, Rules(unreachable=True)) == []


def test_without_any_record_nothing_is_unreachable(store: Path) -> None:
    with pytest.raises(StoreError, match=r"no job\.json is there"):
        going(store, Rules(unreachable=True))


def test_a_rule_is_needed(store: Path) -> None:
    with pytest.raises(SettingsError, match="was given no rule"):
        going(store, Rules())


def test_what_is_kept_keeps_its_inputs(store: Path) -> None:
    old = {CORPUS.key: 40.0, PRETRAIN.key: 40.0, FINETUNE.key: 40.0, EVALUATE.key: 40.0, OTHER.key: 1.0}
    assert going(store, Rules(older_than=30 * DAY), ages=old) == keys([EVALUATE, FINETUNE, PRETRAIN])
    old[EVALUATE.key] = 1.0
    assert going(store, Rules(older_than=30 * DAY), ages=old) == []
    artifacts, uses = look(store)
    artifacts = [dataclasses.replace(item, made=0 if item.key == CORPUS.key else item.made) for item in artifacts]
    choice = choose(artifacts, uses, Rules(older_than=30 * DAY))
    assert [(why, keys) for why, keys in choice.stays.items()] == [
        ("something that is kept was built on it", [item for item in artifacts if item.key == CORPUS.key])
    ]


def test_rules_combine(store: Path) -> None:
    record(store.parent / RUNS / "a", OTHER)
    old = {FINETUNE.key: 40.0, EVALUATE.key: 40.0, PRETRAIN.key: 1.0, OTHER.key: 40.0, CORPUS.key: 40.0}
    assert going(store, Rules(unreachable=True, older_than=30 * DAY), ages=old) == keys([EVALUATE, FINETUNE])
    assert going(store, Rules(older_than=30 * DAY, larger_than=10**9), ages=old) == []
    assert going(store, Rules(larger_than=10)) == going(store, Rules(max_size=0))


def test_the_least_recently_used_go_until_it_fits(store: Path) -> None:
    ages = {CORPUS.key: 9.0, PRETRAIN.key: 8.0, FINETUNE.key: 7.0, EVALUATE.key: 6.0, OTHER.key: 7.5}
    artifacts, _ = look(store)
    total, each = sum(item.size for item in artifacts), max(item.size for item in artifacts)
    assert going(store, Rules(max_size=total), ages=ages) == []
    # the donor is older, but what was built on it has to go first
    assert going(store, Rules(max_size=total - 1), ages=ages) == keys([OTHER])
    assert going(store, Rules(max_size=total - each - 1), ages=ages) == keys([OTHER, EVALUATE])
    everything = going(store, Rules(max_size=0), ages=ages)
    assert everything == keys([OTHER, EVALUATE, FINETUNE, PRETRAIN, CORPUS])
    record(store.parent / RUNS / "a", OTHER)  # used now
    assert going(store, Rules(max_size=total - 1), ages=ages) == keys([EVALUATE])


def test_unfinished_ones_go_only_when_asked_for(store: Path) -> None:
    partial = store / "pretrain" / "abc.partial"
    partial.mkdir()
    assert "abc" not in going(store, Rules(max_size=0))
    assert going(store, Rules(partial=True)) == ["abc"]
    (store / "pretrain" / "abc.2.partial").mkdir()  # of a holder that was taken for dead
    (store / "pretrain" / "abc.0f.damaged").mkdir()
    assert going(store, Rules(partial=True)) == ["abc"] * 3
    assert going(store, Rules(partial=True, older_than=DAY)) == []
    assert "abc" in going(store, Rules(partial=True, older_than=DAY), now=time.time() + 2 * DAY)


@pytest.mark.parametrize(
    "text", ["", '{"status": "do', "[]", "[" * 100_000, '{"version": 1, "status": "done", "stages": [{"key": null}]}']
)
def test_beside_a_damaged_record_nothing_goes(store: Path, text: str) -> None:
    """What the job used is known to nobody; it may be all that is there."""
    record(store.parent / RUNS / "a", OTHER)
    (store.parent / RUNS / "b").mkdir()
    (store.parent / RUNS / "b" / "job.json").write_text(text)
    assert len(look(store)[0]) == 5
    for rules in (Rules(unreachable=True), Rules(max_size=0)):
        with pytest.raises(StoreError, match=r"b/job\.json: cannot be read: what this job uses is not known"):
            going(store, rules)


def test_what_a_running_job_will_need_stays(tmp_path: Path) -> None:
    (job,) = compose_jobs(Words(("experiment=smoke", "transfer=naive")))
    planned = stage_keys(job.settings, Fingerprints())
    (tmp_path / RUNS).mkdir()
    store = tmp_path / "store"
    make(store, *planned[:2], OTHER)
    settings = dataclasses.asdict(job.settings)
    record(tmp_path / RUNS / "a", status="running", settings=settings)
    for rules in (Rules(unreachable=True), Rules(max_size=0)):
        assert going(store, rules) == [OTHER.key]
    artifacts, uses = look(store)
    assert list(choose(artifacts, uses, Rules(max_size=0)).stays) == ["a job that is running, or was killed, uses it"]
    # one that failed is begun again by the same command: its stages are reachable, but may go by age or size
    record(tmp_path / RUNS / "a", status="failed", settings=settings)
    assert going(store, Rules(unreachable=True)) == [OTHER.key]
    assert len(going(store, Rules(max_size=0))) == 3
    record(tmp_path / RUNS / "a", status="running", settings={"model": 1})
    with pytest.raises(StoreError, match=r"what this running job uses cannot be told .*; wait for its end"):
        going(store, Rules(max_size=0))


def test_a_running_jobs_record_tells_what_it_needs_whatever_became_of_its_data(store: Path) -> None:
    """Its settings do not: a changed data file gives other keys, another folder none."""
    record(store.parent / RUNS / "b", status="running", settings={"model": 1}, planned=[CORPUS.key, PRETRAIN.key])
    stay = going(store, Rules(max_size=0))
    assert CORPUS.key not in stay
    assert PRETRAIN.key not in stay
    assert OTHER.key in stay


def test_what_a_sweep_under_way_has_made_or_will_need_stays(store: Path) -> None:
    """Between its jobs too, when none says that it runs: its report needs what they made."""
    sweep = store.parent / RUNS / "sweep"
    record(sweep / "0", EVALUATE)
    write_json(sweep / "sweep.json", {"planned": [OTHER.key]})
    with held(sweep / "sweep.json"):
        assert going(store, Rules(max_size=0)) == []
        artifacts, uses = look(store)
        assert list(choose(artifacts, uses, Rules(max_size=0)).stays) == ["a sweep that is under way uses it"]
    assert len(going(store, Rules(max_size=0))) == 5


HOLD = """
    import sys, time
    from pathlib import Path
    from graftlm.store import StageKey, Store, write_json

    def build(work):
        print("building", flush=True)
        time.sleep(60)

    Store(Path(sys.argv[1])).obtain(StageKey("pretrain", 1, {"x": 1}, {}), build)
"""


def test_what_is_being_built_stays_and_goes_once_its_builder_is_dead(store: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), str(store)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "building\n"
        artifacts, uses = look(store)
        (item,) = [item for item in artifacts if not item.finished]
        choice = choose(artifacts, uses, Rules(partial=True))
        assert choice.goes == []
        assert choice.stays == {"a process builds it": [item]}
        assert delete([item], store, Silent()) == (0, [item])  # begun after it was chosen
        assert item.path.is_dir()
        process.kill()
    assert going(store, Rules(partial=True)) == [item.key]
    assert delete([item], store, Silent()) == (0, [])
    assert [path.name for path in item.path.parent.glob(f"{item.key}*")] == [], "no claim is left behind"


def test_a_holder_on_another_machine_counts_as_alive(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    final = store / "pretrain" / "abc"
    final.with_suffix(".partial").mkdir()
    monkeypatch.setenv("GRAFTLM_MACHINE", "elsewhere")
    claim = Observer(final, 60.0).attempt()
    assert claim is not None
    monkeypatch.setenv("GRAFTLM_MACHINE", "here")
    assert going(store, Rules(partial=True)) == []
    claim.release(published=False)
    assert going(store, Rules(partial=True)) == ["abc"]


def test_deleting_removes_what_was_chosen_and_nothing_else(store: Path) -> None:
    (store / TRASH / "rest").mkdir(parents=True)  # of a deletion that was killed
    artifacts, uses = look(store)
    choice = choose(artifacts, uses, Rules(larger_than=10))
    chosen = [item for item in choice.goes if item.key in (EVALUATE.key, FINETUNE.key)]
    freed, left = delete(chosen, store, Silent())
    assert freed == sum(item.size for item in chosen)
    assert left == []
    assert [item.key for item in look(store)[0]] == [item.key for item in artifacts if item not in chosen]
    assert not (store / TRASH).exists()
    assert not Store(store).holds(EVALUATE)
    make(store, EVALUATE)
    assert Store(store).holds(EVALUATE)


class After(Silent):
    """Does something after the first thing that was counted."""

    def __init__(self, act: Callable[[], None]):
        self._act = act

    @contextmanager
    def task(self, label: str, total: int | None) -> Iterator[Advance]:
        def advance(units: int) -> None:
            act, self._act = self._act, lambda: None
            act()

        yield advance


USER = """
    import sys
    from pathlib import Path
    from graftlm.console import Lines
    from graftlm.store import StageKey, Store, write_json

    runs, store, *numbers = sys.argv[1:]
    taken = []
    made = 0
    def build(work):
        global made
        made += 1
        (work / "data.bin").write_bytes(b"x" * 1000)
    for number in numbers:
        key = StageKey("corpus", 1, {"n": int(number)}, {})
        job = Path(runs, number, "job.json")
        job.parent.mkdir()
        write_json(job, {"status": "running", "planned": [key.key]})
        path, _ = Store(Path(store)).obtain(key, build, Lines())
        taken.append((path, job, key.key))
        if len(taken) == 1:
            print("begun", flush=True)
    sys.stdin.readline()
    assert all((path / "data.bin").read_bytes() == b"x" * 1000 for path, _, _ in taken)
    for path, job, key in taken:
        write_json(job, {"status": "done", "stages": [{"key": key, "reused": True}]})
    print(made)
"""


def numbered(store: Path, count: int) -> list[StageKey]:
    keys = [StageKey("corpus", 1, {"n": number}, {}) for number in range(count)]
    make(store, *keys)
    (store.parent / RUNS).mkdir()
    return keys


def user(store: Path, numbers: Sequence[int]) -> subprocess.Popen[str]:
    """A process of jobs that each take an artifact, until it gets a line."""
    words = [sys.executable, "-c", textwrap.dedent(USER), str(store.parent / RUNS), str(store), *map(str, numbers)]
    return subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )


def ended(process: subprocess.Popen[str]) -> int:
    """How many artifacts it had to make."""
    out, told = process.communicate("\n", timeout=200)
    assert process.returncode == 0, told
    return int(out.splitlines()[-1])


@pytest.mark.parametrize("status", ["running", "done"])
def test_what_a_job_began_to_use_after_the_choice_stays(tmp_path: Path, status: str) -> None:
    """It took the second from the store while the first was deleted; whether it has ended by then or not."""
    store = tmp_path / "store"
    keys = [key.key for key in numbered(store, 3)]
    artifacts, uses = look(store)
    goes = choose(artifacts, uses, Rules(larger_than=10)).goes
    processes: list[subprocess.Popen[str]] = []
    made: list[int] = []

    def begin() -> None:
        processes.append(user(store, [keys.index(goes[1].key)]))
        assert processes[0].stdout is not None
        assert processes[0].stdout.readline() == "begun\n"
        if status == "done":
            made.append(ended(processes[0]))

    freed, left = delete(goes, store, After(begin), Newer(uses, [tmp_path / RUNS], store))
    assert (made or [ended(processes[0])]) == [0]
    assert [item.key for item in left] == [goes[1].key]
    assert [item.key for item in look(store)[0]] == [goes[1].key]
    assert freed == goes[0].size + goes[2].size


def test_jobs_and_a_deletion_from_both_ends(tmp_path: Path) -> None:
    """Wherever they meet: what a job was given is there as long as it runs."""
    store, count = tmp_path / "store", 150
    keys = [key.key for key in numbered(store, count)]
    artifacts, uses = look(store)
    goes = sorted(choose(artifacts, uses, Rules(larger_than=10)).goes, key=lambda item: keys.index(item.key))
    process = user(store, range(count - 1, -1, -1))
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    freed, left = delete(goes, store, Silent(), Newer(uses, [tmp_path / RUNS], store))
    assert left
    assert freed
    assert ended(process) >= len(goes) - len(left), "they met: those that were gone were made again"
    assert {item.key for item in look(store)[0]} == set(keys)


def test_a_job_waits_where_somebody_may_be_deleting(tmp_path: Path) -> None:
    """Who deletes claims before it looks whether a job has written itself down; so the job asks after it has."""
    store = tmp_path / "store"
    (key,) = numbered(store, 1)
    path = Store(store).path(key)
    with reserved(path) as got:
        assert got
        process = user(store, [0])
        assert process.stderr is not None
        assert "another process may delete it" in process.stderr.readline()
        assert process.poll() is None
    assert ended(process) == 0
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "count"), [("50GB", 50 * 10**9), ("1.5 kB", 1500), ("7", 7), ("2MiB", 2 * 2**20), ("3t", 3 * 10**12)]
)
def test_sizes(text: str, count: int) -> None:
    assert parse_size(text, "--max-size") == count


def test_ages() -> None:
    assert [parse_age(text, "x") for text in ("30d", "12h", "2w", "1.5m")] == [30 * DAY, DAY / 2, 14 * DAY, 90.0]
    with pytest.raises(SettingsError, match=r"--older-than=30: is no span of time; for example 30d"):
        parse_age("30", "--older-than")
    with pytest.raises(SettingsError, match=r"--max-size=big: is no size"):
        parse_size("big", "--max-size")
