"""Packaging of hlstm. Every value comes from settings.ini."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

root = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(root / "settings.ini", encoding="utf-8")
settings = parser["DEFAULT"]

setup(
    name=settings["pypi_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=(root / "README.md").read_text(encoding="utf-8"),
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
            "data/*",
            "weights/*",
            "results/*",
        ]
    },
    zip_safe=False,
)
