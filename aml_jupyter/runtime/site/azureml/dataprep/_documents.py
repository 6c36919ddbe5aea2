"""Files of data preparation: found within the project, read, and checked before anything is done."""

import json
import os
import stat

# bytes and levels of a .dprep or .dsource file; a real one with many steps by example has 100 KB
LARGEST, DEEPEST = 16 << 20, 64


class DataPrepException(Exception):
    """A file of data preparation, or a step in one, that cannot be done here."""


class Place:
    """Where files may lie: the project's copy and the share, or the folder of a file named from outside."""

    def __init__(self, first):
        outputs = os.environ.get("AZUREML_OUTPUT_DIRECTORY")
        root = os.path.dirname(outputs) if outputs else os.getcwd()
        self.root = os.path.realpath(root)
        self.roots = [self.root]
        share = os.environ.get("AZUREML_NATIVE_SHARE_DIRECTORY")
        if share:
            self.roots.append(os.path.realpath(share))
        first = os.path.realpath(first)
        if not self.holds(first):
            # a script may read what it likes; what its file names stays beside it
            self.root = os.path.dirname(first)
            self.roots.append(self.root)

    def holds(self, path):
        """Whether a real path is within."""
        return any(os.path.commonpath([root, path]) == root for root in self.roots)

    def resolve(self, name, beside, told):
        """The real path of a file that the file `beside` names.  Raises DataPrepException."""
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            raise DataPrepException("%s: it names no file that can be: %.60r" % (told, name))
        if "://" in name:
            raise DataPrepException(
                "%s: %s is not on this machine: put the file into the project or the shared folder and name"
                " it here" % (told, shown(name))
            )
        if len(name) > 2 and name[1] == ":" and name[2] in "\\/" and name[0].isalpha():
            raise DataPrepException(
                "%s: %s is a file of a Windows machine: put it into the project and write ./%s"
                % (told, shown(name), shown(name.replace("\\", "/").rpartition("/")[2]))
            )
        relative = name.replace("\\", "/")
        tried = [os.path.realpath(os.path.join(folder, relative))
                 for folder in (os.path.dirname(beside), self.root)]  # fmt: skip
        found = next((path for path in tried if self.holds(path) and os.path.lexists(path)), tried[0])
        if not self.holds(found):
            raise DataPrepException(
                "%s: %s leaves the project: put the file into the project or the shared folder"
                % (told, shown(name))
            )
        return found


def shown(text):
    """A text of a file as it may be printed."""
    text = "".join(one if one.isprintable() else "?" for one in str(text))
    return text if len(text) <= 200 else text[:197] + "..."


def read(path, most=LARGEST):
    """The bytes of a regular file.  Raises DataPrepException."""
    try:
        # a pipe without a writer would wait for ever
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        why = error.strerror
        hint = ": is it left out of the snapshot?" if isinstance(error, FileNotFoundError) else ""
        raise DataPrepException("%s: %s%s" % (shown(path), why, hint)) from None
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        os.close(fd)
        raise DataPrepException("%s is no file: name one" % shown(path))
    with os.fdopen(fd, "rb") as file:
        if most is not None and found.st_size > most:
            raise DataPrepException("%s has %d bytes; at most %d are read" % (path, found.st_size, most))
        return file.read()


def load(path):
    """The activities of a .dprep or .dsource file.  Raises DataPrepException."""
    data = read(path)
    try:
        text = data.decode("utf-8-sig")
        check_depth(text)
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataPrepException("%s is no file of data preparation: %s" % (shown(path), error)) from None
    activities = document.get("activities") if isinstance(document, dict) else None
    if not isinstance(activities, list) or not activities:
        raise DataPrepException("%s is no file of data preparation: it has no activities" % shown(path))
    for activity in activities:
        blocks = activity.get("blocks") if isinstance(activity, dict) else None
        if not isinstance(blocks, list) or not all(isinstance(one, dict) for one in blocks):
            raise DataPrepException("%s: an activity has no list of blocks" % shown(path))
    return activities


def check_depth(text):
    """Raise ValueError for JSON that is nested deeper than any real file."""
    depth, inside, escaped = 0, False, False
    for character in text:
        if inside:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                inside = False
        elif character == '"':
            inside = True
        elif character in "[{":
            depth += 1
            if depth > DEEPEST:
                raise ValueError("it is nested more than %d deep" % DEEPEST)
        elif character in "]}":
            depth -= 1
