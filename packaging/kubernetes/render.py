#!/usr/bin/env python3
"""Renders, converts and compares manifests for scripts/kubernetes.sh.

    render.py render CHART [VALUES]    renders a Helm chart in the namespace kube-system
    render.py json [FILE]              prints all documents of a YAML file as one JSON array
    render.py compare FILE FILE        fails if two YAML files do not have the same documents, in any order

The script does not need Helm. It supports only the part of Helm's template language that the chart uses:
values, `if` of a value with `else`, comments, `.Files.Get` and `indent`, with Go's rules for `{{-` and `-}}`.
Any other action is an error.
"""

import json
import pathlib
import re
import sys

import yaml

ACTION = re.compile(r"\{\{(-\s+)?(.*?)(\s+-)?\}\}", re.DOTALL)


def evaluate(expression, scope, chart):
    """Returns the value of a pipeline, such as `.Files.Get "FILE" | indent 4`."""
    first, *functions = [part.strip() for part in expression.split("|")]
    file = re.fullmatch(r'\.Files\.Get "([\w.-]+)"', first)
    if file:
        value = (chart / file.group(1)).read_text()
    elif re.fullmatch(r"(\.\w+)+", first):
        value = scope
        for name in first.split(".")[1:]:
            value = value[name]
    else:
        sys.exit(f"render.py: unknown expression {first!r}")
    for function in functions:
        indent = re.fullmatch(r"indent (\d+)", function)
        if not indent:
            sys.exit(f"render.py: unknown function {function!r}")
        margin = " " * int(indent.group(1))
        value = margin + value.replace("\n", "\n" + margin)
    return value


def render(text, scope, chart):
    """Returns the text that a template produces."""
    # For each enclosing `if`: whether its current branch is printed.
    shown = []
    out = ""
    end = 0
    trim = False
    for action in ACTION.finditer(text):
        between = text[end : action.start()]
        between = between.lstrip() if trim else between
        between = between.rstrip() if action.group(1) else between
        out += between if all(shown) else ""
        end, trim = action.end(), bool(action.group(3))
        expression = action.group(2).strip()
        if expression.startswith("/*"):
            continue
        if expression.startswith("if "):
            shown.append(bool(evaluate(expression[3:], scope, chart)))
        elif expression == "else":
            shown[-1] = not shown[-1]
        elif expression == "end":
            shown.pop()
        elif all(shown):
            out += str(evaluate(expression, scope, chart))
    if shown:
        sys.exit("render.py: an `if` without its `end`")
    rest = text[end:]
    return out + (rest.lstrip() if trim else rest)


def chart_documents(chart, values):
    """Returns all documents of a chart as YAML."""
    scope = {"Values": yaml.safe_load((chart / "values.yaml").read_text())}
    unknown = set(values) - set(scope["Values"])
    if unknown:
        sys.exit(f"render.py: values.yaml has no {sorted(unknown)}")
    scope["Values"].update(values)
    scope["Release"] = {"Namespace": "kube-system"}
    templates = sorted((chart / "templates").iterdir())
    return "\n---\n".join(render(path.read_text(), scope, chart) for path in templates)


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document is not None]


def named(path):
    """Returns the documents of a YAML file in a dictionary, with "KIND NAME" as the key."""
    found = {}
    for document in documents(pathlib.Path(path).read_text()):
        found[f"{document['kind']} {document['metadata']['name']}"] = document
    return found


def compare(one, other):
    one, other = named(one), named(other)
    for name in sorted(set(one) | set(other)):
        texts = [json.dumps(side.get(name), indent=1, sort_keys=True) for side in (one, other)]
        if texts[0] != texts[1]:
            lines = zip(texts[0].splitlines(), texts[1].splitlines())
            first = next((pair for pair in lines if pair[0] != pair[1]), ("more", "less"))
            sys.exit(f"render.py: {name} differs: {first[0].strip()} is {first[1].strip()}")


def main(command, *arguments):
    if command == "render":
        chart, values = pathlib.Path(arguments[0]), {}
        if len(arguments) > 1:
            values = yaml.safe_load(pathlib.Path(arguments[1]).read_text())
        print(chart_documents(chart, values))
    elif command == "json":
        text = pathlib.Path(arguments[0]).read_text() if arguments else sys.stdin.read()
        print(json.dumps(documents(text)))
    elif command == "compare":
        compare(*arguments)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:] or [""])
