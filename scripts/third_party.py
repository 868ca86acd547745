"""Write THIRD_PARTY.md: every package that is installed, its licence, and what that asks of somebody who passes it on.

    python scripts/third_party.py        (a part of `make lock`, in the environment of `make install`)

Packages and versions are those of the constraints files, licences those that the installed packages state. A licence
that TERMS does not hold ends the program: somebody must read it first.
"""

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "THIRD_PARTY.md"
RUNTIME = ("constraints-install.txt", "constraints-runtime.txt")
EVERYTHING = (*RUNTIME, "constraints.txt")

NVIDIA = "LicenseRef-NVIDIA-Proprietary"
NOT_STATED = "not stated"

# Identifiers of SPDX. What each group asks is in GROUPS.
PERMISSIVE = {
    "0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python", "ISC",
    "LLVM-exception", "MIT", "MIT-CMU", "PSF-2.0", "Zlib",
}  # fmt: skip
TERMS = {NVIDIA, "MPL-2.0", NOT_STATED, *PERMISSIVE}

# How older packages write a licence, in the field `License` or as a classifier.
SPELLINGS = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD 3-Clause License": "BSD-3-Clause",
    "BSD License": "BSD",
    "FreeBSD": "BSD-2-Clause",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "NVIDIA Proprietary Software": NVIDIA,
    "PSFL": "PSF-2.0",
    "Python Software Foundation License": "PSF-2.0",
}

# Read by hand: packages that state no licence, and packages that no Linux with the Python of `make lock` installs.
READ_BY_HAND = {
    "audioop-lts": "PSF-2.0",
    "cuda-toolkit": NVIDIA,  # an empty package that requires the other ones
    "exceptiongroup": "MIT",
    "httpx2-jsfetch": "BSD-3-Clause",
    "nvidia-curand": NVIDIA,
    "pycocoevalcap": NOT_STATED,
    "six": "MIT",
    "tomli": "MIT",
}

# Each group's heading, and what its licences ask of somebody who passes the packages on. The last one is for all that is in PERMISSIVE.
GROUPS = {
    NVIDIA: (
        "NVIDIA's terms",
        "Proprietary. You may pass on the libraries that the licence lists as distributable, unchanged, as a part of an application that "
        "adds material functionality, under terms that protect NVIDIA's rights as the licence does. **Without an agreement with NVIDIA, "
        "the licence does not allow use where a failure could injure a person; it names medical use as an example.** On Linux, torch "
        "requires these packages. Those of NCCL and NVTX state these terms, but the texts in them are BSD's and Apache's.",
    ),
    "MPL-2.0": (
        "Mozilla Public License 2.0",
        "Whoever passes on these files, changed or not, must say where their source can be obtained and keep them under this licence. "
        "It does not extend to other files.",
    ),
    NOT_STATED: ("No licence stated", "Ask the authors before you pass it on."),
    "": (
        "Permissive licences",
        "Whoever passes these on passes on their copyright notices and licence texts (with Apache-2.0 also the NOTICE files).",
    ),
}

# Package → files in it whose licence is another one than the package states, and what that means.
BUNDLED = {
    "gradio": {
        "gradio/templates/frontend/static/ffmpeg/ffmpeg-core.wasm": (
            "GPL-2.0-or-later: FFmpeg, built with x264 and x265 (`--enable-gpl`), for gradio's video component, which the page of xraygpt "
            "does not use. Whoever passes this file on must offer its source, or delete it"
        ),
        "gradio/templates/frontend/static/fonts/": "fonts: SIL Open Font License; those of Ubuntu: Ubuntu Font Licence",
        "gradio/templates/frontend/assets/": "compiled JavaScript of gradio and of npm packages, without a list of their licences",
        "gradio/templates/node/build/node_modules/": "npm packages; their licence files are beside them",
    },
    "numpy": {"numpy.libs/libquadmath": "LGPL-2.1-or-later; libgfortran beside it: GPL-3.0 with the GCC Runtime Library Exception"},
    "scipy": {"scipy.libs/libquadmath": "as in numpy"},
    "sentencepiece": {"sentencepiece.libs/libgomp": "GPL-3.0 with the GCC Runtime Library Exception"},
    "setuptools": {"setuptools/_vendor/autocommand/": "LGPL-3.0"},
    "torch": {"torch/lib/libgomp": "GPL-3.0 with the GCC Runtime Library Exception"},
    "torchvision": {"torchvision.libs/libnvjpeg": "NVIDIA's terms, as above"},
    "pycocoevalcap": {
        "pycocoevalcap/tokenizer/stanford-corenlp": "GPL; installed by `make install` only, for the tests",
        "pycocoevalcap/meteor/meteor": "LGPL; installed by `make install` only, for the tests",
    },
}


INTRODUCTION = [
    "# Third-party software",
    "",
    "Written by `make lock` (`scripts/third_party.py`) from the constraints files and from what the installed packages state about",
    "themselves. No legal advice. xraygpt itself is under Apache-2.0 ([LICENSE](LICENSE)) and holds no code of these packages: its install",
    "downloads them. Their terms matter to whoever passes on an installed environment, for example a container image. Of two versions the",
    "older one is for Python 3.10; the licence was read from the one that was installed.",
    "",
    "## What `make install-runtime` installs",
    "",
]
BUNDLED_HEADING = [
    "### Files under another licence inside these packages",
    "",
    "Not complete: many packages contain compiled libraries, whose licences are in the texts named above.",
    "",
]
OTHERS_HEADING = [
    "## What only `make install` adds",
    "",
    "Optional features (`make install-extras`), tests and checks. No package states a GPL or LGPL licence; files in pycocoevalcap, see",
    "above, are under them.",
    "",
]


def read_versions(*names: str) -> dict[str, list[str]]:
    """Package → the versions that the constraints files pin, over all Python versions and systems."""
    versions: dict[str, list[str]] = {}
    for name in names:
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            if line and not line.startswith((" ", "#")):
                pin = Requirement(line.rstrip("\\"))
                version = str(pin.specifier).removeprefix("==")
                if version not in versions.setdefault(pin.name, []):
                    versions[pin.name].append(version)
    return dict(sorted(versions.items()))


def find_licence(name: str, found: Distribution | None) -> str:
    """The SPDX expression of a package's licence.

    Raises:
        ValueError: the package states none, or one that TERMS does not hold.
    """
    if name in READ_BY_HAND:
        return READ_BY_HAND[name]
    if found is None:
        raise ValueError(f"{name}: not installed, so its licence cannot be read. Add it to READ_BY_HAND.")
    about = found.metadata
    field = (about["License"] or "").strip()
    classifiers = [line.rpartition(" :: ")[2] for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
    candidates = [about["License-Expression"] or "", SPELLINGS.get(field, field), *(SPELLINGS.get(line, line) for line in classifiers)]
    for licence in candidates:
        if licence and set(_identifiers(licence)) <= TERMS:
            return licence
    raise ValueError(
        f"{name} {found.version}: expected a licence that scripts/third_party.py knows; the package states "
        f"{[line[:80] for line in candidates if line] or 'none'}. Read its text, then add it to TERMS, SPELLINGS or READ_BY_HAND."
    )


def _identifiers(licence: str) -> list[str]:
    return [part.strip() for part in re.split(r" AND | OR | WITH |[()]", licence) if part.strip()]


def _group(licence: str) -> str:
    return next((key for key in GROUPS if key and key in _identifiers(licence)), "")


def _texts(found: Distribution | None) -> str:
    """Where the licence texts of an installed package are."""
    files = found.files or [] if found else []
    texts = sorted(
        (str(path) for path in files if re.match(r"(LICEN[CS]E|COPYING|NOTICE)", path.name, re.IGNORECASE) and path.suffix != ".py"),
        key=lambda path: (".dist-info/" not in path, path),
    )
    if not texts:
        return "none in the package"
    return f"`{texts[0]}`" + (f" and {len(texts) - 1} more" if len(texts) > 1 else "")


def _find(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _tables(versions: dict[str, list[str]]) -> list[str]:
    """One table for each group of licences."""
    rows: dict[str, list[tuple[str, str]]] = {key: [] for key in GROUPS}
    errors = []
    for name, pinned in versions.items():
        found = _find(name)
        if found is not None and found.version not in pinned:
            errors.append(f"{name}: expected version {' or '.join(pinned)}, {found.version} is installed. Run `make install` first.")
            continue
        try:
            licence = find_licence(name, found)
        except ValueError as error:
            errors.append(str(error))
            continue
        rows[_group(licence)].append((licence, f"| {name} | {', '.join(pinned)} | {licence} | {_texts(found)} |"))
    if errors:
        raise SystemExit("\n".join(errors))
    lines = []
    for key, (title, terms) in GROUPS.items():
        if rows[key]:
            header = ["| package | version | licence | texts, in site-packages |", "| --- | --- | --- | --- |"]
            lines += [f"### {title}", "", terms, "", *header, *(row for _, row in sorted(rows[key])), ""]
    return lines


def _bundled() -> list[str]:
    """The table of BUNDLED. Ends the program if a file is gone: what is said about it must then be read again."""
    lines = ["| package | files | licence |", "| --- | --- | --- |"]
    for name, starts in BUNDLED.items():
        found = _find(name)
        for start, meaning in starts.items():
            if found is None or not any(str(path).startswith(start) for path in found.files or []):
                raise SystemExit(f"{name}: no file {start}… in the installed package. Correct BUNDLED in scripts/third_party.py.")
            lines.append(f"| {name} | `{start}`{'' if Path(start).suffix else '…'} | {meaning} |")
    return [*lines, ""]


def build() -> str:
    """The text of THIRD_PARTY.md."""
    runtime = read_versions(*RUNTIME)
    others = {name: versions for name, versions in read_versions(*EVERYTHING).items() if name not in runtime}
    notices = [*INTRODUCTION, *_tables(runtime), *BUNDLED_HEADING, *_bundled(), *OTHERS_HEADING, *_tables(others)]
    return "\n".join(notices).rstrip() + "\n"


if __name__ == "__main__":
    OUTPUT.write_text(build(), encoding="utf-8")
