"""Memory that is used again, and batches in it."""

import torch
from torch.utils.data import DataLoader

from utils.reused_memory import MAX_SIZES, _spare, reusable_empty, stack

CPU = torch.device("cpu")


def test_memory_of_results_is_used_again_only_when_nobody_holds_it():
    shape = (3, 5, 7)
    first = reusable_empty(shape, CPU)
    assert first.shape == shape and first.dtype == torch.float32 and first.is_contiguous()
    where, part = first.data_ptr(), first.fill_(1)[1:, 2].numpy()
    del first
    second = reusable_empty(shape, CPU).fill_(2)
    assert second.data_ptr() != where and (part == 1).all()
    del part
    again, other = reusable_empty(shape, CPU), reusable_empty((2, 5, 7), CPU)
    assert again.data_ptr() == where and other.data_ptr() not in (where, second.data_ptr())
    assert (second == 2).all()


def test_memory_is_kept_of_the_sizes_last_asked_for_alone():
    held = [reusable_empty((1000 + i,), CPU) for i in range(MAX_SIZES)]
    kept = held[1].data_ptr()
    reusable_empty((2000,), CPU)
    del held
    assert len(_spare) == MAX_SIZES and 4 * 1000 not in _spare
    assert reusable_empty((1001,), CPU).data_ptr() == kept


def test_a_batch_is_the_samples_one_after_the_other():
    samples = [torch.arange(6, dtype=torch.uint8).view(1, 2, 3) + i for i in range(4)]
    batch = stack(samples)
    assert torch.equal(batch, torch.stack(samples)) and batch.dtype == torch.uint8
    assert torch.equal(stack([torch.tensor(True), torch.tensor(False)]), torch.tensor([True, False]))


def _stack_and_look(samples):
    batch = stack(samples)
    return batch, batch.is_shared()


def test_in_a_loader_worker_a_batch_lies_in_shared_memory_at_once():
    samples = [torch.full((2, 3), float(i)) for i in range(4)]
    for batch, was_shared in DataLoader(samples, batch_size=2, num_workers=1, collate_fn=_stack_and_look):
        assert was_shared and batch.shape == (2, 2, 3)
    assert not _stack_and_look(samples)[1]
