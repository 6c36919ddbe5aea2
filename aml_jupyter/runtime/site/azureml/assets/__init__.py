"""`azureml.assets` as the scripts of 2017 and 2018 use it: the file behind a link of the project.

from azureml.assets import get_local_path

model = get_local_path("model.pkl.link")
"""

import json
import os

__all__ = ["get_local_path"]

_LARGEST = 1 << 20


def get_local_path(path):
    """The path of the artifact that a link file names, which was brought into this run; a file or a folder.

    A bare name is looked for in the working folder, then in `assets/`.  Raises FileNotFoundError for a link
    that is not there or whose artifact is not, ValueError for a file that is no link.
    """
    where = _find(os.fspath(path))
    document = _read(where)
    for placed in _placed().values():
        if placed.get("sha256") == document["sha256"] and placed.get("artifact") == document["path"]:
            if placed.get("problem"):
                raise FileNotFoundError("%s: %s" % (path, placed["problem"]))
            if os.path.exists(placed["path"]):
                return placed["path"]
    name = os.path.basename(where)
    raise FileNotFoundError(
        "%s: %s of %s was not brought into this run. A link in assets/ is brought when its file name (%s) "
        "stands in the cell or in a Python file of the project; otherwise: --input NAME=asset:%s and "
        "aml_run.input('NAME')" % (path, document["path"], document["run_id"], name, name[: -len(".link")])
    )


def _find(path):
    for candidate in (path, os.path.join("assets", path)):
        if os.path.isfile(candidate):
            return candidate
    job = os.environ.get("AML_JOB")
    if job is None:
        raise FileNotFoundError("%s: there is no such link file" % path)
    raise FileNotFoundError(
        "%s: the working copy of this run has no such link file; aml promote RUN PATH NAME writes one into "
        "assets/, and it must not be left out of the snapshot" % path
    )


def _read(path):
    with open(path, "rb") as file:
        data = file.read(_LARGEST)
    try:
        document = json.loads(data.decode("utf-8"))
        if isinstance(document["sha256"], str) and isinstance(document["run_id"], str) and document["path"]:
            return document
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError("%s is no link that aml promote has written" % path)


def _placed():
    """What was brought into this run, by link file; nothing outside one."""
    job = os.environ.get("AML_JOB")
    if job is None:
        return {}
    try:
        with open(os.path.join(job, "assets.json"), "rb") as file:
            return json.loads(file.read().decode("ascii"))
    except OSError:
        return {}
