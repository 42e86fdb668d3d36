"""The stage table: which stage a step is in, and what the learning rate is there."""

import math

import pytest
from lightning.pytorch import Callback, Trainer

from lit_modules.callbacks.stages import Stages
from lit_modules.training.stages import Doubling, Stage, StageTable, table, table_of


def two_stages(**fields: object) -> StageTable:
    rows = (
        Stage(steps=10, sequence_length=64, accumulation=3),
        Stage(steps=20, sequence_length=128, window_scale=2.0, learning_rate_scale=0.5),
    )
    return StageTable(rows, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("step", "index", "steps_done", "batches_done"),
    [(0, 0, 0, 0), (9, 0, 9, 27), (10, 1, 0, 0), (29, 1, 19, 19), (30, 1, 20, 20), (99, 1, 20, 20)],
)
def test_a_step_lies_in_one_stage(
    step: int, index: int, steps_done: int, batches_done: int
) -> None:
    at = two_stages().at(step)
    assert (at.index, at.steps_done, at.batches_done) == (index, steps_done, batches_done)
    assert at.first_step == (0, 10)[index]


def test_a_negative_step_is_refused() -> None:
    with pytest.raises(ValueError, match="step must be >= 0, got -1"):
        two_stages().at(-1)


def test_the_rate_warms_up_in_each_stage_and_takes_its_scale() -> None:
    factors = [two_stages(warmup=0.2).learning_rate_factor(step) for step in range(30)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    assert factors[9:15] == [1.0, 0.125, 0.25, 0.375, 0.5, 0.5]
    assert factors[-1] == 0.5


def test_warm_up_is_a_tenth_of_a_stage_and_at_most_ten_thousand_steps() -> None:
    long = StageTable((Stage(steps=430_000, sequence_length=2048), Stage(50_000, 4096)))
    assert long.learning_rate_factor(9_998) < 1.0
    assert long.learning_rate_factor(9_999) == 1.0
    assert long.learning_rate_factor(430_000 + 4_998) < 1.0
    assert long.learning_rate_factor(430_000 + 4_999) == 1.0


def test_the_decay_falls_over_the_whole_run_to_the_floor() -> None:
    plain = StageTable((Stage(50, 8), Stage(50, 8)), warmup=0, decay="cosine", floor=0.1)
    assert plain.learning_rate_factor(0) == 1.0
    assert plain.learning_rate_factor(50) == pytest.approx(0.55)
    assert plain.learning_rate_factor(100) == pytest.approx(0.1)
    assert plain.learning_rate_factor(1000) == pytest.approx(0.1)
    straight = StageTable((Stage(100, 8),), warmup=0, decay="linear")
    assert straight.learning_rate_factor(25) == pytest.approx(0.75)


def test_a_polynomial_falls_from_the_end_of_the_warm_up_on() -> None:
    # Longformer's masked language models: 500 steps of warm-up, then the third power.
    paper = StageTable(
        (Stage(65_000, 4096),), warmup=0.1, warmup_limit=500, decay="polynomial", power=3
    )
    assert paper.learning_rate_factor(0) == pytest.approx(1 / 500)
    assert paper.learning_rate_factor(499) == paper.learning_rate_factor(500) == 1.0
    assert paper.learning_rate_factor(500 + 64_500 // 2) == pytest.approx(0.125)
    assert paper.learning_rate_factor(65_000) == 0.0
    floor = StageTable((Stage(100, 8),), warmup=0, decay="polynomial", power=2, floor=0.2)
    assert floor.learning_rate_factor(50) == pytest.approx(0.2 + 0.8 / 4)


def test_the_paper_is_one_line() -> None:
    line = Doubling(
        stages=5,
        steps=[430_000, 50_000, 50_000, 35_000, 5_000],
        sequence_length=2048,
        longest=23_040,
        batch_size=[32, 32, 16, 16, 16],
    )
    rows = line.rows()
    assert [row.sequence_length for row in rows] == [2048, 4096, 8192, 16_384, 23_040]
    assert [row.window_scale for row in rows] == [1, 2, 4, 8, 16]
    assert [2.5e-4 * row.learning_rate_scale for row in rows] == [
        2.5e-4,
        1.25e-4,
        6.25e-5,
        3.125e-5,
        1.5625e-5,
    ]
    assert [row.batch_size for row in rows] == [32, 32, 16, 16, 16]
    assert StageTable(rows).steps == 570_000


def test_tokens_count_accumulation() -> None:
    first = Stage(steps=10, sequence_length=64, batch_size=2, accumulation=3)
    assert StageTable((first, Stage(5, 10, batch_size=1))).tokens == 10 * 64 * 2 * 3 + 5 * 10


def test_either_form_or_none_makes_a_table() -> None:
    assert table(None, None) is None
    made = table([Stage(3, 8)], None, warmup=0.0)
    assert made is not None
    assert made.steps == 3
    with pytest.raises(ValueError, match="either table or doubling, got both"):
        table([Stage(3, 8)], Doubling(1, 2, 8))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "stage steps must be an int >= 1, got 0"),
        ({"sequence_length": 1.5}, "stage sequence_length must be an int >= 1, got 1.5"),
        ({"accumulation": True}, "stage accumulation must be an int >= 1, got True"),
        ({"window_scale": 0.0}, "stage window_scale must be a number > 0, got 0.0"),
        (
            {"learning_rate_scale": math.inf},
            "stage learning_rate_scale must be a number > 0, got inf",
        ),
        ({"window_scale": math.nan}, "stage window_scale must be a number > 0, got nan"),
    ],
)
def test_a_stage_that_cannot_be_trained_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Stage(**{"steps": 1, "sequence_length": 8, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stages": ()}, "at least one stage"),
        ({"warmup": 1.5}, r"stages warmup must be in 0\.\.1, got 1\.5"),
        ({"floor": -0.1}, r"stages floor must be in 0\.\.1, got -0\.1"),
        ({"warmup_limit": -1}, "warmup_limit must be >= 0, got -1"),
        ({"decay": "steep"}, "decay must be none, linear, cosine or polynomial, got 'steep'"),
        ({"decay": "polynomial", "power": 0}, "power must be > 0, got 0"),
        ({"power": 3.0}, "power 3.0 with decay 'none'"),
    ],
)
def test_a_table_that_cannot_be_run_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StageTable(**{"stages": (Stage(1, 8),), **fields})  # type: ignore[arg-type]


def test_a_list_of_another_length_than_the_stages_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"doubling steps must be one number or 3 of them .* \[1, 2\]"
    ):
        Doubling(stages=3, steps=[1, 2], sequence_length=8).rows()
    with pytest.raises(ValueError, match="doubling stages must be >= 1, got 0"):
        Doubling(stages=0, steps=1, sequence_length=8).rows()


def test_the_table_of_a_run_is_that_of_its_stages() -> None:
    def run(*callbacks: Callback) -> Trainer:
        return Trainer(accelerator="cpu", logger=False, callbacks=list(callbacks))

    stages = Stages(table=[Stage(3, 8)])
    assert table_of(run(Callback(), stages)) is stages.table
    assert table_of(run(Stages())) is None
    assert table_of(run()) is None
