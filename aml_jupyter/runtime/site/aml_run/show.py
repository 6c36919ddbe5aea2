"""Rich output: what an object looks like as a MIME bundle, and the messages that show it."""

import sys

from aml_run import channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

METHODS = (
    ("_repr_html_", "text/html"),
    ("_repr_markdown_", "text/markdown"),
    ("_repr_svg_", "image/svg+xml"),
    ("_repr_png_", "image/png"),
    ("_repr_jpeg_", "image/jpeg"),
    ("_repr_pdf_", "application/pdf"),
    ("_repr_latex_", "text/latex"),
    ("_repr_json_", "application/json"),
    ("_repr_javascript_", "application/javascript"),
)
LONGEST = 1000  # items of a plain container that are shown
CANARY = "_ipython_canary_method_should_not_exist_"  # objects that answer to any name answer to this one
BRACKETS: "dict[type, tuple[str, str]]" = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    dict: ("{", "}"),
}


def plain(value):
    """The text of an object: its repr; long containers one item a line, very long ones cut."""
    if type(value) not in BRACKETS:
        return repr(value)
    if len(value) > LONGEST:
        return _beginning(value)
    text = repr(value)
    if len(text) < 80:
        return text
    import pprint

    return pprint.pformat(value, width=79, sort_dicts=False)


def _beginning(value):
    lines = []
    for item in value.items() if type(value) is dict else value:
        lines.append("%r: %r" % item if type(value) is dict else repr(item))
        if len(lines) == LONGEST:
            break
    opening, closing = BRACKETS[type(value)]
    return "%s%s,\n ...%s" % (opening, ",\n ".join(lines), closing)


def _method(value, name):
    """A bound method of an instance; None for classes and for objects that claim to have everything."""
    if isinstance(value, type) or getattr(value, CANARY, None) is not None:
        return None
    method = getattr(value, name, None)
    return method if callable(method) else None


def _report(failed):
    """Show why a display method failed; the other forms of the object are shown all the same."""
    import traceback

    sys.stderr.write("%s could not be shown:\n%s" % (failed, traceback.format_exc()))


def _own_bundle(value):
    method = _method(value, "_repr_mimebundle_")
    result = method(include=None, exclude=None) if method else None
    if isinstance(result, tuple):
        return dict(result[0]), dict(result[1])
    return dict(result or {}), {}


def _add(data, metadata, value, name, mime):
    result = _method(value, name)()
    if isinstance(result, tuple) and len(result) == 2:
        result, about = result
        if about:
            metadata[mime] = about
    if result is not None:
        data[mime] = result


def bundle(value):
    """`(data, metadata)` by MIME type; text/plain is always there."""
    data, metadata = {}, {}
    try:
        data, metadata = _own_bundle(value)
    except Exception:  # noqa: BLE001 - whatever an object's own method raises
        _report("_repr_mimebundle_ of %s" % type(value).__name__)
    for name, mime in METHODS:
        if mime not in data and _method(value, name):
            try:
                _add(data, metadata, value, name, mime)
            except Exception:  # noqa: BLE001 - whatever an object's own method raises
                _report("%s of %s" % (name, type(value).__name__))
    if len(data) == 0 and _is_figure(value):
        from aml_run import figures

        data["image/png"] = figures.png(value)
    if "text/plain" not in data:
        try:
            data["text/plain"] = plain(value)
        except Exception:  # noqa: BLE001 - whatever an object's own repr raises
            _report("repr of %s" % type(value).__name__)
            data["text/plain"] = "<%s>" % type(value).__name__
    return data, metadata


def _is_figure(value):
    module = sys.modules.get("matplotlib.figure")
    return module is not None and isinstance(value, module.Figure)


def show_result(value):
    """Show the value of a cell's last expression."""
    if value is None:
        return
    import builtins

    vars(builtins)["_"] = value
    if not _shows_itself(value):
        data, metadata = bundle(value)
        emit("result", data, metadata)


def _shows_itself(value):
    method = _method(value, "_ipython_display_")
    if method is None:
        return False
    try:
        method()
    except NotImplementedError:  # how an object says that it would rather not
        return False
    return True


def emit(kind, data, metadata, **more):
    """Send a bundle; where there is no run, its plain text is printed."""
    if not channel.emit(dict({"type": kind, "data": data, "metadata": metadata}, **more)):
        print(data.get("text/plain", ""))


def publish(data, metadata=None, display_id=None, update=False):
    """Show a MIME bundle as it is."""
    more: "dict[str, Any]" = {}
    if display_id is not None:
        more["display_id"] = str(display_id)
    if update:
        more["update"] = True
    emit("display", data, metadata or {}, **more)


class DisplayHandle:
    """A place in the output whose content can be replaced."""

    def __init__(self, display_id=None):
        self.display_id = str(display_id) if display_id is not None else _new_id()

    def __repr__(self):
        return "<DisplayHandle display_id=%s>" % self.display_id

    def display(self, value, **options):
        """Show a value here once more, as a new output with the same id."""
        display(value, display_id=self.display_id, **options)

    def update(self, value, **options):
        """Replace what is shown under this id."""
        update_display(value, display_id=self.display_id, **options)


def _new_id():
    import os

    return os.urandom(16).hex()


def _chosen(value, include, exclude):
    data, metadata = bundle(value)
    if include:
        data = {mime: one for mime, one in data.items() if mime in include or mime == "text/plain"}
    if exclude:
        data = {mime: one for mime, one in data.items() if mime not in exclude}
    return data, metadata


def display(  # the signature is the notebook's own
    *values,
    include=None,
    exclude=None,
    metadata=None,
    transient=None,
    display_id=None,
    raw=False,
    clear=False,
    update=False,
    **_options,
):
    """Show objects in the output; with `display_id` (a name, or True for a new one) returns a handle."""
    if display_id is True:
        display_id = _new_id()
    if display_id is None and transient:
        display_id = transient.get("display_id")
    if clear:
        clear_output(wait=True)
    for value in values:
        if not raw and _shows_itself(value):
            continue
        data, about = (value, {}) if raw else _chosen(value, include, exclude)
        publish(data, dict(about, **(metadata or {})), display_id, update)
    return DisplayHandle(display_id) if display_id is not None else None


def update_display(value, *, display_id, **options):
    """Replace what was shown under an id."""
    display(value, display_id=display_id, update=True, **options)


def clear_output(wait=False):
    """Remove the output shown so far; with `wait` not before there is something to take its place."""
    channel.emit({"type": "clear_output", "wait": bool(wait)})
