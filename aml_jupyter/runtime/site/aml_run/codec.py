"""How a variable travels: exact JSON, text, bytes, .npy, Arrow, a neutral table; pickle as the last resort.

The submitting side reads this very file, so that both ends always agree; it imports nothing from beside it.
A pickle is only ever read by the Python minor version that wrote it: the wrong pair ends the interpreter.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = "%d.%d" % sys.version_info[:2]
DEEPEST = 100  # levels of nested containers that JSON takes
PREVIEW = 200  # characters


class ValueTransferError(Exception):
    """A variable that cannot be sent; the text names it and says why."""

    __module__ = "builtins"  # tracebacks then show the name alone


class _NotExact(Exception):
    """JSON has no exact form for this value."""


def type_name(value):
    """The full name of a value's type."""
    kind = type(value)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return "%s.%s" % (kind.__module__, kind.__qualname__)


def encode(name, value, python="", arrow=False):
    """`{"name", "encoding", "data", "kind", "python", "preview"}`; `python` and `arrow` are the receiver's.

    Raises ValueTransferError.
    """
    encoding, data = _encode(name, value, python, arrow)
    result = {"name": name, "encoding": encoding, "data": data, "kind": type_name(value)}
    result["python"] = VERSION
    result["preview"] = preview(value)
    return result


def _encode(name, value, python, arrow):
    if type(value) is str:
        return "text", value.encode("utf-8", "surrogatepass")
    if type(value) is bytes:
        return "bytes", value
    module = type(value).__module__.partition(".")[0]
    if module == "numpy" and _is_simple_array(value):
        return "npy", _npy(value)
    if module in ("pandas", "polars", "pyarrow"):
        found = _frame(value, module, arrow)
        if found:
            return found
    try:
        import json

        return "json", json.dumps(_tagged(value, 0), allow_nan=False).encode("ascii")
    except (_NotExact, RecursionError):
        return "pickle", _pickle(name, value, python)


def decode(item, data):
    """The value that an `encode` elsewhere made these bytes of; raises ValueTransferError."""
    encoding, name = item["encoding"], item.get("name", "")
    try:
        if encoding == "pickle":
            return _unpickle(item, data)
        return _DECODERS[encoding](item, data)
    except KeyError:
        raise ValueTransferError("%r came in an unknown encoding %r" % (name, encoding)) from None
    except ImportError as error:
        what = "%r is a %s, and this Python (%s) has no %s"
        raise ValueTransferError(what % (name, item.get("kind"), VERSION, error.name)) from None


# ---- JSON -----------------------------------------------------------------------------------------------


def _tagged(value, depth):  # noqa: PLR0911 - one line a type
    """JSON for a value; what JSON has no form for becomes `{"$": kind, "v": ...}`."""
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return value
    if kind is int:
        return value if value.bit_length() <= 64 else {"$": "int", "v": hex(value)}
    if kind is float:
        return value if value - value == 0 else {"$": "float", "v": repr(value)}
    if depth > DEEPEST:
        raise _NotExact
    if kind is list:
        return _items(value, depth)
    if kind in (tuple, set, frozenset):
        return {"$": kind.__name__, "v": _items(value, depth)}
    if kind is dict:
        return _tagged_dict(value, depth)
    return _tagged_other(value, kind)


def _items(values, depth):
    kinds = set(map(type, values))
    if kinds <= {str, bool, type(None)}:
        return list(values)
    return [_tagged(one, depth + 1) for one in values]


def _tagged_dict(value, depth):
    if "$" not in value and set(map(type, value)) <= {str}:
        return {key: _tagged(one, depth + 1) for key, one in value.items()}
    pairs = [[_tagged(key, depth + 1), _tagged(one, depth + 1)] for key, one in value.items()]
    return {"$": "dict", "v": pairs}


def _tagged_other(value, kind):
    if kind in (bytes, bytearray):
        import binascii

        return {"$": kind.__name__, "v": binascii.b2a_base64(value, newline=False).decode("ascii")}
    if kind is complex:
        return {"$": "complex", "v": [_tagged(value.real, 0), _tagged(value.imag, 0)]}
    if kind is range:
        return {"$": "range", "v": [_tagged(one, 0) for one in (value.start, value.stop, value.step)]}
    if kind.__module__ == "datetime":
        return _tagged_time(value, kind.__name__)
    if kind.__module__ in ("decimal", "_decimal") and kind.__name__ == "Decimal":
        return {"$": "decimal", "v": str(value)}
    return _tagged_array(value, kind.__module__.partition(".")[0])


def _tagged_array(value, module):
    """Arrays, their scalars and frames inside a container."""
    import binascii

    if module == "numpy" and _is_simple_array(value):
        made = {"$": "npy", "kind": type_name(value)}
        data = _npy(value)
    elif module == "pandas" and type(value).__name__ in ("DataFrame", "Series"):
        made = {"$": "table", "kind": type_name(value)}
        data = _table(value)
    else:
        raise _NotExact
    made["v"] = binascii.b2a_base64(data, newline=False).decode("ascii")
    return made


def _tagged_time(value, kind):
    if kind == "timedelta":
        return {"$": kind, "v": [value.days, value.seconds, value.microseconds]}
    if kind in ("datetime", "time"):
        zone = value.tzinfo
        if zone is not None and not _is_plain_zone(zone):
            raise _NotExact
        return {"$": kind, "v": value.isoformat(), "fold": value.fold}
    if kind == "date":
        return {"$": kind, "v": value.isoformat()}
    raise _NotExact


def _is_plain_zone(zone):
    """Whether a zone is an offset without a name of its own: all that an ISO time tells."""
    import datetime as dt

    if type(zone) is not dt.timezone:
        return False
    return zone.tzname(None) == dt.timezone(zone.utcoffset(None)).tzname(None)


def _plain(value):
    """The value that `_tagged` was given."""
    if type(value) is list:
        if set(map(type, value)) <= {int, float, str, bool, type(None)}:
            return value
        return [_plain(one) for one in value]
    if type(value) is not dict:
        return value
    if "$" not in value:
        return {key: _plain(one) for key, one in value.items()}
    return _MAKERS[value["$"]](value)


def _make_datetime(value):
    import datetime as dt

    made = getattr(dt, value["$"]).fromisoformat(value["v"])
    return made.replace(fold=value["fold"]) if "fold" in value else made


def _make_timedelta(value):
    import datetime as dt

    return dt.timedelta(*value["v"])


def _make_decimal(value):
    import decimal

    return decimal.Decimal(value["v"])


def _base64(value):
    import binascii

    return binascii.a2b_base64(value["v"])


_MAKERS = {
    "int": lambda value: int(value["v"], 16),
    "float": lambda value: float(value["v"]),
    "complex": lambda value: complex(*map(_plain, value["v"])),
    "tuple": lambda value: tuple(map(_plain, value["v"])),
    "set": lambda value: set(map(_plain, value["v"])),
    "frozenset": lambda value: frozenset(map(_plain, value["v"])),
    "dict": lambda value: {_plain(key): _plain(one) for key, one in value["v"]},
    "range": lambda value: range(*map(_plain, value["v"])),
    "bytes": _base64,
    "bytearray": lambda value: bytearray(_base64(value)),
    "datetime": _make_datetime,
    "date": _make_datetime,
    "time": _make_datetime,
    "timedelta": _make_timedelta,
    "decimal": _make_decimal,
    "npy": lambda value: _from_npy(value, _base64(value)),
    "table": lambda value: _from_table(value, _base64(value)),
}


def _from_json(_item, data):
    import json

    return _plain(json.loads(data))


# ---- numpy ----------------------------------------------------------------------------------------------


def _is_simple_array(value):
    import numpy as np

    return (type(value) is np.ndarray or isinstance(value, np.generic)) and not value.dtype.hasobject


def _npy(value):
    import io

    import numpy as np

    file = io.BytesIO()
    np.save(file, value, allow_pickle=False)
    return file.getvalue()


def _from_npy(item, data):
    import io

    import numpy as np

    array = np.load(io.BytesIO(data), allow_pickle=False)
    return array if item.get("kind") == "numpy.ndarray" else array[()]


# ---- frames ---------------------------------------------------------------------------------------------


def _frame(value, module, arrow):  # noqa: PLR0911 - one a library
    """`(encoding, data)` of a frame or column; None for what pickle may still take."""
    import io

    file = io.BytesIO()
    if module == "polars":
        if type(value).__name__ != "DataFrame":
            return None
        value.write_ipc(file)
        return "arrow", file.getvalue()
    if module == "pyarrow":
        if type(value).__name__ != "Table":
            return None
        _write_arrow(value, file)
        return "arrow", file.getvalue()
    import pandas as pd

    if type(value) not in (pd.DataFrame, pd.Series):
        return None
    if arrow and type(value) is pd.DataFrame:
        try:
            import pyarrow as pa

            _write_arrow(pa.Table.from_pandas(value), file)
            return "arrow", file.getvalue()
        except (ImportError, TypeError, ValueError):  # columns that Arrow has no type for
            pass
    try:
        return "table", _table(value)
    except (_NotExact, RecursionError):
        return None


def _write_arrow(table, file):
    import pyarrow as pa

    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _from_arrow(item, data):
    import io

    kind = item.get("kind", "")
    if kind.startswith("polars."):
        import polars as pl

        return pl.read_ipc(io.BytesIO(data))
    import pyarrow as pa

    table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
    if kind.startswith("pyarrow."):
        return table
    return table.to_pandas()


# ---- pandas without Arrow: an .npz of plain columns, and a description of how they were -------------------


def _table(value):
    import io
    import json

    import numpy as np
    import pandas as pd

    arrays: "dict[str, Any]" = {}
    about = {"version": 1, "index": _index_out(value.index, arrays)}
    if type(value) is pd.Series:
        about.update(name=_tagged(value.name, 0), columns=[_column_out(value, arrays)])
    else:
        columns = [_column_out(value.iloc[:, i], arrays) for i in range(value.shape[1])]
        about.update(labels=_index_out(value.columns, arrays), columns=columns)
    file = io.BytesIO()
    arrays["about"] = np.frombuffer(json.dumps(about).encode("ascii"), np.uint8)
    np.savez(file, **arrays)
    return file.getvalue()


def _keep(array, arrays):
    if array.dtype.hasobject:
        raise _NotExact
    key = "a%d" % len(arrays)
    arrays[key] = array
    return key


def _column_out(column, arrays):
    """A description of a Series or Index; its numbers go to `arrays`."""
    import numpy as np
    import pandas as pd

    dtype = column.dtype
    if isinstance(dtype, np.dtype) and not dtype.hasobject:
        return {"kind": "npy", "at": _keep(column.to_numpy(), arrays)}
    if isinstance(dtype, pd.CategoricalDtype):
        codes = pd.Categorical(column).codes
        categories = _column_out(dtype.categories, arrays)
        return {
            "kind": "category",
            "at": _keep(codes, arrays),
            "of": categories,
            "ordered": bool(dtype.ordered),
        }
    if isinstance(dtype, pd.DatetimeTZDtype):
        moments = pd.DatetimeIndex(column).tz_convert("UTC").tz_localize(None)
        return {"kind": "zone", "at": _keep(moments.to_numpy(), arrays), "zone": str(dtype.tz)}
    if hasattr(dtype, "numpy_dtype") and hasattr(column.array, "isna"):
        missing = column.array.isna()
        zero = dtype.numpy_dtype.type(0)
        values = column.array.to_numpy(dtype=dtype.numpy_dtype, na_value=zero)
        return {
            "kind": "masked",
            "at": _keep(values, arrays),
            "na": _keep(missing, arrays),
            "dtype": str(dtype),
        }
    if isinstance(dtype, pd.StringDtype):
        texts = [one if isinstance(one, str) else None for one in column]
        return {"kind": "text", "values": texts, "dtype": str(dtype)}
    if isinstance(dtype, np.dtype) and dtype.kind == "O":
        return {"kind": "object", "values": _tagged([_without_subclass(one) for one in column], 0)}
    raise _NotExact


def _without_subclass(value):
    """NaN of numpy is a float of its own kind."""
    return float(value) if isinstance(value, float) and value != value else value  # noqa: PLR0124


def _column_in(about, arrays):
    import pandas as pd

    kind = about["kind"]
    if kind == "npy":
        return arrays[about["at"]]
    if kind == "category":
        categories = pd.Index(_column_in(about["of"], arrays))
        return pd.Categorical.from_codes(arrays[about["at"]], categories, ordered=about["ordered"])
    if kind == "zone":
        return pd.DatetimeIndex(arrays[about["at"]]).tz_localize("UTC").tz_convert(about["zone"])
    if kind == "masked":
        array = pd.array(arrays[about["at"]], dtype=about["dtype"])
        array[arrays[about["na"]]] = pd.NA
        return array
    if kind == "text":
        return _texts(about)
    return pd.Series(_plain(about["values"]), dtype=object).array


def _texts(about):
    """A column of text; pandas before 3 has no type `str` and keeps such columns as objects."""
    import pandas as pd

    modern = int(pd.__version__.partition(".")[0]) >= 3
    dtype = about["dtype"] if modern or about["dtype"].startswith("string") else object
    try:
        return pd.array(about["values"], dtype=dtype)
    except ImportError:  # a storage that needs pyarrow
        return pd.array(about["values"], dtype="string")


def _index_out(index, arrays):
    import pandas as pd

    if type(index) is pd.RangeIndex:
        where = [int(index.start), int(index.stop), int(index.step)]
        return {"kind": "range", "v": where, "name": _tagged(index.name, 0)}
    if isinstance(index, pd.MultiIndex):
        levels = [_column_out(index.get_level_values(i), arrays) for i in range(index.nlevels)]
        return {"kind": "multi", "levels": levels, "names": _tagged(list(index.names), 0)}
    freq = getattr(index, "freqstr", None)
    return {"kind": "index", "of": _column_out(index, arrays), "name": _tagged(index.name, 0), "freq": freq}


def _index_in(about, arrays):
    import pandas as pd

    if about["kind"] == "range":
        return pd.RangeIndex(*about["v"], name=_plain(about["name"]))
    if about["kind"] == "multi":
        levels = [_column_in(one, arrays) for one in about["levels"]]
        return pd.MultiIndex.from_arrays(levels, names=_plain(about["names"]))
    values = _column_in(about["of"], arrays)
    # the dtype is given because pandas would guess one for columns of objects
    index = pd.Index(values, dtype=values.dtype, name=_plain(about["name"]))
    if about.get("freq"):
        try:
            index.freq = about["freq"]
        except (ValueError, AttributeError):  # pandas renamed some of them
            pass
    return index


def _from_table(item, data):
    import io
    import json

    import numpy as np
    import pandas as pd

    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        about = json.loads(arrays["about"].tobytes())
        index = _index_in(about["index"], arrays)
        columns = [pd.Series(_column_in(one, arrays), index=index) for one in about["columns"]]
        if item.get("kind", "").endswith("Series"):
            return columns[0].rename(_plain(about["name"]))
        frame = pd.DataFrame(dict(enumerate(columns)), index=index)
        frame.columns = _index_in(about["labels"], arrays)
        return frame


# ---- pickle ---------------------------------------------------------------------------------------------


def _pickle(name, value, python):
    what = type_name(value)
    if python and python != VERSION:
        text = "%r (%s) can only be pickled, and a pickle of Python %s cannot be read by Python %s"
        raise ValueTransferError(text % (name, what, VERSION, python))
    import io
    import pickle

    class Pickler(pickle.Pickler):
        """Refuses what only this program's main module defines: the receiver would look for it in vain."""

        def reducer_override(self, one):
            if getattr(one, "__module__", None) == "__main__" and hasattr(one, "__qualname__"):
                text = "%r (%s) needs %s, which is defined in the notebook or cell itself: %s"
                hint = "move it into a file of the project and import it"
                raise ValueTransferError(text % (name, what, one.__qualname__, hint))
            return NotImplemented

    file = io.BytesIO()
    try:
        Pickler(file, 4).dump(value)
    except ValueTransferError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a class's own reduction raises
        raise ValueTransferError("%r (%s) cannot be sent: %s" % (name, what, error)) from None
    return file.getvalue()


def _unpickle(item, data):
    written = item.get("python")
    if written != VERSION:
        text = "%r (%s) was pickled by Python %s and cannot be read by Python %s"
        raise ValueTransferError(text % (item.get("name"), item.get("kind"), written, VERSION))
    import pickle

    try:
        return pickle.loads(data)  # noqa: S301 - the receiver asked for this variable by name
    except Exception as error:  # noqa: BLE001 - whatever a class's own restoring raises
        text = "%r (%s) cannot be restored here: %s: %s"
        told = (item.get("name"), item.get("kind"), type(error).__name__, error)
        raise ValueTransferError(text % told) from None


# ---- previews -------------------------------------------------------------------------------------------


def preview(value):
    """One short line about a value."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        size = " x ".join(str(length) for length in shape)
        return "%s, %s%s" % (type_name(value), size, _dtype(value))
    if isinstance(value, (str, bytes)):
        return repr(value[:PREVIEW])[:PREVIEW]
    if isinstance(value, (list, tuple, set, frozenset, dict)) and len(value) > 50:
        return "%s of %d" % (type_name(value), len(value))
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - whatever an object's own repr raises
        text = "<%s>" % type_name(value)
    text = " ".join(text.split())
    return text if len(text) <= PREVIEW else text[: PREVIEW - 3] + "..."


def _dtype(value):
    return " of %s" % value.dtype if hasattr(value, "dtype") else ""


_DECODERS = {
    "text": lambda _item, data: data.decode("utf-8", "surrogatepass"),
    "bytes": lambda _item, data: bytes(data),
    "json": _from_json,
    "npy": _from_npy,
    "arrow": _from_arrow,
    "table": _from_table,
}
