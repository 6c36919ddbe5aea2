"""A lock for other tools: conda's explicit list, pip's requirements with hashes."""

from __future__ import annotations

import json

from aml_jupyter.environment.lock import requirements

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aml_jupyter.environment.lock import Lock

FORMATS = ("conda", "pip", "json")


def export(lock: Lock, form: str) -> str:
    """The lock as text in one of FORMATS."""
    return {"conda": explicit, "pip": requirements_file, "json": document}[form](lock)


def explicit(lock: Lock) -> str:
    """For `conda create --file`: the conda packages by address and hash, the pip packages as comments."""
    lines = [f"# platform: {lock.platform}", f"# lock: {lock.digest}"]
    if lock.pip:
        lines.append("# pip packages are not part of this form: aml env export --format pip")
    lines.append("@EXPLICIT")
    lines += [f"{package.url}#sha256:{package.sha256}" for package in lock.conda]
    return "\n".join(lines) + "\n"


def requirements_file(lock: Lock) -> str:
    """For `pip install --require-hashes --no-deps -r`: the pip packages with their hashes."""
    lines = [f"# platform: {lock.platform}, python: {lock.python}", f"# lock: {lock.digest}"]
    if lock.conda:
        lines.append("# conda packages are not part of this form: aml env export --format conda")
    lines += [f"--index-url {lock.index}"] if lock.index else []
    lines += [f"--extra-index-url {one}" for one in lock.extra_indexes]
    lines += [f"--find-links {one}" for one in lock.find_links]
    return "\n".join(lines) + "\n" + requirements(lock)


def document(lock: Lock) -> str:
    """The lock itself, as it is kept."""
    return json.dumps(lock.to_json(), indent=1, ensure_ascii=True) + "\n"
