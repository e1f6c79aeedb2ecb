"""Times that are written as text: in ISO 8601, or in a form that the schema names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import LogError

if TYPE_CHECKING:
    import pyarrow as pa

#: Forms that are looked for where times cannot be read: what the log may mean.
FORMS = (
    "%m/%d/%Y %I:%M:%S %p",
    "%d/%m/%Y %I:%M:%S %p",
    "%m/%d/%Y %I:%M %p",
    "%d/%m/%Y %I:%M %p",
    "%Y-%m-%d %I:%M:%S %p",
    "%m/%d/%Y %H:%M:%S",
    "%d/%m/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M",
    "%d/%m/%Y %H:%M",
    "%m/%d/%Y",
    "%d/%m/%Y",
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%d.%m.%Y",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d",
    "%a %b %d %H:%M:%S %z %Y",
    "%a %b %d %H:%M:%S %Y",
    "%b %d, %Y",
    "%d %b %Y",
)


def possible_forms(texts: pa.Array) -> list[str]:
    """Those of :data:`FORMS` in which every text is a time.

    >>> import pyarrow as pa
    >>> possible_forms(pa.array(["11/10/2019 1:14:46 PM", None]))
    ['%m/%d/%Y %I:%M:%S %p', '%d/%m/%Y %I:%M:%S %p']
    >>> possible_forms(pa.array(["11/13/2019 1:14:46 PM"]))
    ['%m/%d/%Y %I:%M:%S %p']
    """
    return [form for form in FORMS if _parsed(texts, form).null_count == texts.null_count]


def advice(texts: pa.Array) -> str:
    """What to write into the schema, so that such texts are read as times."""
    forms = [repr(form) for form in possible_forms(texts)]
    if forms:
        which = "" if len(forms) == 1 else ", whichever the log means"
        said = f"if these are times, say how they are written: time_format={' or '.join(forms)}"
        return said + which
    return (
        "times are numbers (of time_unit), ISO 8601 texts (2024-05-01 13:00:00), or texts in the "
        "form that time_format names, as for strptime"
    )


def read_times(texts: pa.Array, form: str | None, file: str, first_row: int) -> pa.Array:
    """Timestamps in UTC (or of no zone), in microseconds, of texts.

    Args:
        texts: strings, nulls among them.
        form: as for ``strptime``; ISO 8601 by default.
        file: for messages.
        first_row: number of the first of these rows in the file.

    Raises:
        LogError: names the first row whose text is no time.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = texts.dictionary_decode() if pa.types.is_dictionary(texts.type) else texts
    texts = pc.cast(texts, pa.string())
    if pc.any(pc.equal(texts, "")).as_py():
        texts = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
    if form is None:
        found = _cast_iso(texts)
        if found is not None:
            return found
        row = next(row for row in range(len(texts)) if _cast_iso(texts.slice(row, 1)) is None)
        mend = advice(texts.slice(row, 1))
    else:
        found = _parsed(texts, form)
        if found.null_count == texts.null_count:
            return found
        row = pc.index(pc.and_(found.is_null(), texts.is_valid()), True).as_py()
        mend = f"which is not of the form time_format={form!r}"
        other = possible_forms(texts.slice(row, 1))
        mend += f"; it would fit {' or '.join(map(repr, other))}" if other else ""
    raise LogError(f"{file}, row {first_row + row}: the time is {texts[row].as_py()!r}; {mend}")


def is_iso(texts: pa.Array) -> bool:
    """Whether every text is a time in ISO 8601.

    >>> import pyarrow as pa
    >>> is_iso(pa.array(["2024-05-01", "2024-05-01 10:00:00.5"])), is_iso(pa.array(["1"]))
    (True, False)
    """
    return _cast_iso(texts) is not None


def _cast_iso(texts: pa.Array) -> pa.Array | None:
    import pyarrow as pa
    import pyarrow.compute as pc

    def cast(kind: pa.DataType) -> pa.Array | None:
        try:
            return pc.cast(pc.cast(texts, kind), pa.timestamp("us"))
        except pa.ArrowInvalid:
            return None

    found = cast(pa.timestamp("us"))
    return cast(pa.timestamp("us", "UTC")) if found is None else found


def _parsed(texts: pa.Array, form: str) -> pa.Array:
    """Timestamps, null where a text is not of that form."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.strptime(texts, format=form, unit="us", error_is_null=True)
    return pc.cast(found, pa.timestamp("us"))
