"""The glue between the chapters, nbdev and Sphinx."""

from configparser import ConfigParser, SectionProxy
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def settings(root: Path = ROOT) -> SectionProxy:
    """What settings.ini says."""
    parser = ConfigParser(delimiters=["="])
    parser.read(root / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]
