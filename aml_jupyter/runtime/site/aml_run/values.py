"""Variables of a cell: those that came with it, and those it was asked to send back."""

import os

from aml_run import channel, codec


def fill(cell, namespace):
    """Put the values that were sent along into the cell's globals; raises ValueTransferError."""
    for item in cell.inputs:
        with open(os.path.join(cell.inputs_folder, item["file"]), "rb") as file:
            namespace[item["name"]] = codec.decode(item, file.read())


def send_outputs(cell, namespace, failed):
    """Send back the variables that were asked for; raises ValueTransferError for those that cannot be.

    A cell that failed need not have come to all of them: its own error is the one to read.
    """
    problems = []
    for name in cell.outputs:
        if name not in namespace:
            if failed:
                continue
            problems.append("%r was asked for (--out), and the cell has no variable of that name" % name)
            continue
        try:
            _send(codec.encode(name, namespace[name], cell.python, "arrow" in cell.accepts))
        except codec.ValueTransferError as error:
            problems.append(str(error))
    if problems:
        raise codec.ValueTransferError("\n".join(problems))


def _send(value):
    data = value.pop("data")
    event = dict(value, type="value", file=channel.store(data), size=len(data))
    channel.emit(event)
