import json
import random

import pytest

from graftlm.errors import ReportError
from graftlm.report.collect import collect
from graftlm.report.compare import compare
from graftlm.report.markdown import to_markdown
from graftlm.report.page import render

ODD = [None, [], {}, "text", -1, 0, 1e400, float("nan"), True, [None], {"a": {"b": 1}}, ""]


def places(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def put(value, path, odd):
    if not path:
        return odd
    node = value
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = odd
    return value


def ruin(path, rng):
    """Puts a value of another kind somewhere in a record, or cuts the file."""
    text = path.read_text(encoding="utf-8")
    if rng.random() < 0.1:
        path.write_text(text[: rng.randrange(len(text))], encoding="utf-8")
        return
    try:
        if path.suffix == ".jsonl":
            lines = text.splitlines()
            at = rng.randrange(len(lines))
            value = json.loads(lines[at])
            lines[at] = json.dumps(put(value, rng.choice(list(places(value))), rng.choice(ODD)))
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        else:
            value = json.loads(text)
            path.write_text(json.dumps(put(value, rng.choice(list(places(value))), rng.choice(ODD))), encoding="utf-8")
    except (ValueError, IndexError):
        return  # ruined already


@pytest.mark.parametrize("place", ["a\0b", "a" * 5000])
def test_a_place_that_no_file_system_has(fake_sweep, fake_arm, tmp_path, place):
    sweep = fake_sweep(examples=6)
    sweep.sweep([fake_arm("none"), fake_arm("calibrated", fidelity=0.9)], (1, 2))
    path = sorted(tmp_path.rglob("job.json"))[0]
    record = json.loads(path.read_text(encoding="utf-8"))
    for stage in record["stages"]:
        stage["path"] = place
    path.write_text(json.dumps(record), encoding="utf-8")
    found = collect([tmp_path])
    assert [warning.split(": ")[1] for warning in found.warnings] == ["names no fine-tuning artifact; left out"]
    assert sum(len(arm.runs) for arm in found.arms) == 3


def test_json_that_is_nested_beyond_all_measure(fake_sweep, fake_arm, tmp_path):
    sweep = fake_sweep(examples=6)
    sweep.sweep([fake_arm("none"), fake_arm("calibrated", fidelity=0.9)], (1, 2))
    for path in [path for path in tmp_path.rglob("*.json*") if path.name != "artifact.json"]:
        kept = path.read_text(encoding="utf-8")
        path.write_text("[" * 100_000, encoding="utf-8")
        try:
            found = collect([tmp_path])
            to_markdown(compare(found))
            assert found.warnings or path.name in ("cost.json", "transfer.json", "report.json"), path
        finally:
            path.write_text(kept, encoding="utf-8")


@pytest.mark.parametrize("seed", range(3))
def test_no_damage_makes_it_crash(fake_sweep, fake_arm, tmp_path, seed):
    sweep = fake_sweep(examples=6)
    sweep.sweep([fake_arm("none"), fake_arm("calibrated", fidelity=0.9), fake_arm("naive", control=True)], (1, 2, 3))
    rng = random.Random(seed)
    files = sorted(path for path in tmp_path.rglob("*.json*") if path.name != "artifact.json")
    kept = {path: path.read_bytes() for path in files}
    for _ in range(ROUNDS):
        for path in rng.sample(files, 4):
            ruin(path, rng)
        try:
            found = collect([tmp_path])
            report = compare(found)
            json.dumps(report.to_json(), allow_nan=False)
            to_markdown(report)
            render(report, found)
        except ReportError:
            pass
        for path, content in kept.items():
            path.write_bytes(content)


ROUNDS = 12


def test_a_number_beyond_all_measure_is_none(fake_sweep, fake_arm):
    """Finite, and yet not to be added up; or a whole number that is no float at all."""
    sweep = fake_sweep(examples=6)
    sweep.sweep([fake_arm("none"), fake_arm("calibrated", early=-0.5)], (1, 2, 3))
    for odd in ("1e308", "-1e308", "1" + 400 * "0"):
        for path in (*sweep.root.rglob("cost.json"), *sweep.root.rglob("scores.json")):
            path.write_text(path.read_text(encoding="utf-8").replace('"seconds": ', f'"seconds": {odd}, "_": '))
        report = compare(collect([sweep.root]))
        assert all(arm.mean["seconds"] is None for arm in report.arms)
        assert report.arm("calibrated").word == "better"
