"""Packaging of hlstm. Every value comes from settings.ini."""

import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

root = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(root / "settings.ini", encoding="utf-8")
settings = parser["DEFAULT"]


def absolute(link: re.Match[str]) -> str:
    """Give a link inside the repository the address that it needs on PyPI."""
    kind = "raw" if link["text"].startswith("!") else "blob"
    return f"{link['text']}({settings['git_url']}/{kind}/v{settings['version']}/"


readme = (root / "README.md").read_text(encoding="utf-8")

setup(
    name=settings["pypi_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=re.sub(r"(?P<text>!?\[[^\]]*\])\((?!https?:|#)", absolute, readme),
    long_description_content_type="text/markdown",
    author=settings["author"],
    license=settings["license"].upper(),
    license_files=["LICENSE"],
    url=settings["git_url"],
    keywords=settings["keywords"].split(),
    python_requires=f">={settings['min_python']}",
    install_requires=settings["requirements"].split(),
    entry_points={"console_scripts": settings["console_scripts"].split()},
    packages=[settings["lib_name"]],
    package_data={
        settings["lib_name"]: [
            "py.typed",
            "*.mplstyle",
            "answers/*",
            "data/*",
            "weights/*",
            "results/*",
            "csrc/*",
        ]
    },
    zip_safe=False,
)
