"""A process that is killed in the middle of a stage, and the run that goes on from there."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch

import lit_modules.cli
from lit_modules.cli import main
from tests.children import start_program

CONFIG = """
data: {name: text-files, files: text.txt, cache_dir: cache}
model: {layers: 2, heads: 2, width: 16, dropout: 0.3, attention_dropout: 0.2, pattern: PATTERN}
stages:
  table:
    - {steps: 4, sequence_length: 16, batch_size: 2, accumulation: 3}
    - {steps: STEPS, sequence_length: 24, batch_size: 2, window_scale: 2.0, accumulation: 2}
    - {steps: 3, sequence_length: 32, batch_size: 1, window_scale: 4.0}
  decay: cosine
trainer: {accelerator: cpu, gradient_clip_val: 1.0, val_check_interval: 0.5, limit_val_batches: 1}
run: {save_every: 1, pictures: false, test: false, sample: 0}
"""
# The process is killed at about this step, in the middle of the second stage.
KILL_AT, STEPS = 10, 40
QUIET = ["--trainer.enable_progress_bar", "false"]


def final_state(run: str) -> dict[str, torch.Tensor]:
    content = torch.load(f"runs/{run}/checkpoints/last.ckpt", weights_only=True)
    assert content["global_step"] == 4 + STEPS + 3
    state: dict[str, torch.Tensor] = content["state_dict"]
    return state


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill like that")
def test_a_killed_run_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("a line of text, and another one.\n" * 200)
    config = CONFIG.replace("STEPS", str(STEPS)).replace("PATTERN", "{window: {before: 3}}")
    Path("run.yaml").write_text(config)
    # One thread in both processes: sums of another number of threads may differ in the last bit.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main(["fit", "--config", "run.yaml", "--run.name", "whole", *QUIET]) == 0
        kill_at_step(KILL_AT, ["fit", "--config", "run.yaml", "--run.name", "killed", *QUIET])
        saved = torch.load("runs/killed/checkpoints/last.ckpt", weights_only=True)
        assert 4 < saved["global_step"] < 4 + STEPS
        resume = ["fit", "--config", "run.yaml", "--run.name", "killed", "--ckpt_path", "last"]
        assert main([*resume, *QUIET]) == 0
    finally:
        torch.set_num_threads(threads)
    whole, killed = final_state("whole"), final_state("killed")
    assert whole.keys() == killed.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, killed[name]), name


def kill_at_step(step: int, words: list[str]) -> None:
    """Runs the command in a process of its own and kills it once its log has reached `step`."""
    log = Path("runs/killed/metrics.csv")
    # Every step is logged, so that the log tells when to strike.
    command = [lit_modules.cli.__file__, *words, "--trainer.log_every_n_steps", "1"]
    process = start_program(command, Path.cwd(), os.environ, "killed.log")
    try:
        deadline = time.monotonic() + 120
        while not log.exists() or log.read_text().count("\n") < step:
            assert process.is_alive(), Path("killed.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL, Path("killed.log").read_text()
