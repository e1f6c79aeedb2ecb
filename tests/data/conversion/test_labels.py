"""Numbers that are carried along: labels as they were logged, log-propensities as logarithms."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from torchrl_drpo import TOPRLoss, make_catalogue_actor
from torchrl_drpo.data import (
    InitialHistory,
    ItemTable,
    LogError,
    LogSchema,
    RecReplayBuffer,
    convert_log,
    validate_log,
)

SCHEMA = LogSchema(user="u", item="i", time="t", quality="r", labels=("x",), duplicates="keep")
ROWS = {"u": [1, 1, 1], "i": [5, 6, 7], "t": [1, 2, 3], "r": [0.0, 1.0, 0.5]}


@pytest.mark.parametrize(
    ("dtype", "values", "stored"),
    [
        (pa.int64(), [2**53 + 1, -(2**63), 2**63 - 1], "int64"),
        (pa.uint64(), [2**63 - 1, 0, 2**53 + 1], "int64"),
        (pa.uint32(), [2**32 - 1, 0, 1], "int64"),
        (pa.uint8(), [255, 0, 1], "uint8"),
        (pa.int8(), [-128, 127, 0], "int8"),
        (pa.int16(), [-(2**15), 0, 1], "int16"),
        (pa.bool_(), [True, False, True], "bool"),
        (pa.float16(), np.array([0.5, 65504, -2], np.float16), "float32"),
        (pa.float32(), np.array([0.1, 3e38, -2], np.float32), "float32"),
        (pa.float64(), [0.1, 1e300, -math.inf], "float64"),
        (pa.decimal128(9, 2), [Decimal("0.25"), Decimal("7.50"), Decimal("-1")], "float64"),
        (pa.dictionary(pa.int8(), pa.int64()), [2**53 + 1, 0, 1], "int64"),
        (pa.dictionary(pa.int8(), pa.float64()), [0.1, 0.5, 0.1], "float64"),
        (pa.dictionary(pa.int8(), pa.bool_()), [True, False, True], "bool"),
    ],
)
def test_labels_are_what_was_logged(dtype, values, stored):
    if pa.types.is_dictionary(dtype):
        column = pa.array(values, dtype.value_type).dictionary_encode()
    else:
        column = pa.array(values, dtype)
    found = RecReplayBuffer.from_parquet(pa.table({**ROWS, "x": column}), SCHEMA).column("x")
    assert found.dtype == getattr(torch, stored)
    assert found.tolist() == [
        float(v) if isinstance(v, Decimal | np.floating) else v for v in values
    ]


@pytest.mark.parametrize(
    ("types", "stored"),
    [
        ((pa.int64(), pa.uint64()), "int64"),
        ((pa.int8(), pa.int64()), "int64"),
        ((pa.bool_(), pa.int32()), "int32"),
        ((pa.float32(), pa.int16()), "float32"),
        ((pa.float32(), pa.int32()), "float64"),
        ((pa.uint8(), pa.int8()), "int16"),
    ],
)
def test_files_of_other_types_meet_in_one_that_holds_both(tmp_path, types, stored):
    for number, dtype in enumerate(types):
        table = pa.table({**ROWS, "x": pa.array([1, 0, 1]).cast(dtype)})
        pq.write_table(table, tmp_path / f"{number}.parquet")
    found = RecReplayBuffer.from_parquet(tmp_path, SCHEMA).column("x")
    assert found.dtype == getattr(torch, stored)
    assert sorted(found.tolist()) == [0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (pa.array([2**53 + 1, 0, 1]), pa.array([0.5, 0, 1]), "row 0: label would change: x 900719"),
        (pa.array([2**64 - 1, 0, 1], pa.uint64()), None, "row 0: label would change: x 18446744"),
        (pa.array([1, None, 1]), None, "row 1: missing label: x"),
        (pa.array([1.0, math.nan, 1]), None, "row 1: missing label: x"),
    ],
)
def test_a_label_that_cannot_stay_what_it_is_is_a_fault(tmp_path, one, other, message):
    for number, column in enumerate([one, other] if other is not None else [one]):
        pq.write_table(pa.table({**ROWS, "x": column}), tmp_path / f"{number}.parquet")
    with pytest.raises(LogError, match=rf"0\.parquet, {message}"):
        convert_log(tmp_path, tmp_path / "out", SCHEMA)
    kind = message.split(": ")[1]
    assert validate_log(tmp_path, SCHEMA).fault(kind).count == 1
    dropped = convert_log(tmp_path, tmp_path / "out", SCHEMA, bad_rows="drop")
    assert dropped.dropped == {f"{kind} in x": 1}


def logged(values, logarithms=False):
    schema = SCHEMA.replace(labels=(), propensity="mu", log_propensity=logarithms)
    table = pa.table({**ROWS, "mu": pa.array(values, pa.float64())})
    return RecReplayBuffer.from_parquet(table, schema, history=2)


def test_log_propensities_stay_logarithms():
    rows = logged([-120.0, -1e-12, -5.0], logarithms=True)[:]
    assert rows["log_propensity"].tolist() == np.float32([-120.0, -1e-12, -5.0]).tolist()
    assert rows["propensity"].tolist() == pytest.approx([0.0, 1.0, math.exp(-5)])
    rows = logged([1e-50, 1.0, 0.25])[:]
    assert rows["log_propensity"].tolist() == np.float32(np.log([1e-50, 1, 0.25])).tolist()
    assert rows["propensity"].tolist() == [0.0, 1.0, 0.25]


@pytest.mark.parametrize("value", [0.5, math.nan, -math.inf, math.inf])
def test_a_log_propensity_is_finite_and_at_most_zero(value):
    advice = "expected its natural logarithm, finite and at most 0"
    with pytest.raises(LogError, match=rf"row 1: propensity outside \(0, 1\]: .*{advice}"):
        logged([-1.0, value, 0.0], logarithms=True)


def test_a_loss_reads_them_where_a_probability_would_be_zero():
    actor = make_catalogue_actor(num_items=3, dim=4, context_sizes=[])
    loss = TOPRLoss(actor)
    likely = logged([-1.0, -2.0, -0.5], logarithms=True)
    plain = loss(likely[:])["loss_actor"]
    by_probability = loss(likely[:].exclude("log_propensity"))["loss_actor"]
    torch.testing.assert_close(by_probability, plain, rtol=1e-5, atol=1e-6)
    rare = logged([-1.0, -2.0, -120.0], logarithms=True)
    assert loss(rare[:])["loss_actor"].isfinite()
    with pytest.raises(ValueError, match=r"propensity .* must lie in \(0, 1\]"):
        loss(rare[:].exclude("log_propensity"))  # said, where the logarithm is not there


def test_rows_from_elsewhere_may_bring_logarithms():
    from tensordict import TensorDict

    rows = TensorDict({"action": torch.zeros(2), "next": {"reward": torch.zeros(2)}}, [2])
    rows["log_propensity"] = torch.tensor([-120.0, 0.0])
    assert RecReplayBuffer.from_tensordict(rows)[:]["log_propensity"].tolist() == [-120.0, 0.0]
    for bad in (0.1, -math.inf, math.nan):
        rows["log_propensity"] = torch.tensor([bad, 0.0])
        with pytest.raises(ValueError, match="log_propensity must be finite and at most 0"):
            RecReplayBuffer.from_tensordict(rows)


def test_ids_that_are_no_text_are_told(tmp_path):
    bad = pa.array([b"ok", b"\xff\xfe", b"x"], pa.binary()).view(pa.string())
    table = pa.table({**ROWS, "u": bad, "x": [1, 2, 3]})
    pq.write_table(table, tmp_path / "log.parquet")
    with pytest.raises(LogError, match=r"log\.parquet, column 'u': ids must be UTF-8 text"):
        convert_log(tmp_path / "log.parquet", tmp_path / "out", SCHEMA)


def test_a_side_table_s_row_without_an_id_is_nobody_s(tmp_path):
    pd.DataFrame({**ROWS, "x": [1, 2, 3]}).assign(u=["a", "a", "b"]).to_parquet(
        tmp_path / "log.parquet"
    )
    past = pd.DataFrame({"u": [None, "b"], "h": [[5], [6]]})
    past.to_parquet(tmp_path / "past.parquet")
    schema = SCHEMA.replace(initial_history=InitialHistory("past.parquet", "u", "h"))
    buffer = RecReplayBuffer.from_parquet(tmp_path / "log.parquet", schema, history=1)
    assert buffer[:]["observation", "history"].tolist() == [[-1], [0], [1]]
    items = pd.DataFrame({"id": pd.array([5, None, 7], dtype="Int64"), "c": [1, 2, 3]})
    items.to_parquet(tmp_path / "items.parquet")
    schema = SCHEMA.replace(items=ItemTable("items.parquet", "id", codes=("c",)))
    with pytest.raises(LogError, match="row 1 of the item table has no id"):
        RecReplayBuffer.from_parquet(tmp_path / "log.parquet", schema)
