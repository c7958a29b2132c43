import dataclasses
from collections import defaultdict

import pytest
import yaml
from mmengine.config import Config
from queue_file import load_queue, rows_of
from rows import RESULTS, Row, read_results, shortening
from testing_helpers import REPOSITORY

from mmkdprune.errors import UsageError

PLAIN = REPOSITORY / "configs/mixskd/plain_resnet20_1xb64-20e_digits-16px.py"
CIFAR = REPOSITORY / "configs/mixskd/plain_resnet18_1xb64-205e_cifar100.py"


def row(**options) -> Row:
    return Row(**{"name": "a", "group": "A", "config": PLAIN, "seed": 0, **options})


def test_queue_names_every_row_once_and_every_config_exists():
    queue = load_queue()
    rows = rows_of(queue, list(queue), None)
    assert len({row.file_name for row in rows}) == len(rows) > 100
    assert {row.group for row in rows} == set(queue)
    assert all(row.config.is_file() for row in rows)
    for one in {row.config: row for row in rows}.values():
        train_cfg = one.settings().train_cfg
        assert train_cfg.get("max_epochs", 0) or train_cfg.max_iters > 0


def test_seeds_come_one_after_the_other_and_can_be_chosen():
    part = {"seeds": [0, 1], "rows": [f"mixskd/{PLAIN.name}"], "epochs": 2, "options": ["a=1"], "name": "b"}
    queue = {"X": {"parts": [part]}}
    rows = rows_of(queue, ["X"], None)
    assert [(one.name, one.seed) for one in rows] == [(f"{PLAIN.stem}_b_2e", 0), (f"{PLAIN.stem}_b_2e", 1)]
    assert rows[0].options == ("a=1",)
    assert [one.seed for one in rows_of(queue, ["X"], [7])] == [7]
    with pytest.raises(UsageError, match="no group Y in the queue; there are X"):
        rows_of(queue, ["Y"], None)
    unmatched = {"X": {"parts": [{"seeds": [0], "variants": {"pruning/variants.yml": ["^nothing$"]}}]}}
    with pytest.raises(UsageError, match=r"no variant of pruning/variants\.yml matches"):
        rows_of(unmatched, ["X"], None)


def test_rows_are_trained_in_turns_whatever_their_group():
    def part(turn, name, *seeds):
        return {"seeds": list(seeds), "turn": turn, "rows": [f"hsakd/{name}_resnet8_1xb64-12e_digits-16px.py"]}

    queue = {
        "X": {"parts": [part(1, "plain", 0), part(3, "plain", 1, 2)]},
        "Y": {"parts": [part(2, "kd_resnet20", 0)]},
    }
    rows = rows_of(queue, ["X", "Y"], None)
    assert [(row.group, row.seed) for row in rows] == [("X", 0), ("Y", 0), ("X", 1), ("X", 2)]
    assert [row.group for row in rows_of(queue, ["Y"], None)] == ["Y"]


def test_the_order_of_value_of_the_real_queue():
    queue = load_queue()
    turns = {}
    for row in rows_of(queue, list("RPTSM"), None):
        turns.setdefault((row.group, row.seed > 0, "-0.6_" in row.name), []).append(row.turn)
    order = [max(turns[key]) for key in (("R", False, False), ("P", False, False), ("T", False, False))]
    order += [min(turns[("R", True, False)]), max(turns[("P", True, False)])]
    order += [min(turns[("S", False, False)]), min(turns[("M", False, False)])]
    assert order == sorted(order)
    assert turns[("P", False, True)] == [8] * len(turns[("P", False, True)])
    seeds = {}
    for row in rows_of(queue, ["R", "P"], None):
        seeds.setdefault(row.name, []).append(row.seed)
    plain = "plain_resnet20_1xb64-80e_cifar100-20classes-16px"
    assert seeds[plain] == seeds["sfp-0.4_" + plain.removeprefix("plain_")] == [0, 1, 2]
    assert seeds["hfp-0.6_" + plain.removeprefix("plain_")] == [0]
    for method in ("sfp", "asrfp", "sfp-taylor", "asrfp-taylor"):  # two seeds at both rates
        for rate in ("0.4", "0.6"):
            assert {0, 1} <= set(seeds[f"{method}-{rate}_" + plain.removeprefix("plain_")])


def test_rows_that_are_fine_tuned_need_their_backbones():
    rows = {row.name: row for row in rows_of(load_queue(), ["T"], None)}
    detector = "retinanet_r18-w16-cifar100_fpn_1xb8-16e_bccd-320x240_from"
    assert rows[f"{detector}-scratch"].needs == {}
    for name, backbone in (("plain", "plain"), ("mixskd", "mixskd"), ("compact", "mixskd-ghfp-asrfp")):
        (needed,) = rows[f"{detector}-{name}"].needs.values()
        assert str(needed) == f"{backbone}_resnet18-w16_1xb64-30e_cifar100, seed 0"
        assert needed.hash == rows[needed.name].hash
    hashes = [row.hash for name, row in rows.items() if name.startswith(detector)]
    assert len(set(hashes)) == len(hashes) == 4
    short = dataclasses.replace(rows[f"{detector}-plain"], options=("train_dataloader.batch_size=4",), epochs=4)
    (needed,) = short.needs.values()
    assert (needed.options, needed.epochs) == ((), None)


def test_the_networks_that_a_row_learns_from_are_rows():
    queue = load_queue()
    rows = {(row.name, row.seed): row for row in rows_of(queue, ["R"], None)}
    student = "resnet20_resnet8_1xb64-80e_cifar100-20classes-16px"
    (key, teacher), *rest = rows[f"kd_{student}", 1].needs.items()
    assert (key, rest) == ("model.teacher.checkpoint", [])
    assert str(teacher) == "plain_resnet20_1xb64-80e_cifar100-20classes-16px, seed 1"
    assert teacher.config == rows[teacher.name, 1].config  # the file of the row that is trained anyway
    for seed in (0, 1):  # trained once
        (teacher,) = rows[f"hsakd_{student}", seed].needs.values()
        assert (teacher.name, teacher.seed) == ("hsakd-teacher_resnet20_1xb64-80e_cifar100-20classes-16px", 0)
    assert rows["plain_resnet20_1xb64-80e_cifar100-20classes-16px", 0].needs == {}
    given = row(config=rows[f"kd_{student}", 0].config, options=("model.teacher.checkpoint=x.pth",))
    assert given.needs == {}


def test_options_and_length_of_a_row_are_also_those_of_its_teacher():
    config = REPOSITORY / "configs/hsakd/kd_resnet20_resnet8_1xb64-12e_digits-16px.py"
    options = ("model.temperature=2", "train_dataloader.batch_size=32")
    (teacher,) = row(config=config, options=options, epochs=6, suffix="_small_6e").needs.values()
    assert teacher.name == "plain_resnet20_1xb64-12e_digits-16px_small_6e"
    assert teacher.options == ("train_dataloader.batch_size=32",)
    assert "train_cfg.max_epochs=6" in teacher.overrides()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"seeds": [0]}, "group X: title must be given"),
        ({"title": "a"}, "group X: seeds must be given"),
        ({"title": "a", "parts": {"seeds": [0]}}, "parts must be a list"),
        ({"title": "a", "parts": [{"seeds": [0]}], "turn": 1}, "turn stands beside parts"),
        ({"title": "a", "seeds": [0, 1, 0]}, r"seed 0 is given twice in \[0, 1, 0\]"),
        ({"title": "a", "seeds": "0"}, r"seeds must be a list of whole numbers such as \[0, 1, 2\], got '0'"),
        ({"title": "a", "seeds": [True]}, "seeds must be a list of whole numbers"),
        ({"title": "a", "seeds": [0], "backbones": {"b": 3}}, "backbones.b must be a config, .* got 3"),
        ({"title": "a", "seeds": [0], "turn": 0}, "turn must be a positive number, got 0"),
        ({"title": "a", "seeds": [0], "row": []}, r"group X: unknown field\(s\) \['row'\]"),
        ({"title": "a", "seeds": [0], "epochs": 0}, "epochs must be a positive number, got 0"),
        ({"title": "a", "seeds": [0], "options": ["a=1"]}, "options need a name"),
    ],
)
def test_mistakes_in_a_queue(tmp_path, entry, message):
    file = tmp_path / "rows.yml"
    file.write_text(yaml.safe_dump({"X": entry}))
    with pytest.raises(UsageError, match=message):
        load_queue(file)


def test_two_rows_of_one_name_are_one_row_or_refused():
    part = {"seeds": [0], "rows": [f"mixskd/{PLAIN.name}"]}
    rows = rows_of({"X": {"parts": [part]}, "Y": {"parts": [part, part]}}, ["X", "Y"], None)
    assert [one.group for one in rows] == ["X"]
    other = {"seeds": [0], "rows": [f"../tests/{PLAIN.name}"]}
    with pytest.raises(UsageError, match="two rows of the queue are called plain_resnet20"):
        rows_of({"X": {"parts": [part]}, "Y": {"parts": [other]}}, ["X", "Y"], None)


def test_a_shortened_run_goes_through_the_whole_schedule():
    options = shortening(Config.fromfile(CIFAR), 41)
    assert options == [
        "train_cfg.max_epochs=41",
        "param_scheduler.0.begin=0",
        "param_scheduler.0.end=1",
        "param_scheduler.1.milestones=[21,31]",
    ]
    settings = row(config=CIFAR, epochs=41).settings()
    assert settings.param_scheduler[1].milestones == [21, 31]
    assert settings.train_cfg.max_epochs == 41
    single = Config({"train_cfg": {"max_epochs": 100}, "param_scheduler": {"milestones": [30, 60], "by_epoch": True}})
    assert shortening(single, 10) == ["train_cfg.max_epochs=10", "param_scheduler.milestones=[3,6]"]
    by_iteration = Config({"train_cfg": {"max_epochs": 100}, "param_scheduler": [{"T_max": 9, "by_epoch": False}]})
    assert shortening(by_iteration, 10) == ["train_cfg.max_epochs=10"]


def test_results_are_of_the_queue_and_of_the_configs_as_they_are():
    queue = load_queue()
    rows, groups = {}, defaultdict(set)
    for group in queue:
        for row in rows_of(queue, [group], [0, 1, 2]):
            rows[row.file_name] = row
            groups[row.file_name].add(group)
    results = read_results()
    for result in results:
        if f"train_{result['row']}_seed{result['seed']}.json" not in rows:  # a network that others learn from
            for row in rows_of(queue, [result["group"]], [result["seed"]]):
                for needed in row.needs.values():
                    rows[needed.file_name] = needed
                    groups[needed.file_name].add(result["group"])
    assert len(results) == len(list(RESULTS.glob("train_*.json"))) > 60
    for result in results:
        one = rows[f"train_{result['row']}_seed{result['seed']}.json"]
        assert result["config_sha256"] == one.hash, one.name
        assert result["overrides"] == one.overrides()
        assert result["group"] in groups[one.file_name]
        assert result["config"].startswith("configs/")
        unit, steps = ("iter", "iterations") if "iterations_run" in result else ("epoch", "epochs")
        for field in ("hardware", "versions", "command", "date", "wall_s", "images_per_s", f"{steps}_planned"):
            assert result[field], field
        last, best, value = ("last", "best", "value") if "metric" in result else ("top1_last", "top1_best", "top1")
        assert result[best] >= result[last] > 0
        if "log" in result:
            values = {entry[unit]: entry[value] for entry in result["log"] if value in entry}
            if "metric" not in result:
                assert [entry["epoch"] for entry in result["log"]] == list(range(1, result["epochs_run"] + 1))
            assert values[result[f"{steps}_run"]] == result[last]
            assert values[result[f"best_{unit}"]] == max(values.values()) == result[best]
