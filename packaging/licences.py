"""Prints the licences of the libraries that the program contains: most licences must accompany each copy.

python3 packaging/licences.py > THIRD-PARTY-LICENSES
"""

import json
import re
import subprocess
import sys
from pathlib import Path

TEXTS = re.compile(r"(licen[cs]e|copying|notice|unlicense)", re.IGNORECASE)


def linked(metadata: dict) -> set[str]:
    """The ids of all packages that are linked into the program: without build tools and without packages that only
    tests need."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = next(package["id"] for package in metadata["packages"] if package["name"] == "oddswire")
    found, waiting = set(), [root]
    while waiting:
        package = waiting.pop()
        if package in found:
            continue
        found.add(package)
        for dependency in nodes[package]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                waiting.append(dependency["pkg"])
    return found - {root}


def main() -> None:
    host = re.search(r"^host: (.+)$", subprocess.check_output(["rustc", "-vV"], text=True), re.MULTILINE).group(1)
    command = ["cargo", "metadata", "--locked", "--format-version=1", f"--filter-platform={host}"]
    metadata = json.loads(subprocess.check_output(command))
    ids = linked(metadata)
    packages = sorted((p for p in metadata["packages"] if p["id"] in ids), key=lambda p: (p["name"], p["version"]))
    # Many packages have the same text: each is printed once, below the names of its packages.
    names: dict[str, list[str]] = {}
    for package in packages:
        name = f"{package['name']} {package['version']} ({package['license'] or 'see the text'})"
        files = sorted(path for path in Path(package["manifest_path"]).parent.iterdir() if TEXTS.match(path.name))
        texts = [path.read_text(errors="replace").strip() for path in files if path.is_file()]
        for text in texts or ["The package has no file with the text of its licence."]:
            names.setdefault(text, []).append(name)
    print("oddswire contains these libraries.")
    for text, users in names.items():
        print("\n" + "=" * 80 + "\n" + "\n".join(users) + "\n" + "-" * 80 + "\n" + text)
    print(f"{len(packages)} packages", file=sys.stderr)


if __name__ == "__main__":
    main()
