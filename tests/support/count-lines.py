#!/usr/bin/env python3
"""Counts the lines of code of the product: without blank lines, comments and tests.

Counted are the Rust sources of every crate of the workspace, the shell and Python programs that are installed, and
build scripts. A `#[cfg(test)]` item ends the count of its file: in this project tests are the last item.
Usage: count-lines.py [DIRECTORY]; the default is the tree that this program is in.
"""

import pathlib
import re
import subprocess
import sys

TOKEN = re.compile(
    r"""//[^\n]*|/\*.*?\*/|b?r(?P<h>\#*)".*?"(?P=h)|b?c?"(?:\\.|[^"\\])*"|b?'(?:\\.[^']*|[^'\\\n])'""", re.S
)


def of_rust(text):
    text = text.split("#[cfg(test)]", 1)[0]
    # A string can hold what looks like a comment; only real comments go.
    text = TOKEN.sub(lambda t: "" if t[0].startswith(("//", "/*")) else t[0], text)
    return sum(1 for line in text.splitlines() if line.strip())


def of_script(text):
    return sum(1 for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))


def room(path):
    parts = path.parts
    if parts[0] != "src":
        return parts[0] + "/"
    return "src/" + (parts[1] + "/" if len(parts) > 2 else parts[1])


def main():
    top = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parents[2])
    listed = subprocess.run(["git", "-C", top, "ls-files", "-z"], check=True, capture_output=True, text=True)
    rooms = {}
    for name in filter(None, listed.stdout.split("\0")):
        path = pathlib.Path(name)
        if path.parts[0] in ("tests", "benches", "docs", "man", ".github", ".ci"):
            continue
        if not (top / path).is_file() or (top / path).is_symlink():
            continue
        text = (top / path).read_text(errors="replace")
        if path.suffix == ".rs":
            count = of_rust(text)
        elif path.suffix in (".sh", ".bash", ".zsh", ".fish", ".py") or re.match(r"#!.*\b(ba)?sh\b", text):
            count = of_script(text)
        else:
            continue
        rooms[room(path)] = rooms.get(room(path), 0) + count
    for name, count in sorted(rooms.items(), key=lambda item: (-item[1], item[0])):
        print(f"{count:7} {name}")
    print(f"{sum(rooms.values()):7} in all")


main()
