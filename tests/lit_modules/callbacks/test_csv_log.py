"""The log: columns as they come, and one file over all processes that a run took."""

from pathlib import Path

from lit_modules.callbacks.csv_log import CSVLog, read_log


def test_rows_have_the_numbers_they_were_given(tmp_path: Path) -> None:
    log = CSVLog(tmp_path / "run")
    log.log_metrics({"train/loss": 2.5}, step=0)
    log.log_metrics({"val/loss": 3.0, "epoch": 0}, step=0)
    log.log_metrics({"train/loss": 1.5}, step=10)
    assert read_log(log.file) == [
        {"step": 0, "train/loss": 2.5},
        {"step": 0, "val/loss": 3.0, "epoch": 0},
        {"step": 10, "train/loss": 1.5},
    ]
    assert log.file.read_text().splitlines()[-1] == "10,1.5,,"


def test_a_resumed_run_replaces_what_was_logged_after_its_checkpoint(tmp_path: Path) -> None:
    killed = CSVLog(tmp_path)
    for step in (0, 1, 2, 3):
        killed.log_metrics({"train/loss": 1.0, "old": 7.0}, step=step)
    resumed = CSVLog(tmp_path)
    for step in (2, 3, 4):
        resumed.log_metrics({"train/loss": 2.0, "new": 8.0}, step=step)
    rows = read_log(tmp_path / "metrics.csv")
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["train/loss"] for row in rows] == [1.0, 1.0, 2.0, 2.0, 2.0]
    assert rows[0]["old"] == 7.0
    assert rows[-1] == {"step": 4, "train/loss": 2.0, "new": 8.0}


def test_a_row_that_was_cut_short_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    file.write_text("step,train/loss\n1,2.5\n12,3.")
    assert read_log(file) == [{"step": 1, "train/loss": 2.5}]
    CSVLog(tmp_path).log_metrics({"train/loss": 1.0}, step=20)
    assert file.read_text() == "step,train/loss\n1,2.5\n20,1.0\n"


def test_there_may_be_no_file(tmp_path: Path) -> None:
    assert read_log(tmp_path / "none.csv") == []
