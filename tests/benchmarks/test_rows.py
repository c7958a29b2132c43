import pytest
import yaml
from mmengine.config import Config
from rows import RESULTS, Row, config_hash, load_queue, read_results, rows_of, shortening
from testing_helpers import REPOSITORY

from mmkdprune.utils.command_line import UsageError

PLAIN = REPOSITORY / "configs/mixskd/plain_resnet20_1xb64-20e_digits-16px.py"
CIFAR = REPOSITORY / "configs/mixskd/plain_resnet18_1xb64-205e_cifar100.py"


def row(**options) -> Row:
    return Row(**{"name": "a", "group": "A", "config": PLAIN, "seed": 0, **options})


def test_queue_names_every_row_once_and_every_config_exists():
    queue = load_queue()
    rows = list(rows_of(queue, list(queue), None))
    assert len({row.file_name for row in rows}) == len(rows) > 100
    assert {row.group for row in rows} == set(queue)
    assert all(row.config.is_file() for row in rows)
    for one in {row.config: row for row in rows}.values():
        assert one.settings().train_cfg.max_epochs > 0


def test_seeds_come_one_after_the_other_and_can_be_chosen():
    queue = {"X": {"seeds": [0, 1], "rows": [f"mixskd/{PLAIN.name}"], "epochs": 2, "options": ["a=1"], "name": "b"}}
    rows = list(rows_of(queue, ["X"], None))
    assert [(one.name, one.seed) for one in rows] == [(f"{PLAIN.stem}_b_2e", 0), (f"{PLAIN.stem}_b_2e", 1)]
    assert rows[0].options == ("a=1",)
    assert [one.seed for one in rows_of(queue, ["X"], [7])] == [7]
    with pytest.raises(UsageError, match="no group Y in the queue; there are X"):
        list(rows_of(queue, ["Y"], None))
    unmatched = {"X": {"seeds": [0], "variants": {"pruning/variants.yml": ["^nothing$"]}}}
    with pytest.raises(UsageError, match=r"no variant of pruning/variants\.yml matches"):
        list(rows_of(unmatched, ["X"], None))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"title": "a"}, "group X: title and seeds must be given"),
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


def test_two_rows_of_one_name_are_refused():
    entry = {"title": "a", "seeds": [0], "rows": [f"mixskd/{PLAIN.name}"]}
    assert len(list(rows_of({"X": entry}, ["X", "X"], None))) == 1
    with pytest.raises(UsageError, match="two rows of the queue are called plain_resnet20"):
        list(rows_of({"X": entry, "Y": entry}, ["X", "Y"], None))


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


def test_hash_is_of_what_determines_the_result():
    def hash_of(*options, config=PLAIN):
        return config_hash(row(config=config, options=options).settings())

    whole = hash_of()
    assert whole == hash_of("randomness.seed=3", "default_hooks.logger.interval=1", "work_dir=x")
    assert whole == hash_of("train_dataloader.num_workers=2")
    others = [
        hash_of(option)
        for option in (
            "optim_wrapper.optimizer.lr=0.1",
            "train_cfg.max_epochs=3",
            "model.backbone.depth=8",
            "data_preprocessor.mean=[0,0,0]",
            "train_dataloader.dataset.indices=96",
            "speed.amp=auto",
            "optim_wrapper.type=AmpOptimWrapper",
            "compile=True",
            "val_dataloader.dataset.split=train",
            "val_evaluator.topk=(5,)",
            "randomness.deterministic=True",
        )
    ]
    assert len({whole, *others}) == 12


def test_results_are_of_the_queue_and_of_the_configs_as_they_are():
    queue = load_queue()
    rows = {row.file_name: row for row in rows_of(queue, list(queue), [0, 1, 2])}
    hashes: dict[str, str] = {}
    results = read_results()
    assert len(results) == len(list(RESULTS.glob("train_*.json"))) > 60
    for result in results:
        one = rows[f"train_{result['row']}_seed{result['seed']}.json"]
        hashes.setdefault(one.name, config_hash(one.settings()))
        assert result["config_sha256"] == hashes[one.name], one.name
        assert result["overrides"] == one.overrides()
        assert result["group"] == one.group
        assert result["config"].startswith("configs/")
        for field in ("hardware", "versions", "command", "date", "wall_s", "images_per_s", "epochs_planned"):
            assert result[field], field
        assert result["top1_best"] >= result["top1_last"] > 0
        if "log" in result:
            accuracies = {entry["epoch"]: entry["top1"] for entry in result["log"] if "top1" in entry}
            assert [entry["epoch"] for entry in result["log"]] == list(range(1, result["epochs_run"] + 1))
            assert accuracies[result["epochs_run"]] == result["top1_last"]
            assert accuracies[result["best_epoch"]] == max(accuracies.values()) == result["top1_best"]
