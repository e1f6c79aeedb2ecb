from __future__ import annotations

import torch

from torchrl_drpo.evaluation.ranking import frequency_buckets


def test_every_row_is_in_one_bucket_and_equal_counts_stay_together() -> None:
    count = torch.randint(0, 40, (1_000,), generator=torch.Generator().manual_seed(0))
    found = frequency_buckets(count)
    assert [bucket.name for bucket in found] == ["new", "low", "medium", "high"]
    assert torch.stack([bucket.rows for bucket in found]).sum(0).eq(1).all()
    for bucket in found:
        mine = count[bucket.rows]
        assert (int(mine.min()), int(mine.max())) == (bucket.least, bucket.most)
    known = [int(bucket.rows.sum()) for bucket in found[1:]]
    assert max(known) - min(known) < 2 * 1_000 / 40 + 40  # thirds, up to one count's rows
    assert found[1].most < found[2].least <= found[2].most < found[3].least


def test_counts_that_leave_no_thirds_leave_parts_out() -> None:
    assert [b.name for b in frequency_buckets(torch.zeros(4).long())] == ["new"]
    (one,) = frequency_buckets(torch.full((4,), 7))
    assert (str(one), int(one.rows.sum())) == ("medium (7)", 4)
    few, many = frequency_buckets(torch.tensor([1, 1000]), ("tail", "middle", "head"))
    assert (str(few), str(many)) == ("tail (1)", "head (1,000)")
