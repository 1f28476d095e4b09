import numpy as np
import pytest

from fastvim.training import Recipe
from fastvim.training.plan import StepPlan


def plan(*, samples=23, processes=1, rank=0, **numbers) -> StepPlan:
    recipe = Recipe(**{"epochs": 3, "warmup_epochs": 1, "batch_size": 8, **numbers})
    return StepPlan(recipe, samples, processes, rank)


def indices(chosen: StepPlan, first_step: int = 0) -> list[np.ndarray]:
    return [part for part, _ in chosen.items(first_step)]


def test_epoch_is_a_permutation_in_whole_batches():
    batches = indices(plan())
    assert [len(batch) for batch in batches] == [8] * 6
    for epoch in (batches[:2], batches[2:4], batches[4:]):
        seen = np.concatenate(epoch)
        assert len(set(seen)) == 16
        assert seen.min() >= 0
        assert seen.max() < 23
    assert not np.array_equal(batches[0], batches[2]), "epochs differ in order"


def test_seed_decides_the_order():
    first, again, other = (indices(plan(seed=seed))[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("first_step", [0, 1, 2, 5, 6])
def test_starting_later_skips_indices(first_step):
    rest = indices(plan(accumulation=2), first_step)
    np.testing.assert_array_equal(
        np.array(rest).reshape(-1, 4),
        np.array(indices(plan(accumulation=2)))[2 * first_step :],
    )


def test_processes_and_parts_share_out_each_batch():
    whole = indices(plan())
    ranks = [indices(plan(processes=2, rank=rank, accumulation=2)) for rank in (0, 1)]
    for step, batch in enumerate(whole):
        parts = [rank[2 * step + part] for part in (0, 1) for rank in ranks]
        assert [len(part) for part in parts] == [2] * 4
        np.testing.assert_array_equal(np.concatenate(parts), batch)


def test_seeds_differ_by_step_part_rank_and_purpose():
    seeds = [
        seed
        for rank in range(2)
        for step in range(20)
        for part in range(2)
        for seed in plan(processes=2, rank=rank, accumulation=2).seeds(step, part)
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_items_carry_the_third_seed_of_their_part():
    chosen = plan(processes=2, rank=1, accumulation=2)
    expected = [chosen.seeds(step, part)[2] for step in range(2, 6) for part in range(2)]
    assert [seed for _, seed in chosen.items(2)] == expected


def test_seeds_are_those_that_runs_were_begun_with():
    """Or a run from before would not go on to the same weights."""
    assert plan().seeds(1, 0)[:2] == (3964924996, 1358922860)


def test_epochs_are_counted_from_one():
    assert [plan().epoch(step) for step in range(6)] == [1, 1, 2, 2, 3, 3]


def test_batch_that_cannot_be_shared_out_is_refused():
    with pytest.raises(
        ValueError, match=r"'batch_size'.* 3 processes × 2 accumulated parts, got 8"
    ):
        plan(processes=3, accumulation=2)


def test_less_than_a_batch_of_data_is_refused():
    with pytest.raises(ValueError, match=r"one batch of 8 samples, got 7\. Lower batch_size"):
        plan(samples=7)


def test_recipes_that_count_steps_end_and_validate_by_them():
    chosen = plan(steps=7, warmup_steps=2, validate_every_steps=3)
    assert (chosen.steps, chosen.warmup_steps) == (7, 2)
    assert len(indices(chosen)) == 7
    assert [done for done in range(1, 8) if chosen.validates_after(done)] == [3, 6, 7]


def test_epochs_are_validated_one_by_one():
    chosen = plan()
    assert [done for done in range(1, 7) if chosen.validates_after(done)] == [2, 4, 6]
