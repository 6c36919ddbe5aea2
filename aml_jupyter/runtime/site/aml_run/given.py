"""Artifacts of earlier runs that a run is given by `--input NAME=RUN:PATH`."""

import os

_VARIABLE = "AML_INPUT_"


def input(name):  # noqa: A001 - what it is called inside a run
    """The path of an input: a file, or a folder where a folder was asked for; it may be read only.

    Raises KeyError for a name that the run was not given, with those that it was.
    """
    found = os.environ.get(_VARIABLE + name.upper())
    if found is not None:
        return found
    known = sorted(one[len(_VARIABLE) :].lower() for one in os.environ if one.startswith(_VARIABLE))
    has = "it has %s" % ", ".join(known) if known else "it has none"
    raise KeyError("this run was given no input %r (%s): --input %s=RUN:PATH" % (name, has, name))
